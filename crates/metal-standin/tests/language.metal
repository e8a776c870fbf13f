// One of each: what real kernels use.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

#define FOR_UNROLL(x) _Pragma("clang loop unroll(full)") for (x)
#define COUNT 4

typedef struct { half d; int8_t qs[32]; } block_q8;
typedef struct { union { struct { half d; half m; }; half2 dm; }; uint8_t qs[16]; } block_q4;
struct Range { int low; int high; };
struct complex64 {
    float real; float imag;
    complex64(float r, float i) : real(r), imag(i) {}
    complex64() = default;
    float norm() const { return real * real + imag * imag; }
    float norm() const device { return real * real + imag * imag; }
};
extern "C" struct Sizes { uint rows; uint columns; };
enum class mode : uchar { sum, product };
constant float table[4] = {1.0, 2.0f, 0.5h, 1e-3};
constant constexpr int width = 8;
constant uint4 mask4 = uint4(1, 2, 4, 8);

template <typename T> struct traits { static constexpr constant bool wide = sizeof(T) > 2; };
template <typename T, enable_if_t<is_floating_point_v<T>, bool> = true> inline T twice(T x) { return x + x; }
template <typename T4> inline T4 widen(device const block_q8 *b, short i) {
    T4 r;
    FOR_UNROLL (short j = 0; j < 4; ++j) r[j] = (float)b->d * b->qs[4 * i + j];
    return r;
}

kernel void vectors(device const float4 *x [[buffer(0)]], device half4 *h, device packed_float3 *p, device bfloat *b,
                    device uint *u, constant Range &range, constant Sizes &sizes, uint i [[thread_position_in_grid]]) {
    float4 v = x[i].wzyx * table[i & 3];
    v.xy += float2(as_type<half2>(u[i]));
    h[i] = (half4) v + half4(1.0h, 2.0h, half2(v.zw));
    p[i] = packed_float3(v.xyz) * 2.0f;
    float3 q = p[i];
    b[i] = bfloat(dot(q, float3(1.0))) + static_cast<bfloat>(v.x);
    if (any(v > float4(range.low)) && !all(isnan(v))) u[i] = popcount(u[i]) + clz(u[i]) + mulhi(u[i], 3u) + reverse_bits(u[i]);
    u[i] = select(u[i], extract_bits(u[i], 3u, 4u), i > 3) + mask4.z + (uint)twice((float) v.y);
    const auto m = max(int4(v), int4(range.high));
    u[i] += uint(m.x) + (uint) clamp(v, 0.0f, 1.0f).x + as_type<uint>(fast::exp(v.x)) + uint(precise::tanh(v.y));
    static_assert(traits<float>::wide && !traits<half>::wide, "sizes");
    Sizes here = sizes;
    u[i] += here.columns;
}

kernel void structs(device block_q8 *a, device const block_q4 *c, device complex64 *z, threadgroup Range *ranges [[threadgroup(0)]],
                    uint i [[thread_position_in_grid]], ushort t [[thread_index_in_threadgroup]]) {
    block_q8 copy = a[i];
    copy.d = half(z[i].norm());
    a[i + 1] = copy;
    block_q4 four = c[i];
    Range r = {1, int(t)};
    r = {2, r.high};
    bool4 all_true;
    all_true = {true, true, true, true};
    r.low += all_true.w;
    ranges[t] = r;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    Range other = ranges[t ^ 1];
    z[i] = complex64(four.d + other.low, float4(widen<float4>(a + i, 1)).w);
    z[i] = z[i + 1];
}

kernel void lanes(device float *x [[buffer(0)]], device int *n [[buffer(1)]], uint i [[thread_position_in_grid]],
                  uint lane [[thread_index_in_simdgroup]], uint group [[simdgroup_index_in_threadgroup]]) {
    threadgroup float partial[32], best[COUNT * 8];
    float v = x[i];
    v = simd_sum(v) + simd_max(v) * simd_min(v) + simd_shuffle_down(v, 1) + simd_shuffle_xor(v, 16) + simd_broadcast(v, 3);
    v += simd_prefix_exclusive_sum(v) + simd_prefix_inclusive_sum(v) + quad_sum(v) + simd_shuffle(v, 5);
    n[i] = simd_and(n[i]) | simd_or(n[i]) ^ simd_xor(n[i]);
    if (simd_is_first()) n[i] += simd_any(v > 1) + simd_all(v < 9) + (int)(ulong)simd_ballot(v > 3);
    if (lane == 0) partial[group] = v, best[group] = 0;
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
    simdgroup_barrier(mem_flags::mem_none);
    x[i] = partial[group] + best[group];
}

kernel void tiles(device const half *a, device const float *b, device float *c, threadgroup half *shared [[threadgroup(0)]],
                  uint lane [[thread_index_in_simdgroup]]) {
    simdgroup_half8x8 ma[2];
    simdgroup_float8x8 mb, mc = make_filled_simdgroup_matrix<float, 8>(0.f);
    simdgroup_load(ma[0], a, 8);
    simdgroup_load(ma[1], shared, 16, ulong2(8, 0), true);
    simdgroup_load(mb, b, 8, 0, false);
#pragma unroll(COUNT / 2)
    for (int k = 0; k < 2; k++) simdgroup_multiply_accumulate(mc, ma[k], mb, mc);
    mc.thread_elements()[0] += 1;
    simdgroup_store(mc, c, 8);
    float4x4 m = float4x4(1.0f);
    c[lane] += (m * float4(1, 2, 3, 4)).x + half4x4(half4(1), half4(2), half4(3), half4(4))[lane & 3][1];
}

kernel void counters(device atomic_uint *u, device atomic_float *f, device atomic_int &n, uint i [[thread_position_in_grid]],
                     uint size [[threads_per_threadgroup]], uint grid [[threads_per_grid]]) {
    threadgroup atomic_int shared;
    atomic_store_explicit(&shared, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&u[i & 3], size, memory_order_relaxed);
    atomic_fetch_add_explicit(f, 1.0f, memory_order_relaxed);
    atomic_fetch_max_explicit(&shared, int(i), memory_order_relaxed);
    int expected = 0;
    while (!atomic_compare_exchange_weak_explicit(&n, &expected, expected + 1, memory_order_relaxed, memory_order_relaxed)) {}
    array<float, 3> list = {1, 2, 3};
    atomic_exchange_explicit(f + 1, list[i % 3] + float(numeric_limits<half>::max()) + grid, memory_order_relaxed);
}
