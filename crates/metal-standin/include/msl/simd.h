// SIMD-group and quad-group functions. Each target supplies how a lane reads another's value and who is there; the rest is
// written once. Sums are added in one order on both: a butterfly over distances 16, 8, 4, 2, 1.
//
// All lanes that are alive must arrive together, which is when Metal defines the result: the CPU executor reports who
// does not come, and NVIDIA's shuffles name all 32. A lane that has returned from the kernel counts as the identity.
namespace msl {
#ifdef __NVPTX__
MSL_INLINE uint lane() { return __nvvm_read_ptx_sreg_laneid(); }
MSL_INLINE uint ballot(bool x) { return __nvvm_vote_ballot_sync(0xffffffffu, x); }
MSL_INLINE uint alive() { return ballot(true); }

template <class T, class F> MSL_INLINE T by_words(T value, F shuffle) {
    uint bits[(sizeof(T) + 3) / 4] = {};
    __builtin_memcpy(bits, &value, sizeof(T));
    _Pragma("unroll") for (unsigned i = 0; i < sizeof(bits) / 4; i++) bits[i] = shuffle(bits[i]);
    __builtin_memcpy(&value, bits, sizeof(T));
    return value;
}
template <class T> MSL_INLINE T from_lane(T value, uint lane) {
    return by_words(value, [=](uint w) __attribute__((always_inline)) { return (uint)__nvvm_shfl_sync_idx_i32(0xffffffffu, w, lane, 31); });
}
template <class T> MSL_INLINE T from_xor(T value, uint mask) {
    return by_words(value, [=](uint w) __attribute__((always_inline)) { return (uint)__nvvm_shfl_sync_bfly_i32(0xffffffffu, w, mask, 31); });
}
// Every lane's result of f over 2 * from lanes.
template <class T, class F> MSL_INLINE T reduce(T x, F f, T identity, uint from) {
    const uint mask = alive();
    if (mask == 0xffffffffu) {
        _Pragma("unroll") for (uint d = from; d > 0; d /= 2) x = f(x, from_xor(x, d));
        return x;
    }
    for (uint d = from; d > 0; d /= 2) {
        const T other = from_xor(x, d);
        x = f(x, mask >> (lane() ^ d) & 1 ? other : identity);
    }
    return x;
}
#else
extern "C" uint msl_lane() __attribute__((const));  // replaced in the IR by a load from msl_thread
MSL_INLINE uint lane() { return msl_lane(); }
MSL_INLINE uint alive() {
    uchar all[32], mine = 0;
    return msl_simd_exchange(&mine, all, 1);
}
MSL_INLINE uint ballot(bool x) {
    uchar all[32], mine = x;
    const uint mask = msl_simd_exchange(&mine, all, 1);
    uint votes = 0;
    for (uint i = 0; i < 32; i++) votes |= (uint)(mask >> i & all[i] & 1) << i;
    return votes;
}
template <class T> MSL_INLINE T from_lane(T value, uint lane) {
    T all[32];
    const uint mask = msl_simd_exchange(&value, all, sizeof(T));
    return mask >> (lane & 31) & 1 ? all[lane & 31] : value;
}
template <class T> MSL_INLINE T from_xor(T value, uint mask) { return from_lane(value, lane() ^ mask); }
template <class T, class F> MSL_INLINE T reduce(T x, F f, T identity, uint from) {
    T all[32];
    const uint mask = msl_simd_exchange(&x, all, sizeof(T)), first = lane() & ~(from * 2 - 1);
    if (mask != 0xffffffffu)
        for (uint i = 0; i < 32; i++)
            if (!(mask >> i & 1)) all[i] = identity;
    for (uint d = from; d > 0; d /= 2)
        for (uint i = first; i < first + d; i++) all[i] = f(all[i], all[i + d]);
    return all[first];
}
#endif

// Fast math must not add in another order.
struct add {
    template <class T> MSL_INLINE T operator()(T a, T b) const {
#pragma clang fp reassociate(off)
        return (T)(a + b);
    }
};
struct multiply {
    template <class T> MSL_INLINE T operator()(T a, T b) const {
#pragma clang fp reassociate(off)
        return (T)(a * b);
    }
};
struct bit_and { template <class T> MSL_INLINE T operator()(T a, T b) const { return (T)(a & b); } };
struct bit_or { template <class T> MSL_INLINE T operator()(T a, T b) const { return (T)(a | b); } };
struct bit_xor { template <class T> MSL_INLINE T operator()(T a, T b) const { return (T)(a ^ b); } };
struct maximum { template <class T> MSL_INLINE T operator()(T a, T b) const { return metal::max(a, b); } };
struct minimum { template <class T> MSL_INLINE T operator()(T a, T b) const { return metal::min(a, b); } };

template <class T> MSL_INLINE T filled(T x) { return x; }
template <class T> MSL_INLINE T lowest() {
    typedef typename shape<T>::element E;
    if constexpr (shape<T>::size == 0) return metal::numeric_limits<T>::has_infinity ? -metal::numeric_limits<T>::infinity() : metal::numeric_limits<T>::lowest();
    else return T(lowest<E>());
}
template <class T> MSL_INLINE T highest() {
    typedef typename shape<T>::element E;
    if constexpr (shape<T>::size == 0) return metal::numeric_limits<T>::has_infinity ? metal::numeric_limits<T>::infinity() : metal::numeric_limits<T>::max();
    else return T(highest<E>());
}

// Sums of the lanes before this one (and its own): Hillis and Steele's doubling.
template <class T, class F> MSL_INLINE T scan(T x, F f, uint width) {
    const uint at = lane() & (width - 1);
    for (uint d = 1; d < width; d *= 2) {
        const T before = from_lane(x, lane() - (at >= d ? d : 0));
        if (at >= d) x = f(before, x);
    }
    return x;
}
template <class T, class F> MSL_INLINE T scan_exclusive(T x, F f, T identity, uint width) {
    const uint at = lane() & (width - 1);
    const T before = from_lane(scan(x, f, width), lane() - (at > 0 ? 1 : 0));
    return at > 0 ? before : identity;
}
}  // namespace msl

