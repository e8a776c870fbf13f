// out[r][o] = sum over i of x[r][i] * weight[o][i]: the plain kernel, for every format and any number of rows.
//
//   x: [rows, columns], weight: [features, columns] in its format, out: [rows, features]
//   a threadgroup: 4 SIMD-groups, each one output feature of one row; threadgroups: [features / 4, rows]
//
// A SIMD-group's lanes take every 32nd element of the two rows: one fma each, then one `simd_sum`. The weight row is read once
// for every input row, and a block's scale for every element: this is the lesson, and the oracle of the fast kernels.

#include "formats.h"

struct LinearShape {
    uint columns;
    uint features;
    uint row_bytes;
    uint rows;
};

// ANCHOR: linear
template <typename Format>
kernel void linear(
    constant LinearShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    uint feature = group.x * 4 + simd, r = group.y;
    if (feature >= shape.features) {
        return;
    }
    device const float *in = x + ulong(r) * shape.columns;
    device const uchar *row = weight + ulong(feature) * shape.row_bytes;
    float sum = 0.0f;
    for (uint i = lane; i < shape.columns; i += 32) {
        sum = fma(in[i], Format::at(row, i), sum);
    }
    sum = simd_sum(sum);
    if (lane == 0) {
        out[ulong(r) * shape.features + feature] = sum;
    }
}
// ANCHOR_END: linear

#define LINEAR(NAME, FORMAT)                              \
    template [[host_name(NAME)]] kernel void linear<FORMAT>( \
        constant LinearShape &, device const float *, device const uchar *, device float *, uint2, uint, uint);

LINEAR("linear_f32", F32)
LINEAR("linear_f16", F16)
LINEAR("linear_bf16", BF16)
LINEAR("linear_q8_0", Q8_0)
LINEAR("linear_q4_0", Q4_0)
LINEAR("linear_q4_k", Q4_K)
LINEAR("linear_q5_k", Q5_K)
LINEAR("linear_q6_k", Q6_K)
