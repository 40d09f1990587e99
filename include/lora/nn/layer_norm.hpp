#pragma once
/// Layer normalization of each column, with a weight and a bias.

#include "lora/nn/detail/norm.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// y = g .* h + b,   h = (x - mean) / sqrt(var + epsilon),   mean and var those of the column, var divided by features
///
///   x, y (features, samples), g, b (features)
///   dx = (g' - mean g' - h mean(g' h)) / sqrt(var + epsilon),  g' = g .* dy
///   dg += sum of dy .* h,   db += sum of dy
///
/// ```cpp
/// #include <lora/nn/layer_norm.hpp>
///
/// int main() {
///   lora::LayerNorm<float> norm(64);         // g = 1, b = 0, not trained
///   norm.weight().trainable = true;          // LN-tuning
///   lora::LayerNorm<float>::Cache cache;
///   const Eigen::MatrixXf x = Eigen::MatrixXf::Random(64, 3), y = norm.forward(x, cache);
///   norm.backward(x, y, cache);
///   return norm.weight().grad.size() == 64 && norm.bias().grad.size() == 0 ? 0 : 1;
/// }
/// ```
///
/// "weight" and "bias" are listed under PyTorch's names, and are frozen until they are made trainable. A pass keeps
/// three numbers a column, of which two add up to the mean, and reads the input again: 12 bytes a column in float,
/// where h would be 4 a number. Numbers far from zero do not cancel: beside the rounding of x itself, the error is that
/// of x - mean. In float and double the bits of a column depend on its values alone. Cost: 3 reads of x forward, 2 of x
/// and dy backward; no product.
///
/// Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450. PyTorch's LayerNorm, whose epsilon is 1e-5; BERT's is 1e-12.
template <class S>
class LayerNorm : public detail::Norm<LayerNorm<S>, S, true> {
  using Base = detail::Norm<LayerNorm<S>, S, true>;

 public:
  /// g = 1, b = 0. Throws ShapeError if features is below 1, ConfigError unless epsilon is positive and finite.
  explicit LayerNorm(Index features, double epsilon = 1e-5)
      : Base(Base::filled(features, 1), Base::filled(features, 0), epsilon) {}
  /// Given g and b. Throws ShapeError if they differ in size, or as above.
  LayerNorm(Vector<S> weight, Vector<S> bias, double epsilon = 1e-5)
      : Base(std::move(weight), std::move(bias), epsilon) {}

  /// b (features). Set `trainable` to train it.
  Parameter<S, Dynamic, 1>& bias() & { return this->bias_; }
  const Parameter<S, Dynamic, 1>& bias() const& { return this->bias_; }
  const Parameter<S, Dynamic, 1>& bias() const&& = delete;

  static constexpr const char* layer_name() { return "LayerNorm"; }
  static void visit(auto& self, auto&& f) {
    f("weight", self.weight_);
    f("bias", self.bias_);
  }
};

}  // namespace lora::inline LORA_ABI
