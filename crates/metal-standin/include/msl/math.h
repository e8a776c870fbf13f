// <metal_math>, <metal_common>: each function for float, half and bfloat and their vectors, component by component, in
// metal:: (precise or fast, as the program is compiled), metal::precise:: and metal::fast::.

// NAME for vectors of T, made of NAME for T.
#define MSL_VECTORS_1(NAME, T)                                                                        \
    MSL_INLINE constexpr T##2 NAME(T##2 a) { return T##2{NAME(a.x), NAME(a.y)}; }                     \
    MSL_INLINE constexpr T##3 NAME(T##3 a) { return T##3{NAME(a.x), NAME(a.y), NAME(a.z)}; }          \
    MSL_INLINE constexpr T##4 NAME(T##4 a) { return T##4{NAME(a.x), NAME(a.y), NAME(a.z), NAME(a.w)}; }
#define MSL_VECTORS_2(NAME, T)                                                                                            \
    MSL_INLINE constexpr T##2 NAME(T##2 a, T##2 b) { return T##2{NAME(a.x, b.x), NAME(a.y, b.y)}; }                       \
    MSL_INLINE constexpr T##3 NAME(T##3 a, T##3 b) { return T##3{NAME(a.x, b.x), NAME(a.y, b.y), NAME(a.z, b.z)}; }       \
    MSL_INLINE constexpr T##4 NAME(T##4 a, T##4 b) { return T##4{NAME(a.x, b.x), NAME(a.y, b.y), NAME(a.z, b.z), NAME(a.w, b.w)}; }
#define MSL_VECTORS_3(NAME, T)                                                                                            \
    MSL_INLINE constexpr T##2 NAME(T##2 a, T##2 b, T##2 c) { return T##2{NAME(a.x, b.x, c.x), NAME(a.y, b.y, c.y)}; }     \
    MSL_INLINE constexpr T##3 NAME(T##3 a, T##3 b, T##3 c) {                                                              \
        return T##3{NAME(a.x, b.x, c.x), NAME(a.y, b.y, c.y), NAME(a.z, b.z, c.z)};                                       \
    }                                                                                                                     \
    MSL_INLINE constexpr T##4 NAME(T##4 a, T##4 b, T##4 c) {                                                              \
        return T##4{NAME(a.x, b.x, c.x), NAME(a.y, b.y, c.y), NAME(a.z, b.z, c.z), NAME(a.w, b.w, c.w)};                  \
    }
// NAME for float is EXPRESSION; half and bfloat go through float, which holds both exactly.
#define MSL_FLOAT_1(NAME, EXPRESSION)                                          \
    MSL_INLINE constexpr float NAME(float x) { return EXPRESSION; }            \
    MSL_INLINE constexpr half NAME(half x) { return (half)NAME((float)x); }    \
    MSL_OURS_bfloat MSL_INLINE constexpr bfloat NAME(bfloat x) { return (bfloat)NAME((float)x); } \
    MSL_VECTORS_1(NAME, float) MSL_VECTORS_1(NAME, half) MSL_VECTORS_1(NAME, bfloat)
#define MSL_FLOAT_2(NAME, EXPRESSION)                                                          \
    MSL_INLINE constexpr float NAME(float x, float y) { return EXPRESSION; }                   \
    MSL_INLINE constexpr half NAME(half x, half y) { return (half)NAME((float)x, (float)y); }  \
    MSL_OURS_bfloat MSL_INLINE constexpr bfloat NAME(bfloat x, bfloat y) { return (bfloat)NAME((float)x, (float)y); } \
    MSL_VECTORS_2(NAME, float) MSL_VECTORS_2(NAME, half) MSL_VECTORS_2(NAME, bfloat)
#define MSL_FLOAT_3(NAME, EXPRESSION)                                                                            \
    MSL_INLINE constexpr float NAME(float x, float y, float z) { return EXPRESSION; }                            \
    MSL_INLINE constexpr half NAME(half x, half y, half z) { return (half)NAME((float)x, (float)y, (float)z); }  \
    MSL_OURS_bfloat MSL_INLINE constexpr bfloat NAME(bfloat x, bfloat y, bfloat z) { return (bfloat)NAME((float)x, (float)y, (float)z); } \
    MSL_VECTORS_3(NAME, float) MSL_VECTORS_3(NAME, half) MSL_VECTORS_3(NAME, bfloat)

