#pragma once
/// The inline namespace of the library. Its name encodes what two files of a program must have in common to share a
/// type or function of it:
///
///   lora::v0_1_0_packets64_eigen3_4      library version, bytes of the widest packets, Eigen version
///
/// So if two files are compiled with different -march or Eigen, an object that one constructs and the other reads is an
/// undefined symbol at link time instead of a crash at run time. Files that share nothing of the library still link.
/// Users write lora:: and never see it.

// What every header needs of the compiler, checked before anything else can fail.
#if defined(_MSVC_LANG) ? _MSVC_LANG < 202002L : __cplusplus < 202002L
#error "lora needs C++20: compile with -std=c++20, or in CMake target_compile_features(TARGET PRIVATE cxx_std_20)"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "lora needs NaN and infinity, which -ffast-math and -Ofast take away: checks of bad input would not see them"
#endif
#if defined(__GNUC__) && !defined(__cpp_exceptions)
#error "lora reports errors by exceptions: compile without -fno-exceptions"
#endif

#include "lora/version.hpp"

#include <Eigen/Core>

// Begins an instance of what lora::compiled compiles once for a program (compiled.hpp): compiled.cpp has those for
// float, compiled_double.cpp those for double, because one process for both would need 1.2 GB.
#ifndef LORA_COMPILED_FLOAT
#define LORA_COMPILED_FLOAT extern template
#endif
#ifndef LORA_COMPILED_DOUBLE
#define LORA_COMPILED_DOUBLE extern template
#endif

#if defined(EIGEN_VECTORIZE_AVX512)
#define LORA_DETAIL_PACKETS 64
#elif defined(EIGEN_VECTORIZE_AVX)
#define LORA_DETAIL_PACKETS 32
#elif defined(EIGEN_VECTORIZE)
#define LORA_DETAIL_PACKETS 16
#else
#define LORA_DETAIL_PACKETS 0
#endif

#define LORA_DETAIL_JOIN(major, minor, patch, packets, world, eigen) \
  v##major##_##minor##_##patch##_packets##packets##_eigen##world##_##eigen
#define LORA_DETAIL_NAME(major, minor, patch, packets, world, eigen) \
  LORA_DETAIL_JOIN(major, minor, patch, packets, world, eigen)

#define LORA_ABI                                                                                    \
  LORA_DETAIL_NAME(LORA_VERSION_MAJOR, LORA_VERSION_MINOR, LORA_VERSION_PATCH, LORA_DETAIL_PACKETS, \
                   EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION)
