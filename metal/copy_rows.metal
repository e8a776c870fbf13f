// Copies rows of 32-bit words: out[to.x + r * to.y + c] = x[from.x + r * from.y + c].
//
//   a threadgroup: 256 words of one row; threadgroups: [columns / 256, rows]
//
// The same kernel takes the last token's state out of a prompt's, brings the CPU's values in and results out, and moves a KV
// cache that has grown (a head's positions are one row). 8 bytes move for each word. Neighbouring threads copy neighbouring
// words.

#include <metal_stdlib>
using namespace metal;

struct CopyShape {
    uint columns;
    // The first word, and the words from one row to the next. Plain numbers: a uint2 would be aligned to 8.
    uint from_start, from_step;
    uint to_start, to_step;
};

kernel void copy_rows(
    constant CopyShape &shape [[buffer(0)]],
    device const uint *x [[buffer(1)]],
    device uint *out [[buffer(2)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x < shape.columns) {
        ulong from = ulong(shape.from_start) + ulong(at.y) * shape.from_step + at.x;
        ulong to = ulong(shape.to_start) + ulong(at.y) * shape.to_step + at.x;
        out[to] = x[from];
    }
}

// The same from an argument of the command buffer: one row of at most 1,024 words.
kernel void copy_bytes(
    constant CopyShape &shape [[buffer(0)]],
    constant uint *x [[buffer(1)]],
    device uint *out [[buffer(2)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x < shape.columns) {
        out[at.x] = x[at.x];
    }
}