// FROM: msl for precise, msl::quick for fast.
#define MSL_MATH(FROM)                                                                                                   \
    MSL_FLOAT_1(exp, FROM::exp(x)) MSL_FLOAT_1(exp2, FROM::exp2(x)) MSL_FLOAT_1(exp10, FROM::exp10(x))                   \
    MSL_FLOAT_1(log, FROM::log(x)) MSL_FLOAT_1(log2, FROM::log2(x)) MSL_FLOAT_1(log10, FROM::log10(x))                   \
    MSL_FLOAT_1(sin, FROM::sin(x)) MSL_FLOAT_1(cos, FROM::cos(x)) MSL_FLOAT_1(tan, FROM::tan(x))                         \
    MSL_FLOAT_1(asin, FROM::asin(x)) MSL_FLOAT_1(acos, FROM::acos(x)) MSL_FLOAT_1(atan, FROM::atan(x))                   \
    MSL_FLOAT_1(sinh, FROM::sinh(x)) MSL_FLOAT_1(cosh, FROM::cosh(x)) MSL_FLOAT_1(tanh, FROM::tanh(x))                   \
    MSL_FLOAT_1(asinh, FROM::asinh(x)) MSL_FLOAT_1(acosh, FROM::acosh(x)) MSL_FLOAT_1(atanh, FROM::atanh(x))             \
    MSL_FLOAT_1(sinpi, FROM::sinpi(x)) MSL_FLOAT_1(cospi, FROM::cospi(x)) MSL_FLOAT_1(tanpi, FROM::tanpi(x))             \
    MSL_FLOAT_1(sqrt, FROM::sqrt(x)) MSL_FLOAT_1(rsqrt, FROM::rsqrt(x))                                                  \
    MSL_FLOAT_1(floor, FROM::floor(x)) MSL_FLOAT_1(ceil, FROM::ceil(x)) MSL_FLOAT_1(trunc, FROM::trunc(x))               \
    MSL_FLOAT_1(rint, FROM::rint(x)) MSL_FLOAT_1(round, FROM::round(x)) MSL_FLOAT_1(fract, msl::fract(x))                \
    MSL_FLOAT_1(fabs, __builtin_fabsf(x)) MSL_FLOAT_1(sign, msl::sign(x)) MSL_FLOAT_1(saturate, msl::saturate(x))        \
    MSL_FLOAT_2(pow, FROM::pow(x, y)) MSL_FLOAT_2(powr, FROM::powr(x, y)) MSL_FLOAT_2(atan2, FROM::atan2(x, y))          \
    MSL_FLOAT_2(fmod, FROM::fmod(x, y)) MSL_FLOAT_2(fmin, __builtin_fminf(x, y)) MSL_FLOAT_2(fmax, __builtin_fmaxf(x, y)) \
    MSL_FLOAT_2(fdim, x > y ? x - y : 0.0f) MSL_FLOAT_2(copysign, __builtin_copysignf(x, y))                             \
    MSL_FLOAT_2(step, y < x ? 0.0f : 1.0f) MSL_FLOAT_2(divide, x / y)                                                    \
    MSL_FLOAT_3(fma, FROM::fma(x, y, z)) MSL_FLOAT_3(mix, x + (y - x) * z) MSL_FLOAT_3(smoothstep, msl::smoothstep(x, y, z)) \
    MSL_FLOAT_3(fmax3, __builtin_fmaxf(x, __builtin_fmaxf(y, z))) MSL_FLOAT_3(fmin3, __builtin_fminf(x, __builtin_fminf(y, z)))

namespace msl {
MSL_INLINE float fract(float x) { return __builtin_fminf(x - msl::floor(x), 0x1.fffffep-1f); }
MSL_INLINE constexpr float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f; }
MSL_INLINE constexpr float saturate(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }
MSL_INLINE float smoothstep(float a, float b, float x) {
    const float t = saturate((x - a) / (b - a));
    return t * t * (3.0f - 2.0f * t);
}
}  // namespace msl

