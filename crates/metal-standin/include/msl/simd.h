// SIMD-group and quad-group functions. `lanes_of(x)` is what both targets supply: the values that other lanes hold, and
// which lanes are there. Everything else is written once, so that sums are added in the same order on both:
// a butterfly over distances 16, 8, 4, 2, 1.
//
// All lanes that are alive must arrive together, as Metal wants for defined results: on NVIDIA the shuffles name all 32.
namespace msl {
#ifdef __NVPTX__
MSL_INLINE uint lane_id() { return __nvvm_read_ptx_sreg_laneid(); }
template <class T> struct words { uint w[(sizeof(T) + 3) / 4]; };
template <class T> MSL_INLINE T shuffle_any(T value, uint lane) {
    words<T> bits = {};
    __builtin_memcpy(&bits, &value, sizeof(T));
    _Pragma("unroll") for (unsigned i = 0; i < sizeof(bits) / 4; i++)
        bits.w[i] = __nvvm_shfl_sync_idx_i32(0xffffffffu, bits.w[i], lane, 31);
    T result;
    __builtin_memcpy(&result, &bits, sizeof(T));
    return result;
}
template <class T> struct lanes_of {
    T mine;
    uint me, mask;
    MSL_INLINE lanes_of(T value) : mine(value), me(lane_id()), mask(__nvvm_vote_ballot_sync(0xffffffffu, true)) {}
    MSL_INLINE T at(uint lane) const { return shuffle_any(mine, lane); }
};
// One step of the butterfly over lanes that may be gone.
template <class T, class F> MSL_INLINE T reduce(T x, F f, T identity, uint from = 16) {
    const uint me = lane_id();
    const uint mask = __nvvm_vote_ballot_sync(0xffffffffu, true);
    if (mask == 0xffffffffu) {
        _Pragma("unroll") for (uint d = from; d > 0; d /= 2) x = f(x, shuffle_any(x, me ^ d));
        return x;
    }
    for (uint d = from; d > 0; d /= 2) {
        T other = shuffle_any(x, me ^ d);
        x = f(x, mask >> (me ^ d) & 1 ? other : identity);
    }
    return x;
}
MSL_INLINE uint ballot(bool x) { return __nvvm_vote_ballot_sync(0xffffffffu, x); }
#else
template <class T> struct lanes_of {
    // The address of a lane's own slot is how it finds itself in the array: each fiber has its own stack.
    struct slot {
        T value;
        const void *who;
    };
    slot all[32];
    uint me, mask;
    MSL_INLINE lanes_of(T value) {
        slot mine = {value, &mine};
        mask = msl_simd_exchange(&mine, all, sizeof(slot));
        me = 0;
        for (uint i = 0; i < 32; i++)
            if ((mask >> i & 1) && all[i].who == &mine) me = i;
    }
    MSL_INLINE T at(uint lane) const { return all[lane & 31].value; }
};
template <class T, class F> MSL_INLINE T reduce(T x, F f, T identity, uint from = 16) {
    const uint width = from * 2;
    T all[32];
    uint mask = 0, first = 0;
    if (width == 32) {
        mask = msl_simd_exchange(&x, all, sizeof(T));
    } else {
        const lanes_of<T> lanes(x);
        mask = lanes.mask;
        first = lanes.me / width * width;
        for (uint i = 0; i < 32; i++) all[i] = lanes.all[i].value;
    }
    for (uint i = 0; i < width; i++)
        if (!(mask >> (first + i) & 1)) all[first + i] = identity;
    for (uint d = from; d > 0; d /= 2)
        for (uint i = 0; i < d; i++) all[first + i] = f(all[first + i], all[first + i + d]);
    return all[first];
}
MSL_INLINE uint ballot(bool x) {
    uchar all[32], mine = x;
    const uint mask = msl_simd_exchange(&mine, all, 1);
    uint votes = 0;
    for (uint i = 0; i < 32; i++) votes |= (uint)(mask >> i & all[i] & 1) << i;
    return votes;
}
#endif

// Fast math must not add in another order.
struct add {
    template <class T> MSL_INLINE T operator()(T a, T b) const {
#pragma clang fp reassociate(off)
        return (T)(a + b);
    }
};
}  // namespace msl

namespace metal {
template <class T> MSL_INLINE T simd_sum(T x) { return msl::reduce(x, msl::add(), T(0)); }
}
