// <metal_type_traits>, <metal_limits>, metal::array, metal::uniform.
namespace metal {
template <class T, T V> struct integral_constant {
    static constexpr constant T value = V;
    typedef T value_type;
    typedef integral_constant type;
    MSL_INLINE constexpr operator T() const { return V; }
    MSL_INLINE constexpr T operator()() const { return V; }
};
template <bool B> using bool_constant = integral_constant<bool, B>;
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;

template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;
template <class...> using void_t = void;

template <class T> struct remove_reference { typedef __remove_reference_t(T) type; };
template <class T> struct remove_const { typedef __remove_const(T) type; };
template <class T> struct remove_volatile { typedef __remove_volatile(T) type; };
template <class T> struct remove_cv { typedef __remove_cv(T) type; };
template <class T> struct remove_pointer { typedef __remove_pointer(T) type; };
template <class T> struct remove_extent { typedef __remove_extent(T) type; };
template <class T> struct decay { typedef __decay(T) type; };
template <class T> struct add_const { typedef const T type; };
template <class T> struct add_pointer { typedef T *type; };
template <class T> struct make_signed { typedef __make_signed(T) type; };
template <class T> struct make_unsigned { typedef __make_unsigned(T) type; };
template <class T> struct underlying_type { typedef __underlying_type(T) type; };
template <class T> struct type_identity { typedef T type; };
#define X(NAME) template <class T> using NAME##_t = typename NAME<T>::type;
X(remove_reference) X(remove_const) X(remove_volatile) X(remove_cv) X(remove_pointer) X(remove_extent) X(decay)
X(add_const) X(add_pointer) X(make_signed) X(make_unsigned) X(underlying_type)
#undef X

// Address spaces are qualifiers here: `is_same_v<device float, float>` is false, as it is for Metal.
template <class T, class U> constexpr constant bool is_same_v = __is_same(T, U);
template <class T> constexpr constant bool is_integral_v = __is_integral(T);
template <class T> constexpr constant bool is_floating_point_v =
    __is_same(__remove_cv(T), float) || __is_same(__remove_cv(T), half) || __is_same(__remove_cv(T), bfloat);
template <class T> constexpr constant bool is_arithmetic_v = is_integral_v<T> || is_floating_point_v<T>;
template <class T> constexpr constant bool is_scalar_v = is_arithmetic_v<T> || __is_scalar(T);
template <class T> constexpr constant bool is_signed_v = is_floating_point_v<T> || __is_signed(T);
template <class T> constexpr constant bool is_unsigned_v = __is_unsigned(T);
template <class T> constexpr constant bool is_void_v = __is_void(T);
template <class T> constexpr constant bool is_pointer_v = __is_pointer(T);
template <class T> constexpr constant bool is_reference_v = __is_reference(T);
template <class T> constexpr constant bool is_array_v = __is_array(T);
template <class T> constexpr constant bool is_class_v = __is_class(T);
template <class T> constexpr constant bool is_enum_v = __is_enum(T);
template <class T> constexpr constant bool is_const_v = __is_const(T);
template <class T> constexpr constant bool is_empty_v = __is_empty(T);
template <class T> constexpr constant bool is_trivial_v = __is_trivial(T);
template <class T> constexpr constant bool is_trivially_copyable_v = __is_trivially_copyable(T);
template <class B, class D> constexpr constant bool is_base_of_v = __is_base_of(B, D);
template <class A, class B> constexpr constant bool is_convertible_v = __is_convertible_to(A, B);
template <class T> constexpr constant bool is_vector_v = msl::shape<T>::size > 0;
#define X(NAME) template <class T> struct NAME : bool_constant<NAME##_v<T>> {};
X(is_integral) X(is_floating_point) X(is_arithmetic) X(is_scalar) X(is_signed) X(is_unsigned) X(is_void) X(is_pointer)
X(is_reference) X(is_array) X(is_class) X(is_enum) X(is_const) X(is_empty) X(is_trivial) X(is_trivially_copyable) X(is_vector)
#undef X
template <class T, class U> struct is_same : bool_constant<is_same_v<T, U>> {};
template <class T, class U> struct is_base_of : bool_constant<is_base_of_v<T, U>> {};
template <class T, class U> struct is_convertible : bool_constant<is_convertible_v<T, U>> {};
template <class... B> struct conjunction : bool_constant<(true && ... && B::value)> {};
template <class... B> struct disjunction : bool_constant<(false || ... || B::value)> {};
template <class B> struct negation : bool_constant<!B::value> {};
template <class... B> constexpr constant bool conjunction_v = (true && ... && B::value);
template <class... B> constexpr constant bool disjunction_v = (false || ... || B::value);
template <class T> struct vec_elements : integral_constant<size_t, (msl::shape<T>::size > 0 ? msl::shape<T>::size : 1)> {};
template <class T> struct make_scalar { typedef typename msl::shape<T>::element type; };
template <class T, int N> struct make_vector { typedef vec<T, N> type; };

template <class T> MSL_INLINE constexpr T &&forward(remove_reference_t<T> &x) { return static_cast<T &&>(x); }
template <class T> MSL_INLINE constexpr remove_reference_t<T> &&move(T &&x) { return static_cast<remove_reference_t<T> &&>(x); }
template <class T> T &&declval();
#define X(A) template <class T> MSL_INLINE void swap(A T &a, A T &b) { T t = a; a = b; b = t; }
X(thread) X(device) X(threadgroup)
#undef X

template <class T, T... I> struct integer_sequence { static constexpr size_t size() { return sizeof...(I); } };
template <class T, T N> using make_integer_sequence = __make_integer_seq<integer_sequence, T, N>;
template <size_t... I> using index_sequence = integer_sequence<size_t, I...>;
template <size_t N> using make_index_sequence = make_integer_sequence<size_t, N>;

template <class T> using uniform = T;
template <class T> MSL_INLINE constexpr T make_uniform(T x) { return x; }

// Limits. DIGITS: of the mantissa, or bits without the sign.
template <class T> struct numeric_limits { static constexpr constant bool is_specialized = false; };
#define X(T, MIN, MAX, DIGITS)                                            \
    template <> struct numeric_limits<T> {                                \
        static constexpr constant bool is_specialized = true, is_integer = true, is_exact = true, has_infinity = false, \
                                       is_signed = (T)-1 < (T)0, has_quiet_NaN = false;                              \
        static constexpr constant int digits = DIGITS, radix = 2, digits10 = DIGITS * 3 / 10;                           \
        static constexpr T min() { return MIN; }                          \
        static constexpr T max() { return MAX; }                          \
        static constexpr T lowest() { return MIN; }                       \
        static constexpr T epsilon() { return 0; }                        \
        static constexpr T infinity() { return 0; }                       \
        static constexpr T quiet_NaN() { return 0; }                      \
    };
X(bool, false, true, 1)
X(char, -128, 127, 7)
X(signed char, -128, 127, 7)
X(uchar, 0, 255, 8)
X(short, -32768, 32767, 15)
X(ushort, 0, 65535, 16)
X(int, -2147483647 - 1, 2147483647, 31)
X(uint, 0, 4294967295u, 32)
X(long, -9223372036854775807l - 1, 9223372036854775807l, 63)
X(ulong, 0, 18446744073709551615ul, 64)
X(long long, -9223372036854775807l - 1, 9223372036854775807l, 63)
X(unsigned long long, 0, 18446744073709551615ul, 64)
#undef X
#define X(T, BITS, MIN, MAX, EPSILON, INF, NOT, DIGITS, DIGITS10, EXPONENT)                                                \
    template <> struct numeric_limits<T> {                                                                                 \
        static constexpr constant bool is_specialized = true, is_integer = false, is_exact = false, has_infinity = true,   \
                                       is_signed = true, has_quiet_NaN = true, is_iec559 = true;                           \
        static constexpr constant int digits = DIGITS, radix = 2, digits10 = DIGITS10, max_digits10 = DIGITS10 + 3,        \
                                      max_exponent = EXPONENT, min_exponent = 3 - EXPONENT;                                \
        static constexpr T min() { return __builtin_bit_cast(T, (BITS)MIN); }                                              \
        static constexpr T max() { return __builtin_bit_cast(T, (BITS)MAX); }                                              \
        static constexpr T lowest() { return -max(); }                                                                     \
        static constexpr T epsilon() { return __builtin_bit_cast(T, (BITS)EPSILON); }                                      \
        static constexpr T infinity() { return __builtin_bit_cast(T, (BITS)INF); }                                         \
        static constexpr T quiet_NaN() { return __builtin_bit_cast(T, (BITS)NOT); }                                        \
        static constexpr T signaling_NaN() { return quiet_NaN(); }                                                         \
        static constexpr T denorm_min() { return __builtin_bit_cast(T, (BITS)1); }                                         \
        static constexpr T round_error() { return (T)0.5f; }                                                               \
    };
X(float, uint, 0x00800000, 0x7f7fffff, 0x34000000, 0x7f800000, 0x7fc00000, 24, 6, 128)
X(half, ushort, 0x0400, 0x7bff, 0x1400, 0x7c00, 0x7e00, 11, 3, 16)
X(bfloat, ushort, 0x0080, 0x7f7f, 0x3c00, 0x7f80, 0x7fc0, 8, 2, 128)
#undef X

// Indexed in whatever memory it is.
template <class T, size_t N> struct array {
    T elements[N ? N : 1];
    MSL_INLINE constexpr T &operator[](size_t i) { return elements[i]; }
    MSL_INLINE constexpr const T &operator[](size_t i) const { return elements[i]; }
#define X(A) MSL_INLINE A T &operator[](this A array &self, size_t i) { return self.elements[i]; }
    X(device) X(const device) X(constant) X(threadgroup) X(const threadgroup)
#undef X
    MSL_INLINE static constexpr size_t size() { return N; }
    MSL_INLINE constexpr T *data() { return elements; }
    MSL_INLINE constexpr T *begin() { return elements; }
    MSL_INLINE constexpr T *end() { return elements + N; }
    MSL_INLINE constexpr const T *begin() const { return elements; }
    MSL_INLINE constexpr const T *end() const { return elements + N; }
};
}  // namespace metal
