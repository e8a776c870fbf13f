// Stores one token's keys (or values) in the cache, rounded to its element type.
//
//   x: [tokens, kv_heads, head_dim], cache: see kv_cache.h
//   a threadgroup: one SIMD-group, one head of one token; threadgroups: [kv_heads, tokens]
//
// Lanes take 32 elements at a time, which for q8 are one block with one scale: the largest of them is a reduction in
// registers.

#include "kv_cache.h"

struct StoreShape {
    uint tokens;
    uint kv_heads;
    uint head_dim;
    // The position of the first token, and how many there is room for.
    uint start;
    uint capacity;
};

template <typename Kv>
kernel void store_kv(
    constant StoreShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device uchar *cache [[buffer(2)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    uint head = group.x, token = group.y;
    uint stride = (shape.head_dim + 31) / 32 * 32;
    uint row = head * shape.capacity + shape.start + token, rows = shape.kv_heads * shape.capacity;
    device const float *in = x + (ulong(token) * shape.kv_heads + head) * shape.head_dim;
    for (uint i = lane; i < stride; i += 32) {
        bool inside = i < shape.head_dim;
        float value = inside ? in[i] : 0.0f;
        Kv::store(cache, row, stride, rows, i, value, inside);
    }
}

#define STORE(NAME, KV)                                \
    template [[host_name(NAME)]] kernel void store_kv<KV>( \
        constant StoreShape &, device const float *, device uchar *, uint2, uint);

STORE("store_kv_f16", KvF16)
STORE("store_kv_f32", KvF32)
STORE("store_kv_q8", KvQ8)
