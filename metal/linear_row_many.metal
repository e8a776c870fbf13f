// out = x · Wᵀ for one row of x and a quantized weight of very many rows: the head, whose rows are the vocabulary.
//
//   x: [columns], columns at most 4,096; weight: [features, columns] packed (packed.h), out: [features]
//   a SIMD-group: ROWS rows of the weight, and then the next ROWS, `turns` times; its 32 lanes take neighbouring chunks of 16 bytes
//   a threadgroup: 8 SIMD-groups; threadgroups: [features / (ROWS * 8 * turns)]
//
// Read linear_row.metal first. There, a SIMD-group waits for its weights and then computes, and others compute while it waits.
// A weight of 4 bits takes as many instructions as one of 16, in a quarter of the time that its bytes take, so computing and
// waiting must overlap within a SIMD-group too: while it computes with one batch (ROWS chunks), the next is on its way, across
// the ends of rows. The activations are staged once for all turns, so turns make their share of the time small.
//
// Bytes moved: the weight, and for each threadgroup 4 * columns from a cache.

#include "packed.h"

struct ManyShape {
    uint columns;
    uint features;
    // From one row to the next.
    uint row_bytes;
    uint turns;
};

#define MOST_COLUMNS 4096

template <typename Format, uint ROWS>
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
    uint feature = (group * shape.turns * 8 + simd) * ROWS;

    typename Format::Chunk next[ROWS];
    device const uchar *rows[ROWS];
#pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        rows[r] = weight + ulong(min(feature + r, shape.features - 1)) * shape.row_bytes;
        next[r] = Format::load(rows[r], min(lane, last), columns);
    }
    // Zeros behind the end, for lanes that read the last chunk again.
    for (uint quad = index; quad < steps * 32 * QUADS; quad += 256) {
        staged[quad + quad / 8] = quad < columns / 4 ? ((device const float4 *)x)[quad] : float4(0.0f);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float sums[ROWS];
#pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        sums[r] = 0.0f;
    }
    uint step = 0, batches = shape.turns * steps;
    for (uint batch = 0; batch < batches; batch++) {
        typename Format::Chunk chunks[ROWS];
#pragma unroll
        for (uint r = 0; r < ROWS; r++) {
            chunks[r] = next[r];
        }
        uint quad = (step * 32 + lane) * QUADS;
        step++;
        bool ends = step == steps;
        uint written = feature;
        if (ends) {
            step = 0;
            feature += 8 * ROWS;
        }
        if (batch + 1 < batches) {
            uint c = min(step * 32 + lane, last);
#pragma unroll
            for (uint r = 0; r < ROWS; r++) {
                rows[r] = weight + ulong(min(feature + r, shape.features - 1)) * shape.row_bytes;
                next[r] = Format::load(rows[r], c, columns);
            }
        }

        float4 in[QUADS], total = 0.0f;
#pragma unroll
        for (uint j = 0; j < QUADS; j++) {
            in[j] = staged[quad + j + (quad + j) / 8];
            total += in[j];
        }
        float in_sum = (total.x + total.y) + (total.z + total.w);
#pragma unroll
        for (uint r = 0; r < ROWS; r++) {
            sums[r] += Format::dot(chunks[r], in, in_sum);
        }
        if (ends) {
#pragma unroll
            for (uint r = 0; r < ROWS; r++) {
                float sum = simd_sum(sums[r]);
                if (lane == 0 && written + r < shape.features) {
                    out[written + r] = sum;
                }
                sums[r] = 0.0f;
            }
        }
    }
}

#define LINEAR_ROW_MANY(NAME, FORMAT, ROWS)                                                       \
    template [[host_name("linear_row_many_" NAME)]] kernel void linear_row_many<FORMAT, ROWS>(   \
        constant ManyShape &, device const float *, device const uchar *, device float *, uint, uint, uint, uint);

LINEAR_ROW_MANY("q8_0", PackedQ8_0, 4)
LINEAR_ROW_MANY("q4_0", PackedQ4_0, 4)
LINEAR_ROW_MANY("q4_k", PackedQ4_K, 4)
LINEAR_ROW_MANY("q5_k", PackedQ5_K, 4)
LINEAR_ROW_MANY("q6_k", PackedQ6_K, 4)
