// Causal attention: for each token and query head, softmax(q · K / sqrt(head_dim)) · V over the positions up to its own. The
// plain kernel, for every cache and any number of tokens.
//
//   q, out: [tokens, heads, head_dim], keys and values: see kv_cache.h
//   a threadgroup: one SIMD-group, one head of one token; threadgroups: [heads, tokens]
//
// Softmax is computed online (arXiv 1805.02867): the weights so far are kept relative to the largest score so far, and when a
// larger one comes, everything that has been added up is scaled down to it. So the cache is read once, and no score is stored.
// Lane l holds elements l, l + 32, … of the query and of the result, at most 16 of each; a score is one `simd_sum` over the
// lanes' products. `heads / kv_heads` query heads read the same keys and values, each on its own: the fast kernels read them
// once for all.

#include "kv_cache.h"

struct AttentionShape {
    uint heads;
    uint kv_heads;
    uint head_dim;
    // The position of the first token, and how many there is room for.
    uint start;
    uint capacity;
    // 1 / sqrt(head_dim)
    float scale;
};

template <typename Kv>
kernel void attention(
    constant AttentionShape &shape [[buffer(0)]],
    device const float *q [[buffer(1)]],
    device const uchar *keys [[buffer(2)]],
    device const uchar *values [[buffer(3)]],
    device float *out [[buffer(4)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    uint head = group.x, token = group.y, kv_head = head / (shape.heads / shape.kv_heads);
    uint stride = (shape.head_dim + 31) / 32 * 32, rows = shape.kv_heads * shape.capacity;
    uint first = kv_head * shape.capacity, positions = shape.start + token + 1;
    ulong at = (ulong(token) * shape.heads + head) * shape.head_dim;

    float query[16], sum[16];
    for (uint j = 0; j < 16; j++) {
        uint i = j * 32 + lane;
        query[j] = i < shape.head_dim ? q[at + i] * shape.scale : 0.0f;
        sum[j] = 0.0f;
    }
    // ANCHOR: online
    float largest = -INFINITY, total = 0.0f;
    for (uint p = 0; p < positions; p++) {
        float score = 0.0f;
        for (uint j = 0; j * 32 + lane < shape.head_dim; j++) {
            score = fma(query[j], Kv::at(keys, first + p, stride, rows, j * 32 + lane), score);
        }
        score = simd_sum(score);
        float larger = max(largest, score);
        // While all scores are -infinity, no weight is more than 0: exp(-infinity + infinity) would be NaN.
        float shrink = largest == -INFINITY ? 0.0f : exp(largest - larger);
        float weight = score == -INFINITY ? 0.0f : exp(score - larger);
        total = total * shrink + weight;
        for (uint j = 0; j * 32 + lane < shape.head_dim; j++) {
            sum[j] = fma(weight, Kv::at(values, first + p, stride, rows, j * 32 + lane), sum[j] * shrink);
        }
        largest = larger;
    }
    // ANCHOR_END: online
    for (uint j = 0; j * 32 + lane < shape.head_dim; j++) {
        out[at + j * 32 + lane] = sum[j] / total;
    }
}

#define ATTENTION(NAME, KV)                              \
    template [[host_name(NAME)]] kernel void attention<KV>( \
        constant AttentionShape &, device const float *, device const uchar *, device const uchar *, device float *, uint2, uint);

ATTENTION("attention_f16", KvF16)
ATTENTION("attention_f32", KvF32)
ATTENTION("attention_q8", KvQ8)
