#pragma once
/// Mean squared error over all entries:
///
///   L = 1/n sum (y - t)^2          dL/dy = 2 (y - t) / n
///
///   y, t (features, samples)    prediction and target
///   n                           features samples
///
/// The same as PyTorch's mse_loss with reduction="mean". With a weight w_j for each sample j, such as 1 over the number
/// of samples of its user:
///
///   L = sum_j w_j 1/features sum_i (y_ij - t_ij)^2          dL/dy_ij = 2 w_j (y_ij - t_ij) / features
///
/// A normalizer N takes the place of the number of samples, for the parts of a batch: loss_options.hpp.

#include "lora/kernels/arithmetic.hpp"
#include "lora/losses/detail/derivative.hpp"
#include "lora/losses/loss_options.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

namespace lora::inline LORA_ABI {

namespace detail {

/// n: what the sum is divided by. dy: null if it is not wanted; may be y or t.
template <class S>
S mean_squared_error(const Columns<S>& y, const Columns<S>& t, double n, std::span<const double> weights,
                     MutableColumns<S>* dy) {
  const auto weight_of = [&](Index j) { return weights.empty() ? 1 : weights[static_cast<std::size_t>(j)]; };
  const auto column = [](const Columns<S>& matrix, Index j) { return matrix.data() + j * matrix.outerStride(); };
  const auto dense = [](const auto& matrix) { return matrix.outerStride() == matrix.rows(); };
  const bool as_one = weights.empty() && dense(y) && dense(t);  // one long column
  const Index rows = as_one ? y.size() : y.rows(), cols = as_one ? 1 : y.cols();
  Wide<S> loss(0);
  for (Index j = 0; j < cols; ++j) {
    if (weight_of(j) == 0) continue;
    const S *const given = column(y, j), *const wanted = column(t, j);
    const auto square = [&](Index i) {
      const auto difference = static_cast<Wide<S>>(given[i] - wanted[i]);
      return difference * difference;
    };
    loss = loss + Wide<S>(weight_of(j)) * sum_of<Wide<S>>(rows, square);
  }
  for (Index j = 0; dy != nullptr && j < y.cols(); ++j) {
    if (weight_of(j) == 0) {
      std::fill_n(&(*dy)(0, j), y.rows(), S(0));
    } else {
      multiple_of_difference(S(2.0 * weight_of(j) / n), column(y, j), column(t, j), y.rows(), &(*dy)(0, j));
    }
  }
  return S(loss / Wide<S>(n));
}

}  // namespace detail

/// Returns the loss and, if `dprediction` is given, writes its derivative by the prediction, of the same shape.
/// dprediction may be the same memory as the prediction or the target; it must not overlap them in any other way. A
/// matrix is resized to fit; a map or block must fit.
///
/// A sample of weight 0 adds nothing, and its column of the derivative is 0, whatever its entries are.
///
/// Throws ShapeError unless all shapes agree; ValueError for an empty batch or a weight that is not finite; ConfigError
/// for a normalizer that is not above 0; it writes nothing then.
/// Cost: one pass for the loss, one for the derivative; no allocation once dprediction has its size, if all three have
/// contiguous columns (others are copied first). Sums in Wide.
template <class Prediction, class Target, class Derivative = Matrix<typename Prediction::Scalar>>
typename Prediction::Scalar mean_squared_error(const Eigen::MatrixBase<Prediction>& prediction,
                                               const Eigen::MatrixBase<Target>& target,
                                               Derivative* dprediction = nullptr, const LossOptions& options = {}) {
  using S = typename Prediction::Scalar;
  static_assert(Scalar<S>, "lora: a loss needs a prediction of float, double or another lora::Scalar.");
  if constexpr (!std::is_same_v<typename Target::Scalar, S>) {
    static_assert(std::is_same_v<typename Target::Scalar, S>,
                  "lora: the target of a loss has the scalar of the prediction: convert it, as target.cast<float>().");
    return S(0);
  } else {
    constexpr const char* who = "mean_squared_error";
    if (prediction.size() == 0) {
      detail::fail<ValueError>(who, "the prediction is empty (" + std::to_string(prediction.rows()) + " x " +
                                        std::to_string(prediction.cols()) + "), expected at least 1 x 1");
    }
    detail::check_rows(who, "target", target.rows(), "rows of the prediction", prediction.rows());
    detail::check_cols(who, "target", target.cols(), "samples", prediction.cols());
    const auto& weights = options.weights;
    detail::check_weights(who, weights, prediction.cols());
    const double n = detail::normalizer_of(who, options, prediction.cols()) * static_cast<double>(prediction.rows());
    if (dprediction != nullptr) {
      detail::size_derivative<S>(who, "dprediction", *dprediction, prediction.rows(), prediction.cols());
    }
    const detail::Columns<S> y(prediction.derived()), t(target.derived());
    return detail::with_columns(dprediction,
                                [&](auto* dy) { return detail::mean_squared_error<S>(y, t, n, weights, dy); });
  }
}

/// As above, without the derivative: mean_squared_error(y, target, nullptr, {.weights = weights}).
template <class Prediction, class Target>
typename Prediction::Scalar mean_squared_error(const Eigen::MatrixBase<Prediction>& prediction,
                                               const Eigen::MatrixBase<Target>& target, std::nullptr_t,
                                               const LossOptions& options = {}) {
  return mean_squared_error(prediction, target, static_cast<Matrix<typename Prediction::Scalar>*>(nullptr), options);
}

}  // namespace lora::inline LORA_ABI
