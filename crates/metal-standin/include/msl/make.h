// `float4(a, b.xy, 1)`, `half4(v)`, `(int4)v`, `T(x)`: the source pass writes these conversions as msl::make<T>(…), because
// clang would take a cast between vectors for a reinterpretation of their bits.
namespace msl {
template <class T> struct shape { static constexpr int size = 0; typedef T element; };
template <class T, int N> struct shape<T __attribute__((ext_vector_type(N)))> {
    static constexpr int size = N;
    typedef T element;
};

// The i-th component of (a, rest…) laid end to end.
template <class E, class A, class... R> MSL_INLINE constexpr E component(int i, A a, R... rest) {
    if constexpr (shape<A>::size > 0) {
        if (i < shape<A>::size) return (E)a[i];
        if constexpr (sizeof...(R) > 0) return component<E>(i - shape<A>::size, rest...);
    } else {
        if (i == 0) return (E)a;
        if constexpr (sizeof...(R) > 0) return component<E>(i - 1, rest...);
    }
    return E();
}
template <class A> constexpr int components() { return shape<A>::size ? shape<A>::size : 1; }

template <class T> MSL_INLINE constexpr T make() { return T(); }
template <class T, class A> MSL_INLINE constexpr T make(A a) {
    typedef typename shape<T>::element E;
    if constexpr ((__is_same(T, half) && __is_same(A, bfloat)) || (__is_same(T, bfloat) && __is_same(A, half))) {
        return (T)(float)a;
    } else if constexpr (shape<T>::size == 0) {
        return (T)a;
    } else if constexpr (shape<A>::size > 0) {
        static_assert(shape<A>::size == shape<T>::size, "vector converted to a vector of another length");
        return __builtin_convertvector(a, T);
    } else if constexpr (__is_class(A)) {
        return (T)a;
    } else {
        const E e = (E)a;
        if constexpr (shape<T>::size == 2) return T{e, e};
        if constexpr (shape<T>::size == 3) return T{e, e, e};
        if constexpr (shape<T>::size == 4) return T{e, e, e, e};
    }
}
template <class T, class A, class B, class... R> MSL_INLINE constexpr T make(A a, B b, R... rest) {
    typedef typename shape<T>::element E;
    constexpr int n = shape<T>::size;
    if constexpr (n == 0) {
        return T(a, b, rest...);
    } else {
        static_assert((components<A>() + components<B>() + (0 + ... + components<R>())) == n,
                      "a vector's constructor wants as many components as it has");
        if constexpr (sizeof...(R) + 2 == n) return T{(E)a, (E)b, (E)rest...};
        else if constexpr (n == 3) return T{component<E>(0, a, b, rest...), component<E>(1, a, b, rest...), component<E>(2, a, b, rest...)};
        else return T{component<E>(0, a, b, rest...), component<E>(1, a, b, rest...), component<E>(2, a, b, rest...),
                      component<E>(3, a, b, rest...)};
    }
}
}  // namespace msl

template <class T, class A> MSL_INLINE constexpr T as_type(A a) {
    static_assert(sizeof(T) == sizeof(A), "as_type wants types of one size");
    return __builtin_bit_cast(T, a);
}
namespace metal {
using ::as_type;
}
