// out = x · Wᵀ for one row of x and a quantized weight of very many rows: the head, whose rows are the vocabulary.
//
//   x: [columns], columns at most 4,096; weight: [features, columns] packed (packed.h), out: [features]
//   a SIMD-group: 8 rows of the weight; its 32 lanes take neighbouring chunks of 16 bytes
//   a threadgroup: 8 SIMD-groups, 64 rows; threadgroups: [features / 64]
//
// Read linear_row.metal first. There, a SIMD-group waits for its weights and then computes, and others compute while it waits.
// A weight of 4 bits takes as many instructions as one of 16, in a quarter of the time that its bytes take, so here
//
// - computing and waiting overlap within a SIMD-group: while it computes with one batch (BATCH rows' chunks), the next is on
//   its way;
// - a lane takes the activations of its chunk into registers once for all 8 rows;
// - the 8 sums are added over the lanes together: each exchange halves what is left, so that 9 of them do in place of 40. In the
//   end four lanes have the sum of each row.
//
// Bytes moved: the weight, and for each threadgroup 4 * columns from a cache.

#include "packed.h"

struct ManyShape {
    uint columns;
    uint features;
    // From one row to the next.
    uint row_bytes;
};

#define MOST_COLUMNS 4096

template <typename Format, uint BATCH>
kernel void linear_row_many(
    constant ManyShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    constexpr uint QUADS = Format::COLUMNS / 4;
    // Of 36 floats the last 4 are a gap, as in linear_row.metal.
    threadgroup float4 staged[MOST_COLUMNS / 32 * 9];
    uint columns = shape.columns, last = columns / Format::COLUMNS - 1, steps = last / 32 + 1;
    // Behind the last row it is read again.
    uint feature = group * 64 + simd * 8, first = min(feature, shape.features - 1), others = shape.features - 1 - first;
    device const uchar *rows = weight + ulong(first) * shape.row_bytes;

    typename Format::Chunk next[BATCH];
#pragma unroll
    for (uint r = 0; r < BATCH; r++) {
        next[r] = Format::load(rows + min(r, others) * shape.row_bytes, min(lane, last), columns);
    }
    // Zeros behind the end, for lanes that read the last chunk again.
    for (uint quad = index; quad < steps * 32 * QUADS; quad += 256) {
        staged[quad + quad / 8] = quad < columns / 4 ? ((device const float4 *)x)[quad] : float4(0.0f);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float sums[8];
#pragma unroll
    for (uint r = 0; r < 8; r++) {
        sums[r] = 0.0f;
    }
    for (uint step = 0; step < steps; step++) {
        uint quad = (step * 32 + lane) * QUADS;
        float4 in[QUADS], total = 0.0f;
#pragma unroll
        for (uint j = 0; j < QUADS; j++) {
            in[j] = staged[quad + j + (quad + j) / 8];
            total += in[j];
        }
        float in_sum = (total.x + total.y) + (total.z + total.w);
#pragma unroll
        for (uint from = 0; from < 8; from += BATCH) {
            typename Format::Chunk chunks[BATCH];
            uint to = from + BATCH < 8 ? from + BATCH : 0, next_step = to == 0 ? step + 1 : step;
#pragma unroll
            for (uint r = 0; r < BATCH; r++) {
                chunks[r] = next[r];
            }
            if (next_step < steps) {
#pragma unroll
                for (uint r = 0; r < BATCH; r++) {
                    device const uchar *row = rows + min(to + r, others) * shape.row_bytes;
                    next[r] = Format::load(row, min(next_step * 32 + lane, last), columns);
                }
            }
#pragma unroll
            for (uint r = 0; r < BATCH; r++) {
                sums[from + r] += Format::dot(chunks[r], in, in_sum);
            }
        }
    }

    bool upper = (lane & 16) != 0;
    float four[4], two[2];
#pragma unroll
    for (uint r = 0; r < 4; r++) {
        four[r] = (upper ? sums[r + 4] : sums[r]) + simd_shuffle_xor(upper ? sums[r] : sums[r + 4], 16);
    }
    upper = (lane & 8) != 0;
#pragma unroll
    for (uint r = 0; r < 2; r++) {
        two[r] = (upper ? four[r + 2] : four[r]) + simd_shuffle_xor(upper ? four[r] : four[r + 2], 8);
    }
    upper = (lane & 4) != 0;
    float sum = (upper ? two[1] : two[0]) + simd_shuffle_xor(upper ? two[0] : two[1], 4);
    sum += simd_shuffle_xor(sum, 2);
    sum += simd_shuffle_xor(sum, 1);
    if (lane % 4 == 0 && feature + lane / 4 < shape.features) {
        out[feature + lane / 4] = sum;
    }
}

#define LINEAR_ROW_MANY(NAME, FORMAT, BATCH)                                                      \
    template [[host_name("linear_row_many_" NAME)]] kernel void linear_row_many<FORMAT, BATCH>(  \
        constant ManyShape &, device const float *, device const uchar *, device float *, uint, uint, uint, uint);

LINEAR_ROW_MANY("q8_0", PackedQ8_0, 4)
LINEAR_ROW_MANY("q4_0", PackedQ4_0, 4)
LINEAR_ROW_MANY("q4_k", PackedQ4_K, 4)
LINEAR_ROW_MANY("q5_k", PackedQ5_K, 4)
LINEAR_ROW_MANY("q6_k", PackedQ6_K, 4)
