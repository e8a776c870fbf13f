// QK-norm, RoPE and the store into the KV cache, in one kernel.
//
//   q: [tokens, heads, head_dim], k and v: [tokens, kv_heads, head_dim], norms: [head_dim], cos_sin: [tokens, head_dim]
//   q is normed and rotated in place; k is normed, rotated and stored; v is stored
//   a threadgroup: one SIMD-group, one head of one token; threadgroups: [heads + 2 * kv_heads, tokens], query heads first,
//   then key heads, then value heads
//
// Lane l takes the pairs (i, i + head_dim / 2) for i = l, l + 32, …: both halves of a pair are in one lane, so the rotation
// needs no exchange, and the norm's sum is one `simd_sum`. Where head_dim / 2 is a multiple of 32, the 32 lanes hold 32
// elements in a row, which are a block of the q8 cache. As five kernels (two norms, two rotations, the store of keys and of
// values) this would write and read q and k three times over and wait for four barriers; the data are a few kilobytes, so the
// waiting is the cost. For that reason too, everything that is read is asked for before the first sum: one wait for memory
// in place of two.

#include "kv_cache.h"

// At most 512.
constant uint HEAD_DIM [[function_constant(0)]];

struct NormRopeStoreShape {
    uint heads;
    uint kv_heads;
    // The position of the first token, and how many there is room for.
    uint start;
    uint capacity;
    float eps;
};

template <typename Kv>
kernel void norm_rope_store(
    constant NormRopeStoreShape &shape [[buffer(0)]],
    device float *q [[buffer(1)]],
    device const float *k [[buffer(2)]],
    device const float *v [[buffer(3)]],
    device const float *q_norm [[buffer(4)]],
    device const float *k_norm [[buffer(5)]],
    device const float *cos_sin [[buffer(6)]],
    device uchar *keys [[buffer(7)]],
    device uchar *values [[buffer(8)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint pairs = HEAD_DIM / 2, stride = (HEAD_DIM + 31) / 32 * 32;
    // Lanes step over pairs together, also those that have none left: the store is done by all 32.
    const uint steps = (pairs + 31) / 32;
    uint head = group.x, token = group.y, rows = shape.kv_heads * shape.capacity;

    if (head >= shape.heads + shape.kv_heads) {
        head -= shape.heads + shape.kv_heads;
        device const float *in = v + (ulong(token) * shape.kv_heads + head) * HEAD_DIM;
        uint row = head * shape.capacity + shape.start + token;
#pragma unroll
        for (uint step = 0; step < stride / 32; step++) {
            uint i = step * 32 + lane;
            bool inside = i < HEAD_DIM;
            Kv::store(values, row, stride, rows, i, inside ? in[i] : 0.0f, inside);
        }
        return;
    }

    bool is_query = head < shape.heads;
    uint kv_head = is_query ? 0 : head - shape.heads;
    device const float *norm = is_query ? q_norm : k_norm;
    ulong at = is_query ? (ulong(token) * shape.heads + head) * HEAD_DIM
                        : (ulong(token) * shape.kv_heads + kv_head) * HEAD_DIM;
    device const float *in = is_query ? (device const float *)q + at : k + at;
    device const float *angles = cos_sin + ulong(token) * HEAD_DIM;

    // (x[i], x[i + pairs]), the norm's weights for them, and their angle's cosine and sine.
    float2 pair[8], weight[8], angle[8];
    float sum = 0.0f;
#pragma unroll
    for (uint step = 0; step < steps; step++) {
        uint i = min(step * 32 + lane, pairs - 1);
        pair[step] = float2(in[i], in[i + pairs]);
        weight[step] = float2(norm[i], norm[i + pairs]);
        angle[step] = float2(angles[i], angles[i + pairs]);
    }
#pragma unroll
    for (uint step = 0; step < steps; step++) {
        float2 x = step * 32 + lane < pairs ? pair[step] : float2(0.0f);
        sum = fma(x.x, x.x, fma(x.y, x.y, sum));
    }
    float scale = 1.0f / sqrt(simd_sum(sum) / float(HEAD_DIM) + shape.eps);

    uint row = kv_head * shape.capacity + shape.start + token;
#pragma unroll
    for (uint step = 0; step < steps; step++) {
        uint i = step * 32 + lane;
        bool inside = i < pairs;
        float2 x = pair[step] * scale * weight[step];
        float low = x.x * angle[step].x - x.y * angle[step].y;
        float high = x.y * angle[step].x + x.x * angle[step].y;
        if (!is_query) {
            Kv::store(keys, row, stride, rows, i, low, inside);
            Kv::store(keys, row, stride, rows, i + pairs, high, inside);
        } else if (inside) {
            q[at + i] = low;
            q[at + i + pairs] = high;
        }
    }
}

#define NORM_ROPE_STORE(NAME, KV)                                                                                        \
    template [[host_name(NAME)]] kernel void norm_rope_store<KV>(                                                           \
        constant NormRopeStoreShape &, device float *, device const float *, device const float *, device const float *, \
        device const float *, device const float *, device uchar *, device uchar *, uint2, uint);

NORM_ROPE_STORE("norm_rope_store_f16", KvF16)
NORM_ROPE_STORE("norm_rope_store_f32", KvF32)
NORM_ROPE_STORE("norm_rope_store_q8", KvQ8)
