// to = from: what this device's memory can do, for the speed of other kernels to be compared with.
//
//   from, to: [len] times 16 bytes
//   a thread: 4 pieces of 16 bytes, 256 apart; a threadgroup: 1,024 pieces; threadgroups: [len / 1,024]

#include <metal_stdlib>
using namespace metal;

kernel void copy(
    constant uint &len [[buffer(0)]],
    device const uint4 *from [[buffer(1)]],
    device uint4 *to [[buffer(2)]],
    uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]])
{
    uint first = group * 1024 + index;
    uint4 pieces[4];
#pragma unroll
    for (uint i = 0; i < 4; i++) {
        if (first + i * 256 < len) {
            pieces[i] = from[first + i * 256];
        }
    }
#pragma unroll
    for (uint i = 0; i < 4; i++) {
        if (first + i * 256 < len) {
            to[first + i * 256] = pieces[i];
        }
    }
}
