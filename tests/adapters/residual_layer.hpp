#pragma once
// Layers whose adapter starts from a part of W0, for the tests of ResidualLora.

#include "lora/adapters/residual_lora.hpp"
#include "lora/testing/generic.hpp"

#include <type_traits>
#include <utility>

namespace lora_test {

struct Shape {
  lora::Index out, in;
};

template <class Pair>
Pair generic_pair(const Shape& shape, const lora::LoraConfig& config, lora::Rng& rng) {
  Pair pair(shape.out, shape.in, config, rng);
  lora::fill_normal(pair.A.value, 1, rng);
  lora::fill_normal(pair.B.value, 1, rng);
  return pair;
}

/// A new layer with a bias: B A = B0 A0, all generic.
template <class L>
L make(const Shape& shape, const lora::LoraConfig& config, lora::Rng& rng) {
  using S = typename L::Scalar;
  using Adapter = std::remove_cvref_t<decltype(std::declval<L&>().adapter())>;
  const lora::Matrix<S> W0 = lora::testing::random_matrix<S>(shape.out, shape.in, rng);
  const lora::Vector<S> b = lora::testing::random_matrix<S>(shape.out, 1, rng);
  return L(W0, Adapter(generic_pair<typename Adapter::Pair>(shape, config, rng)), b);
}

/// W0 + s (B A - B0 A0), entry by entry.
template <class L>
lora::Matrix<long double> exact_weight(const L& layer) {
  using Wide = lora::Matrix<long double>;
  const auto wide = [](const auto& matrix) { return Wide(matrix.template cast<long double>()); };
  const auto& pair = layer.adapter().trained;
  const Wide difference =
      wide(pair.B.value) * wide(pair.A.value) - wide(layer.adapter().B0()) * wide(layer.adapter().A0());
  return wide(lora::dense(layer.base())) + static_cast<long double>(layer.adapter().scale()) * difference;
}

}  // namespace lora_test
