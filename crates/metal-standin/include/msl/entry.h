// What the entry point of a kernel is made of; the source pass writes `kernel(argument, argument, …)` around these.
// An argument converts to whatever the kernel's parameter is.
#define MSL_ENTRY extern "C" __attribute__((used, visibility("default"))) void

namespace msl {
struct thread_indices {
    uint thread_position_in_grid[3], threadgroup_position_in_grid[3], thread_position_in_threadgroup[3], threads_per_grid[3],
        threads_per_threadgroup[3], dispatch_threads_per_threadgroup[3], threadgroups_per_grid[3];
    uint thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup, simdgroups_per_threadgroup,
        threads_per_simdgroup;
};
struct bindings {
    void *buffer[31];
    void *threadgroup_memory[31];
};

// A pointer or reference in one address space.
#define X(NAME, A)                                                             \
    struct NAME##_argument {                                                   \
        A char *at;                                                            \
        template <class T> MSL_INLINE operator A T *() const { return (A T *)at; } \
    };                                                                         \
    struct NAME##_reference {                                                  \
        A char *at;                                                            \
        template <class T> MSL_INLINE operator A T &() const { return *(A T *)at; } \
    };
X(device, device)
X(constant, constant)
X(threadgroup, threadgroup)
#undef X

// `uint`, `ushort`, `uint2`, `ushort3`…: a built-in input.
struct input {
    uint x, y, z;
    template <class T> MSL_INLINE operator T() const {
        typedef typename shape<T>::element E;
        if constexpr (shape<T>::size == 0) return (T)x;
        if constexpr (shape<T>::size == 2) return T{(E)x, (E)y};
        if constexpr (shape<T>::size == 3) return T{(E)x, (E)y, (E)z};
    }
};
MSL_INLINE input scalar_input(uint x) { return input{x, 0, 0}; }
MSL_INLINE input vector_input(const uint (&v)[3]) { return input{v[0], v[1], v[2]}; }

#ifdef __NVPTX__
MSL_INLINE void read_indices(thread_indices &t, uint gx, uint gy, uint gz) {
    t.threads_per_grid[0] = gx, t.threads_per_grid[1] = gy, t.threads_per_grid[2] = gz;
#define X(I, A)                                                                                        \
    t.dispatch_threads_per_threadgroup[I] = __nvvm_read_ptx_sreg_ntid_##A();                           \
    t.thread_position_in_threadgroup[I] = __nvvm_read_ptx_sreg_tid_##A();                              \
    t.threadgroup_position_in_grid[I] = __nvvm_read_ptx_sreg_ctaid_##A();                              \
    t.threadgroups_per_grid[I] = __nvvm_read_ptx_sreg_nctaid_##A();                                    \
    {                                                                                                  \
        const uint first = t.threadgroup_position_in_grid[I] * t.dispatch_threads_per_threadgroup[I];  \
        const uint left = t.threads_per_grid[I] - first;                                               \
        t.thread_position_in_grid[I] = first + t.thread_position_in_threadgroup[I];                    \
        t.threads_per_threadgroup[I] =                                                                 \
            left < t.dispatch_threads_per_threadgroup[I] ? left : t.dispatch_threads_per_threadgroup[I]; \
    }
    X(0, x) X(1, y) X(2, z)
#undef X
    const uint w = t.threads_per_threadgroup[0], h = t.threads_per_threadgroup[1], d = t.threads_per_threadgroup[2];
    t.thread_index_in_threadgroup = (t.thread_position_in_threadgroup[2] * h + t.thread_position_in_threadgroup[1]) * w + t.thread_position_in_threadgroup[0];
    t.thread_index_in_simdgroup = t.thread_index_in_threadgroup % 32;
    t.simdgroup_index_in_threadgroup = t.thread_index_in_threadgroup / 32;
    t.simdgroups_per_threadgroup = (w * h * d + 31) / 32;
    t.threads_per_simdgroup = 32;
}
MSL_INLINE bool outside_grid(const thread_indices &t) {
    return t.thread_position_in_grid[0] >= t.threads_per_grid[0] || t.thread_position_in_grid[1] >= t.threads_per_grid[1] ||
           t.thread_position_in_grid[2] >= t.threads_per_grid[2];
}
#endif
}  // namespace msl

extern "C" {
// Replaced in the IR: memory of an in-function `threadgroup` variable, and where setThreadgroupMemoryLength's memory begins.
threadgroup char *msl_threadgroup_memory(uint variable, uint bytes, uint align) __attribute__((const));
threadgroup char *msl_dynamic_threadgroup_memory() __attribute__((const));
}
