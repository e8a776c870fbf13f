// The formats that a weight can be stored in: how one element becomes a float.
//
// This is the definition, as src/weights/formats/ gives it for the processor, written for clarity: `at(row, i)` finds the
// block that element i of a row lies in and reads the block's scale again for every element. Fast kernels read a block once
// and use it for all its elements; they are checked against this.
//
// Blocks have no padding, so their fields stand at odd places: 16-bit numbers are put together from two bytes.

#pragma once
#include <metal_stdlib>
using namespace metal;

inline half half_at(device const uchar *bytes) {
    return as_type<half>(ushort(ushort(bytes[0]) | ushort(ushort(bytes[1]) << 8)));
}

struct F32 {
    static float at(device const uchar *row, uint i) { return ((device const float *)row)[i]; }
};

struct F16 {
    static float at(device const uchar *row, uint i) { return float(((device const half *)row)[i]); }
};

// The upper half of a float.
struct BF16 {
    static float at(device const uchar *row, uint i) {
        return as_type<float>(uint(((device const ushort *)row)[i]) << 16);
    }
};

// ANCHOR: q8_0
// 34 bytes for 32 values: an f16 scale d and 32 signed bytes. value = d * code.
struct Q8_0 {
    static float at(device const uchar *row, uint i) {
        device const uchar *block = row + i / 32 * 34;
        return float(half_at(block)) * float(as_type<char>(block[2 + i % 32]));
    }
};
// ANCHOR_END: q8_0

// 18 bytes for 32 values: an f16 scale d and 16 bytes; byte l holds code l in its low half and code l + 16 in its high half.
// value = d * (code - 8).
struct Q4_0 {
    static float at(device const uchar *row, uint i) {
        device const uchar *block = row + i / 32 * 18;
        uint l = i % 32;
        uint code = (block[2 + l % 16] >> (4 * (l / 16))) & 15;
        return float(half_at(block)) * (float(code) - 8.0f);
    }
};

// The 6-bit scale (x) and minimum (y) of sub-block s of 8, from 12 bytes: those of sub-blocks 0 to 3 stand in the low six bits
// of bytes 0 to 3 and 4 to 7; of the others, the low four bits stand in bytes 8 to 11, and the upper two in the upper two bits
// of bytes 0 to 7.
inline uint2 scale_and_min(device const uchar *bytes, uint s) {
    if (s < 4) {
        return uint2(bytes[s] & 63, bytes[s + 4] & 63);
    }
    uint low = bytes[s + 4];
    return uint2((low & 15) | ((bytes[s - 4] >> 6) << 4), (low >> 4) | ((bytes[s] >> 6) << 4));
}

// 144 bytes for 256 values: f16 d and dmin, 12 bytes of scales and minima, 128 bytes of codes; byte 32 c + l holds code l of
// sub-block 2 c in its low half and of sub-block 2 c + 1 in its high half. value = d * scale * code - dmin * min.
struct Q4_K {
    static float at(device const uchar *row, uint i) {
        device const uchar *block = row + i / 256 * 144;
        uint s = i % 256 / 32, l = i % 32;
        uint2 sub = scale_and_min(block + 4, s);
        uint code = (block[16 + s / 2 * 32 + l] >> (4 * (s % 2))) & 15;
        return float(half_at(block)) * float(sub.x) * float(code) - float(half_at(block + 2)) * float(sub.y);
    }
};

// 176 bytes for 256 values: as Q4_K, with 32 bytes before the codes: bit s of byte l is the fifth bit of code l of sub-block s.
struct Q5_K {
    static float at(device const uchar *row, uint i) {
        device const uchar *block = row + i / 256 * 176;
        uint s = i % 256 / 32, l = i % 32;
        uint2 sub = scale_and_min(block + 4, s);
        uint code = ((block[48 + s / 2 * 32 + l] >> (4 * (s % 2))) & 15) | (((block[16 + l] >> s) & 1) << 4);
        return float(half_at(block)) * float(sub.x) * float(code) - float(half_at(block + 2)) * float(sub.y);
    }
};

// 210 bytes for 256 values: 128 bytes with the low four bits of the codes, 64 with the upper two, 16 signed scales, f16 d.
// Each half of the block has 64 bytes of the first and 32 of the second kind; of its four quarters of 32 values, the first
// two use the low halves of the 64 bytes and the last two the high halves. value = d * scale * (code - 32).
struct Q6_K {
    static float at(device const uchar *row, uint i) {
        device const uchar *block = row + i / 256 * 210;
        uint part = i % 256 / 128, quarter = i % 128 / 32, l = i % 32;
        uint low = (block[part * 64 + quarter % 2 * 32 + l] >> (4 * (quarter / 2))) & 15;
        uint high = (block[128 + part * 32 + l] >> (2 * quarter)) & 3;
        float scale = float(half_at(block + 208)) * float(as_type<char>(block[192 + i % 256 / 16]));
        return scale * (float(low | (high << 4)) - 32.0f);
    }
};
