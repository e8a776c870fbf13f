// <metal_atomic>.
namespace metal {
template <class T> struct atomic { T value; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;
typedef atomic<ulong> atomic_ulong;
}  // namespace metal

namespace msl {
// Fences have other orders; atomic functions know this one.
#define MSL_RELAXED(O) \
    __attribute__((diagnose_if(O != metal::memory_order_relaxed, "atomic functions take memory_order_relaxed only", "error")))
template <class T> struct same { typedef T type; };
template <class T> using same_t = typename same<T>::type;
}  // namespace msl

namespace metal {
#define X(A)                                                                                                                     \
    template <class T> MSL_INLINE T atomic_load_explicit(const volatile A atomic<T> *p, memory_order o) MSL_RELAXED(o) {                        \
        T r;                                                                                                                     \
        if constexpr (__is_same(T, float)) return as_type<float>((uint)__atomic_load_n((const volatile A uint *)p, __ATOMIC_RELAXED)); \
        else return __atomic_load_n((const volatile A T *)p, __ATOMIC_RELAXED);                                                  \
    }                                                                                                                            \
    template <class T> MSL_INLINE void atomic_store_explicit(volatile A atomic<T> *p, msl::same_t<T> x, memory_order o) MSL_RELAXED(o) {        \
        if constexpr (__is_same(T, float)) __atomic_store_n((volatile A uint *)p, as_type<uint>(x), __ATOMIC_RELAXED);           \
        else __atomic_store_n((volatile A T *)p, x, __ATOMIC_RELAXED);                                                           \
    }                                                                                                                            \
    template <class T> MSL_INLINE T atomic_exchange_explicit(volatile A atomic<T> *p, msl::same_t<T> x, memory_order o) MSL_RELAXED(o) {        \
        if constexpr (__is_same(T, float)) return as_type<float>((uint)__atomic_exchange_n((volatile A uint *)p, as_type<uint>(x), __ATOMIC_RELAXED)); \
        else return __atomic_exchange_n((volatile A T *)p, x, __ATOMIC_RELAXED);                                                 \
    }                                                                                                                            \
    template <class T>                                                                                                           \
    MSL_INLINE bool atomic_compare_exchange_weak_explicit(volatile A atomic<T> *p, thread T *expected, msl::same_t<T> x,         \
                                                          memory_order o, memory_order failed) MSL_RELAXED(o) MSL_RELAXED(failed) {                                          \
        if constexpr (__is_same(T, float)) {                                                                                     \
            uint e = as_type<uint>(*expected);                                                                                   \
            const bool done = __sync_bool_compare_and_swap((volatile A uint *)p, e, as_type<uint>(x));                           \
            if (!done) *expected = as_type<float>((uint)__atomic_load_n((volatile A uint *)p, __ATOMIC_RELAXED));                \
            return done;                                                                                                         \
        } else {                                                                                                                 \
            const T was = __sync_val_compare_and_swap((volatile A T *)p, *expected, x);                                          \
            const bool done = was == *expected;                                                                                  \
            *expected = was;                                                                                                     \
            return done;                                                                                                         \
        }                                                                                                                        \
    }
X(device) X(threadgroup)
#undef X
#define X(A, NAME, BUILTIN)                                                                                                 \
    template <class T> MSL_INLINE T atomic_fetch_##NAME##_explicit(volatile A atomic<T> *p, msl::same_t<T> x, memory_order o) MSL_RELAXED(o) { \
        return BUILTIN((volatile A T *)p, x, __ATOMIC_RELAXED);                                                             \
    }
#define MSL_BOTH(NAME, BUILTIN) X(device, NAME, BUILTIN) X(threadgroup, NAME, BUILTIN)
MSL_BOTH(add, __atomic_fetch_add) MSL_BOTH(sub, __atomic_fetch_sub) MSL_BOTH(and, __atomic_fetch_and) MSL_BOTH(or, __atomic_fetch_or)
MSL_BOTH(xor, __atomic_fetch_xor) MSL_BOTH(max, __atomic_fetch_max) MSL_BOTH(min, __atomic_fetch_min)
#undef X
// Without a result: 64 bits, device memory.
MSL_INLINE void atomic_max_explicit(volatile device atomic_ulong *p, ulong x, memory_order o) MSL_RELAXED(o) { __atomic_fetch_max((volatile device ulong *)p, x, __ATOMIC_RELAXED); }
MSL_INLINE void atomic_min_explicit(volatile device atomic_ulong *p, ulong x, memory_order o) MSL_RELAXED(o) { __atomic_fetch_min((volatile device ulong *)p, x, __ATOMIC_RELAXED); }
}  // namespace metal
#undef MSL_RELAXED
