// <metal_relational>. A comparison of vectors gives a vector of integers in clang (0 or -1), one of bool in Metal: it
// converts to that, and these functions take either.
#define MSL_BOOL(N, NAMES, FROM_VECTOR, PARAMETERS, FROM_BOOLS, SPLAT, EACH)                                  \
    struct bool##N {                                                                                         \
        bool NAMES;                                                                                          \
        bool##N() = default;                                                                                 \
        MSL_CONSTRUCTORS(bool##N)                                                                            \
        MSL_ASSIGNMENTS(bool##N)                                                                             \
        MSL_INLINE constexpr bool##N PARAMETERS : FROM_BOOLS {}                                              \
        MSL_INLINE constexpr bool##N(bool s) : bool##N SPLAT {}                                              \
        template <class E> MSL_INLINE bool##N(metal::vec<E, N> v) : bool##N FROM_VECTOR {}                   \
        template <class E> MSL_INLINE operator metal::vec<E, N>() const { return metal::vec<E, N> EACH((E)); } \
        MSL_INLINE bool &operator[](int i) { return (&x)[i]; }                                               \
        MSL_INLINE bool operator[](int i) const { return (&x)[i]; }                                          \
        MSL_INLINE bool##N operator!() const { return bool##N EACH(!); }                                     \
    };                                                                                                       \
    MSL_BOOL_OPERATOR(N, &&, &&) MSL_BOOL_OPERATOR(N, ||, ||) MSL_BOOL_OPERATOR(N, &, &&) MSL_BOOL_OPERATOR(N, |, ||) \
    namespace metal { using ::bool##N; }
#define MSL_BOOL_OPERATOR(N, OP, EACH)                           \
    MSL_INLINE bool##N operator OP(bool##N a, bool##N b) {       \
        for (int i = 0; i < N; i++) a[i] = a[i] EACH b[i];       \
        return a;                                                \
    }
#define TWO(F) {F x, F y}
#define THREE(F) {F x, F y, F z}
#define FOUR(F) {F x, F y, F z, F w}
#define NAMES2 x, y
#define NAMES3 x, y, z
#define NAMES4 x, y, z, w
#define INIT2 x(a), y(b)
#define INIT3 x(a), y(b), z(c)
#define INIT4 x(a), y(b), z(c), w(d)
MSL_BOOL(2, NAMES2, (v.x != 0, v.y != 0), (bool a, bool b), INIT2, (s, s), TWO)
MSL_BOOL(3, NAMES3, (v.x != 0, v.y != 0, v.z != 0), (bool a, bool b, bool c), INIT3, (s, s, s), THREE)
MSL_BOOL(4, NAMES4, (v.x != 0, v.y != 0, v.z != 0, v.w != 0), (bool a, bool b, bool c, bool d), INIT4, (s, s, s, s), FOUR)
#undef TWO
#undef THREE
#undef FOUR

namespace metal {
#define X(T)                                                                                                  \
    MSL_OURS_##T MSL_INLINE constexpr bool isnan(T x) { return __builtin_isnan((float)x); }                                \
    MSL_OURS_##T MSL_INLINE constexpr bool isinf(T x) { return __builtin_isinf((float)x); }                                \
    MSL_OURS_##T MSL_INLINE constexpr bool isfinite(T x) { return __builtin_isfinite((float)x); }                          \
    MSL_OURS_##T MSL_INLINE constexpr bool isnormal(T x) { return __builtin_isnormal((float)x); }                          \
    MSL_OURS_##T MSL_INLINE constexpr bool signbit(T x) { return msl::float_bits((float)x) >> 31; }                        \
    MSL_OURS_##T MSL_INLINE constexpr bool isordered(T x, T y) { return x == x && y == y; }                                \
    MSL_OURS_##T MSL_INLINE constexpr bool isunordered(T x, T y) { return x != x || y != y; }                              \
    MSL_BOOLS(isnan, T) MSL_BOOLS(isinf, T) MSL_BOOLS(isfinite, T) MSL_BOOLS(isnormal, T) MSL_BOOLS(signbit, T)
#define MSL_BOOLS(NAME, T)                                                              \
    MSL_INLINE bool2 NAME(T##2 a) { return bool2{NAME(a.x), NAME(a.y)}; }               \
    MSL_INLINE bool3 NAME(T##3 a) { return bool3{NAME(a.x), NAME(a.y), NAME(a.z)}; }    \
    MSL_INLINE bool4 NAME(T##4 a) { return bool4{NAME(a.x), NAME(a.y), NAME(a.z), NAME(a.w)}; }
MSL_FLOATS(X)
#undef X

MSL_INLINE constexpr bool any(bool x) { return x; }
MSL_INLINE constexpr bool all(bool x) { return x; }
#define X(T)                                                                             \
    MSL_INLINE bool any(T##2 a) { return a.x || a.y; }                                   \
    MSL_INLINE bool any(T##3 a) { return a.x || a.y || a.z; }                            \
    MSL_INLINE bool any(T##4 a) { return a.x || a.y || a.z || a.w; }                     \
    MSL_INLINE bool all(T##2 a) { return a.x && a.y; }                                   \
    MSL_INLINE bool all(T##3 a) { return a.x && a.y && a.z; }                            \
    MSL_INLINE bool all(T##4 a) { return a.x && a.y && a.z && a.w; }
X(bool) X(char) X(short) X(int) X(long)
#undef X

// select(a, b, c): c ? b : a.
#define X(T)                                                                                                      \
    MSL_OURS_##T MSL_INLINE constexpr T select(T a, T b, bool c) { return c ? b : a; }                                         \
    template <class M> requires(!__is_arithmetic(M)) MSL_INLINE T##2 select(T##2 a, T##2 b, M c) { return T##2{c.x ? b.x : a.x, c.y ? b.y : a.y}; } \
    template <class M> requires(!__is_arithmetic(M)) MSL_INLINE T##3 select(T##3 a, T##3 b, M c) {                                              \
        return T##3{c.x ? b.x : a.x, c.y ? b.y : a.y, c.z ? b.z : a.z};                                           \
    }                                                                                                             \
    template <class M> requires(!__is_arithmetic(M)) MSL_INLINE T##4 select(T##4 a, T##4 b, M c) {                                              \
        return T##4{c.x ? b.x : a.x, c.y ? b.y : a.y, c.z ? b.z : a.z, c.w ? b.w : a.w};                          \
    }
MSL_NUMBERS(X)
#undef X
MSL_INLINE constexpr bool select(bool a, bool b, bool c) { return c ? b : a; }
}  // namespace metal
