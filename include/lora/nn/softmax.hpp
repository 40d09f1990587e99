#pragma once
/// Softmax of each column:
///
///   y = exp(x - max x) / sum_k exp(x_k - max x)          dx = y .* (dy - sum_k y_k dy_k)
///
/// The losses have their own, softmax_cross_entropy, which takes the logarithm without y.

#include "lora/core/scalar.hpp"
#include "lora/kernels/softmax.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI {

/// f((0, log 3)) = (1/4, 3/4).
///
/// Used like an activation (nn/activations.hpp), but of whole columns: x, y, dx, dy have one shape; x and y, and dx and
/// dy, may be the same memory. -infinity becomes 0, so that masks scores. A column with NaN or +infinity becomes NaN,
/// and so does one of -infinity alone, as in PyTorch.
///
/// In float and double, the bits of a column depend on its values alone, not on the other columns or on where it is in
/// memory.
struct Softmax {
  static constexpr bool needs_input = false;
  static void forward(const auto& x, auto&& y) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    y.resize(x.rows(), x.cols());
    if (x.rows() == 0) return;
    for (Index j = 0; j < x.cols(); ++j) {
      const auto from = x.col(j);
      auto to = y.col(j);
      const S sum = detail::exponentials(from, S(from.maxCoeff()), &to);
      to *= S(1) / sum;
    }
  }
  /// y is the result of forward; x is not read.
  static void backward(const auto&, const auto& y, const auto& dy, auto&& dx) {
    using S = typename std::remove_cvref_t<decltype(y)>::Scalar;
    dx.resize(y.rows(), y.cols());
    for (Index j = 0; j < y.cols(); ++j) {
      const S mean = detail::sum_of_products(y.col(j), dy.col(j));
      dx.col(j).array() = y.col(j).array() * (dy.col(j).array() - mean);
    }
  }
};

}  // namespace lora::inline LORA_ABI
