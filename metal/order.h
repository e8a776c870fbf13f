// Floats in an order that counts every one of them: NaN is the largest of all, so that it is seen, and -0 is +0.

#pragma once
#include <metal_stdlib>
using namespace metal;

// A number that grows with the value, at least 1: a float's bits, with the sign bit flipped for positive values and all bits
// for negative ones, are in the float's order.
inline uint order_of(float value) {
    uint bits = as_type<uint>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0xffffffffu;
    }
    if ((bits & 0x7fffffffu) == 0) {
        return 0x80000000u;
    }
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
