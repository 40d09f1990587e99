#pragma once
/// The inline namespace of the library. Its name encodes what two files of a program must have in common to share a
/// type or function of it:
///
///   lora::v0_1_0_packets64_eigen3_4      library version, bytes of the widest packets, Eigen version
///
/// So if two files are compiled with different -march or Eigen, an object that one constructs and the other reads is an
/// undefined symbol at link time instead of a crash at run time. Files that share nothing of the library still link.
/// Users write lora:: and never see it.

#include "lora/version.hpp"

#include <Eigen/Core>

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
