// <metal_geometric>.
namespace metal {
#define X(T)                                                                                       \
    MSL_INLINE T dot(T##2 a, T##2 b) { return a.x * b.x + a.y * b.y; }                             \
    MSL_INLINE T dot(T##3 a, T##3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }                 \
    MSL_INLINE T dot(T##4 a, T##4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }     \
    MSL_INLINE T##3 cross(T##3 a, T##3 b) {                                                        \
        return T##3{(T)(a.y * b.z - a.z * b.y), (T)(a.z * b.x - a.x * b.z), (T)(a.x * b.y - a.y * b.x)}; \
    }                                                                                              \
    MSL_LENGTHS(T, T##2) MSL_LENGTHS(T, T##3) MSL_LENGTHS(T, T##4)
#define MSL_LENGTHS(T, V)                                                    \
    MSL_INLINE T length_squared(V a) { return dot(a, a); }                   \
    MSL_INLINE T length(V a) { return sqrt(dot(a, a)); }                     \
    MSL_INLINE T distance(V a, V b) { return length(a - b); }                \
    MSL_INLINE T distance_squared(V a, V b) { return dot(a - b, a - b); }    \
    MSL_INLINE V normalize(V a) { return a * rsqrt(dot(a, a)); }             \
    MSL_INLINE V reflect(V i, V n) { return i - (T)(2 * dot(n, i)) * n; }    \
    MSL_INLINE V faceforward(V n, V i, V r) { return dot(r, i) < 0 ? n : -n; }
MSL_FLOATS(X)
#undef X
namespace fast { using metal::distance; using metal::length; using metal::normalize; }
namespace precise { using metal::distance; using metal::length; using metal::normalize; }
}  // namespace metal
