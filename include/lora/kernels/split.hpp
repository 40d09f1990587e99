#pragma once
/// How a product is split among the threads of an executor.
///
///   y = W0 x + U Z       rows of W0 (whole panels) times samples (whole tiles)
///   dx = W0^T dy + V G   columns of W0 (as many as a panel is high) times samples (whole passes)
///   y += U Z             rows of y (whole panels) times samples (whole tiles)
///   Z = L^T X            samples
///   D += X G^T           rows of D
///
/// Each part is computed by one thread, and a thread that is free takes the next part. No sum is ever split, and the
/// shape alone decides where parts begin. So every element results from the same sequence of operations for any number
/// of threads, and without an executor.

#include "lora/core/executor.hpp"
#include "lora/kernels/columns.hpp"
#include "lora/kernels/panel_layout.hpp"

#include <algorithm>

namespace lora::inline LORA_ABI::detail {

/// The number of parts of a product, from its multiply-adds, scaled to single precision.
struct Split {
  static constexpr double min_part = 1e5;  ///< multiply-adds: a microsecond or two
  static constexpr Index max_parts = 32;

  Index row_parts = 1;
  Index sample_parts = 1;
  double work = 0;

  /// One part if size < threshold, else parts of at least min_rows rows and min_samples samples.
  template <class S>
  static Split choose(double size, double threshold, Index rows, Index min_rows, Index samples, Index min_samples) {
    size *= static_cast<double>(sizeof(S)) / sizeof(float);
    if (size < threshold) return {};
    const Index wanted =
        size > min_part * max_parts ? max_parts : std::max<Index>(static_cast<Index>(size / min_part), 1);
    const Index sample_parts = std::clamp<Index>(samples / min_samples, 1, wanted);
    return {std::clamp<Index>(wanted / sample_parts, 1, std::max<Index>(rows / min_rows, 1)), sample_parts, size};
  }

  Index count() const { return row_parts * sample_parts; }

  /// Part k of `parts` of the range 0, ..., size - 1. boundary(place): the first legal split point at or after `place`.
  static Interval range(Index k, Index parts, Index size, const auto& boundary) {
    return {boundary(size * k / parts), boundary(size * (k + 1) / parts)};
  }
};

/// Multiply-adds below which a product is faster whole. Factors that two cores read are in the caches of both, so
/// whoever writes them next, the optimizer, waits for each cache line.
inline double split_threshold(double least, double per_element, Index factor_elements) {
  return std::max(least, per_element * static_cast<double>(factor_elements));
}

/// Boundaries at multiples of `unit`, and at the end.
inline auto multiples_of(Index unit, Index size) {
  return [=](Index place) { return std::min((place + unit - 1) / unit * unit, size); };
}

/// Calls f(rows, samples) for all parts, or once for everything if there is no executor or it has no free thread.
void for_each_part(Executor* executor, const Split& split, Index rows, const auto& row_boundary, Index samples,
                   const auto& sample_boundary, const auto& f) {
  const auto part = [&](Index k) {
    const Interval some_rows = Split::range(k % split.row_parts, split.row_parts, rows, row_boundary);
    const Interval some_samples = Split::range(k / split.row_parts, split.sample_parts, samples, sample_boundary);
    if (some_rows.first < some_rows.last && some_samples.first < some_samples.last) f(some_rows, some_samples);
  };
  if (executor != nullptr && split.count() > 1 && executor->share(split.count(), part, split.work)) return;
  f(Interval{0, rows}, Interval{0, samples});
}

/// Calls f(columns) for parts of the columns of something that each column has for itself; per_element: about how many
/// multiply-adds an element of it takes.
template <class S>
void for_each_columns(Executor* executor, Index rows, Index cols, double per_element, const auto& f) {
  const double work = per_element * static_cast<double>(rows) * static_cast<double>(cols);
  const Split split = Split::choose<S>(work, 2.5e5, 1, 1, cols, 1);
  for_each_part(executor, split, 1, multiples_of(1, 1), cols, multiples_of(1, cols),
                [&](Interval, Interval columns) { f(columns); });
}

inline auto columns_in(auto& matrix, Interval range) {
  return middle_columns(matrix, range.first, range.last - range.first);
}
inline auto rows_in(auto& matrix, Interval range) { return middle_rows(matrix, range.first, range.last - range.first); }

}  // namespace lora::inline LORA_ABI::detail