namespace metal {
struct simd_vote {
    typedef ulong vote_t;
    ulong bits;
    MSL_INLINE explicit constexpr simd_vote(vote_t v = 0) : bits(v) {}
    MSL_INLINE explicit constexpr operator vote_t() const { return bits; }
    MSL_INLINE bool all() const { return (uint)bits == 0xffffffffu; }
    MSL_INLINE bool any() const { return bits != 0; }
};
typedef simd_vote quad_vote;

// NAME_ is simd_ or quad_, WIDTH its lanes.
#define X(NAME_, WIDTH)                                                                                                       \
    template <class T> MSL_INLINE T NAME_##sum(T x) { return msl::reduce(x, msl::add(), T(0), WIDTH / 2); }                   \
    template <class T> MSL_INLINE T NAME_##product(T x) { return msl::reduce(x, msl::multiply(), T(1), WIDTH / 2); }          \
    template <class T> MSL_INLINE T NAME_##max(T x) { return msl::reduce(x, msl::maximum(), msl::lowest<T>(), WIDTH / 2); }   \
    template <class T> MSL_INLINE T NAME_##min(T x) { return msl::reduce(x, msl::minimum(), msl::highest<T>(), WIDTH / 2); }  \
    template <class T> MSL_INLINE T NAME_##and(T x) { return msl::reduce(x, msl::bit_and(), T(~T(0)), WIDTH / 2); }           \
    template <class T> MSL_INLINE T NAME_##or(T x) { return msl::reduce(x, msl::bit_or(), T(0), WIDTH / 2); }                 \
    template <class T> MSL_INLINE T NAME_##xor(T x) { return msl::reduce(x, msl::bit_xor(), T(0), WIDTH / 2); }               \
    template <class T> MSL_INLINE T NAME_##prefix_inclusive_sum(T x) { return msl::scan(x, msl::add(), WIDTH); }              \
    template <class T> MSL_INLINE T NAME_##prefix_inclusive_product(T x) { return msl::scan(x, msl::multiply(), WIDTH); }     \
    template <class T> MSL_INLINE T NAME_##prefix_exclusive_sum(T x) { return msl::scan_exclusive(x, msl::add(), T(0), WIDTH); } \
    template <class T> MSL_INLINE T NAME_##prefix_exclusive_product(T x) {                                                    \
        return msl::scan_exclusive(x, msl::multiply(), T(1), WIDTH);                                                          \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle(T x, ushort i) {                                                           \
        return msl::from_lane(x, (msl::lane() & ~(WIDTH - 1u)) + (i & (WIDTH - 1)));                                          \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##broadcast(T x, ushort i) { return NAME_##shuffle(x, i); }                          \
    template <class T> MSL_INLINE T NAME_##broadcast_first(T x) {                                                             \
        const uint first = msl::lane() & ~(WIDTH - 1u);                                                                       \
        return msl::from_lane(x, first + __builtin_ctz(msl::alive() >> first));                                               \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle_xor(T x, ushort mask) { return msl::from_xor(x, mask & (WIDTH - 1)); }     \
    template <class T> MSL_INLINE T NAME_##shuffle_down(T x, ushort d) {                                                      \
        const uint at = msl::lane() & (WIDTH - 1);                                                                            \
        return msl::from_lane(x, msl::lane() + (at + d < WIDTH ? d : 0));                                                     \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle_up(T x, ushort d) {                                                        \
        const uint at = msl::lane() & (WIDTH - 1);                                                                            \
        return msl::from_lane(x, msl::lane() - (at >= d ? d : 0));                                                            \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle_rotate_down(T x, ushort d) { return NAME_##shuffle(x, msl::lane() + d); }  \
    template <class T> MSL_INLINE T NAME_##shuffle_rotate_up(T x, ushort d) { return NAME_##shuffle(x, msl::lane() - d); }    \
    template <class T> MSL_INLINE T NAME_##shuffle_and_fill_down(T x, T fill, ushort d) {                                     \
        const uint at = msl::lane() & (WIDTH - 1);                                                                            \
        const T near = NAME_##shuffle_rotate_down(x, d), far = NAME_##shuffle_rotate_down(fill, d);                           \
        return at + d < WIDTH ? near : far;                                                                                   \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle_and_fill_up(T x, T fill, ushort d) {                                       \
        const uint at = msl::lane() & (WIDTH - 1);                                                                            \
        const T near = NAME_##shuffle_rotate_up(x, d), far = NAME_##shuffle_rotate_up(fill, d);                               \
        return at >= d ? near : far;                                                                                          \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle_and_fill_down(T x, T fill, ushort d, ushort modulo) {                      \
        const uint at = msl::lane() & (modulo - 1u), from = (msl::lane() & ~(modulo - 1u)) + ((at + d) & (modulo - 1u));      \
        const T near = NAME_##shuffle(x, from), far = NAME_##shuffle(fill, from);                                             \
        return at + d < modulo ? near : far;                                                                                  \
    }                                                                                                                         \
    template <class T> MSL_INLINE T NAME_##shuffle_and_fill_up(T x, T fill, ushort d, ushort modulo) {                        \
        const uint at = msl::lane() & (modulo - 1u), from = (msl::lane() & ~(modulo - 1u)) + ((at - d) & (modulo - 1u));      \
        const T near = NAME_##shuffle(x, from), far = NAME_##shuffle(fill, from);                                             \
        return at >= d ? near : far;                                                                                          \
    }                                                                                                                         \
    MSL_INLINE simd_vote NAME_##ballot(bool x) {                                                                              \
        return simd_vote(msl::ballot(x) >> (msl::lane() & ~(WIDTH - 1u) & 31) & (0xffffffffu >> (32 - WIDTH)));               \
    }                                                                                                                         \
    MSL_INLINE simd_vote NAME_##active_threads_mask() { return NAME_##ballot(true); }                                         \
    MSL_INLINE bool NAME_##any(bool x) { return NAME_##ballot(x).any(); }                                                     \
    MSL_INLINE bool NAME_##all(bool x) { return !NAME_##ballot(!x).any(); }                                                   \
    MSL_INLINE bool NAME_##is_first() {                                                                                       \
        return (msl::lane() & (WIDTH - 1)) == (uint)__builtin_ctz((uint)NAME_##ballot(true).bits | 1u << (WIDTH - 1));       \
    }                                                                                                                         \
    MSL_INLINE bool NAME_##is_helper_thread() { return false; }
X(simd_, 32)
X(quad_, 4)
#undef X
}  // namespace metal
