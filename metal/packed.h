// How a weight lies in GPU memory for the fast kernels, and how a lane turns its share of it into floats.
//
// A lane reads a *chunk* of a row at a time: 16 bytes of codes, aligned to 16 bytes, so that one instruction fetches them and
// neighbouring lanes fetch neighbouring chunks. The blocks of files do not allow that (34, 18 or 210 bytes, aligned to 2), so
// the host sorts the bytes of each row anew when it loads a weight (src/backend/metal/pack.rs); there are as many as before:
//
//   format   chunk        row, one plane after the other; blocks and sub-blocks in order
//   f32       4 columns   the elements, as in the file
//   f16, bf16 8 columns   the elements, as in the file
//   q8_0     16 columns   code + 128: a byte each | f16 scales, one for 32 columns
//   q4_0     32 columns   codes: 4 bits each | f16 scales, one for 32 columns
//   q4_k     32 columns   codes: 4 bits each | headers: 16 bytes for 256 columns
//   q5_k     32 columns   low 4 bits of codes | fifth bits: a word for 32 columns | headers, as of q4_k
//   q6_k     32 columns   low 4 bits of codes | upper 2 bits: two words for 32 columns | signed scales: a byte for 16 columns |
//                         f16 scales, one for 256 columns
//
// Rows begin at multiples of 16 bytes.
//
// A code becomes a float without a conversion, which GPUs do at a fraction of the speed of other instructions. A float between
// 2^23 and 2^24 is an integer whose lowest bits are the mantissa's: with the bits of 2^23 or'ed to it, a code of few bits is
// the float 2^23 + code, and one subtraction leaves it exact; what is to be subtracted from the code anyway (8, 32, 128) goes
// with it. The code may stand at any place in the lower 23 bits: at bit p it comes out times 2^p, which the sum of products
// takes back once for all codes at that place. So four codes need no shift between them.

#pragma once
#include <metal_stdlib>
using namespace metal;

// Every format has:
//   COLUMNS           columns of a chunk
//   Chunk             what a lane holds of it, still packed
//   load(row, c, n)   reads chunk c of a row of n columns
//   values(chunk, j)  the weights of columns 4 j … 4 j + 3 of the chunk
//   dot(chunk, x, s)  the sum of products with the chunk's activations, x: COLUMNS / 4 times four, whose sum is s

// 2^23: the first float whose last bit is worth 1.
#define MAGIC 8388608.0f
#define MAGIC_BITS 0x4b000000u

// ANCHOR: nibbles
// Four codes of 4 bits in the lower half of a word, less `bias`; times 1, 16, 256, 4096.
inline float4 nibbles(uint word, float bias) {
    uint4 codes = uint4(word & 0xfu, word & 0xf0u, word & 0xf00u, word & 0xf000u) | MAGIC_BITS;
    return as_type<float4>(codes) - (MAGIC + bias * float4(1.0f, 16.0f, 256.0f, 4096.0f));
}
constant float4 NIBBLE_PLACES = float4(1.0f, 1.0f / 16.0f, 1.0f / 256.0f, 1.0f / 4096.0f);
// ANCHOR_END: nibbles

// The four bytes of a word, less `bias`; times 1, 256, 1, 256.
inline float4 bytes(uint word, float bias) {
    uint high = word >> 16;
    uint4 codes = uint4(word & 0xffu, word & 0xff00u, high & 0xffu, high & 0xff00u) | MAGIC_BITS;
    return as_type<float4>(codes) - (MAGIC + bias * float4(1.0f, 256.0f, 1.0f, 256.0f));
}
constant float4 BYTE_PLACES = float4(1.0f, 1.0f / 256.0f, 1.0f, 1.0f / 256.0f);

// Σ code * x over a chunk, for formats whose codes come four at a time, times the places that they stand in.
template <typename Format>
inline float sum_of_codes(typename Format::Chunk chunk, thread const float4 *x) {
    float4 sum = 0.0f;
#pragma unroll
    for (uint j = 0; j < Format::COLUMNS / 4; j++) {
        sum = fma(Format::codes(chunk, j), x[j], sum);
    }
    return metal::dot(sum, Format::places());
}

struct PackedF32 {
    static constexpr constant uint COLUMNS = 4;
    typedef uint4 Chunk;
    static Chunk load(device const uchar *row, uint c, uint) { return ((device const uint4 *)row)[c]; }
    static float4 values(Chunk chunk, uint) { return as_type<float4>(chunk); }
    static float dot(Chunk chunk, thread const float4 *x, float) { return metal::dot(values(chunk, 0), x[0]); }
};

