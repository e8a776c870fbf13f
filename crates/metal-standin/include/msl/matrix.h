// <metal_matrix>: C columns of R components, indexed in whatever memory they are.
namespace metal {
template <class T, int C, int R> struct matrix {
    vec<T, R> columns[C];

    matrix() = default;
    MSL_CONSTRUCTORS(matrix)
    MSL_ASSIGNMENTS(matrix)
    MSL_INLINE explicit matrix(T diagonal) {
        for (int c = 0; c < C; c++)
            for (int r = 0; r < R; r++) columns[c][r] = c == r ? diagonal : T(0);
    }
    // By columns, or by components.
    template <class... A> requires(sizeof...(A) == C && C > 1 && (__is_convertible_to(A, vec<T, R>) && ...) && !(__is_arithmetic(A) || ...))
    MSL_INLINE constexpr matrix(A... column) : columns{column...} {}
    template <class... A> requires(sizeof...(A) == C * R && C > 1)
    MSL_INLINE matrix(A... component) {
        const T all[C * R] = {(T)component...};
        for (int i = 0; i < C * R; i++) columns[i / R][i % R] = all[i];
    }
    template <class U> MSL_INLINE explicit matrix(matrix<U, C, R> m) {
        for (int c = 0; c < C; c++) columns[c] = __builtin_convertvector(m.columns[c], vec<T, R>);
    }
    MSL_INLINE vec<T, R> &operator[](int c) { return columns[c]; }
    MSL_INLINE const vec<T, R> &operator[](int c) const { return columns[c]; }
    typedef vec<T, R> column;
#define X(A) MSL_INLINE A column &operator[](this A matrix &self, int c) { return self.columns[c]; }
    X(device) X(const device) X(constant) X(threadgroup) X(const threadgroup)
#undef X
    MSL_INLINE matrix &operator+=(matrix m) { return *this = *this + m; }
    MSL_INLINE matrix &operator-=(matrix m) { return *this = *this - m; }
    MSL_INLINE matrix &operator*=(T x) { return *this = *this * x; }
};
#define X(OP)                                                                                        \
    template <class T, int C, int R> MSL_INLINE matrix<T, C, R> operator OP(matrix<T, C, R> a, matrix<T, C, R> b) { \
        for (int c = 0; c < C; c++) a[c] = a[c] OP b[c];                                             \
        return a;                                                                                    \
    }
X(+) X(-)
#undef X
template <class T, int C, int R> MSL_INLINE matrix<T, C, R> operator-(matrix<T, C, R> a) {
    for (int c = 0; c < C; c++) a[c] = -a[c];
    return a;
}
template <class T, int C, int R, class S> requires(__is_arithmetic(S) || __is_same(S, half) || __is_same(S, bfloat))
MSL_INLINE matrix<T, C, R> operator*(matrix<T, C, R> a, S s) {
    for (int c = 0; c < C; c++) a[c] = a[c] * (T)s;
    return a;
}
template <class T, int C, int R, class S> requires(__is_arithmetic(S) || __is_same(S, half) || __is_same(S, bfloat))
MSL_INLINE matrix<T, C, R> operator*(S s, matrix<T, C, R> a) { return a * s; }
template <class T, int C, int R> MSL_INLINE vec<T, R> operator*(matrix<T, C, R> m, vec<T, C> v) {
    vec<T, R> sum = m[0] * v[0];
    for (int c = 1; c < C; c++) sum += m[c] * v[c];
    return sum;
}
template <class T, int C, int R> MSL_INLINE vec<T, C> operator*(vec<T, R> v, matrix<T, C, R> m) {
    vec<T, C> r;
    for (int c = 0; c < C; c++) r[c] = dot(v, m[c]);
    return r;
}
template <class T, int K, int R, int C> MSL_INLINE matrix<T, C, R> operator*(matrix<T, K, R> a, matrix<T, C, K> b) {
    matrix<T, C, R> m;
    for (int c = 0; c < C; c++) m[c] = a * b[c];
    return m;
}
template <class T, int C, int R> MSL_INLINE matrix<T, R, C> transpose(matrix<T, C, R> a) {
    matrix<T, R, C> m;
    for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r++) m[r][c] = a[c][r];
    return m;
}
}  // namespace metal

#define X(T, C, R) \
    typedef metal::matrix<T, C, R> T##C##x##R; \
    namespace metal { using ::T##C##x##R; }
#define MSL_SHAPES(T) X(T, 2, 2) X(T, 2, 3) X(T, 2, 4) X(T, 3, 2) X(T, 3, 3) X(T, 3, 4) X(T, 4, 2) X(T, 4, 3) X(T, 4, 4)
MSL_SHAPES(float) MSL_SHAPES(half) MSL_SHAPES(bfloat)
#undef X
