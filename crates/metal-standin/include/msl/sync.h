// Barriers, and the two functions that the CPU executor supplies.
namespace metal {
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4, mem_threadgroup_imageblock = 8, mem_object_data = 16 };
enum class memory_order : uint { memory_order_relaxed = 0, memory_order_acquire = 2, memory_order_release = 3, memory_order_acq_rel = 4, memory_order_seq_cst = 5 };
enum class thread_scope : uint { thread_scope_thread = 0, thread_scope_threadgroup = 1, thread_scope_device = 2, thread_scope_simdgroup = 4 };
constexpr memory_order memory_order_relaxed = memory_order::memory_order_relaxed;
constexpr memory_order memory_order_acquire = memory_order::memory_order_acquire;
constexpr memory_order memory_order_release = memory_order::memory_order_release;
constexpr memory_order memory_order_acq_rel = memory_order::memory_order_acq_rel;
constexpr memory_order memory_order_seq_cst = memory_order::memory_order_seq_cst;
constexpr thread_scope thread_scope_thread = thread_scope::thread_scope_thread;
constexpr thread_scope thread_scope_threadgroup = thread_scope::thread_scope_threadgroup;
constexpr thread_scope thread_scope_device = thread_scope::thread_scope_device;
constexpr thread_scope thread_scope_simdgroup = thread_scope::thread_scope_simdgroup;
MSL_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags((uint)a | (uint)b); }
MSL_INLINE constexpr mem_flags operator&(mem_flags a, mem_flags b) { return mem_flags((uint)a & (uint)b); }
}  // namespace metal

#ifdef __NVPTX__
namespace metal {
MSL_INLINE void threadgroup_barrier(mem_flags flags) {
    if ((uint)flags & (uint)mem_flags::mem_device) __nvvm_membar_gl();
    __syncthreads();
}
MSL_INLINE void simdgroup_barrier(mem_flags) { __nvvm_bar_warp_sync(0xffffffffu); }
MSL_INLINE void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) { __nvvm_membar_gl(); }
}  // namespace metal
#else
extern "C" {
// scope: 0 the SIMD-group, 1 the threadgroup; flags: mem_flags.
void msl_barrier(uint scope, uint flags) __attribute__((convergent));
// Each living lane of the SIMD-group gives `bytes` bytes and receives the array of 32; the result says whose are there.
uint msl_simd_exchange(const void *mine, void *all, uint bytes) __attribute__((convergent));
}
namespace metal {
MSL_INLINE void threadgroup_barrier(mem_flags flags) { msl_barrier(1, (uint)flags); }
MSL_INLINE void simdgroup_barrier(mem_flags flags) { msl_barrier(0, (uint)flags); }
MSL_INLINE void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
}  // namespace metal
#endif
namespace metal {
MSL_INLINE void threadgroup_barrier(mem_flags flags, memory_order, thread_scope = thread_scope_threadgroup) { threadgroup_barrier(flags); }
MSL_INLINE void simdgroup_barrier(mem_flags flags, memory_order, thread_scope = thread_scope_simdgroup) { simdgroup_barrier(flags); }
}  // namespace metal

namespace metal {
// Logs nothing. An aggregate, as C++ has no constructors for objects in constant memory.
struct os_log {
    const char *subsystem, *category;
#define X(NAME)                                                                       \
    template <class... A> void NAME(this const os_log &, const char *, A...) {}       \
    template <class... A> void NAME(this constant os_log &, const char *, A...) {}
    X(log) X(log_debug) X(log_info) X(log_default) X(log_error) X(log_fault)
#undef X
};
}  // namespace metal
