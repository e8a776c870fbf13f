// out = x · Wᵀ for many rows of x: prefill, where arithmetic is the limit and not memory.
//
//   x: [rows, columns], weight: [features, columns] packed (packed.h), out: [rows, features]
//   a threadgroup: 4 SIMD-groups, a tile of 32 rows and 64 features of `out`; each SIMD-group has 16 rows and 32 features of it
//   threadgroups: [features / 64, rows / 32]
//
// Along the columns, 32 at a time: the threads bring x's tile (32 x 32) and the weight's (64 x 32, as floats) into threadgroup
// memory, then each SIMD-group multiplies its part with 8x8 matrices, which the 32 lanes hold together: 2 of x and 4 of the
// weight make 8 products, so that a matrix that was fetched is used 2 or 4 times. A weight's byte is read once for 32 rows of x,
// an activation once for 64 features.
//
// The matrices are floats, inputs as well as sums. Halves would move half the bytes of threadgroup memory, but activations
// reach thousands, and a half has 11 bits: products would be wrong by 2^-12 or not be there at all. bfloat has the range and
// 8 bits: an NMSE of about 1e-6 by itself, which is the whole of the contract. M1 and M2 multiply floats as fast as halves.
//
// Tiles are 36 floats wide, of which 32 are used: rows of a matrix then lie in different banks.

#include "packed.h"

struct RowsShape {
    uint columns;
    uint features;
    // From one row of the weight to the next.
    uint row_bytes;
    uint rows;
    // Whether `out` is added to.
    uint add;
};

#define TILE_ROWS 32
#define TILE_FEATURES 64
#define TILE_COLUMNS 32
#define STRIDE 36

// The weights of columns start + 16 HALF to start + 16 HALF + 15 of one row; zeros behind the row's end.
template <typename Format, uint HALF>
inline void unpack(threadgroup float4 *to, device const uchar *row, uint start, uint columns) {
    // One chunk has all 16 columns, or some have 16 together.
    constexpr uint WIDTH = Format::COLUMNS < 16 ? Format::COLUMNS : 16;
#pragma unroll
    for (uint at = 0; at < 16; at += WIDTH) {
        uint column = start + HALF * 16 + at;
        bool inside = column < columns;
        typename Format::Chunk chunk = Format::load(row, (inside ? column : 0) / Format::COLUMNS, columns);
#pragma unroll
        for (uint j = 0; j < WIDTH / 4; j++) {
            float4 values = Format::values(chunk, (HALF * 16 + at) % Format::COLUMNS / 4 + j);
            to[HALF * 4 + at / 4 + j] = inside ? values : float4(0.0f);
        }
    }
}

template <typename Format>
kernel void linear_tiles(
    constant RowsShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint2 group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    threadgroup float4 x_tile[TILE_ROWS * STRIDE / 4];
    threadgroup float4 w_tile[TILE_FEATURES * STRIDE / 4];
    uint first_row = group.y * TILE_ROWS, first_feature = group.x * TILE_FEATURES;

    // What this thread brings: 16 columns of a feature, 8 columns of a row.
    uint feature = index % TILE_FEATURES, r = index / 4, quad = index % 4 * 2;
    device const uchar *w_row = weight + ulong(min(first_feature + feature, shape.features - 1)) * shape.row_bytes;
    bool has_row = first_row + r < shape.rows;
    device const float4 *x_row =
        (device const float4 *)(x + ulong(has_row ? first_row + r : 0) * shape.columns);

    simdgroup_float8x8 sums[2][4];
#pragma unroll
    for (uint i = 0; i < 2; i++) {
#pragma unroll
        for (uint j = 0; j < 4; j++) {
            sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
    }
    threadgroup const float *x_part = (threadgroup const float *)x_tile + simd / 2 * 16 * STRIDE;
    threadgroup const float *w_part = (threadgroup const float *)w_tile + simd % 2 * 32 * STRIDE;

    for (uint start = 0; start < shape.columns; start += TILE_COLUMNS) {
        if (index < TILE_FEATURES) {
            unpack<Format, 0>(w_tile + feature * STRIDE / 4, w_row, start, shape.columns);
        } else {
            unpack<Format, 1>(w_tile + feature * STRIDE / 4, w_row, start, shape.columns);
        }
#pragma unroll
        for (uint q = 0; q < 2; q++) {
            uint column = start + (quad + q) * 4;
            bool inside = has_row && column < shape.columns;
            x_tile[r * STRIDE / 4 + quad + q] = inside ? x_row[column / 4] : float4(0.0f);
        }
        // ANCHOR: products
        threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
        for (uint k = 0; k < TILE_COLUMNS; k += 8) {
            simdgroup_float8x8 a[2], b[4];
#pragma unroll
            for (uint i = 0; i < 2; i++) {
                simdgroup_load(a[i], x_part + i * 8 * STRIDE + k, STRIDE);
            }
#pragma unroll
            for (uint j = 0; j < 4; j++) {
                simdgroup_load(b[j], w_part + j * 8 * STRIDE + k, STRIDE, ulong2(0, 0), true);
            }
#pragma unroll
            for (uint i = 0; i < 2; i++) {
#pragma unroll
                for (uint j = 0; j < 4; j++) {
                    simdgroup_multiply_accumulate(sums[i][j], a[i], b[j], sums[i][j]);
                }
            }
        }
        // ANCHOR_END: products
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    // The weight's tile has served; the sums go through its place, since at the edges not all of them are wanted.
    threadgroup float *tile = (threadgroup float *)w_tile;
#pragma unroll
    for (uint i = 0; i < 2; i++) {
#pragma unroll
        for (uint j = 0; j < 4; j++) {
            uint row = simd / 2 * 16 + i * 8, column = simd % 2 * 32 + j * 8;
            simdgroup_store(sums[i][j], tile + row * TILE_FEATURES + column, TILE_FEATURES);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = index; i < TILE_ROWS * TILE_FEATURES; i += 128) {
        uint row = first_row + i / TILE_FEATURES, column = first_feature + i % TILE_FEATURES;
        if (row < shape.rows && column < shape.features) {
            ulong at = ulong(row) * shape.features + column;
            out[at] = shape.add != 0 ? out[at] + tile[i] : tile[i];
        }
    }
}

#define LINEAR_TILES(NAME, FORMAT)                                                                   \
    template [[host_name("linear_tiles_" NAME)]] kernel void linear_tiles<FORMAT>(                   \
        constant RowsShape &, device const float *, device const uchar *, device float *, uint2, uint, uint);

LINEAR_TILES("f32", PackedF32)
LINEAR_TILES("f16", PackedF16)
LINEAR_TILES("bf16", PackedBF16)
LINEAR_TILES("q8_0", PackedQ8_0)
LINEAR_TILES("q4_0", PackedQ4_0)
LINEAR_TILES("q4_k", PackedQ4_K)
LINEAR_TILES("q5_k", PackedQ5_K)
LINEAR_TILES("q6_k", PackedQ6_K)
