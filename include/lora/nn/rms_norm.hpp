#pragma once
/// Root mean square normalization of each column, with a weight.

#include "lora/nn/detail/norm.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// y = g .* h,   h = x / sqrt(mean x^2 + epsilon),   the mean over the column
///
///   x, y (features, samples), g (features)
///   dx = (g' - h mean(g' h)) / sqrt(mean x^2 + epsilon),  g' = g .* dy       dg += sum of dy .* h
///
/// "weight" is listed under PyTorch's name, and frozen until it is made trainable. A pass keeps one number a column and
/// reads the input again. In float and double the bits of a column depend on its values alone. Cost: 2 reads of x
/// forward, 2 of x and dy backward; no product.
///
/// Source: Zhang & Sennrich 2019, arXiv:1910.07467. Llama's norm, with an epsilon of 1e-5 or 1e-6, and T5's.
template <class S>
class RmsNorm : public detail::Norm<RmsNorm<S>, S, false> {
  using Base = detail::Norm<RmsNorm<S>, S, false>;

 public:
  /// g = 1. Throws ShapeError if features is below 1, ConfigError unless epsilon is positive and finite.
  explicit RmsNorm(Index features, double epsilon = 1e-6) : Base(Base::filled(features, 1), {}, epsilon) {}
  /// A given g. Throws as above.
  explicit RmsNorm(Vector<S> weight, double epsilon = 1e-6) : Base(std::move(weight), {}, epsilon) {}

  static constexpr const char* layer_name() { return "RmsNorm"; }
  static void visit(auto& self, auto&& f) { f("weight", self.weight_); }
};

}  // namespace lora::inline LORA_ABI
