// out = x · Wᵀ for one row of x: a matrix times a vector, which is all that decoding does with weights.
//
//   x: [columns], weight: [features, columns] packed (packed.h), out: [features]
//   a SIMD-group: ROWS rows of the weight, or its part of them; its 32 lanes take neighbouring chunks of 16 bytes
//   a threadgroup: `simds` SIMD-groups; `split` of them share rows, each every split-th step; it does `turns` such row groups
//   threadgroups: [features / (ROWS * simds / split * turns)]
//
// Nothing is computed here that could be slow: a weight's byte is read once, from memory that is far away, so the kernel is as
// fast as memory if enough reads are on their way at any time. Hence: all reads of a batch (ROWS rows, UNROLL steps: 64 to 128
// bytes a lane) are issued before the first is used, and those of the first batch before the activations are fetched. Where a matrix
// has few rows, `split` makes enough SIMD-groups of them.
//
// Activations are wanted by every SIMD-group, and as floats they are 2 to 8 times as large as the weights they are multiplied
// with, so they must not be fetched for every row. The threadgroup puts them into its own memory once; a lane takes those of
// its chunk from there into registers, and uses them for ROWS rows. Of 36 floats there the last 4 are a gap: lanes that are
// 8, 16 or 32 columns apart then find their 16 bytes in different banks.
//
// Bytes moved: the weight, and for each threadgroup 4 * columns from a cache.
//
// `linear_row_qkv` and `linear_row_swiglu` can norm the input themselves (NORM): what is staged is x * the norm's weight, every
// threadgroup adds up the squares of x on the way, in the order of rms_norm.metal, and multiplies its sums by
// 1 / sqrt(mean + eps) in the end. That is less than a kernel of its own would wait for another.
//
// The three kernels differ in where rows come from and where sums go: `linear_row` may add to what `out` holds (the residual
// stream), `linear_row_swiglu` has pairs of a gate's and an up's row and writes silu(gate) * up, `linear_row_qkv` has three
// weights of one format behind each other. The order of the sum is the same in all.

#include "packed.h"

struct RowShape {
    uint columns;
    // Of each weight; 0 for those that are not there.
    uint features[3];
    // From one row to the next.
    uint row_bytes;
    uint split;
    uint turns;
    // Whether `out` is added to.
    uint add;
    // Of the norm.
    float eps;
};

// Whether the input is normed first.
constant bool NORM [[function_constant(0)]];

// Columns whose activations threadgroup memory holds at a time.
#define SEGMENT 4096
#define MAX_SIMDS 8
// Rows of the weight that a SIMD-group takes together.
#define ROWS 2
static_assert(ROWS == 2, "fused kernels have two rows a SIMD-group: a gate's and an up's, or two of a projection");

// The sums of two rows of the weight, or of this SIMD-group's part of them, not yet added over lanes. With a norm, `squares`
// gets the sums of eight SIMD-groups, as rms_norm.metal has them: of a threadgroup of four, each makes two.
template <typename Format, bool HAS_NORM>
inline void row_sums(
    thread float *sums,
    thread device const uchar **rows,
    device const float *x,
    uint columns,
    uint part,
    uint split,
    bool stage,
    threadgroup float4 *staged,
    device const float *norm,
    threadgroup float *squares,
    uint index,
    uint threads,
    uint lane)
{
    float2 square = 0.0f;
    // Steps of a batch. A format of few bits takes more columns in a step, and more registers to hold them.
    constexpr uint UNROLL = Format::COLUMNS <= 8 ? 4 : 2;
    constexpr uint QUADS = Format::COLUMNS / 4, SEGMENT_STEPS = SEGMENT / (32 * Format::COLUMNS);
    device const float4 *x_quads = (device const float4 *)x;
    uint quads = columns / 4, last = columns / Format::COLUMNS - 1, steps = last / 32 + 1;
#pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        sums[r] = 0.0f;
    }
    for (uint start = 0; start < steps; start += SEGMENT_STEPS) {
        uint end = min(start + SEGMENT_STEPS, steps);
        uint step = start + part;
        typename Format::Chunk chunks[UNROLL][ROWS];
        // Behind the row's end a lane reads the last chunk again; the activations there are zeros.
#pragma unroll
        for (uint u = 0; u < UNROLL; u++) {
            if (step + u * split < end) {
                uint c = min((step + u * split) * 32 + lane, last);
#pragma unroll
                for (uint r = 0; r < ROWS; r++) {
                    chunks[u][r] = Format::load(rows[r], c, columns);
                }
            }
        }
        if (stage) {
            if (start > 0) {
                threadgroup_barrier(mem_flags::mem_threadgroup);
            }
            uint first = start * 32 * QUADS, count = (end - start) * 32 * QUADS;
            // Four reads on their way at a time here, too.
            constexpr uint READS = HAS_NORM ? 2 : 4;
            for (uint i = index; i < count; i += READS * threads) {
                float4 values[READS], weights[READS];
#pragma unroll
                for (uint n = 0; n < READS; n++) {
                    uint quad = first + i + n * threads;
                    values[n] = quad < quads ? x_quads[quad] : float4(0.0f);
                    if (HAS_NORM) {
                        weights[n] = quad < quads ? ((device const float4 *)norm)[quad] : float4(0.0f);
                    }
                }
                if (HAS_NORM) {
#pragma unroll
                    for (uint n = 0; n < READS; n++) {
                        bool second = threads == 128 && n % 2 == 1;
                        float4 v = values[n];
                        float sum = fma(v.x, v.x, second ? square.y : square.x);
                        sum = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, sum)));
                        square = second ? float2(square.x, sum) : float2(sum, square.y);
                        values[n] = v * weights[n];
                    }
                }
