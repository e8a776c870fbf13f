// Functions of one float, for each target. On the CPU they are libm's. On NVIDIA they are made of the hardware's
// approximations (fast) or of these and polynomials (precise); errors in units in the last place, over the whole range:
//
//             exp exp2 exp10  log log2 log10  sin cos  tan  asin acos atan  sinh cosh tanh  pow   sqrt  rsqrt
//   precise    3    2    4     2    2    3     2   2    4     3    3    3     4    3    4    3    0.5    2
//   fast       2 + |x|/8, and absolute 2^-21 for log near 1, sin and cos (within ±pi)
namespace msl {
MSL_INLINE constexpr float bits_float(uint x) { return __builtin_bit_cast(float, x); }
MSL_INLINE constexpr uint float_bits(float x) { return __builtin_bit_cast(uint, x); }

#ifdef __NVPTX__
MSL_INLINE float floor(float x) { return __builtin_floorf(x); }
MSL_INLINE float ceil(float x) { return __builtin_ceilf(x); }
MSL_INLINE float trunc(float x) { return __builtin_truncf(x); }
MSL_INLINE float rint(float x) { return __builtin_rintf(x); }
MSL_INLINE float round(float x) {
    const float t = __builtin_truncf(__builtin_fabsf(x) + 0.5f), a = __builtin_fabsf(x);
    return a >= 8388608.0f ? x : __builtin_copysignf(a == 0x1.fffffep-2f ? 0.0f : t, x);
}
MSL_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
MSL_INLINE float sqrt(float x) { return __nvvm_sqrt_rn_f(x); }
MSL_INLINE float rsqrt(float x) { return __nvvm_rsqrt_approx_f(x); }

// x * 2^n, rounded once unless the result is subnormal.
MSL_INLINE float scale(float x, int n) {
    n = n > 278 ? 278 : n < -278 ? -278 : n;
    const int a = n / 3, b = n - 2 * a;
    return x * bits_float((uint)(a + 127) << 23) * bits_float((uint)(a + 127) << 23) * bits_float((uint)(b + 127) << 23);
}
MSL_INLINE float exp2(float x) {
    const float n = rint(x);
    if (!(__builtin_fabsf(x) < 200.0f)) return x != x ? x : x > 0 ? __builtin_inff() : 0.0f;
    return scale(__nvvm_ex2_approx_f(x - n), (int)n);
}
MSL_INLINE float exp_base(float x, float log2_hi, float log2_lo) {
#pragma clang fp reassociate(off)
    if (!(__builtin_fabsf(x) < 120.0f)) return x != x ? x : x > 0 ? __builtin_inff() : 0.0f;
    const float t = x * log2_hi, low = fma(x, log2_hi, -t) + x * log2_lo, n = rint(t);
    return scale(__nvvm_ex2_approx_f((t - n) + low), (int)n);
}
MSL_INLINE float exp(float x) { return exp_base(x, bits_float(0x3fb8aa3b), 1.9259629911e-8f); }
MSL_INLINE float exp10(float x) { return exp_base(x, bits_float(0x40549a78), 7.0595369e-8f); }

// x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log(m) = f - f^2/2 + f^3 p(f) with f = m - 1 (Cephes' logf).
struct log_parts { float f, tail, e; };
MSL_INLINE log_parts log_reduce(float x) {
    const bool tiny = x < 1.17549435e-38f;
    const uint bits = float_bits(tiny ? x * 8388608.0f : x) - 0x3f3504f3u;
    const float m = bits_float((bits & 0x7fffffu) + 0x3f3504f3u), f = m - 1.0f, z = f * f;
    float p = 7.0376836292e-2f;
    p = fma(p, f, -1.1514610310e-1f), p = fma(p, f, 1.1676998740e-1f), p = fma(p, f, -1.2420140846e-1f);
    p = fma(p, f, 1.4249322787e-1f), p = fma(p, f, -1.6668057665e-1f), p = fma(p, f, 2.0000714765e-1f);
    p = fma(p, f, -2.4999993993e-1f), p = fma(p, f, 3.3333331174e-1f);
    return {f, fma(-0.5f, z, f * z * p), (float)((int)bits >> 23) - (tiny ? 23.0f : 0.0f)};
}
MSL_INLINE bool log_special(float x) { return !(x > 0.0f && x < __builtin_inff()); }
MSL_INLINE float log_of_special(float x) { return x == 0.0f ? -__builtin_inff() : x > 0.0f ? x : __builtin_nanf(""); }
MSL_INLINE float log(float x) {
#pragma clang fp reassociate(off)
    if (log_special(x)) return log_of_special(x);
    const log_parts p = log_reduce(x);
    return fma(p.e, 0.693359375f, fma(p.e, -2.12194440e-4f, p.tail) + p.f);
}
MSL_INLINE float log2(float x) {
#pragma clang fp reassociate(off)
    if (log_special(x)) return log_of_special(x);
    const log_parts p = log_reduce(x);
    return p.e + fma(p.f, 1.44269504f, fma(p.tail, 1.44269504f, p.f * 1.92596e-8f));
}
MSL_INLINE float log10(float x) {
#pragma clang fp reassociate(off)
    if (log_special(x)) return log_of_special(x);
    const log_parts p = log_reduce(x);
    return fma(p.e, 0.301025391f, fma(p.e, 4.60503907e-6f, fma(p.f, 0.43429448f, p.tail * 0.43429448f)));
}

// The quarter turn x lies in, and what is left within ±pi/4; the reduction is in double, which the hardware has.
struct turn { float rest; int quarter; };
MSL_INLINE turn reduce_turn(float x) {
    const double two_over_pi = __builtin_bit_cast(double, 0x3fe45f306dc9c883ul), hi = __builtin_bit_cast(double, 0x3ff921fb54442d18ul),
                 lo = __builtin_bit_cast(double, 0x3c91a62633145c07ul);
    const double d = (double)x, n = __builtin_rint(d * two_over_pi);
    const double rest = __builtin_fma(-n, lo, __builtin_fma(-n, hi, d));
    return {(float)rest, (int)((long)n & 3)};
}
MSL_INLINE float sin_near(float x) {
    const float z = x * x;
    return fma(fma(fma(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), z * x, x);
}
MSL_INLINE float cos_near(float x) {
    const float z = x * x;
    return fma(fma(fma(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f), z * z, fma(-0.5f, z, 1.0f));
}
MSL_INLINE float sin(float x) {
    const turn t = reduce_turn(x);
    const float r = t.quarter & 1 ? cos_near(t.rest) : sin_near(t.rest);
    return t.quarter & 2 ? -r : r;
}
MSL_INLINE float cos(float x) {
    const turn t = reduce_turn(x);
    const float r = t.quarter & 1 ? sin_near(t.rest) : cos_near(t.rest);
    return (t.quarter + 1) & 2 ? -r : r;
}
MSL_INLINE float tan(float x) { return sin(x) / cos(x); }
MSL_INLINE float atan(float x) {
    const float a = __builtin_fabsf(x);
    const bool far = a > 2.414213562373095f, middle = a > 0.4142135623730950f;
    const float base = far ? 1.57079632679f : middle ? 0.785398163397f : 0.0f, y = far ? -1.0f / a : middle ? (a - 1.0f) / (a + 1.0f) : a, z = y * y;
    const float p = fma(fma(fma(8.05374449538e-2f, z, -1.38776856032e-1f), z, 1.99777106478e-1f), z, -3.33329491539e-1f);
    return __builtin_copysignf(base + fma(p * z, y, y), x);
}
MSL_INLINE float asin(float x) {
    const float a = __builtin_fabsf(x);
    const bool far = a > 0.5f;
    const float z = far ? 0.5f * (1.0f - a) : a * a, y = far ? sqrt(z) : a;
    float p = fma(4.2163199048e-2f, z, 2.4181311049e-2f);
    p = fma(p, z, 4.5470025998e-2f), p = fma(p, z, 7.4953002686e-2f), p = fma(p, z, 1.6666752422e-1f);
    const float r = fma(p * z, y, y);
    return __builtin_copysignf(far ? 1.57079632679f - 2.0f * r : r, x);
}
MSL_INLINE float acos(float x) { return x > 0.5f ? 2.0f * asin(sqrt(0.5f * (1.0f - x))) : 1.57079632679f - asin(x); }
MSL_INLINE float atan2(float y, float x) {
    if (x == 0.0f && y == 0.0f) return __builtin_copysignf(float_bits(x) >> 31 ? 3.14159265359f : 0.0f, y);
    if (__builtin_isinf(x) && __builtin_isinf(y)) return __builtin_copysignf(x > 0 ? 0.785398163397f : 2.35619449019f, y);
    const float a = atan(__builtin_fabsf(y / x));
    return __builtin_copysignf(float_bits(x) >> 31 ? 3.14159265359f - a : a, y);
}
MSL_INLINE float sinh(float x) {
    const float a = __builtin_fabsf(x), z = x * x;
    if (a < 1.0f) return fma(fma(fma(2.03721912945e-4f, z, 8.33028376239e-3f), z, 1.66667160211e-1f), z * x, x);
    const float e = exp(0.5f * a);
    return __builtin_copysignf(0.5f * e * e - 0.5f / e / e, x);
}
MSL_INLINE float cosh(float x) {
    const float e = exp(0.5f * __builtin_fabsf(x));
    return 0.5f * e * e + 0.5f / e / e;
}
MSL_INLINE float tanh(float x) {
    const float a = __builtin_fabsf(x), z = x * x;
    if (a >= 0.625f) return __builtin_copysignf(1.0f - 2.0f / (exp(2.0f * a) + 1.0f), x);
    float p = fma(-5.70498872745e-3f, z, 2.06390887954e-2f);
    p = fma(p, z, -5.37397155531e-2f), p = fma(p, z, 1.33314422036e-1f), p = fma(p, z, -3.33332819422e-1f);
    return fma(p * z, x, x);
}
MSL_INLINE float asinh(float x) {
    const float a = __builtin_fabsf(x);
    return __builtin_copysignf(a < 0.3f ? a * (1.0f - a * a * (1.0f / 6 - 0.075f * a * a)) : a > 1e18f ? log(a) + 0.693147181f : log(a + sqrt(fma(a, a, 1.0f))), x);
}
MSL_INLINE float acosh(float x) { return x > 1e18f ? log(x) + 0.693147181f : log(x + sqrt(fma(x, x, -1.0f))); }
MSL_INLINE float atanh(float x) {
    const float z = x * x;
    return __builtin_fabsf(x) < 0.3f ? x * fma(z, fma(z, fma(z, 1.0f / 7, 0.2f), 1.0f / 3), 1.0f) : 0.5f * log((1.0f + x) / (1.0f - x));
}
// |x|^y: the logarithm in double, as y multiplies its error.
MSL_INLINE float pow_positive(float x, float y) {
    const bool tiny = x < 1.17549435e-38f;
    const uint bits = float_bits(tiny ? x * 8388608.0f : x) - 0x3f3504f3u;
    const double m = (double)bits_float((bits & 0x7fffffu) + 0x3f3504f3u), e = (double)(((int)bits >> 23) - (tiny ? 23 : 0));
    const double s = (m - 1) / (m + 1), z = s * s, one = 1;
    double p = one / 13;
    p = p * z + one / 11, p = p * z + one / 9, p = p * z + one / 7, p = p * z + one / 5, p = p * z + one / 3, p = p * z + 1;
    const double t = (double)y * (e + 2 * s * p * __builtin_bit_cast(double, 0x3ff71547652b82feul));
    if (t > 130) return __builtin_inff();
    if (t < -160) return 0.0f;
    const double n = __builtin_rint(t);
    return scale(__nvvm_ex2_approx_f((float)(t - n)), (int)n);
}
MSL_INLINE float pow(float x, float y) {
    if (y == 0.0f || x == 1.0f) return 1.0f;
    if (x != x || y != y) return __builtin_nanf("");
    const float a = __builtin_fabsf(x);
    const bool whole = __builtin_floorf(y) == y, odd = whole && __builtin_fabsf(y) < 16777216.0f && ((int)y & 1);
    const bool negative = float_bits(x) >> 31;
    float r;
    if (__builtin_isinf(y)) r = a == 1.0f ? 1.0f : (a > 1.0f) == (y > 0.0f) ? __builtin_inff() : 0.0f;
    else if (a == 0.0f) r = y < 0.0f ? __builtin_inff() : 0.0f;
    else if (__builtin_isinf(a)) r = y < 0.0f ? 0.0f : a;
    else if (negative && !whole) return __builtin_nanf("");
    else r = pow_positive(a, y);
    return negative && odd ? -r : r;
}
MSL_INLINE float fmod(float x, float y) {
    const double q = __builtin_trunc((double)x / (double)y);
    return __builtin_copysignf((float)__builtin_fma(-q, (double)y, (double)x), x);
}
MSL_INLINE float ldexp(float x, int n) { return scale(x, n); }
#else
#define X(NAME) MSL_INLINE float NAME(float x) { return __builtin_##NAME##f(x); }
X(floor) X(ceil) X(trunc) X(rint) X(round) X(sqrt) X(exp) X(exp2) X(log) X(log2) X(log10) X(sin) X(cos) X(tan) X(asin)
X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) X(atanh)
#undef X
MSL_INLINE float exp10(float x) { return __builtin_powf(10.0f, x); }
MSL_INLINE float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
MSL_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
MSL_INLINE float pow(float x, float y) { return __builtin_powf(x, y); }
MSL_INLINE float atan2(float y, float x) { return __builtin_atan2f(y, x); }
MSL_INLINE float fmod(float x, float y) { return __builtin_fmodf(x, y); }
MSL_INLINE float ldexp(float x, int n) { return __builtin_ldexpf(x, n); }
#endif

MSL_INLINE float powr(float x, float y) { return msl::pow(x, y); }
// In half turns, reduced exactly.
MSL_INLINE float half_turns(float x) { return x - 2.0f * msl::floor(x * 0.5f); }
MSL_INLINE float sinpi(float x) { return msl::sin(3.14159265358979f * (half_turns(x) > 1.0f ? half_turns(x) - 2.0f : half_turns(x))); }
MSL_INLINE float cospi(float x) { return msl::cos(3.14159265358979f * half_turns(x)); }
MSL_INLINE float tanpi(float x) { return sinpi(x) / cospi(x); }
}  // namespace msl

// What metal::fast gives; on the CPU the same as precise.
namespace msl::quick {
#ifdef __NVPTX__
MSL_INLINE float exp2(float x) { return __nvvm_ex2_approx_f(x); }
MSL_INLINE float exp(float x) { return __nvvm_ex2_approx_f(x * 1.44269504f); }
MSL_INLINE float exp10(float x) { return __nvvm_ex2_approx_f(x * 3.32192809f); }
MSL_INLINE float log2(float x) { return __nvvm_lg2_approx_f(x); }
MSL_INLINE float log(float x) { return __nvvm_lg2_approx_f(x) * 0.693147181f; }
MSL_INLINE float log10(float x) { return __nvvm_lg2_approx_f(x) * 0.301029996f; }
MSL_INLINE float sqrt(float x) { return __nvvm_sqrt_approx_f(x); }
MSL_INLINE float pow(float x, float y) { return x < 0.0f || x == 0.0f ? msl::pow(x, y) : __nvvm_ex2_approx_f(y * __nvvm_lg2_approx_f(x)); }
MSL_INLINE float powr(float x, float y) { return __nvvm_ex2_approx_f(y * __nvvm_lg2_approx_f(x)); }
MSL_INLINE float sinh(float x) { return msl::sinh(x); }
MSL_INLINE float cosh(float x) { return 0.5f * (exp(x) + exp(-x)); }
MSL_INLINE float tanh(float x) {
    const float a = __builtin_fabsf(x);
    return a < 0.25f ? msl::tanh(x) : __builtin_copysignf(1.0f - 2.0f / (exp(2.0f * a) + 1.0f), x);
}
using msl::acos; using msl::acosh; using msl::asin; using msl::asinh; using msl::atan; using msl::atan2; using msl::atanh;
using msl::cos; using msl::sin; using msl::tan;
#else
using msl::acos; using msl::acosh; using msl::asin; using msl::asinh; using msl::atan; using msl::atan2; using msl::atanh;
using msl::cos; using msl::sin; using msl::tan; using msl::exp; using msl::exp2; using msl::exp10; using msl::log;
using msl::log2; using msl::log10; using msl::sqrt; using msl::pow; using msl::powr; using msl::sinh; using msl::cosh; using msl::tanh;
#endif
using msl::ceil; using msl::cospi; using msl::floor; using msl::fma; using msl::fmod; using msl::ldexp; using msl::rint;
using msl::round; using msl::rsqrt; using msl::sinpi; using msl::tanpi; using msl::trunc;
}  // namespace msl::quick
