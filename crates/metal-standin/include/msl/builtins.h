// Names inside Apple's own headers that programs have come to call.
constexpr int __METAL_MAYBE_FAST_MATH__ = 0, __METAL_FAST_MATH__ = 0, __METAL_PRECISE_MATH__ = 0;
#define X(NAME) MSL_INLINE float __metal_##NAME(float x, int = 0) { return metal::NAME(x); }
X(acos) X(acosh) X(asin) X(asinh) X(atan) X(atanh) X(ceil) X(cos) X(cosh) X(cospi) X(exp) X(exp2) X(exp10) X(fabs) X(floor)
X(fract) X(log) X(log2) X(log10) X(rint) X(round) X(rsqrt) X(sin) X(sinh) X(sinpi) X(sqrt) X(tan) X(tanh) X(tanpi) X(trunc)
X(saturate) X(sign)
#undef X
#define X(NAME) MSL_INLINE float __metal_##NAME(float x, float y, int = 0) { return metal::NAME(x, y); }
X(atan2) X(copysign) X(divide) X(fdim) X(fmax) X(fmin) X(fmod) X(nextafter) X(pow) X(powr)
#undef X
#define X(NAME) MSL_INLINE float __metal_##NAME(float x, float y, float z, int = 0) { return metal::NAME(x, y, z); }
X(fma) X(fmax3) X(fmin3)
#undef X
MSL_INLINE float __metal_fmedian3(float x, float y, float z, int = 0) { return metal::median3(x, y, z); }
MSL_INLINE float __metal_clamp(float x, float y, float z, int = 0) { return metal::clamp(x, y, z); }
MSL_INLINE float __metal_ldexp(float x, int n, int = 0) { return metal::ldexp(x, n); }
MSL_INLINE float __metal_frexp(float x, thread int *e, int = 0) { return metal::frexp(x, *e); }
MSL_INLINE float __metal_modf(float x, thread float *whole, int = 0) { return metal::modf(x, *whole); }
MSL_INLINE float __metal_sincos(float x, thread float *c, int = 0) { return metal::sincos(x, *c); }
MSL_INLINE ushort __metal_get_simdgroup_size(ushort) { return 32; }
MSL_INLINE ushort __metal_get_thread_index_in_simdgroup(ushort) { return msl::lane(); }
#define X(NAME) template <class T> MSL_INLINE T __metal_simd_##NAME(T x) { return metal::simd_##NAME(x); }
X(sum) X(product) X(max) X(min) X(and) X(or) X(xor) X(prefix_inclusive_sum) X(prefix_inclusive_product)
X(prefix_exclusive_sum) X(prefix_exclusive_product)
#undef X
#define X(NAME) template <class T> MSL_INLINE T __metal_simd_##NAME(T x, ushort n) { return metal::simd_##NAME(x, n); }
X(broadcast) X(shuffle) X(shuffle_down) X(shuffle_up) X(shuffle_xor) X(shuffle_rotate_down) X(shuffle_rotate_up)
#undef X
#define X(NAME) \
    template <class T> MSL_INLINE T __metal_simd_##NAME(T x, T fill, ushort n, ushort modulo) { return metal::simd_##NAME(x, fill, n, modulo); }
X(shuffle_and_fill_down) X(shuffle_and_fill_up)
#undef X
