// x += y, and x += bias on every row.
//
//   x, y: [len], bias: [columns], x: [len / columns, columns]
//
// A thread an element; threads behind the end do nothing. Neighbouring threads touch neighbouring elements, so a SIMD-group
// reads and writes whole cache lines. 12 bytes move for one addition: memory is all that this waits for. The residual
// connections of decoding never come here: `linear_add` adds where the product is made.

#include <metal_stdlib>
using namespace metal;

// ANCHOR: add
kernel void add(
    constant uint &len [[buffer(0)]],
    device float *x [[buffer(1)]],
    device const float *y [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < len) {
        x[i] += y[i];
    }
}
// ANCHOR_END: add

// ANCHOR: add_bias
struct BiasShape {
    uint len;
    uint columns;
};

kernel void add_bias(
    constant BiasShape &shape [[buffer(0)]],
    device float *x [[buffer(1)]],
    device const float *bias [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    if (i < shape.len) {
        x[i] += bias[i % shape.columns];
    }
}
// ANCHOR_END: add_bias
