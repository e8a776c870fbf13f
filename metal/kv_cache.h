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

// Eight neighbouring elements, as wide as a lane reads at once: 16 bytes of f16, two times 16 of f32, 8 of q8.
struct Eight {
    float4 low, high;
};

// sum + the products of eight elements with eight others.
inline float dot_eight(Eight a, float4 low, float4 high, float sum) {
    for (uint i = 0; i < 4; i++) {
        sum = fma(a.low[i], low[i], sum);
    }
    for (uint i = 0; i < 4; i++) {
        sum = fma(a.high[i], high[i], sum);
    }
    return sum;
}

struct KvF16 {
    // What a tile of the cache is made of in threadgroup memory.
    typedef half Element;
    typedef half4 Element4;
    static half4 rounded(float4 x) { return half4(x); }
    // Elements i to i + 7 of a row; i is a multiple of 8.
    static Eight eight(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        uint4 bits = *(device const uint4 *)(cache + (ulong(row) * stride + i) * 2);
        return Eight{float4(as_type<half4>(bits.xy)), float4(as_type<half4>(bits.zw))};
    }
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
    typedef float Element;
    typedef float4 Element4;
    static float4 rounded(float4 x) { return x; }
    static Eight eight(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        device const float4 *in = (device const float4 *)(cache + (ulong(row) * stride + i) * 4);
        return Eight{in[0], in[1]};
    }
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
    typedef half Element;
    typedef half4 Element4;
    static half4 rounded(float4 x) { return half4(x); }
    static device const half *scale(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        return (device const half *)(cache + ulong(rows) * stride) + (ulong(row) * (stride / 32) + i / 32);
    }
    static Eight eight(device const uchar *cache, uint row, uint stride, uint rows, uint i) {
        ulong codes = *(device const ulong *)(cache + ulong(row) * stride + i);
        float d = float(*scale(cache, row, stride, rows, i));
        return Eight{d * float4(as_type<char4>(uint(codes))), d * float4(as_type<char4>(uint(codes >> 32)))};
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
