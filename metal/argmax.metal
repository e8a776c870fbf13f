// The largest of many values and where it is: what greedy decoding wants of the logits, in 8 bytes instead of 600 KB.
//
//   x: [len], found: [1 + blocks] pairs of an index and a value's bits: the answer, then each block's; answer: it once more,
//   where the processor reads it, while the next token's `embed` reads it from `found`
//   argmax_blocks: a threadgroup of 256 threads looks through 4,096 values; threadgroups: [len / 4,096]
//   argmax_rest:   one threadgroup looks through what those have found
//
// The first of equal values wins, and NaN counts as the largest of all: values are compared by their place in that order
// (order.h), then indices. 4 bytes are read for each value, once.

#include "order.h"

struct ArgmaxShape {
    uint len;
    uint blocks;
};

struct Best {
    uint order, index;
};

inline Best better(Best a, Best b) {
    return b.order > a.order || (b.order == a.order && b.index < a.index) ? b : a;
}

// ANCHOR: best_of_threadgroup
// The best of a threadgroup of 256 threads, in all of them.
inline Best best_of_threadgroup(Best best, threadgroup Best *bests, uint lane, uint group) {
    uint order = simd_max(best.order);
    best.index = simd_min(best.order == order ? best.index : 0xffffffffu);
    best.order = order;
    if (lane == 0) {
        bests[group] = best;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    best = bests[0];
    for (uint i = 1; i < 8; i++) {
        best = better(best, bests[i]);
    }
    return best;
}
// ANCHOR_END: best_of_threadgroup

kernel void argmax_blocks(
    constant ArgmaxShape &shape [[buffer(0)]],
    device const float *x [[buffer(1)]],
    device uint *found [[buffer(2)]],
    uint block [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint group [[simdgroup_index_in_threadgroup]])
{
    // EXERCISE: m6.argmax
    threadgroup Best bests[8];
    Best best = {0, 0xffffffffu};
    uint end = min((block + 1) * 4096, shape.len);
    for (uint i = block * 4096 + index; i < end; i += 256) {
        best = better(best, Best{order_of(x[i]), i});
    }
    best = best_of_threadgroup(best, bests, lane, group);
    if (index == 0) {
        found[2 + 2 * block] = best.index;
        found[3 + 2 * block] = as_type<uint>(x[best.index]);
    }
    // EXERCISE_END
}

kernel void argmax_rest(
    constant ArgmaxShape &shape [[buffer(0)]],
    device uint *found [[buffer(1)]],
    device uint *answer [[buffer(2)]],
    uint index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint group [[simdgroup_index_in_threadgroup]])
{
    threadgroup Best bests[8];
    Best best = {0, 0xffffffffu};
    for (uint i = index; i < shape.blocks; i += 256) {
        best = better(best, Best{order_of(as_type<float>(found[3 + 2 * i])), found[2 + 2 * i]});
    }
    best = best_of_threadgroup(best, bests, lane, group);
    if (index == 0) {
        // Its block has the value.
        uint block = best.index / 4096;
        found[0] = answer[0] = best.index;
        found[1] = answer[1] = found[3 + 2 * block];
    }
}
