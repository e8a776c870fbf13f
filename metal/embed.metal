// out[t] = table[ids[t]], as floats.
//
//   ids: [tokens], table: [vocab, columns] in the weight's format, out: [tokens, columns]
//   a threadgroup: 256 values of one row; threadgroups: [columns / 256, tokens]
//
// A thread reads one element of the table and writes one float. A token's row is a few kilobytes of a table of hundreds of
// megabytes, so nothing here is worth more than a plain loop.

#include "formats.h"
#include "packed.h"

struct EmbedShape {
    uint columns;
    uint row_bytes;
    // The first of the output's rows that these ids are for: ids come at most 1,024 at a time.
    uint first;
    // Of the table. A pass that failed leaves any number in place of the id that the next one, begun before, looks up.
    uint rows;
};

template <typename Format>
kernel void embed(
    constant EmbedShape &shape [[buffer(0)]],
    constant uint *ids [[buffer(1)]],
    device const uchar *table [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x < shape.columns) {
        device const uchar *row = table + ulong(min(ids[at.y], shape.rows - 1)) * shape.row_bytes;
        out[ulong(shape.first + at.y) * shape.columns + at.x] = Format::at(row, at.x);
    }
}

// Of a table whose rows were sorted anew (packed.h): a thread reads the element's whole chunk.
template <typename Format>
kernel void embed_packed(
    constant EmbedShape &shape [[buffer(0)]],
    constant uint *ids [[buffer(1)]],
    device const uchar *table [[buffer(2)]],
    device float *out [[buffer(3)]],
    uint2 at [[thread_position_in_grid]])
{
    if (at.x < shape.columns) {
        device const uchar *row = table + ulong(min(ids[at.y], shape.rows - 1)) * shape.row_bytes;
        out[ulong(shape.first + at.y) * shape.columns + at.x] = element<Format>(row, at.x, shape.columns);
    }
}

#define EMBED(NAME, FORMAT)                              \
    template [[host_name(NAME)]] kernel void embed<FORMAT>( \
        constant EmbedShape &, constant uint *, device const uchar *, device float *, uint2);

EMBED("embed_f32", F32)
EMBED("embed_f16", F16)
EMBED("embed_bf16", BF16)
EMBED("embed_q8_0", Q8_0)
EMBED("embed_q4_0", Q4_0)
EMBED("embed_q4_k", Q4_K)
EMBED("embed_q5_k", Q5_K)
EMBED("embed_q6_k", Q6_K)

#define EMBED_PACKED(NAME, FORMAT)                              \
    template [[host_name(NAME)]] kernel void embed_packed<FORMAT>( \
        constant EmbedShape &, constant uint *, device const uchar *, device float *, uint2);

EMBED_PACKED("embed_packed_q8_0", PackedQ8_0)
EMBED_PACKED("embed_packed_q4_0", PackedQ4_0)
EMBED_PACKED("embed_packed_q4_k", PackedQ4_K)
EMBED_PACKED("embed_packed_q5_k", PackedQ5_K)
EMBED_PACKED("embed_packed_q6_k", PackedQ6_K)
