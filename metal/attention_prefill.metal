// Causal attention of many tokens: softmax(q · Kᵀ / sqrt(head_dim)) · V, tile by tile.
//
//   q, out: [tokens, heads, head_dim], keys and values: see kv_cache.h
//   a threadgroup: 4 SIMD-groups, 32 query rows of one KV head; threadgroups: [kv_heads, tokens * group / 32]
//
// The query heads that share a KV head ask for the same keys: row r of a KV head is head r % group of token r / group, so
// that a tile of keys is read once for all of them, and a few tokens with many heads fill a tile too.
//
// A threadgroup goes through the positions 32 at a time (16 for heads above 128): all threads copy the tile's keys into
// threadgroup memory, 16 bytes a lane; each SIMD-group multiplies its 8 rows with them, in 8x8 matrices, which gives 8 x 32
// scores; these become weights; the values take the keys' place and are multiplied with the weights. Softmax is computed
// online (arXiv 1805.02867): when a larger score comes, what has been added up is scaled down to it. Scores never leave
// registers. 32 rows share a read, so 64 numbers are multiplied for each element that moves: arithmetic is what this waits for.
//
// Tiles behind the diagonal are never touched: a threadgroup ends with its last row's position, a SIMD-group with its own
// rows'. Only tiles that the diagonal goes through lose anything to the mask. The last rows have the most to do and start
// first, so that the small ones fill the gaps at the end.
//
// A weight of 0 is multiplied as any other: an infinite value, or NaN, makes NaN of the tile's rows before its position, too. The
// model that has one has it in the rows behind as well.
//
// Lane l of an 8x8 matrix has elements (row, column) and (row, column + 1) with row = l / 16 * 4 + l / 2 % 4 and
// column = l / 8 % 2 * 4 + l % 2 * 2. Apple does not document this, and every GPU since Apple7 does it. So a row is in the four
// lanes whose numbers differ in bits 0 and 3, and its maximum is two exchanges.

#include "kv_cache.h"
#include <metal_simdgroup_matrix>

constant uint HEAD_DIM [[function_constant(0)]];

struct AttentionPrefillShape {
    uint heads;
    uint kv_heads;
    // Query rows of a KV head: tokens * heads / kv_heads.
    uint rows;
    // The position of the first token, and how many there is room for.
    uint start;
    uint capacity;
    // 1 / sqrt(head_dim)
    float scale;
};

// A row's largest (or sum) over the four lanes that have it.
inline float row_max(float x) {
    x = max(x, simd_shuffle_xor(x, 1));
    return max(x, simd_shuffle_xor(x, 8));
}

inline float row_sum(float x) {
    x += simd_shuffle_xor(x, 1);
    return x + simd_shuffle_xor(x, 8);
}

// Copies positions first, … of a head into `tile`, zeros from `end` on.
template <typename Kv>
inline void load_tile(
    threadgroup typename Kv::Element4 *tile, device const uchar *cache, uint row, uint all_rows, uint first, uint end, uint index)
{
    const uint stride = (HEAD_DIM + 31) / 32 * 32, chunks = stride / 8, positions = stride > 128 ? 16 : 32;
    for (uint n = index; n < positions * chunks; n += 128) {
        uint position = n / chunks, i = n % chunks * 8;
        Eight eight = {float4(0.0f), float4(0.0f)};
        if (first + position < end && i < HEAD_DIM) {
            eight = Kv::eight(cache, row + first + position, stride, all_rows, i);
        }
        threadgroup typename Kv::Element4 *to = tile + (position * (stride + 8) + i) / 4;
        to[0] = Kv::rounded(eight.low);
        to[1] = Kv::rounded(eight.high);
    }
}

