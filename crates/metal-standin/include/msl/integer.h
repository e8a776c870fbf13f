// <metal_integer>.
namespace msl {
template <class T> struct wide { typedef long type; };
template <> struct wide<uint> { typedef ulong type; };
template <> struct wide<uchar> { typedef ulong type; };
template <> struct wide<ushort> { typedef ulong type; };
template <> struct wide<long> { typedef __int128 type; };
template <> struct wide<ulong> { typedef unsigned __int128 type; };
template <class T> MSL_INLINE constexpr int bits() { return 8 * sizeof(T); }
template <class T> MSL_INLINE constexpr typename metal::make_unsigned<T>::type raw(T x) { return (typename metal::make_unsigned<T>::type)x; }
template <class T> MSL_INLINE constexpr T saturated(typename wide<T>::type x) {
    typedef metal::numeric_limits<T> limits;
    return x < (typename wide<T>::type)limits::min() ? limits::min() : x > (typename wide<T>::type)limits::max() ? limits::max() : (T)x;
}
}  // namespace msl

namespace metal {
#define X(T)                                                                                                              \
    MSL_INLINE constexpr T popcount(T x) { return (T)__builtin_popcountg(msl::raw(x)); }                                  \
    MSL_INLINE constexpr T clz(T x) { return (T)__builtin_clzg(msl::raw(x), msl::bits<T>()); }                            \
    MSL_INLINE constexpr T ctz(T x) { return (T)__builtin_ctzg(msl::raw(x), msl::bits<T>()); }                            \
    MSL_INLINE constexpr T reverse_bits(T x) {                                                                            \
        if constexpr (sizeof(T) == 1) return (T)__builtin_bitreverse8((uchar)x);                                          \
        else if constexpr (sizeof(T) == 2) return (T)__builtin_bitreverse16((ushort)x);                                   \
        else if constexpr (sizeof(T) == 4) return (T)__builtin_bitreverse32((uint)x);                                     \
        else return (T)__builtin_bitreverse64((ulong)x);                                                                  \
    }                                                                                                                     \
    MSL_INLINE constexpr T rotate(T x, T n) {                                                                             \
        const auto u = msl::raw(x);                                                                                       \
        const int k = (int)n & (msl::bits<T>() - 1);                                                                      \
        return k == 0 ? x : (T)(u << k | u >> (msl::bits<T>() - k));                                                      \
    }                                                                                                                     \
    MSL_INLINE constexpr T mulhi(T x, T y) { return (T)(((typename msl::wide<T>::type)x * y) >> msl::bits<T>()); }        \
    MSL_INLINE constexpr T addsat(T x, T y) { return msl::saturated<T>((typename msl::wide<T>::type)x + y); }             \
    MSL_INLINE constexpr T subsat(T x, T y) {                                                                             \
        if constexpr (T(-1) > T(0)) return x < y ? T(0) : (T)(x - y);                                                     \
        else return msl::saturated<T>((typename msl::wide<T>::type)x - y);                                                \
    }                                                                                                                     \
    MSL_INLINE constexpr T hadd(T x, T y) { return (T)(((typename msl::wide<T>::type)x + y) >> 1); }                      \
    MSL_INLINE constexpr T rhadd(T x, T y) { return (T)(((typename msl::wide<T>::type)x + y + 1) >> 1); }                 \
    MSL_INLINE constexpr T absdiff(T x, T y) { return x > y ? (T)(x - y) : (T)(y - x); }                                  \
    MSL_INLINE constexpr T madhi(T x, T y, T z) { return (T)(mulhi(x, y) + z); }                                          \
    MSL_INLINE constexpr T madsat(T x, T y, T z) { return msl::saturated<T>((typename msl::wide<T>::type)x * y + z); }    \
    MSL_INLINE constexpr T abs(T x) { return x < T(0) ? (T)-x : x; }                                                      \
    MSL_INLINE constexpr T extract_bits(T x, uint offset, uint n) {                                                       \
        return n == 0 ? T(0) : (T)((T)(msl::raw(x) << (msl::bits<T>() - n - offset)) >> (msl::bits<T>() - n));            \
    }                                                                                                                     \
    MSL_INLINE constexpr T insert_bits(T x, T y, uint offset, uint n) {                                                   \
        const auto mask = n == 0 ? 0 : (decltype(msl::raw(x)))(~(decltype(msl::raw(x)))0) >> (msl::bits<T>() - n) << offset; \
        return (T)((msl::raw(x) & ~mask) | ((msl::raw(y) << offset) & mask));                                             \
    }                                                                                                                     \
    MSL_VECTORS_1(popcount, T) MSL_VECTORS_1(clz, T) MSL_VECTORS_1(ctz, T) MSL_VECTORS_1(reverse_bits, T)                 \
    MSL_VECTORS_1(abs, T) MSL_VECTORS_2(rotate, T) MSL_VECTORS_2(mulhi, T) MSL_VECTORS_2(addsat, T)                       \
    MSL_VECTORS_2(subsat, T) MSL_VECTORS_2(hadd, T) MSL_VECTORS_2(rhadd, T) MSL_VECTORS_2(absdiff, T)                     \
    MSL_VECTORS_3(madhi, T) MSL_VECTORS_3(madsat, T)                                                                      \
    MSL_INLINE T##2 extract_bits(T##2 x, uint o, uint n) { return T##2{extract_bits(x.x, o, n), extract_bits(x.y, o, n)}; } \
    MSL_INLINE T##4 extract_bits(T##4 x, uint o, uint n) {                                                                \
        return T##4{extract_bits(x.x, o, n), extract_bits(x.y, o, n), extract_bits(x.z, o, n), extract_bits(x.w, o, n)};  \
    }
MSL_INTS(X)
#undef X
MSL_INLINE constexpr int mul24(int x, int y) { return (x << 8 >> 8) * (y << 8 >> 8); }
MSL_INLINE constexpr uint mul24(uint x, uint y) { return (x & 0xffffffu) * (y & 0xffffffu); }
MSL_INLINE constexpr int mad24(int x, int y, int z) { return mul24(x, y) + z; }
MSL_INLINE constexpr uint mad24(uint x, uint y, uint z) { return mul24(x, y) + z; }
}  // namespace metal
