// out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight.
//
//   x, out: [rows, columns], weight: [columns]; x and out may be the same buffer
//   a threadgroup: one row; 256 threads, 8 SIMD-groups
//
// Each thread adds up the squares of every 256th four values; a SIMD-group's 32 sums become one in registers (`simd_sum`), the
// eight sums of the SIMD-groups become one in threadgroup memory, behind a barrier. Then each thread writes the values that it
// has read, which are still in the cache. A row of 1,024 floats is 8 KB in and out: the whole kernel is waiting, not work, and
// one threadgroup a row waits least. In place is safe: a thread writes only what it alone has read, after all sums are there.
// `linear_row` norms its own input, and adds up in the same order.

#include <metal_stdlib>
using namespace metal;

struct NormShape {
    uint columns;
    float eps;
};

kernel void rms_norm(
    constant NormShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const float *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint row [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint group [[simdgroup_index_in_threadgroup]])
{
    // EXERCISE: m6.rms_norm
    threadgroup float sums[8];
    device const float *in = x + ulong(row) * shape.columns;
    device float *result = out + ulong(row) * shape.columns;

    // ANCHOR: sums
    float sum = 0.0f;
    for (uint four = index * 4; four < shape.columns; four += 1024) {
        for (uint i = four; i < min(four + 4, shape.columns); i++) {
            sum = fma(in[i], in[i], sum);
        }
    }
    sum = simd_sum(sum);
    if (lane == 0) {
        sums[group] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float total = 0.0f;
    for (uint i = 0; i < 8; i++) {
        total += sums[i];
    }
    // ANCHOR_END: sums

    float scale = 1.0f / sqrt(total / float(shape.columns) + shape.eps);
    for (uint four = index * 4; four < shape.columns; four += 1024) {
        for (uint i = four; i < min(four + 4, shape.columns); i++) {
            result[i] = in[i] * scale * weight[i];
        }
    }
    // EXERCISE_END
}