struct PackedF16 {
    static constexpr constant uint COLUMNS = 8;
    typedef uint4 Chunk;
    static Chunk load(device const uchar *row, uint c, uint) { return ((device const uint4 *)row)[c]; }
    static float4 values(Chunk chunk, uint j) {
        return float4(as_type<half4>(j == 0 ? chunk.xy : chunk.zw));
    }
    static float dot(Chunk chunk, thread const float4 *x, float) {
        return metal::dot(values(chunk, 0), x[0]) + metal::dot(values(chunk, 1), x[1]);
    }
};

// The upper half of a float.
struct PackedBF16 {
    static constexpr constant uint COLUMNS = 8;
    typedef uint4 Chunk;
    static Chunk load(device const uchar *row, uint c, uint) { return ((device const uint4 *)row)[c]; }
    static float4 values(Chunk chunk, uint j) {
        uint2 pairs = j == 0 ? chunk.xy : chunk.zw;
        return as_type<float4>(
            uint4(pairs.x << 16, pairs.x & 0xffff0000u, pairs.y << 16, pairs.y & 0xffff0000u));
    }
    static float dot(Chunk chunk, thread const float4 *x, float) {
        return metal::dot(values(chunk, 0), x[0]) + metal::dot(values(chunk, 1), x[1]);
    }
};

struct PackedQ8_0 {
    static constexpr constant uint COLUMNS = 16;
    struct Chunk {
        uint4 codes;
        half scale;
    };
    static Chunk load(device const uchar *row, uint c, uint columns) {
        return {((device const uint4 *)row)[c], ((device const half *)(row + columns))[c / 2]};
    }
    static float4 places() { return BYTE_PLACES; }
    static float4 codes(Chunk chunk, uint j) { return bytes(chunk.codes[j], 128.0f); }
    static float4 values(Chunk chunk, uint j) { return codes(chunk, j) * (places() * float(chunk.scale)); }
    static float dot(Chunk chunk, thread const float4 *x, float) {
        return sum_of_codes<PackedQ8_0>(chunk, x) * float(chunk.scale);
    }
};

struct PackedQ4_0 {
    static constexpr constant uint COLUMNS = 32;
    struct Chunk {
        uint4 codes;
        half scale;
    };
    static Chunk load(device const uchar *row, uint c, uint columns) {
        return {((device const uint4 *)row)[c], ((device const half *)(row + columns / 2))[c]};
    }
    static float4 places() { return NIBBLE_PLACES; }
    static float4 codes(Chunk chunk, uint j) { return nibbles(chunk.codes[j / 2] >> (16 * (j % 2)), 8.0f); }
    static float4 values(Chunk chunk, uint j) { return codes(chunk, j) * (places() * float(chunk.scale)); }
    static float dot(Chunk chunk, thread const float4 *x, float) {
        return sum_of_codes<PackedQ4_0>(chunk, x) * float(chunk.scale);
    }
};

// What a lane reads of a header, whose four words are: f16 d and dmin | for each of eight sub-blocks a byte: scale (6 bits), low
// two bits of the minimum | the same of the last four | for each sub-block 4 bits: the minimum's upper bits. It stays as it was
// read: a batch's reads must not wait for one another.
struct Header {
    uint factors, low, high, sub_block;
    static Header load(device const uchar *headers, uint c) {
        device const uint *words = (device const uint *)headers + c / 8 * 4;
        return {words[0], words[c % 8 < 4 ? 1 : 2], words[3], c % 8};
    }
};

// The scale and the minimum of the sub-block.
inline float2 scale_and_min(Header header) {
    uint bits = header.low >> (8 * (header.sub_block % 4));
    uint scale = bits & 63, least = ((bits >> 6) & 3) | (((header.high >> (4 * header.sub_block)) & 15) << 2);
    return float2(as_type<half2>(header.factors)) * float2(float(scale), float(least));
}

// Four values, and a chunk's product, where each sub-block has a scale and a minimum. x_sum: Σ x.
template <typename Format>
inline float4 scaled_values(typename Format::Chunk chunk, uint j) {
    float2 scale = scale_and_min(chunk.header);
    return Format::codes(chunk, j) * (Format::places() * scale.x) - scale.y;
}
template <typename Format>
inline float scaled_dot(typename Format::Chunk chunk, thread const float4 *x, float x_sum) {
    float2 scale = scale_and_min(chunk.header);
    return sum_of_codes<Format>(chunk, x) * scale.x - scale.y * x_sum;
}

