// Causal attention of one token, or of a few: softmax(q · K / sqrt(head_dim)) · V, with the positions cut into pieces.
//
//   q, out: [tokens, heads, head_dim], keys and values: see kv_cache.h
//   pieces: [tokens, heads, pieces, stride] sums, then [tokens, heads, pieces] pairs of a largest score and a sum of weights
//   attention_decode: 8 SIMD-groups, 256 positions of one KV head; threadgroups: [heads / HEADS, pieces, tokens]
//   attention_reduce: 8 SIMD-groups, one head of one token;        threadgroups: [heads, tokens]
//
// One token's attention is a read of the cache: 2 * positions * kv_heads * head_dim elements move for two multiplications with
// each. All else serves that read.
//
// - Each KV head is read once for all the query heads that share it (HEADS of them; a group that needs too many registers is
//   cut in two, and the second reads what is in the cache of the GPU).
// - The positions are cut into pieces of 256, so that there are threadgroups enough for every core: 8 KV heads at 8,192
//   positions make 256. A piece keeps its weights relative to its own largest score; `attention_reduce` brings pieces to the
//   largest of all (arXiv 1805.02867). With a single piece the first kernel writes the result, and there is no second.
// - A lane reads 8 neighbouring elements, 16 bytes of f16, and its neighbours read on from there. `lanes` lanes have a whole
//   row, so 32 / lanes positions are read at once: two for 128 dims. Four such loads are on their way before the first is used.
//
// A SIMD-group has 32 positions and works in three steps. Scores: each lane multiplies its 8 elements, and the lanes of a row
// add up. Four steps are added together, each exchange halving what is left, so that four sums cost 5 exchanges in place of
// 16; in the end each lane has the score of one position. Weights: one `exp` a lane. Values: each weight goes to the lanes
// that have read its position's row. Queries are dead before the sums are born, which keeps registers few.
//
// Then the 8 SIMD-groups are added up in threadgroup memory: 256 results a round, one for each thread. A position's
// place and the order of all additions depend on nothing but the position: results are the same in every run.

#include "kv_cache.h"

constant uint HEAD_DIM [[function_constant(0)]];
// Query heads of a threadgroup, at most 8; divides heads / kv_heads.
constant uint HEADS [[function_constant(1)]];

struct AttentionDecodeShape {
    uint heads;
    uint kv_heads;
    // The position of the first token, and how many there is room for.
    uint start;
    uint capacity;
    // Pieces that the last token's positions make.
    uint pieces;
    // 1 / sqrt(head_dim)
    float scale;
};

// ANCHOR: sum_of_row
// The sum of `four[j]` over a row's lanes, where j is what the upper two bits of a lane's number in the row say.
inline float sum_of_row(float4 four, uint part, uint lanes) {
    bool upper = (part & (lanes / 2)) != 0;
    float2 two = (upper ? four.zw : four.xy) + simd_shuffle_xor(upper ? four.xy : four.zw, lanes / 2);
    upper = (part & (lanes / 4)) != 0;
    float one = (upper ? two.y : two.x) + simd_shuffle_xor(upper ? two.x : two.y, lanes / 4);
    for (uint distance = lanes / 8; distance > 0; distance /= 2) {
        one += simd_shuffle_xor(one, distance);
    }
    return one;
}
// ANCHOR_END: sum_of_row

