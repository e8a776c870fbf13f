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
// waiting is the cost.

#include "kv_cache.h"

struct NormRopeStoreShape {
    uint heads;
    uint kv_heads;
    uint head_dim;
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
    uint head = group.x, token = group.y, pairs = shape.head_dim / 2;
    uint stride = (shape.head_dim + 31) / 32 * 32, rows = shape.kv_heads * shape.capacity;
    // Lanes step over pairs together, also those that have none left: the store is done by all 32.
    uint steps = (pairs + 31) / 32;

    if (head >= shape.heads + shape.kv_heads) {
        head -= shape.heads + shape.kv_heads;
        device const float *in = v + (ulong(token) * shape.kv_heads + head) * shape.head_dim;
        uint row = head * shape.capacity + shape.start + token;
        for (uint i = lane; i < stride; i += 32) {
            bool inside = i < shape.head_dim;
            float value = inside ? in[i] : 0.0f;
            Kv::store(values, row, stride, rows, i, value, inside);
        }
        return;
    }

    bool is_query = head < shape.heads;
    uint kv_head = is_query ? 0 : head - shape.heads;
    device const float *norm = is_query ? q_norm : k_norm;
    ulong at = is_query ? (ulong(token) * shape.heads + head) * shape.head_dim
                        : (ulong(token) * shape.kv_heads + kv_head) * shape.head_dim;
    device const float *in = is_query ? (device const float *)q + at : k + at;

    float sum = 0.0f;
    for (uint i = lane; i < shape.head_dim; i += 32) {
        sum = fma(in[i], in[i], sum);
    }
    float scale = 1.0f / sqrt(simd_sum(sum) / float(shape.head_dim) + shape.eps);

    device const float *angles = cos_sin + ulong(token) * shape.head_dim;
    uint row = kv_head * shape.capacity + shape.start + token;
    for (uint step = 0; step < steps; step++) {
        uint i = step * 32 + lane;
        bool inside = i < pairs;
        float low = 0.0f, high = 0.0f;
        if (inside) {
            float a = in[i] * scale * norm[i], b = in[i + pairs] * scale * norm[i + pairs];
            float c = angles[i], s = angles[i + pairs];
            low = a * c - b * s;
            high = b * c + a * s;
        }
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
