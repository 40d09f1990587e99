#pragma once
/// Inverted dropout (Srivastava et al. 2014, JMLR 15) whose mask is computed from a counter and never stored.

#include "lora/core/pass.hpp"
#include "lora/core/random.hpp"

#include <array>
#include <cmath>
#include <cstdint>

namespace lora {

/// Entry (i, j) of a mask is 0 with probability p, else 1 / (1 - p), so that the expected value of mask .* x is x.
///
/// It depends on (seed, stream, step, i, first_sample + j) alone: backward recomputes the mask of forward in whatever
/// blocks it likes. `stream` tells the layers of a model apart.
class DropoutMask {
 public:
  DropoutMask(double probability, std::uint64_t stream, const Pass& pass)
      : drop_below_(static_cast<std::uint64_t>(std::ldexp(probability, 32))),
        keep_(1.0 / (1.0 - probability)),
        first_sample_(static_cast<std::uint64_t>(pass.first_sample)) {
    const auto key =
        philox4x32({low(stream), high(stream), low(pass.step), high(pass.step)}, {low(pass.seed), high(pass.seed)});
    key_ = {key[0], key[1]};
  }

  /// Writes the mask of the samples first, first + 1, ... of the batch.   mask (features, samples).
  template <class Derived>
  void fill(Eigen::MatrixBase<Derived>& mask, Index first) const {
    using S = typename Derived::Scalar;
    for (Index j = 0; j < mask.cols(); ++j) {
      const std::uint64_t sample = first_sample_ + static_cast<std::uint64_t>(first + j);
      for (Index i = 0; i < mask.rows(); i += 4) {
        const auto block = static_cast<std::uint64_t>(i / 4);
        const auto bits = philox4x32({low(block), high(block), low(sample), high(sample)}, key_);
        for (Index k = i; k < mask.rows() && k < i + 4; ++k) {
          mask(k, j) = bits[static_cast<std::size_t>(k - i)] < drop_below_ ? S(0) : S(keep_);
        }
      }
    }
  }

 private:
  static constexpr std::uint32_t low(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
  static constexpr std::uint32_t high(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

  std::uint64_t drop_below_;
  double keep_;
  std::uint64_t first_sample_;
  std::array<std::uint32_t, 2> key_{};
};

}  // namespace lora
