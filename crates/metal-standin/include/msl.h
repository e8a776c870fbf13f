// The Metal standard library of the stand-in, in reading order. Compiled once into a precompiled header and put before
// every program. Written for clang in C++23 mode: a method for objects in `device` memory takes its object as an
// explicit parameter (`this const device T &self`), which is how it gets an address space.
#pragma once
#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define restrict __restrict
#define MSL_INLINE inline __attribute__((always_inline))

#include "msl/types.h"
#include "msl/objects.h"
#include "msl/make.h"
#include "msl/traits.h"
#include "msl/scalar_math.h"
#include "msl/math.h"
#include "msl/integer.h"
#include "msl/relational.h"
#include "msl/geometric.h"
#include "msl/matrix.h"
#include "msl/pack.h"
#include "msl/sync.h"
#include "msl/simd.h"
#include "msl/atomic.h"
#include "msl/simdgroup_matrix.h"
#include "msl/entry.h"
#include "msl/builtins.h"