struct PackedQ4_K {
    static constexpr constant uint COLUMNS = 32;
    struct Chunk {
        uint4 codes;
        Header header;
    };
    static Chunk load(device const uchar *row, uint c, uint columns) {
        return {((device const uint4 *)row)[c], Header::load(row + columns / 2, c)};
    }
    static float4 places() { return NIBBLE_PLACES; }
    static float4 codes(Chunk chunk, uint j) { return nibbles(chunk.codes[j / 2] >> (16 * (j % 2)), 0.0f); }
    static float4 values(Chunk chunk, uint j) { return scaled_values<PackedQ4_K>(chunk, j); }
    static float dot(Chunk chunk, thread const float4 *x, float x_sum) {
        return scaled_dot<PackedQ4_K>(chunk, x, x_sum);
    }
};

// Here the low four bits of columns 8 k … 8 k + 3 stand in the low halves of a word's bytes and those of the next four columns
// in the high halves, so that bits from elsewhere can join four codes at once. Bit 8 i + t of the fifth bits is column
// 4 t + i's.
struct PackedQ5_K {
    static constexpr constant uint COLUMNS = 32;
    struct Chunk {
        uint4 low;
        uint high;
        Header header;
    };
    static Chunk load(device const uchar *row, uint c, uint columns) {
        return {
            ((device const uint4 *)row)[c], ((device const uint *)(row + columns / 2))[c],
            Header::load(row + columns / 8 * 5, c)};
    }
    static float4 places() { return BYTE_PLACES; }
    static float4 codes(Chunk chunk, uint t) {
        uint low = (chunk.low[t / 2] >> (4 * (t % 2))) & 0x0f0f0f0fu;
        uint high = t < 4 ? chunk.high << (4 - t) : chunk.high >> (t - 4);
        return bytes(low | (high & 0x10101010u), 0.0f);
    }
    static float4 values(Chunk chunk, uint j) { return scaled_values<PackedQ5_K>(chunk, j); }
    static float dot(Chunk chunk, thread const float4 *x, float x_sum) {
        return scaled_dot<PackedQ5_K>(chunk, x, x_sum);
    }
};

// Low bits as in PackedQ5_K. Bits 8 i + 2 t and the next of the first word of upper bits are column 4 t + i's; the second word
// is that of columns 16 to 31.
struct PackedQ6_K {
    static constexpr constant uint COLUMNS = 32;
    struct Chunk {
        uint4 low;
        uint2 high;
        char2 scales;
        half scale;
    };
    static Chunk load(device const uchar *row, uint c, uint columns) {
        device const uchar *scales = row + columns / 4 * 3;
        return {
            ((device const uint4 *)row)[c], ((device const uint2 *)(row + columns / 2))[c],
            ((device const char2 *)scales)[c], ((device const half *)(scales + columns / 16))[c / 8]};
    }
    static uint codes(Chunk chunk, uint t) {
        uint low = (chunk.low[t / 2] >> (4 * (t % 2))) & 0x0f0f0f0fu;
        uint high = chunk.high[t / 4];
        high = t % 4 < 3 ? high << (4 - 2 * (t % 4)) : high >> 2;
        return low | (high & 0x30303030u);
    }
    static float4 values(Chunk chunk, uint j) {
        float scale = float(chunk.scale) * float(chunk.scales[j / 4]);
        return bytes(codes(chunk, j), 32.0f) * (BYTE_PLACES * scale);
    }
    static float dot(Chunk chunk, thread const float4 *x, float) {
        float4 first = 0.0f, second = 0.0f;
#pragma unroll
        for (uint j = 0; j < 4; j++) {
            first = fma(bytes(codes(chunk, j), 32.0f), x[j], first);
            second = fma(bytes(codes(chunk, j + 4), 32.0f), x[j + 4], second);
        }
        float2 sums = float2(metal::dot(first, BYTE_PLACES), metal::dot(second, BYTE_PLACES));
        return metal::dot(sums, float2(chunk.scales)) * float(chunk.scale);
    }
};

// The weight of one column.
template <typename Format>
inline float element(device const uchar *row, uint column, uint columns) {
    typename Format::Chunk chunk = Format::load(row, column / Format::COLUMNS, columns);
    return Format::values(chunk, column % Format::COLUMNS / 4)[column % 4];
}
