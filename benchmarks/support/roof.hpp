#pragma once
/// What the machine could do at most, measured beside what is done: multiply-adds and bytes read, of one thread.

#include "lora/core/huge_pages.hpp"
#include "lora/core/packet.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace benchmarks {

/// Seconds of the fastest of `repetitions` calls: a roof is what is reached at best.
inline double fastest(int repetitions, auto&& f) {
  double best = 1e30;
  for (int k = 0; k < repetitions; ++k) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// Floating-point operations per second of multiply-adds on numbers that stay in registers (two for each).
inline double multiply_add_peak() {
  using Simd = lora::detail::Simd<float>;
  constexpr int chains = 12;  // enough independent ones for latency 4 on 2 units, few enough for 16 registers
  constexpr int rounds = 200000;
  typename Simd::Packet sums[chains], last = Simd::zero();
  for (auto& sum : sums) sum = Simd::zero();
  volatile float unknown = 1;  // so that the compiler cannot multiply ahead
  const float one = unknown, tiny = 1e-9F * one;
  const auto a = Simd::broadcast<1>(&one), b = Simd::broadcast<1>(&tiny);
  const double seconds = fastest(30, [&] {
    for (int round = 0; round < rounds; ++round) {
      for (auto& sum : sums) sum = Simd::multiply_add(sum, a, b);
    }
  });
  for (const auto& sum : sums) last = Simd::add(last, sum);
  unknown = Simd::sum(last);
  return 2.0 * rounds * chains * Simd::lanes / seconds;
}

/// Bytes per second of reading a buffer of this size over and over.
inline double read_bandwidth(std::size_t bytes) {
  const auto count = static_cast<Eigen::Index>(std::max<std::size_t>(bytes / sizeof(float), 1024));
  Eigen::VectorXf buffer(count);
  lora::detail::prefer_huge_pages(buffer.data(), sizeof(float) * std::size_t(count));  // as a packed weight does
  buffer.setConstant(1e-3F);
  const int inner = std::max(1, static_cast<int>((std::size_t(1) << 26) / (sizeof(float) * std::size_t(count))));
  volatile float sink = 0;
  const double seconds = fastest(9, [&] {
    float sum = 0;
    for (int k = 0; k < inner; ++k) sum += buffer.sum();
    sink = sum;
  });
  return double(sizeof(float)) * double(count) * inner / seconds;
}

}  // namespace benchmarks
