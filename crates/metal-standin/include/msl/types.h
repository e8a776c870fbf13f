// Scalars and vectors. Vectors are clang's ext_vector_type: swizzles, arithmetic and alignment are Metal's; a vector of 3
// takes the room of 4.
typedef __UINT8_TYPE__ uchar;
typedef __UINT16_TYPE__ ushort;
typedef __UINT32_TYPE__ uint;
typedef unsigned long ulong;
typedef __INT8_TYPE__ int8_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __INT16_TYPE__ int16_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __INTPTR_TYPE__ intptr_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef _Float16 half;
typedef _Float16 float16_t;
typedef float float32_t;
typedef __bf16 bfloat;

namespace metal {
template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));
using ::bfloat;
using ::half;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::ptrdiff_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::uintptr_t;
using ::ulong;
using ::ushort;
}  // namespace metal

// Calls X(T) for each type that has vectors.
#define MSL_FLOATS(X) X(float) X(half) X(bfloat)
#define MSL_INTS(X) X(char) X(uchar) X(short) X(ushort) X(int) X(uint) X(long) X(ulong)
#define MSL_NUMBERS(X) MSL_FLOATS(X) MSL_INTS(X)

// Programs bring functions of one bfloat themselves, as Metal's library had none: ours are templates, and give way.
#define MSL_OURS_float
#define MSL_OURS_half
#define MSL_OURS_bfloat template <int = 0>
#define MSL_OURS_char
#define MSL_OURS_uchar
#define MSL_OURS_short
#define MSL_OURS_ushort
#define MSL_OURS_int
#define MSL_OURS_uint
#define MSL_OURS_long
#define MSL_OURS_ulong

#define X(T)                                                                                                     \
    typedef T T##2 __attribute__((ext_vector_type(2)));                                                          \
    typedef T T##3 __attribute__((ext_vector_type(3)));                                                          \
    typedef T T##4 __attribute__((ext_vector_type(4)));                                                          \
    typedef T packed_##T##2 __attribute__((ext_vector_type(2), aligned(sizeof(T))));                             \
    typedef T packed_##T##4 __attribute__((ext_vector_type(4), aligned(sizeof(T))));                             \
    namespace metal {                                                                                            \
    using ::T##2;                                                                                                \
    using ::T##3;                                                                                                \
    using ::T##4;                                                                                                \
    using ::packed_##T##2;                                                                                       \
    using ::packed_##T##4;                                                                                       \
    }
MSL_NUMBERS(X)
#undef X
