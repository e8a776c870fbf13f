// The k largest of many values and where they are: what sampling with top-k wants of the logits.
//
//   x: [len] floats, or [len] pairs of an index and a value's bits, as this kernel writes them
//   out: [blocks, k] pairs, in no order; where a block has fewer than k, the rest have the index ABSENT
//   a threadgroup of 256 threads finds the k largest of 4,096 values; threadgroups: [len / 4,096]
//
// It runs again on what it has found until one block is left: twice for 151,936 logits and k up to 107. k is at most 4,096.
//
// A block is not sorted. A thread keeps 16 values as numbers in the values' order (order.h), and the threadgroup looks for the
// k-th largest of these bit by bit: of all numbers that at least k values reach, the largest. Each of 32 steps counts the
// values that reach the number with one bit more, in registers, then over the SIMD-group, then over threadgroup memory, whose
// two halves take turns so that a step needs one barrier. What is larger is among the k; of those that equal it, the first
// are, found by a second search, of indices, in the rare case that not all of them are. 4 bytes are read for each value, once.

#include "order.h"

#define ABSENT 0xffffffffu

struct TopKShape {
    uint len;
    uint k;
    // Whether x has pairs.
    uint pairs;
};

// How many of the threadgroup's numbers are at least `least`.
inline uint count(thread const uint *numbers, uint least, threadgroup uint *counts, uint turn, uint lane, uint simd) {
    uint mine = 0;
#pragma unroll
    for (uint n = 0; n < 16; n++) {
        mine += numbers[n] >= least ? 1 : 0;
    }
    mine = simd_sum(mine);
    threadgroup uint *part = counts + turn % 2 * 8;
    if (lane == 0) {
        part[simd] = mine;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint all = 0;
    for (uint i = 0; i < 8; i++) {
        all += part[i];
    }
    return all;
}

// The largest number that at least k of the threadgroup's numbers reach; 0 is reached by all.
inline uint reached_by(uint k, thread const uint *numbers, threadgroup uint *counts, uint lane, uint simd) {
    uint reached = 0;
    for (uint bit = 32; bit > 0; bit--) {
        uint next = reached | (1u << (bit - 1));
        reached = count(numbers, next, counts, bit, lane, simd) >= k ? next : reached;
    }
    return reached;
}

kernel void top_k(
    constant TopKShape &shape [[buffer(0)]],
    device const uint *x [[buffer(1)]],
    device uint *out [[buffer(2)]],
    uint block [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simd [[simdgroup_index_in_threadgroup]])
{
    threadgroup uint counts[2 * 8];
    threadgroup atomic_uint taken;
    if (index == 0) {
        atomic_store_explicit(&taken, 0, memory_order_relaxed);
    }
    // 0 where there is no value.
    uint numbers[16], places[16];
#pragma unroll
    for (uint n = 0; n < 16; n++) {
        uint i = block * 4096 + n * 256 + index;
        places[n] = i >= shape.len ? ABSENT : shape.pairs != 0 ? x[2 * i] : i;
        numbers[n] = places[n] == ABSENT ? 0 : order_of(as_type<float>(shape.pairs != 0 ? x[2 * i + 1] : x[i]));
    }
    uint kth = reached_by(shape.k, numbers, counts, lane, simd);
    // Of those that equal the k-th, this many.
    uint larger = kth == 0xffffffffu ? 0 : count(numbers, kth + 1, counts, 0, lane, simd);
    uint wanted = shape.k - min(larger, shape.k);
    uint equal[16];
#pragma unroll
    for (uint n = 0; n < 16; n++) {
        equal[n] = kth != 0 && numbers[n] == kth ? ~places[n] : 0;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint first = 1;
    if (count(equal, 1, counts, 1, lane, simd) > wanted) {
        first = reached_by(wanted, equal, counts, lane, simd);
    }
    device uint *found = out + ulong(block) * shape.k * 2;
#pragma unroll
    for (uint n = 0; n < 16; n++) {
        if (numbers[n] > kth || equal[n] >= first) {
            uint i = block * 4096 + n * 256 + index;
            uint at = atomic_fetch_add_explicit(&taken, 1, memory_order_relaxed);
            found[2 * at] = places[n];
            found[2 * at + 1] = shape.pairs != 0 ? x[2 * i + 1] : x[i];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint at = atomic_load_explicit(&taken, memory_order_relaxed) + index; at < shape.k; at += 256) {
        found[2 * at] = ABSENT;
        found[2 * at + 1] = 0;
    }
}
