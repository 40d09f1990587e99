#pragma once
/// What the machine could do at most, measured beside what is done: multiply-adds and bytes read, of one thread.

#include "lora/kernels/huge_pages.hpp"
#include "lora/kernels/packet.hpp"

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

/// `rounds` multiply-adds in each of twelve chains: enough independent ones for latency 4 on 2 units, few enough for 16
/// registers. Each product needs the sum before it and each chain has its own numbers, so nothing is computed ahead or
/// left out.
inline float multiply_add_chains(float factor, int rounds) {
  using Simd = lora::detail::Simd<float>;
  const auto a = Simd::broadcast<1>(&factor);
  typename Simd::Packet sums[12] = {a};
  for (int k = 1; k < 12; ++k) sums[k] = Simd::add(sums[k - 1], a);
  for (int round = 0; round < rounds; ++round) {
    for (auto& sum : sums) sum = Simd::multiply_add(sum, a, sum);
  }
  for (int k = 1; k < 12; ++k) sums[0] = Simd::add(sums[0], sums[k]);
  return Simd::sum(sums[0]);
}

/// Floating-point operations per second of multiply-adds on numbers that stay in registers (two for each).
inline double multiply_add_peak(int repetitions = 30) {
  constexpr int rounds = 200000;
  volatile float factor = 1e-9F, result = 0;
  const double seconds = fastest(repetitions, [&] { result = multiply_add_chains(factor, rounds); });
  static_cast<void>(result);
  return 2.0 * rounds * 12 * lora::detail::Simd<float>::lanes / seconds;
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
