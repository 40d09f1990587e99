#pragma once
/// Dropout of a layer's outputs, in place.

#include "lora/adapters/dropout.hpp"
#include "lora/core/scratch.hpp"
#include "lora/kernels/packed_product.hpp"

#include <algorithm>
#include <cstdint>

namespace lora::inline LORA_ABI::detail {

/// y = mask .* y in a training pass, each segment with the mask of its own seed, step and samples; nothing otherwise.
/// forward: y = mask .* h   =>   dh = mask .* dy: the same call, with the same pass.
template <class S>
void drop(MutableColumns<S> y, double probability, std::uint64_t stream, const Pass& pass, Scratch& scratch) {
  if (!pass.training || probability <= 0) return;
  constexpr Index most = 64;
  const auto borrowed = scratch.borrow<S>();
  const auto run = [&](Index first, Index count, const Pass& own) {
    const DropoutMask all(probability, stream, own);
    for (Index j = 0; j < count; j += most) {
      auto mask = borrowed->resize(y.rows(), std::min(most, count - j));
      all.fill(mask, j);
      auto some = y.middleCols(first + j, mask.cols());
      some = some.cwiseProduct(mask);
    }
  };
  if (pass.segments.empty()) return run(0, y.cols(), pass);
  for (const Segment& segment : pass.segments) run(segment.first, segment.count, pass_of(pass, segment));
}

}  // namespace lora::inline LORA_ABI::detail
