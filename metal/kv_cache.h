// The KV cache: where an element is, and how it is rounded. src/backend/metal/kv.rs makes the buffers.
//
//   f16, f32: [kv_heads, capacity, stride] elements
//   q8:       [kv_heads, capacity, stride] signed bytes, then [kv_heads, capacity, stride / 32] f16 scales
//
// A row is one position of one head: `row = kv_head * capacity + position`. `stride` is head_dim rounded up to 32, `rows` is
// kv_heads * capacity.

#pragma once
#include <metal_stdlib>
using namespace metal;

struct KvF16 {
    static float at(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        return float(((device const half *)cache)[ulong(row) * stride + i]);
    }
    // Stores element i of a row; all 32 lanes of a SIMD-group call it, for 32 elements in a row from a multiple of 32 on,
    // those behind the head's end with value 0 and `inside` false.
    static void store(device uchar *cache, uint row, uint stride, uint rows, uint i, float value, bool inside) {
        if (inside) {
            ((device half *)cache)[ulong(row) * stride + i] = half(value);
        }
    }
};

struct KvF32 {
    static float at(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        return ((device const float *)cache)[ulong(row) * stride + i];
    }
    static void store(device uchar *cache, uint row, uint stride, uint rows, uint i, float value, bool inside) {
        if (inside) {
            ((device float *)cache)[ulong(row) * stride + i] = value;
        }
    }
};

// 32 values are `scale * code`, with scale = max |value| / 127.
struct KvQ8 {
    static device const half *scale(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        return (device const half *)(cache + ulong(rows) * stride) + (ulong(row) * (stride / 32) + i / 32);
    }
    static float at(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        float code = float(((device const char *)cache)[ulong(row) * stride + i]);
        return float(*scale(cache, row, stride, rows, i)) * code;
    }
    static void store(device uchar *cache, uint row, uint stride, uint rows, uint i, float value, bool inside) {
        // Without their sign, floats are in the order of their bits, and NaN is the largest: a NaN or infinite scale shows in
        // everything that is read.
        float largest = as_type<float>(simd_max(as_type<uint>(value) & 0x7fffffffu));
        half rounded = half(largest / 127.0f);
        // The rounded scale is the one that codes are read with; where it is 0 all values round to 0.
        float inverse = rounded == half(0.0f) ? 0.0f : 1.0f / float(rounded);
        // 1.5 * 2^23 leaves no room for a fraction: the lowest byte is the value rounded to even.
        float code = clamp(value * inverse, -127.0f, 127.0f) + 12582912.0f;
        cache[ulong(row) * stride + i] = uchar(as_type<uint>(code) & 255u);
        if (i % 32 == 0) {
            *(device half *)scale(cache, row, stride, rows, i) = rounded;
        }
    }
};
