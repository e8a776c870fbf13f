// Rotates each pair (x[i], x[i + head_dim / 2]) of every head by the angle of its token's position.
//
//   x: [tokens, heads, head_dim], cos_sin: [tokens, head_dim]: head_dim / 2 cosines, then as many sines
//
// A thread a pair, all pairs in one row: neighbouring threads have neighbouring pairs of the same head. The angles are the
// CPU's (src/model/rope.rs), so that all backends turn by the same ones. norm_rope_store.metal does this, the norm before it
// and the store after it in one kernel.

#include <metal_stdlib>
using namespace metal;

struct RopeShape {
    uint heads;
    uint head_dim;
    // tokens * heads * head_dim / 2
    uint pairs;
};

kernel void rope(
    constant RopeShape &shape [[buffer(0)]],
    device float *x [[buffer(1)]],
    device const float *cos_sin [[buffer(2)]],
    uint at [[thread_position_in_grid]])
{
    if (at >= shape.pairs) {
        return;
    }
    uint pairs = shape.head_dim / 2, i = at % pairs, head = at / pairs, token = head / shape.heads;
    device float *low = x + ulong(head) * shape.head_dim + i, *high = low + pairs;
    device const float *angle = cos_sin + ulong(token) * shape.head_dim + i;
    float a = *low, b = *high, c = angle[0], s = angle[pairs];
    *low = a * c - b * s;
    *high = b * c + a * s;
}
