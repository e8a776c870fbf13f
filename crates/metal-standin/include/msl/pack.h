// Packed vectors of 3 (those of 2 and 4 are in types.h), packing and unpacking.
#define X(T)                                                                                                \
    struct packed_##T##3 {                                                                                  \
        T x, y, z;                                                                                          \
        packed_##T##3() = default;                                                                          \
        MSL_CONSTRUCTORS(packed_##T##3)                                                                     \
        MSL_ASSIGNMENTS(packed_##T##3)                                                                      \
        MSL_INLINE constexpr packed_##T##3(T a, T b, T c) : x(a), y(b), z(c) {}                             \
        MSL_INLINE constexpr packed_##T##3(T##3 v) : x(v.x), y(v.y), z(v.z) {}                              \
        MSL_INLINE constexpr packed_##T##3(T v) : x(v), y(v), z(v) {}                                       \
        MSL_INLINE constexpr operator T##3() const { return T##3{x, y, z}; }                                \
        MSL_INLINE operator T##3(this const device packed_##T##3 &s) { return T##3{s.x, s.y, s.z}; }        \
        MSL_INLINE operator T##3(this constant packed_##T##3 &s) { return T##3{s.x, s.y, s.z}; }            \
        MSL_INLINE operator T##3(this const threadgroup packed_##T##3 &s) { return T##3{s.x, s.y, s.z}; }   \
        MSL_INLINE T &operator[](int i) { return (&x)[i]; }                                                 \
        MSL_INLINE T operator[](int i) const { return (&x)[i]; }                                            \
        MSL_INLINE device T &operator[](this device packed_##T##3 &s, int i) { return (&s.x)[i]; }          \
        MSL_INLINE T operator[](this const device packed_##T##3 &s, int i) { return (&s.x)[i]; }            \
        MSL_INLINE T operator[](this constant packed_##T##3 &s, int i) { return (&s.x)[i]; }                \
        MSL_INLINE threadgroup T &operator[](this threadgroup packed_##T##3 &s, int i) { return (&s.x)[i]; } \
    };                                                                                                      \
    namespace metal { using ::packed_##T##3; }
MSL_NUMBERS(X)
#undef X
#define X(OP)                                                                                     \
    MSL_INLINE float3 operator OP(packed_float3 a, packed_float3 b) { return (float3)a OP(float3) b; } \
    MSL_INLINE float3 operator OP(packed_float3 a, float3 b) { return (float3)a OP b; }           \
    MSL_INLINE float3 operator OP(float3 a, packed_float3 b) { return a OP(float3) b; }           \
    MSL_INLINE float3 operator OP(packed_float3 a, float b) { return (float3)a OP b; }            \
    MSL_INLINE float3 operator OP(float a, packed_float3 b) { return a OP(float3) b; }
X(+) X(-) X(*) X(/)
#undef X

namespace metal {
MSL_INLINE float4 unpack_unorm4x8_to_float(uint x) { return float4{(float)(x & 255), (float)(x >> 8 & 255), (float)(x >> 16 & 255), (float)(x >> 24)} / 255.0f; }
MSL_INLINE float4 unpack_snorm4x8_to_float(uint x) {
    return max(float4{(float)(char)x, (float)(char)(x >> 8), (float)(char)(x >> 16), (float)(char)(x >> 24)} / 127.0f, float4(-1.0f));
}
MSL_INLINE half4 unpack_unorm4x8_to_half(uint x) { return __builtin_convertvector(unpack_unorm4x8_to_float(x), half4); }
MSL_INLINE half4 unpack_snorm4x8_to_half(uint x) { return __builtin_convertvector(unpack_snorm4x8_to_float(x), half4); }
MSL_INLINE uint pack_float_to_unorm4x8(float4 v) {
    const float4 s = rint(saturate(v) * 255.0f);
    return (uint)s.x | (uint)s.y << 8 | (uint)s.z << 16 | (uint)s.w << 24;
}
}  // namespace metal
