#pragma once
/// Inverted dropout (Srivastava et al. 2014, JMLR 15) whose mask is computed from a counter and never stored.

#include "lora/core/buffer.hpp"
#include "lora/core/pass.hpp"
#include "lora/core/random.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/philox_blocks.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>

namespace lora::inline LORA_ABI {

/// Entry (i, j) of a mask is 0 with probability p, else 1 / (1 - p), so that the expected value of mask .* x is x.
///
/// It depends on (seed, stream, step, i, sample of column j) alone: backward recomputes the mask of forward, in blocks
/// of any size. `stream` tells the layers of a model apart. Column j is sample first_sample + j of the pass, or
/// first_sample + columns[j]; those must live as long as this object.
class DropoutMask {
 public:
  DropoutMask(double probability, std::uint64_t stream, const Pass& pass)
      : drop_below_(static_cast<std::uint32_t>(std::ldexp(probability, 32))),
        keep_(1.0 / (1.0 - probability)),
        first_sample_(static_cast<std::uint64_t>(pass.first_sample)),
        columns_(pass.columns) {
    const auto key =
        philox4x32({low(stream), high(stream), low(pass.step), high(pass.step)}, {low(pass.seed), high(pass.seed)});
    key_ = {key[0], key[1]};
  }

  /// Writes the mask of the samples first, first + 1, ... of the batch.   mask (features, samples).
  template <class Derived>
  void fill(Eigen::MatrixBase<Derived>& mask, Index first) const {
    using S = typename Derived::Scalar;
    constexpr auto most = static_cast<Index>(std::tuple_size_v<detail::PhiloxBits>);
    const auto keep = static_cast<S>(keep_);
    detail::PhiloxBits bits;
    for (Index j = 0; j < mask.cols(); ++j) {
      const Index column = columns_.empty() ? first + j : columns_[static_cast<std::size_t>(first + j)];
      const std::uint64_t sample = first_sample_ + static_cast<std::uint64_t>(column);
      for (Index i = 0; i < mask.rows(); i += most) {
        const Index count = std::min(most, mask.rows() - i);
        detail::philox_blocks(static_cast<std::uint64_t>(i / 4), static_cast<std::size_t>(count + 3) / 4, sample, key_,
                              bits);
        const auto entry = [&](Index k) { return bits[static_cast<std::size_t>(k)] < drop_below_ ? S(0) : keep; };
        if (count == most) {  // in vector registers
          for (Index k = 0; k < most; ++k) mask.coeffRef(i + k, j) = entry(k);
        } else {
          for (Index k = 0; k < count; ++k) mask.coeffRef(i + k, j) = entry(k);
        }
      }
    }
  }

 private:
  static constexpr std::uint32_t low(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
  static constexpr std::uint32_t high(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

  std::uint32_t drop_below_;
  double keep_;
  std::uint64_t first_sample_;
  std::span<const Index> columns_;
  std::array<std::uint32_t, 2> key_{};
};

/// The input of an adapter: x, or mask .* x in a training pass with dropout, computed one block of samples at a time,
/// so that no second copy of x exists.   x (in, samples)
template <class S, int In = Dynamic>
struct Dropout {
  double probability = 0;
  std::uint64_t stream = 0;  ///< tells the masks of different layers apart

  template <int N>
  using Input = Eigen::Ref<const Matrix<S, In, N>>;

  /// Temporary memory of a pass: a block of the mask, and of the masked input.
  template <int N>
  struct Scratch {
    Buffer<S, In, N> mask, block;
    Index bytes() const { return mask.bytes() + block.bytes(); }
  };

  bool drops(const Pass& pass) const { return pass.training && probability > 0; }

  /// Calls f(first, input) with x itself, or with mask .* x for consecutive blocks of samples.
  template <int N>
  void for_each_input(const Input<N>& x, const Pass& pass, Scratch<N>& scratch, auto&& f) const {
    if (!drops(pass)) return f(Index(0), x);
    for_each_mask<N>(x.rows(), x.cols(), pass, scratch, [&](Index first, const auto& mask) {
      auto block = scratch.block.resize(x.rows(), mask.cols());
      for (Index j = 0; j < mask.cols(); ++j) {
        detail::multiply_each(&mask(0, j), &x.coeffRef(0, first + j), x.rows(), &block(0, j));
      }
      f(first, Input<N>(block));
    });
  }

  /// forward: input = mask .* x   =>   dx += mask .* g. g(first, block) sets block to the gradient of that input.
  template <int N>
  void add_gradient(auto& dx, const Pass& pass, Scratch<N>& scratch, auto&& g) const {
    for_each_mask<N>(dx.rows(), dx.cols(), pass, scratch, [&](Index first, const auto& mask) {
      auto block = scratch.block.resize(dx.rows(), mask.cols());
      g(first, block);
      for (Index j = 0; j < mask.cols(); ++j) {
        detail::add_each_product(&mask(0, j), &std::as_const(block).coeffRef(0, j), dx.rows(), &dx(0, first + j));
      }
    });
  }

 private:
  /// Calls f(first, mask) for consecutive blocks of samples; a compile-time number of samples is one block.
  template <int N>
  void for_each_mask(Index rows, Index samples, const Pass& pass, Scratch<N>& scratch, auto&& f) const {
    const DropoutMask all(probability, stream, pass);
    const Index most = N == Dynamic ? std::min<Index>(samples, 64) : samples;
    for (Index first = 0; first < samples; first += most) {
      auto mask = scratch.mask.resize(rows, std::min(most, samples - first));
      all.fill(mask, first);
      f(first, mask);
    }
  }
};

}  // namespace lora::inline LORA_ABI
