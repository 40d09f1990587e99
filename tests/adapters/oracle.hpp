#pragma once
/// What LoRA should compute, written out with loops in long double and with W0, B and A as dense matrices.

#include "lora/nn/lora_linear.hpp"

#include <cmath>

namespace lora_test {

using Exact = lora::Matrix<long double>;

/// a b, one multiplication at a time.
inline Exact multiply(const Exact& a, const Exact& b) {
  Exact product = Exact::Zero(a.rows(), b.cols());
  for (lora::Index j = 0; j < b.cols(); ++j) {
    for (lora::Index k = 0; k < a.cols(); ++k) {
      for (lora::Index i = 0; i < a.rows(); ++i) product(i, j) += a(i, k) * b(k, j);
    }
  }
  return product;
}

inline Exact transposed(const Exact& a) {
  Exact result(a.cols(), a.rows());
  for (lora::Index i = 0; i < a.rows(); ++i) {
    for (lora::Index j = 0; j < a.cols(); ++j) result(j, i) = a(i, j);
  }
  return result;
}

/// One pass: y = W0 x + b + s B (A (M .* x)) and its gradients for dy.
struct Reference {
  Exact y, dx, dA, dB, db;
};

struct Operands {
  Exact W0, b, A, B, x, dy, mask;
  long double scale;

  Reference reference() const {
    const Exact masked = mask.cwiseProduct(x), z = multiply(A, masked), g = multiply(transposed(B), dy);
    Reference r;
    r.y = multiply(W0, x) + scale * multiply(B, z);
    for (lora::Index j = 0; j < x.cols(); ++j) r.y.col(j) += b;
    r.dx = multiply(transposed(W0), dy) + scale * mask.cwiseProduct(multiply(transposed(A), g));
    r.dA = scale * multiply(g, transposed(masked));
    r.dB = scale * multiply(dy, transposed(z));
    r.db = multiply(dy, Exact::Ones(x.cols(), 1));
    return r;
  }
  /// The same with all signs positive: what rounding errors are measured against.
  Reference sizes() const {
    return Operands{W0.cwiseAbs(), b.cwiseAbs(),  A.cwiseAbs(), B.cwiseAbs(),
                    x.cwiseAbs(),  dy.cwiseAbs(), mask,         std::abs(scale)}
        .reference();
  }
};

/// The operands of a LoraLinear with a trained bias, as they are.
template <class Layer, class S = typename Layer::Scalar>
Operands operands_of(const Layer& layer, const lora::Matrix<S>& x, const lora::Matrix<S>& dy, const lora::Pass& pass) {
  const auto exact = [](const auto& matrix) { return Exact(matrix.template cast<long double>()); };
  Operands o{exact(layer.base().dense()),
             exact(*layer.bias()),
             exact(layer.adapter().A.value),
             exact(layer.adapter().B.value),
             exact(x),
             exact(dy),
             Exact::Ones(x.rows(), x.cols()),
             static_cast<long double>(layer.adapter().scale())};
  if (layer.adapter().dropout.drops(pass)) {
    lora::Matrix<S> mask(x.rows(), x.cols());
    lora::DropoutMask(layer.adapter().dropout.probability, layer.adapter().dropout.stream, pass).fill(mask, 0);
    o.mask = exact(mask);
  }
  return o;
}

}  // namespace lora_test
