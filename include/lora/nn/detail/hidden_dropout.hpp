#pragma once
/// Dropout of a layer's outputs, in place.

#include "lora/adapters/dropout.hpp"
#include "lora/core/scratch.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/packed_product.hpp"
#include "lora/nn/detail/for_each_job.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace lora::inline LORA_ABI::detail {

inline constexpr Index mask_columns = 64;  ///< of a mask; there is one for each thread
inline constexpr double mask_cost = 8;     ///< of an element, about as many multiply-adds

/// y = mask .* y in a training pass, each segment with the mask of its own seed, step and samples; nothing otherwise.
/// forward: y = mask .* h   =>   dh = mask .* dy: the same call, with the same pass.
template <class S>
void drop(MutableColumns<S> y, double probability, std::uint64_t stream, const Pass& pass, Scratch& scratch) {
  if (!pass.training || probability <= 0) return;
  const auto run = [&](Index first, Index count, const Pass& own) {
    const DropoutMask all(probability, stream, own);
    const double work = mask_cost * static_cast<double>(y.rows()) * static_cast<double>(count);
    constexpr Index most = mask_columns;
    for_each_job<S>((count + most - 1) / most, y.rows() * std::min(most, count), scratch, pass.executor, work,
                    [&](Index k, S* memory) {
                      const Index j = k * most;
                      Eigen::Map<Matrix<S>> mask(memory, y.rows(), std::min(most, count - j));
                      all.fill(mask, j);
                      for (Index c = 0; c < mask.cols(); ++c) {
                        S* const some = &y(0, first + j + c);
                        multiply_each(some, std::as_const(mask).data() + c * y.rows(), y.rows(), some);
                      }
                    });
  };
  if (pass.segments.empty()) return run(0, y.cols(), pass);
  for (const Segment& segment : pass.segments) run(segment.first, segment.count, pass_of(pass, segment));
}

}  // namespace lora::inline LORA_ABI::detail
