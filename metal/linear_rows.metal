// out[r] = x[r] · Wᵀ for 2 to 8 rows of x: each weight is read once for all of them.
//
//   x: [rows, columns], weight: [features, columns] packed (packed.h), out: [rows, features]; rows <= INPUTS
//   a SIMD-group: 8 features; its lanes are 4 teams of 8, each with 2 features, of which a lane takes every 64th chunk
//   a threadgroup: 8 SIMD-groups, which share 8 features and take turns along the columns; threadgroups: [features / 8]
//
// With one row of x, reading weights is all there is to do. With 8, a weight's byte is followed by 8 to 32 multiplications,
// and turning codes into floats, done once for all rows, still costs more than any of them. What would cost most is fetching
// activations: 8 rows are 16 to 64 times the weight's bytes. So lanes with the same columns stand in one SIMD-group: the four
// teams ask for the same activations in one instruction, and each lane uses them for 2 features.
//
// Bytes moved: the weight; activations come from a cache, 4 * rows * columns for every 8 features.

#include "packed.h"

struct RowsShape {
    uint columns;
    uint features;
    // From one row of the weight to the next.
    uint row_bytes;
    uint rows;
    // Whether `out` is added to.
    uint add;
};

template <typename Format, uint INPUTS>
kernel void linear_rows(
    constant RowsShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    // Of SIMD-group s, feature f and row r.
    threadgroup float parts[8][8][INPUTS];
    constexpr uint QUADS = Format::COLUMNS / 4;
    uint team = lane / 8, last = shape.features - 1;
    device const uchar *first = weight + ulong(min(group * 8 + team * 2, last)) * shape.row_bytes;
    device const uchar *second = weight + ulong(min(group * 8 + team * 2 + 1, last)) * shape.row_bytes;
    device const float4 *in[INPUTS];
#pragma unroll
    for (uint r = 0; r < INPUTS; r++) {
        // Rows that are not there are computed as the last one, and not written.
        in[r] = (device const float4 *)(x + ulong(min(r, shape.rows - 1)) * shape.columns);
    }
    float2 sums[INPUTS];
#pragma unroll
    for (uint r = 0; r < INPUTS; r++) {
        sums[r] = 0.0f;
    }
    for (uint c = simd * 8 + lane % 8; c < shape.columns / Format::COLUMNS; c += 64) {
        typename Format::Chunk a = Format::load(first, c, shape.columns), b = Format::load(second, c, shape.columns);
#pragma unroll
        for (uint j = 0; j < QUADS; j++) {
            float4 a_values = Format::values(a, j), b_values = Format::values(b, j);
#pragma unroll
            for (uint r = 0; r < INPUTS; r++) {
                float4 values = in[r][c * QUADS + j];
                sums[r] += float2(dot(a_values, values), dot(b_values, values));
            }
        }
    }
#pragma unroll
    for (uint r = 0; r < INPUTS; r++) {
        float2 sum = sums[r];
        sum += simd_shuffle_xor(sum, 4);
        sum += simd_shuffle_xor(sum, 2);
        sum += simd_shuffle_xor(sum, 1);
        if (lane % 8 == 0) {
            parts[simd][team * 2][r] = sum.x;
            parts[simd][team * 2 + 1][r] = sum.y;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint feature = group * 8 + index % 8, r = index / 8;
    if (r < shape.rows && feature <= last) {
        float sum = 0.0f;
        for (uint s = 0; s < 8; s++) {
            sum += parts[s][index % 8][r];
        }
        ulong at = ulong(r) * shape.features + feature;
        out[at] = shape.add != 0 ? out[at] + sum : sum;
    }
}

#define LINEAR_ROWS(NAME, FORMAT)                                                                                            \
    template [[host_name("linear_rows_2_" NAME)]] kernel void linear_rows<FORMAT, 2>(                                        \
        constant RowsShape &, device const float *, device const uchar *, device float *, uint, uint, uint, uint);           \
    template [[host_name("linear_rows_4_" NAME)]] kernel void linear_rows<FORMAT, 4>(                                        \
        constant RowsShape &, device const float *, device const uchar *, device float *, uint, uint, uint, uint);           \
    template [[host_name("linear_rows_8_" NAME)]] kernel void linear_rows<FORMAT, 8>(                                        \
        constant RowsShape &, device const float *, device const uchar *, device float *, uint, uint, uint, uint);

LINEAR_ROWS("f32", PackedF32)
LINEAR_ROWS("f16", PackedF16)
LINEAR_ROWS("bf16", PackedBF16)
LINEAR_ROWS("q8_0", PackedQ8_0)
LINEAR_ROWS("q4_0", PackedQ4_0)
LINEAR_ROWS("q4_k", PackedQ4_K)
LINEAR_ROWS("q5_k", PackedQ5_K)
LINEAR_ROWS("q6_k", PackedQ6_K)
