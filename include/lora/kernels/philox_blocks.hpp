#pragma once
/// Random bits of many counters at once: philox4x32 (core/random.hpp) in vector registers.

#include "lora/core/random.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>  // the other takes half a second to compile
#endif

namespace lora::inline LORA_ABI::detail {

#if defined(__GNUC__)
/// The words of as many counters, in the lower half of each element. What is in the upper half does not matter.
struct PhiloxWords {
#if defined(__AVX2__)
  typedef std::uint64_t Lanes __attribute__((vector_size(32)));
#else
  typedef std::uint64_t Lanes __attribute__((vector_size(16)));
#endif
  static constexpr std::size_t lanes = sizeof(Lanes) / sizeof(std::uint64_t);

  /// 64-bit products of the lower halves: one instruction, which g++ does not find by itself.
  static Lanes products(const Lanes& a, const Lanes& b) {
#if defined(__AVX2__)
    return reinterpret_cast<Lanes>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return reinterpret_cast<Lanes>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF);
#endif
  }
  /// Both words in the order in which they go into memory.
  static Lanes pairs(const Lanes& a, const Lanes& b) {
    if constexpr (std::endian::native == std::endian::big) return (b & 0xFFFFFFFF) | (a << 32);
    return (a & 0xFFFFFFFF) | (b << 32);
  }
};
#endif

/// Blocks of 128 bits, 32 a word.
inline constexpr std::size_t most_philox_blocks = 16;
using PhiloxBits = std::array<std::uint32_t, 4 * most_philox_blocks>;

/// bits[4 b + k] = word k of philox4x32({first + b, sample}, key), low words first, for b < count and perhaps more.
inline void philox_blocks(std::uint64_t first, std::size_t count, std::uint64_t sample,
                          std::array<std::uint32_t, 2> key, PhiloxBits& bits) {
#if defined(__GNUC__)
  using Philox = PhiloxConstants;
  using Lanes = PhiloxWords::Lanes;
  constexpr std::size_t lanes = PhiloxWords::lanes;
  static_assert(most_philox_blocks % lanes == 0);
  Lanes numbers;
  for (std::size_t lane = 0; lane < lanes; ++lane) numbers[lane] = lane;
  const Lanes none = {}, multiplier0 = none + Philox::multiplier0, multiplier1 = none + Philox::multiplier1;
  const Lanes weyl0 = none + std::uint64_t(Philox::weyl0), weyl1 = none + std::uint64_t(Philox::weyl1);
  for (std::size_t b = 0; b < count; b += lanes) {
    Lanes c0 = numbers + (first + b), c1 = c0 >> 32, c2 = none + sample, c3 = c2 >> 32;
    Lanes key0 = none + std::uint64_t(key[0]), key1 = none + std::uint64_t(key[1]);
    for (int round = 0; round < Philox::rounds; ++round) {
      const Lanes product0 = PhiloxWords::products(c0, multiplier0), product1 = PhiloxWords::products(c2, multiplier1);
      c0 = (product1 >> 32) ^ c1 ^ key0;
      c1 = product1;
      c2 = (product0 >> 32) ^ c3 ^ key1;
      c3 = product0;
      key0 += weyl0;
      key1 += weyl1;
    }
    const Lanes first_half = PhiloxWords::pairs(c0, c1), second_half = PhiloxWords::pairs(c2, c3);
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const std::array<std::uint64_t, 2> block = {first_half[lane], second_half[lane]};
      std::memcpy(bits.data() + 4 * (b + lane), block.data(), sizeof block);
    }
  }
#else
  for (std::size_t b = 0; b < count; ++b) {
    const std::uint64_t number = first + b;
    const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
    const auto block = philox4x32({low(number), low(number >> 32), low(sample), low(sample >> 32)}, key);
    std::copy_n(block.begin(), 4, bits.data() + 4 * b);
  }
#endif
}

}  // namespace lora::inline LORA_ABI::detail
