// <metal_simdgroup_matrix>: 8x8 matrices spread over the 32 lanes of a SIMD-group, two elements of a row in each, at the
// places where Apple's GPUs keep them (kernels rely on it): lane l has row (l/16)*4 + (l/2)%4 and columns c, c+1 with
// c = ((l/8)%2)*4 + (l%2)*2.
namespace metal {
template <class T, int C = 8, int R = C> struct simdgroup_matrix {
    static_assert(C == 8 && R == 8, "simdgroup_matrix is 8x8");
    static_assert(__is_same(T, float) || __is_same(T, half) || __is_same(T, bfloat), "simdgroup_matrix has elements of type float, half or bfloat");
    typedef vec<T, 2> storage_type;
    storage_type elements;
    simdgroup_matrix() = default;
    MSL_CONSTRUCTORS(simdgroup_matrix)
    MSL_ASSIGNMENTS(simdgroup_matrix)
    MSL_INLINE explicit simdgroup_matrix(T diagonal);
    MSL_INLINE thread storage_type &thread_elements() { return elements; }
    MSL_INLINE const thread storage_type &thread_elements() const { return elements; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
}  // namespace metal

namespace msl {
MSL_INLINE uint matrix_row(uint lane) { return lane / 16 * 4 + lane / 2 % 4; }
MSL_INLINE uint matrix_column(uint lane) { return lane / 8 % 2 * 4 + lane % 2 * 2; }
// The lane that has (row, column).
MSL_INLINE uint matrix_lane(uint row, uint column) { return row / 4 * 16 + column / 4 * 8 + row % 4 * 2 + column % 4 / 2; }

// d = a * b + c. Sums run over k = 0…7 in order, in float, on both targets.
template <class D, class A, class B, class C>
MSL_INLINE metal::vec<D, 2> multiply_accumulate(metal::vec<A, 2> a, metal::vec<B, 2> b, metal::vec<C, 2> c) {
#pragma clang fp reassociate(off)
    float2 sum = float2{(float)c.x, (float)c.y};
    const uint row = matrix_row(lane()), column = matrix_column(lane());
#ifdef __NVPTX__
    _Pragma("unroll") for (uint k = 0; k < 8; k += 2) {
        const metal::vec<A, 2> left = from_lane(a, matrix_lane(row, k));
        const metal::vec<B, 2> upper = from_lane(b, matrix_lane(k, column)), lower = from_lane(b, matrix_lane(k + 1, column));
        sum.x = __builtin_fmaf((float)left.x, (float)upper.x, sum.x), sum.y = __builtin_fmaf((float)left.x, (float)upper.y, sum.y);
        sum.x = __builtin_fmaf((float)left.y, (float)lower.x, sum.x), sum.y = __builtin_fmaf((float)left.y, (float)lower.y, sum.y);
    }
#else
    struct pair { metal::vec<A, 2> a; metal::vec<B, 2> b; } mine = {a, b}, all[32];
    msl_simd_exchange(&mine, all, sizeof(pair));
    for (uint k = 0; k < 8; k += 2) {
        const metal::vec<A, 2> left = all[matrix_lane(row, k)].a;
        const metal::vec<B, 2> upper = all[matrix_lane(k, column)].b, lower = all[matrix_lane(k + 1, column)].b;
        sum.x = __builtin_fmaf((float)left.x, (float)upper.x, sum.x), sum.y = __builtin_fmaf((float)left.x, (float)upper.y, sum.y);
        sum.x = __builtin_fmaf((float)left.y, (float)lower.x, sum.x), sum.y = __builtin_fmaf((float)left.y, (float)lower.y, sum.y);
    }
#endif
    return metal::vec<D, 2>{(D)sum.x, (D)sum.y};
}
}  // namespace msl

namespace metal {
template <class T, int C, int R> MSL_INLINE simdgroup_matrix<T, C, R>::simdgroup_matrix(T diagonal) {
    const uint row = msl::matrix_row(msl::lane()), column = msl::matrix_column(msl::lane());
    elements = storage_type{row == column ? diagonal : T(0), row == column + 1 ? diagonal : T(0)};
}
template <class T, int C = 8, int R = C> MSL_INLINE simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, C, R> m;
    m.elements = vec<T, 2>{value, value};
    return m;
}
template <class T> MSL_INLINE simdgroup_matrix<T, 8, 8> make_diagonal_simdgroup_matrix(T value) { return simdgroup_matrix<T, 8, 8>(value); }

#define X(A)                                                                                                                \
    template <class T>                                                                                                      \
    MSL_INLINE void simdgroup_load(thread simdgroup_matrix<T, 8, 8> &d, const A T *from, ulong elements_per_row = 8,        \
                                   ulong2 origin = 0, bool transpose = false) {                                             \
        const ulong row = msl::matrix_row(msl::lane()), column = msl::matrix_column(msl::lane());                           \
        from += origin.y * elements_per_row + origin.x;                                                                     \
        if (transpose) d.elements = vec<T, 2>{from[column * elements_per_row + row], from[(column + 1) * elements_per_row + row]}; \
        else d.elements = vec<T, 2>{from[row * elements_per_row + column], from[row * elements_per_row + column + 1]};      \
    }
X(device) X(threadgroup) X(constant)
#undef X
#define X(A)                                                                                                                \
    template <class T>                                                                                                      \
    MSL_INLINE void simdgroup_store(thread const simdgroup_matrix<T, 8, 8> &s, A T *to, ulong elements_per_row = 8,         \
                                    ulong2 origin = 0, bool transpose = false) {                                            \
        const ulong row = msl::matrix_row(msl::lane()), column = msl::matrix_column(msl::lane());                           \
        to += origin.y * elements_per_row + origin.x;                                                                       \
        to[transpose ? column * elements_per_row + row : row * elements_per_row + column] = s.elements.x;                   \
        to[transpose ? (column + 1) * elements_per_row + row : row * elements_per_row + column + 1] = s.elements.y;         \
    }
X(device) X(threadgroup)
#undef X

template <class D, class A, class B, class E>
MSL_INLINE void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8> &d, thread const simdgroup_matrix<A, 8, 8> &a,
                                              thread const simdgroup_matrix<B, 8, 8> &b, thread const simdgroup_matrix<E, 8, 8> &c) {
    d.elements = msl::multiply_accumulate<D>(a.elements, b.elements, c.elements);
}
template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8> &d, thread const simdgroup_matrix<A, 8, 8> &a,
                                   thread const simdgroup_matrix<B, 8, 8> &b) {
    d.elements = msl::multiply_accumulate<D>(a.elements, b.elements, vec<D, 2>{D(0), D(0)});
}
template <class T> MSL_INLINE simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a, simdgroup_matrix<T, 8, 8> b) {
    simdgroup_matrix<T, 8, 8> d;
    simdgroup_multiply(d, a, b);
    return d;
}
}  // namespace metal