#pragma unroll
                for (uint n = 0; n < READS; n++) {
                    uint quad = i + n * threads;
                    if (quad < count) {
                        staged[quad + quad / 8] = values[n];
                    }
                }
            }
            if (HAS_NORM && end == steps) {
                square = float2(simd_sum(square.x), simd_sum(square.y));
                if (lane == 0) {
                    squares[index / 32] = square.x;
                    if (threads == 128) {
                        squares[index / 32 + 4] = square.y;
                    }
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        while (step < end) {
#pragma unroll
            for (uint u = 0; u < UNROLL; u++) {
                if (step + u * split < end) {
                    uint quad = ((step + u * split - start) * 32 + lane) * QUADS;
                    float4 in[QUADS];
                    float4 total = 0.0f;
#pragma unroll
                    for (uint j = 0; j < QUADS; j++) {
                        in[j] = staged[quad + j + (quad + j) / 8];
                        total += in[j];
                    }
                    float in_sum = (total.x + total.y) + (total.z + total.w);
#pragma unroll
                    for (uint r = 0; r < ROWS; r++) {
                        sums[r] += Format::dot(chunks[u][r], in, in_sum);
                    }
                }
            }
            step += UNROLL * split;
#pragma unroll
            for (uint u = 0; u < UNROLL; u++) {
                if (step + u * split < end) {
                    uint c = min((step + u * split) * 32 + lane, last);
#pragma unroll
                    for (uint r = 0; r < ROWS; r++) {
                        chunks[u][r] = Format::load(rows[r], c, columns);
                    }
                }
            }
        }
    }
}

