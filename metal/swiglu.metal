// gate = silu(gate) * up, with silu(x) = x / (1 + exp(-x)).
//
//   gate, up: [len]
//
// A thread an element, as in add.metal; 12 bytes move for each. The division keeps the right values at both ends: for large
// negative x, exp(-x) is infinite and the quotient is zero. Decoding does this where gate and up are made (`linear_swiglu`).

#include <metal_stdlib>
using namespace metal;

kernel void swiglu(
    constant uint &len [[buffer(0)]],
    device float *gate [[buffer(1)]],
    device const float *up [[buffer(2)]],
    uint i [[thread_position_in_grid]])
{
    // EXERCISE: m6.swiglu
    if (i < len) {
        float x = gate[i];
        gate[i] = x / (1.0f + exp(-x)) * up[i];
    }
    // EXERCISE_END
}