template <typename Kv>
kernel void attention_prefill(
    constant AttentionPrefillShape &shape [[buffer(0)]],
    device const float *q [[buffer(1)]],
    device const uchar *keys [[buffer(2)]],
    device const uchar *values [[buffer(3)]],
    device float *out [[buffer(4)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint2 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    typedef typename Kv::Element Element;
    typedef typename Kv::Element4 Element4;
    // Eight elements more than a row has, so that the rows of a column lie in different banks.
    threadgroup Element4 memory[32 * (128 + 8) / 4];
    threadgroup const Element *tile = (threadgroup const Element *)memory;

    const uint stride = (HEAD_DIM + 31) / 32 * 32, wide = stride / 8, high = (stride > 128 ? 16 : 32) / 8;
    uint share = shape.heads / shape.kv_heads, kv_head = group.x, block = groups.y - 1 - group.y;
    uint all_rows = shape.kv_heads * shape.capacity, row = kv_head * shape.capacity;

    // This lane's query row, and where its first positions that are not to be seen are: the lane's, its SIMD-group's, all's.
    uint of_simd = block * 32 + simd * 8, mine = of_simd + lane / 16 * 4 + lane / 2 % 4, column = lane / 8 % 2 * 4 + lane % 2 * 2;
    uint my_end = shape.start + mine / share + 1;
    uint simd_end = of_simd < shape.rows ? shape.start + min(of_simd + 7, shape.rows - 1) / share + 1 : 0;
    uint end = shape.start + min(block * 32 + 31, shape.rows - 1) / share + 1;
    ulong at = (ulong(mine / share) * shape.heads + kv_head * share + mine % share) * HEAD_DIM + column;

    simdgroup_float8x8 query[32], sum[32];
#pragma unroll
    for (uint d = 0; d < wide; d++) {
        bool inside = mine < shape.rows && d * 8 < HEAD_DIM;
        query[d].thread_elements()[0] = inside ? q[at + d * 8] * shape.scale : 0.0f;
        query[d].thread_elements()[1] = inside ? q[at + d * 8 + 1] * shape.scale : 0.0f;
        sum[d] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    float largest = -INFINITY, total = 0.0f;

    for (uint first = 0; first < end; first += high * 8) {
        // The values of the tile before have been read.
        threadgroup_barrier(mem_flags::mem_threadgroup);
        load_tile<Kv>(memory, keys, row, all_rows, first, end, index);
        threadgroup_barrier(mem_flags::mem_threadgroup);

        simdgroup_float8x8 score[4];
        float shrink = 1.0f;
        if (first < simd_end) {
#pragma unroll
            for (uint k = 0; k < high; k++) {
                score[k] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#pragma unroll
                for (uint d = 0; d < wide; d++) {
                    simdgroup_matrix<Element, 8, 8> key;
                    simdgroup_load(key, tile + k * 8 * (stride + 8) + d * 8, stride + 8, ulong2(0), true);
                    simdgroup_multiply_accumulate(score[k], query[d], key, score[k]);
                }
            }
            float larger = largest;
#pragma unroll
            for (uint k = 0; k < high; k++) {
#pragma unroll
                for (uint e = 0; e < 2; e++) {
                    float s = first + k * 8 + column + e < my_end ? score[k].thread_elements()[e] : -INFINITY;
                    score[k].thread_elements()[e] = s;
                    larger = max(larger, s);
                }
            }
            larger = row_max(larger);
            // Where all have been -infinity, there is nothing to scale down.
            shrink = largest == -INFINITY ? 0.0f : exp(largest - larger);
            float weights = 0.0f;
#pragma unroll
            for (uint k = 0; k < high; k++) {
#pragma unroll
                for (uint e = 0; e < 2; e++) {
                    float s = score[k].thread_elements()[e];
                    float weight = s == -INFINITY ? 0.0f : exp(s - larger);
                    score[k].thread_elements()[e] = weight;
                    weights += weight;
                }
            }
            total = fma(total, shrink, row_sum(weights));
            largest = larger;
        }

        // All SIMD-groups have read the keys.
        threadgroup_barrier(mem_flags::mem_threadgroup);
        load_tile<Kv>(memory, values, row, all_rows, first, end, index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (first < simd_end) {
#pragma unroll
            for (uint d = 0; d < wide; d++) {
                sum[d].thread_elements()[0] *= shrink;
                sum[d].thread_elements()[1] *= shrink;
#pragma unroll
                for (uint k = 0; k < high; k++) {
                    simdgroup_matrix<Element, 8, 8> value;
                    simdgroup_load(value, tile + k * 8 * (stride + 8) + d * 8, stride + 8);
                    simdgroup_multiply_accumulate(sum[d], score[k], value, sum[d]);
                }
            }
        }
    }

    if (mine < shape.rows) {
#pragma unroll
        for (uint d = 0; d < wide; d++) {
            if (d * 8 < HEAD_DIM) {
                out[at + d * 8] = sum[d].thread_elements()[0] / total;
                out[at + d * 8 + 1] = sum[d].thread_elements()[1] / total;
            }
        }
    }
}

#define ATTENTION_PREFILL(NAME, KV)                                                                                        \
    template [[host_name(NAME)]] kernel void attention_prefill<KV>(                                                         \
        constant AttentionPrefillShape &, device const float *, device const uchar *, device const uchar *, device float *, \
        uint2, uint2, uint, uint, uint);

ATTENTION_PREFILL("attention_prefill_f16", KvF16)
ATTENTION_PREFILL("attention_prefill_f32", KvF32)
ATTENTION_PREFILL("attention_prefill_q8", KvQ8)