template <typename Kv>
kernel void attention_decode(
    constant AttentionDecodeShape &shape [[buffer(0)]],
    device const float *q [[buffer(1)]],
    device const uchar *keys [[buffer(2)]],
    device const uchar *values [[buffer(3)]],
    device float *out [[buffer(4)]],
    device float *pieces [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    threadgroup float4 memory[8 * 64];
    threadgroup float *sums = (threadgroup float *)memory;
    threadgroup float largest_of[8 * 8], total_of[8 * 8];

    // A row: `chunks` chunks of 8 elements, `each` for each of `lanes` lanes, a power of two.
    const uint stride = (HEAD_DIM + 31) / 32 * 32, chunks = stride / 8;
    const uint lanes = min(chunks & (~chunks + 1), 32u), each = chunks / lanes, at_once = 32 / lanes;
    uint part = lane % lanes, sub = lane / lanes;

    uint head = group.x * HEADS, piece = group.y, token = group.z;
    uint kv_head = head / (shape.heads / shape.kv_heads);
    uint rows = shape.kv_heads * shape.capacity, positions = shape.start + token + 1;
    if (piece * 256 >= positions) {
        return;
    }
    uint first = piece * 256 + simd * 32, row = kv_head * shape.capacity;
    // Behind the last position, it is read again, with weight 0.
    uint last = positions - 1;

    float score[8], total[8], largest[8];
    float4 sum[24];
#pragma unroll
    for (uint h = 0; h < HEADS; h++) {
        score[h] = largest[h] = -INFINITY;
        total[h] = 0.0f;
#pragma unroll
        for (uint c = 0; c < 2 * each; c++) {
            sum[h * 2 * each + c] = float4(0.0f);
        }
    }

    if (first < positions) {
        float4 query[24];
#pragma unroll
        for (uint h = 0; h < HEADS; h++) {
#pragma unroll
            for (uint c = 0; c < each; c++) {
                uint i = (c * lanes + part) * 8;
                bool inside = HEAD_DIM == stride || i < HEAD_DIM;
                device const float4 *in = (device const float4 *)(q + (ulong(token) * shape.heads + head + h) * HEAD_DIM + i);
                query[(h * each + c) * 2] = inside ? in[0] * shape.scale : float4(0.0f);
                query[(h * each + c) * 2 + 1] = inside ? in[1] * shape.scale : float4(0.0f);
            }
        }
#pragma unroll
        for (uint t = 0; t < lanes / 4; t++) {
            float4 four[8];
#pragma unroll
            for (uint h = 0; h < HEADS; h++) {
                four[h] = float4(0.0f);
            }
#pragma unroll
            for (uint j = 0; j < 4; j++) {
                uint position = min(first + (t * 4 + j) * at_once + sub, last);
#pragma unroll
                for (uint c = 0; c < each; c++) {
                    uint i = (c * lanes + part) * 8;
                    if (HEAD_DIM == stride || i < HEAD_DIM) {
                        Eight key = Kv::eight(keys, row + position, stride, rows, i);
#pragma unroll
                        for (uint h = 0; h < HEADS; h++) {
                            four[h][j] = dot_eight(key, query[(h * each + c) * 2], query[(h * each + c) * 2 + 1], four[h][j]);
                        }
                    }
                }
            }
#pragma unroll
            for (uint h = 0; h < HEADS; h++) {
                float one = sum_of_row(four[h], part, lanes);
                score[h] = part % (lanes / 4) == t ? one : score[h];
            }
        }

        // The position whose scores this lane has, and their weights in place of them.
        uint mine = first + (part % (lanes / 4) * 4 + part / (lanes / 4)) * at_once + sub;
#pragma unroll
        for (uint h = 0; h < HEADS; h++) {
            float s = mine < positions ? score[h] : -INFINITY;
            largest[h] = simd_max(s);
            // Where all are -infinity, their weights are 0, and the quotient in the end is NaN, as it should be.
            score[h] = s == -INFINITY ? 0.0f : exp(s - largest[h]);
            total[h] = simd_sum(score[h]);
        }

#pragma unroll
        for (uint t = 0; t < lanes / 4; t++) {
            // All lanes must be here to give and take weights, also those that have no values to read.
            float weight[4 * 8];
#pragma unroll
            for (uint j = 0; j < 4; j++) {
#pragma unroll
                for (uint h = 0; h < HEADS; h++) {
                    weight[j * 8 + h] = simd_shuffle(score[h], ushort(sub * lanes + j * (lanes / 4) + t));
                }
            }
#pragma unroll
            for (uint c = 0; c < each; c++) {
                uint i = (c * lanes + part) * 8;
                if (HEAD_DIM == stride || i < HEAD_DIM) {
                    Eight value[4];
#pragma unroll
                    for (uint j = 0; j < 4; j++) {
                        uint position = min(first + (t * 4 + j) * at_once + sub, last);
                        value[j] = Kv::eight(values, row + position, stride, rows, i);
                    }
#pragma unroll
                    for (uint j = 0; j < 4; j++) {
#pragma unroll
                        for (uint h = 0; h < HEADS; h++) {
                            uint at = (h * each + c) * 2;
                            sum[at] = fma(float4(weight[j * 8 + h]), value[j].low, sum[at]);
                            sum[at + 1] = fma(float4(weight[j * 8 + h]), value[j].high, sum[at + 1]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (uint at = 0; at < HEADS * each * 2; at++) {
            for (uint distance = lanes; distance < 32; distance *= 2) {
                sum[at] += simd_shuffle_xor(sum[at], ushort(distance));
            }
        }
    }

    if (lane == 0) {
#pragma unroll
        for (uint h = 0; h < HEADS; h++) {
            largest_of[simd * 8 + h] = largest[h];
            total_of[simd * 8 + h] = total[h];
        }
    }
    const uint a_round = 256 / stride;
#pragma unroll
    for (uint from = 0; from < HEADS; from += a_round) {
        if (from > 0) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        if (sub == 0) {
#pragma unroll
            for (uint h = from; h < min(from + a_round, HEADS); h++) {
#pragma unroll
                for (uint c = 0; c < each; c++) {
                    threadgroup float4 *to = (threadgroup float4 *)(sums + simd * 256 + (h - from) * stride + (c * lanes + part) * 8);
                    to[0] = sum[(h * each + c) * 2];
                    to[1] = sum[(h * each + c) * 2 + 1];
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint h = from + index / stride, i = index % stride;
        if (index < a_round * stride && h < HEADS && i < HEAD_DIM) {
            float most = -INFINITY;
            for (uint s = 0; s < 8; s++) {
                most = max(most, largest_of[s * 8 + h]);
            }
            float result = 0.0f, weights = 0.0f;
            for (uint s = 0; s < 8; s++) {
                // 0 for a SIMD-group without positions: exp(-infinity).
                float shrink = exp(largest_of[s * 8 + h] - most);
                weights = fma(shrink, total_of[s * 8 + h], weights);
                result = fma(shrink, sums[s * 256 + index], result);
            }
            ulong at = ulong(token) * shape.heads + head + h;
            if (shape.pieces == 1) {
                out[at * HEAD_DIM + i] = result / weights;
            } else {
                ulong all = ulong(groups.z) * shape.heads * shape.pieces;
                at = at * shape.pieces + piece;
                pieces[at * stride + i] = result;
                if (i == 0) {
                    ((device float2 *)(pieces + all * stride))[at] = float2(most, weights);
                }
            }
        }
    }
}

// Brings the pieces of a head together. Every SIMD-group works out the largest score and the sum of all weights for itself,
// a lane for each piece. A thread then adds up four elements of every few pieces, and threadgroup memory brings those sums
// together. It moves a two-hundred-fiftieth of what the first kernel reads.
kernel void attention_reduce(
    constant AttentionDecodeShape &shape [[buffer(0)]],
    device const float *pieces [[buffer(1)]],
    device float *out [[buffer(2)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint2 groups [[threadgroups_per_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 sums[256];
    const uint stride = (HEAD_DIM + 31) / 32 * 32, quads = stride / 4, slices = 256 / quads;

    uint head = group.x, token = group.y, count = (shape.start + token) / 256 + 1;
    ulong at = ulong(token) * shape.heads + head, first = at * shape.pieces;
    ulong all = ulong(groups.y) * shape.heads * shape.pieces;
    device const float2 *scores = (device const float2 *)(pieces + all * stride) + first;

    // ANCHOR: reduce
    float most = -INFINITY, weights = 0.0f;
    for (uint p = lane; p < count; p += 32) {
        most = max(most, scores[p].x);
    }
    most = simd_max(most);
    for (uint p = lane; p < count; p += 32) {
        weights = fma(exp(scores[p].x - most), scores[p].y, weights);
    }
    weights = simd_sum(weights);

    uint quad = index % quads, slice = index / quads;
    float4 sum = float4(0.0f);
    if (slice < slices) {
        for (uint p = slice; p < count; p += slices) {
            float4 piece = ((device const float4 *)(pieces + (first + p) * stride))[quad];
            sum = fma(float4(exp(scores[p].x - most)), piece, sum);
        }
    }
    sums[index] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // ANCHOR_END: reduce
    if (slice == 0 && quad * 4 < HEAD_DIM) {
        for (uint s = 1; s < slices; s++) {
            sum += sums[s * quads + quad];
        }
        ((device float4 *)(out + at * HEAD_DIM))[quad] = sum / weights;
    }
}

#define ATTENTION_DECODE(NAME, KV)                                                                                  \
    template [[host_name(NAME)]] kernel void attention_decode<KV>(                                                   \
        constant AttentionDecodeShape &, device const float *, device const uchar *, device const uchar *, device float *, \
        device float *, uint3, uint3, uint, uint, uint);

ATTENTION_DECODE("attention_decode_f16", KvF16)
ATTENTION_DECODE("attention_decode_f32", KvF32)
ATTENTION_DECODE("attention_decode_q8", KvQ8)