// Adds over the lanes, and over the SIMD-groups that share the rows: the first of them, and only it, then has the sums. Rows
// that are shared are done in one turn.
inline void gather(thread float *sums, uint split, threadgroup float *parts, uint simd, uint lane) {
#pragma unroll
    for (uint r = 0; r < ROWS; r++) {
        sums[r] = simd_sum(sums[r]);
    }
    if (split > 1) {
        if (lane == 0) {
#pragma unroll
            for (uint r = 0; r < ROWS; r++) {
                parts[simd * ROWS + r] = sums[r];
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (simd % split == 0) {
            for (uint part = 1; part < split; part++) {
#pragma unroll
                for (uint r = 0; r < ROWS; r++) {
                    sums[r] += parts[(simd + part) * ROWS + r];
                }
            }
        }
    }
}

// What a normed row is multiplied by.
inline float norm_scale(threadgroup const float *squares, constant RowShape &shape) {
    float total = 0.0f;
    for (uint i = 0; i < 8; i++) {
        total += squares[i];
    }
    return 1.0f / sqrt(total / float(shape.columns) + shape.eps);
}

// `row_sums` with or without a norm.
template <typename Format>
inline void fused_row_sums(
    thread float *sums,
    thread device const uchar **rows,
    device const float *x,
    device const float *norm,
    constant RowShape &shape,
    threadgroup float4 *staged,
    threadgroup float *squares,
    threadgroup float *parts,
    uint index,
    uint threads,
    uint simd,
    uint lane)
{
    if (NORM) {
        row_sums<Format, true>(
            sums, rows, x, shape.columns, simd % shape.split, shape.split, true, staged, norm, squares, index, threads, lane);
    } else {
        row_sums<Format, false>(
            sums, rows, x, shape.columns, simd % shape.split, shape.split, true, staged, norm, squares, index, threads, lane);
    }
    gather(sums, shape.split, parts, simd, lane);
    if (NORM) {
        float scale = norm_scale(squares, shape);
        sums[0] *= scale;
        sums[1] *= scale;
    }
}

template <typename Format>
kernel void linear_row(
    constant RowShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *weight [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 staged[SEGMENT / 32 * 9];
    threadgroup float parts[MAX_SIMDS * ROWS];
    uint teams = threads / 32 / shape.split;
    for (uint turn = 0; turn < shape.turns; turn++) {
        uint feature = ((group * shape.turns + turn) * teams + simd / shape.split) * ROWS;
        device const uchar *rows[ROWS];
#pragma unroll
        for (uint r = 0; r < ROWS; r++) {
            rows[r] = weight + ulong(min(feature + r, shape.features[0] - 1)) * shape.row_bytes;
        }
        float sums[ROWS];
        row_sums<Format, false>(
            sums, rows, x, shape.columns, simd % shape.split, shape.split, turn == 0, staged, x, parts, index, threads, lane);
        gather(sums, shape.split, parts, simd, lane);
        if (lane == 0 && simd % shape.split == 0) {
#pragma unroll
            for (uint r = 0; r < ROWS; r++) {
                if (feature + r < shape.features[0]) {
                    out[feature + r] = shape.add != 0 ? out[feature + r] + sums[r] : sums[r];
                }
            }
        }
    }
}

template <typename Format>
kernel void linear_row_swiglu(
    constant RowShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *gate [[buffer(2)]],
    device const uchar *up [[buffer(3)]],
    device float *out [[buffer(4)]],
    device const float *norm [[buffer(5)]],
    uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 staged[SEGMENT / 32 * 9];
    threadgroup float parts[MAX_SIMDS * ROWS], squares[8];
    uint feature = group * (threads / 32 / shape.split) + simd / shape.split;
    ulong at = ulong(min(feature, shape.features[0] - 1)) * shape.row_bytes;
    device const uchar *rows[2] = {gate + at, up + at};
    float sums[2];
    fused_row_sums<Format>(sums, rows, x, norm, shape, staged, squares, parts, index, threads, simd, lane);
    if (lane == 0 && simd % shape.split == 0 && feature < shape.features[0]) {
        out[feature] = sums[0] / (1.0f + exp(-sums[0])) * sums[1];
    }
}

template <typename Format>
kernel void linear_row_qkv(
    constant RowShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device const uchar *q_weight [[buffer(2)]],
    device const uchar *k_weight [[buffer(3)]],
    device const uchar *v_weight [[buffer(4)]],
    device float *q [[buffer(5)]],
    device float *k [[buffer(6)]],
    device float *v [[buffer(7)]],
    device const float *norm [[buffer(8)]],
    uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint simd [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]])
{
    threadgroup float4 staged[SEGMENT / 32 * 9];
    threadgroup float parts[MAX_SIMDS * ROWS], squares[8];
    uint k_start = shape.features[0], v_start = k_start + shape.features[1], features = v_start + shape.features[2];
    uint feature = (group * (threads / 32 / shape.split) + simd / shape.split) * 2;
    device const uchar *rows[2];
#pragma unroll
    for (uint r = 0; r < 2; r++) {
        uint row = min(feature + r, features - 1);
        device const uchar *weight = row < k_start ? q_weight : row < v_start ? k_weight : v_weight;
        rows[r] = weight + ulong(row - (row < k_start ? 0 : row < v_start ? k_start : v_start)) * shape.row_bytes;
    }
    float sums[2];
    fused_row_sums<Format>(sums, rows, x, norm, shape, staged, squares, parts, index, threads, simd, lane);
    if (lane == 0 && simd % shape.split == 0) {
#pragma unroll
        for (uint r = 0; r < 2; r++) {
            uint row = feature + r;
            if (row < k_start) {
                q[row] = sums[r];
            } else if (row < v_start) {
                k[row - k_start] = sums[r];
            } else if (row < features) {
                v[row - v_start] = sums[r];
            }
        }
    }
}

#define LINEAR_ROW(NAME, FORMAT)                                                                                             \
    template [[host_name("linear_row_" NAME)]] kernel void linear_row<FORMAT>(                                            \
        constant RowShape &, device const float *, device const uchar *, device float *, uint, uint, uint, uint, uint);      \
    template [[host_name("linear_row_swiglu_" NAME)]] kernel void linear_row_swiglu<FORMAT>(                                 \
        constant RowShape &, device const float *, device const uchar *, device const uchar *, device float *,               \
        device const float *, uint, uint, uint, uint, uint);                                                                 \
    template [[host_name("linear_row_qkv_" NAME)]] kernel void linear_row_qkv<FORMAT>(                                       \
        constant RowShape &, device const float *, device const uchar *, device const uchar *, device const uchar *,         \
        device float *, device float *, device float *, device const float *, uint, uint, uint, uint, uint);

LINEAR_ROW("f32", PackedF32)
LINEAR_ROW("f16", PackedF16)
LINEAR_ROW("bf16", PackedBF16)
LINEAR_ROW("q8_0", PackedQ8_0)
LINEAR_ROW("q4_0", PackedQ4_0)
LINEAR_ROW("q4_k", PackedQ4_K)
LINEAR_ROW("q5_k", PackedQ5_K)
LINEAR_ROW("q6_k", PackedQ6_K)
