// Objects of class type in `device`, `constant` and `threadgroup` memory. C++ copies through `const T &`, which cannot
// refer there, so the source pass writes MSL_COPIES(NAME) into every struct of the program: one copy constructor an
// address space, and assignment to an object in each.
namespace msl {
template <int Align> struct word { typedef uint type; };
template <> struct word<1> { typedef uchar type; };
template <> struct word<2> { typedef ushort type; };

// Word by word, unrolled: the optimizer turns it into the widest moves that the alignment allows.
#define X(A)                                                                        \
    template <class T> MSL_INLINE void copy_object(A T &to, const T &from) {        \
        typedef typename word<alignof(T)>::type w;                                  \
        _Pragma("unroll") for (unsigned i = 0; i < sizeof(T) / sizeof(w); i++)      \
            ((A w *)&to)[i] = ((const w *)&from)[i];                                \
    }
X(device)
X(threadgroup)
#undef X
#define X(A)                                                                        \
    template <class T> MSL_INLINE void fetch_object(T &to, const A T &from) {       \
        typedef typename word<alignof(T)>::type w;                                  \
        _Pragma("unroll") for (unsigned i = 0; i < sizeof(T) / sizeof(w); i++)      \
            ((w *)&to)[i] = ((const A w *)&from)[i];                                \
    }
X(device)
X(constant)
X(threadgroup)
#undef X
}  // namespace msl

// NAME: what copying a struct wants. It needs MSL_CONSTRUCTORS or MSL_UNION_CONSTRUCTORS beside it, or the struct's own.
// Templates, so that `s = {1, 2}` means a NAME in thread memory.
#define MSL_ASSIGNMENT_FROM(NAME, FROM)                                            \
    template <class MSL_S>                                                         \
        requires(__is_same(MSL_S, NAME))                                           \
    MSL_LOCAL_ASSIGNMENT_FROM(MSL_S, NAME, FROM)
#define MSL_LOCAL_ASSIGNMENT_FROM(S, NAME, FROM)                                   \
    MSL_INLINE NAME &operator=(FROM S &from) {                                     \
        msl::fetch_object(*this, from);                                            \
        return *this;                                                              \
    }
#define MSL_ASSIGNMENT_TO(NAME, TO)                                                \
    MSL_INLINE TO NAME &operator=(this TO NAME &self, NAME from) {                 \
        msl::copy_object(self, from);                                              \
        return self;                                                               \
    }
#define MSL_ASSIGNMENTS(NAME)                                                      \
    NAME &operator=(const NAME &) = default;                                       \
    MSL_ASSIGNMENT_FROM(NAME, const device)                                        \
    MSL_ASSIGNMENT_FROM(NAME, constant)                                            \
    MSL_ASSIGNMENT_FROM(NAME, const threadgroup)                                   \
    MSL_ASSIGNMENT_TO(NAME, device)                                                \
    MSL_ASSIGNMENT_TO(NAME, threadgroup)
// A struct inside a function has no templates.
#define MSL_LOCAL_ASSIGNMENTS(NAME)                                                \
    NAME &operator=(const NAME &) = default;                                       \
    MSL_LOCAL_ASSIGNMENT_FROM(NAME, NAME, const device)                            \
    MSL_LOCAL_ASSIGNMENT_FROM(NAME, NAME, constant)                                \
    MSL_LOCAL_ASSIGNMENT_FROM(NAME, NAME, const threadgroup)                       \
    MSL_ASSIGNMENT_TO(NAME, device)                                                \
    MSL_ASSIGNMENT_TO(NAME, threadgroup)
#define MSL_CONSTRUCTORS(NAME)            \
    NAME(const NAME &) = default;         \
    NAME(const device NAME &) = default;  \
    NAME(constant NAME &) = default;      \
    NAME(const threadgroup NAME &) = default;
// A struct with an anonymous union has no default copy from another address space.
#define MSL_UNION_CONSTRUCTORS(NAME)                                                       \
    NAME(const NAME &) = default;                                                          \
    MSL_INLINE NAME(const device NAME &from) { msl::fetch_object(*this, from); }           \
    MSL_INLINE NAME(constant NAME &from) { msl::fetch_object(*this, from); }               \
    MSL_INLINE NAME(const threadgroup NAME &from) { msl::fetch_object(*this, from); }