namespace metal::precise {
MSL_MATH(msl)
}
namespace metal::fast {
MSL_MATH(msl::quick)
}
namespace metal {
#ifdef __FAST_MATH__
MSL_MATH(msl::quick)
#else
MSL_MATH(msl)
#endif

// min and max ignore a NaN, as Metal's do. A scalar beside a vector counts for each of its components.
#define MSL_COMPARE(T, MIN, MAX)                                                    \
    MSL_OURS_##T MSL_INLINE constexpr T min(T x, T y) { return MIN; }                            \
    MSL_OURS_##T MSL_INLINE constexpr T max(T x, T y) { return MAX; }                            \
    MSL_VECTORS_2(min, T) MSL_VECTORS_2(max, T)                                     \
    MSL_OURS_##T MSL_INLINE constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); } \
    MSL_VECTORS_3(clamp, T)                                                         \
    MSL_OURS_##T MSL_INLINE constexpr T min3(T x, T y, T z) { return min(x, min(y, z)); }        \
    MSL_OURS_##T MSL_INLINE constexpr T max3(T x, T y, T z) { return max(x, max(y, z)); }        \
    MSL_OURS_##T MSL_INLINE constexpr T median3(T x, T y, T z) { return max(min(x, y), min(max(x, y), z)); } \
    MSL_VECTORS_3(min3, T) MSL_VECTORS_3(max3, T) MSL_VECTORS_3(median3, T)
MSL_COMPARE(float, __builtin_fminf(x, y), __builtin_fmaxf(x, y))
MSL_COMPARE(half, (half)__builtin_fminf((float)x, (float)y), (half)__builtin_fmaxf((float)x, (float)y))
MSL_COMPARE(bfloat, (bfloat)__builtin_fminf((float)x, (float)y), (bfloat)__builtin_fmaxf((float)x, (float)y))
#define X(T) MSL_COMPARE(T, y < x ? y : x, x < y ? y : x)
MSL_INTS(X)
#undef X

#define X(T)                                                                  \
    MSL_OURS_##T MSL_INLINE constexpr T abs(T x) { return (T)__builtin_fabsf((float)x); }  \
    MSL_VECTORS_1(abs, T)                                                     \
    MSL_OURS_##T MSL_INLINE T ldexp(T x, int n) { return (T)msl::ldexp((float)x, n); }     \
    MSL_OURS_##T MSL_INLINE T modf(T x, thread T &whole) { whole = trunc(x); return x - whole; } \
    MSL_OURS_##T MSL_INLINE T sincos(T x, thread T &c) { c = cos(x); return sin(x); }      \
    MSL_OURS_##T MSL_INLINE T frexp(T x, thread int &e) {                                  \
        const float f = (float)x;                                             \
        if (f == 0.0f || !(__builtin_fabsf(f) < __builtin_inff())) { e = 0; return x; } \
        const bool tiny = __builtin_fabsf(f) < 1.17549435e-38f;               \
        const uint bits = msl::float_bits(tiny ? f * 8388608.0f : f);         \
        e = (int)(bits >> 23 & 255) - 126 - (tiny ? 23 : 0);                  \
        return (T)msl::bits_float((bits & 0x807fffffu) | 0x3f000000u);        \
    }                                                                         \
    MSL_OURS_##T MSL_INLINE int ilogb(T x) { int e; frexp(x, e); return e - 1; }
MSL_FLOATS(X)
#undef X
MSL_INLINE float nextafter(float x, float y) {
    if (x != x || y != y) return __builtin_nanf("");
    if (x == y) return y;
    if (x == 0.0f) return __builtin_copysignf(msl::bits_float(1), y);
    return msl::bits_float(msl::float_bits(x) + ((x < y) == (x > 0.0f) ? 1 : -1));
}
// mix with one weight for all components.
#define X(T)                                                                          \
    MSL_INLINE T##2 mix(T##2 x, T##2 y, T a) { return x + (y - x) * a; }              \
    MSL_INLINE T##3 mix(T##3 x, T##3 y, T a) { return x + (y - x) * a; }              \
    MSL_INLINE T##4 mix(T##4 x, T##4 y, T a) { return x + (y - x) * a; }              \
    MSL_INLINE T##2 clamp(T##2 x, T a, T b) { return clamp(x, T##2(a), T##2(b)); }    \
    MSL_INLINE T##3 clamp(T##3 x, T a, T b) { return clamp(x, T##3(a), T##3(b)); }    \
    MSL_INLINE T##4 clamp(T##4 x, T a, T b) { return clamp(x, T##4(a), T##4(b)); }
MSL_FLOATS(X)
#undef X
namespace fast {
using metal::abs; using metal::clamp; using metal::max; using metal::max3; using metal::median3; using metal::min; using metal::min3;
using metal::ldexp; using metal::sincos; using metal::frexp; using metal::modf;
}
namespace precise {
using metal::abs; using metal::clamp; using metal::max; using metal::max3; using metal::median3; using metal::min; using metal::min3;
using metal::ldexp; using metal::sincos; using metal::frexp; using metal::modf;
}
}  // namespace metal
