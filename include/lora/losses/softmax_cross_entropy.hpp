#pragma once
/// Softmax and cross-entropy in one pass:
///
///   p = softmax(z) = exp(z - max z) / sum_k exp(z_k - max z)
///   L = -1/n sum_j log p[label_j, j]          dL/dz = (p - onehot(labels)) / n
///
///   z (classes, samples)    logits, one sample per column
///   label_j                 the class of sample j, 0 to classes - 1, or -100: the sample does not count
///   n                       the number of samples that count
///
/// Each column is shifted by its maximum, so no exponential overflows, and the logarithm is taken of the sum, never of
/// a probability that may have become 0. The same as PyTorch's cross_entropy with reduction="mean" and its ignore_index
/// of -100. With a weight w_j for each sample, such as 1 over the number of samples of its user, w_j replaces 1/n; a
/// normalizer replaces n, for the parts of a batch: loss_options.hpp.

#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/softmax.hpp"
#include "lora/losses/detail/derivative.hpp"
#include "lora/losses/labels.hpp"
#include "lora/losses/loss_options.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// Throws ValueError for an empty batch or a label that is neither a class nor ignored, ShapeError unless there is one
/// label per sample. Returns how many are not ignored.
inline Index check_labels(std::string_view who, const Labels& labels, Index classes, Index samples,
                          std::int64_t ignored) {
  if (samples == 0 || classes == 0) {
    fail<ValueError>(who, "logits are empty (" + std::to_string(classes) + " x " + std::to_string(samples) +
                              "), expected at least one class and one sample");
  }
  if (labels.size() != samples) {
    fail<ShapeError>(
        who, std::to_string(labels.size()) + " labels given, expected one per sample = " + std::to_string(samples));
  }
  for (Index j = 0; j < samples; ++j) {
    const std::int64_t label = labels[j];
    if (label == ignored || (label >= 0 && label < classes)) continue;
    fail<ValueError>(who, "the label of sample " + std::to_string(j) + " is " + std::to_string(label) +
                              ", expected 0 to " + std::to_string(classes - 1) + ", or " + std::to_string(ignored) +
                              " for one that does not count");
  }
  return count_labels(labels, ignored);
}

/// The matrix itself if it is column-major in memory, else a copy of its values.
template <class Derived>
using Evaluated =
    Eigen::Ref<const Matrix<typename Derived::Scalar, Derived::RowsAtCompileTime, Derived::ColsAtCompileTime>>;

/// The index of the largest entry; the first one among equals.
int largest_entry(const auto& column) {
  Index best = 0;
  for (Index i = 1; i < column.size(); ++i) {
    if (column(best) < column(i)) best = i;
  }
  return static_cast<int>(best);
}

/// dz: null if it is not wanted; may be z.
template <class S>
S softmax_cross_entropy(const Columns<S>& z, const Labels& labels, double normalizer, const LossOptions& options,
                        MutableColumns<S>* dz) {
  using std::log;
  const auto& weights = options.weights;
  Wide<S> total(0);
  for (Index j = 0; j < z.cols(); ++j) {
    const std::int64_t label = labels[j];
    const double own_weight = weights.empty() ? 1 : weights[static_cast<std::size_t>(j)];
    if (label == options.ignored || own_weight == 0) {
      if (dz != nullptr) std::fill_n(&(*dz)(0, j), z.rows(), S(0));
      continue;
    }
    const FlatColumn<const S> column(z.data() + j * z.outerStride(), z.rows());
    const S largest = column.maxCoeff();
    Wide<S> own(largest - column(label));
    if (dz == nullptr) {
      own += Wide<S>(log(exponentials(column, largest, static_cast<FlatColumn<S>*>(nullptr))));
    } else {
      const auto weight = S(own_weight / normalizer);
      FlatColumn<S> derivative(&(*dz)(0, j), z.rows());
      const S sum = exponentials(column, largest, &derivative);
      own += Wide<S>(log(sum));
      multiply_by(weight / sum, derivative.data(), derivative.size(), derivative.data());
      derivative(label) -= weight;
    }
    total += weights.empty() ? own : Wide<S>(own_weight) * own;
  }
  return S(total / Wide<S>(normalizer));
}

}  // namespace detail

/// Returns the mean loss over the samples that count and, if `dlogits` is given, writes its derivative by the logits,
/// of their shape. dlogits may be the same memory as the logits, which are then overwritten; it must not overlap them
/// in any other way. A matrix is resized to fit; a map or block must fit.
///
/// ```cpp
/// #include <lora/losses/softmax_cross_entropy.hpp>
///
/// int main() {
///   const Eigen::MatrixXf logits = Eigen::MatrixXf::Random(10, 3);  // ten classes, three tokens
///   Eigen::MatrixXf dlogits;
///   const float loss = lora::softmax_cross_entropy(logits, {7, 2, -100}, &dlogits);  // the last one is padding
///   // the same from two parts: each divides by the number of tokens that count in both
///   const double all = 2;
///   const float first = lora::softmax_cross_entropy(logits.leftCols(1), {7}, nullptr, {.normalizer = all});
///   const float rest = lora::softmax_cross_entropy(logits.rightCols(2), {2, -100}, nullptr, {.normalizer = all});
///   return dlogits.col(2).isZero() && std::abs(first + rest - loss) < 1e-5F ? 0 : 1;
/// }
/// ```
///
/// labels: a vector, array or span of any integer type, a vector of integers of Eigen, or a list. A sample whose label
/// is options.ignored (-100) or whose weight is 0 adds nothing to the loss, and its column of dlogits is 0, whatever
/// its logits are. If no sample counts, the loss is 0 (PyTorch's is NaN, 0/0, which spoils the parameters at the next
/// step).
///
/// Throws ShapeError unless there is one label per sample, one weight per sample or none, and dlogits fits; ValueError
/// for a label out of range, a weight that is not finite or an empty batch; ConfigError for a normalizer that is not
/// above 0; it writes nothing then. A logit that is NaN or +infinity makes the loss NaN. Cost: one pass over the
/// logits, no allocation once dlogits has its size, if both have contiguous columns (others are copied first). The sum
/// over samples is in Wide precision.
template <class Logits, class Derivative = Matrix<typename Logits::Scalar>>
typename Logits::Scalar softmax_cross_entropy(const Eigen::MatrixBase<Logits>& logits, const Labels& labels,
                                              Derivative* dlogits = nullptr, const LossOptions& options = {}) {
  using S = typename Logits::Scalar;
  static_assert(Scalar<S>, "lora: a loss needs logits of float, double or another lora::Scalar.");
  constexpr const char* who = "softmax_cross_entropy";
  const Index counted = detail::check_labels(who, labels, logits.rows(), logits.cols(), options.ignored);
  const auto& weights = options.weights;
  detail::check_weights(who, weights, logits.cols());
  const double normalizer = detail::normalizer_of(who, options, counted);
  const detail::Columns<S> z(logits.derived());
  if (dlogits != nullptr) detail::size_derivative<S>(who, "dlogits", *dlogits, z.rows(), z.cols());
  return detail::with_columns(
      dlogits, [&](auto* dz) { return detail::softmax_cross_entropy<S>(z, labels, normalizer, options, dz); });
}

/// As above, without the derivative: softmax_cross_entropy(logits, labels, nullptr, {.weights = weights}).
template <class Logits>
typename Logits::Scalar softmax_cross_entropy(const Eigen::MatrixBase<Logits>& logits, const Labels& labels,
                                              std::nullptr_t, const LossOptions& options = {}) {
  return softmax_cross_entropy(logits, labels, static_cast<Matrix<typename Logits::Scalar>*>(nullptr), options);
}

/// The class with the largest logit of each sample; the lowest one among equals. Throws ValueError without rows.
template <class Logits>
std::vector<int> predictions(const Eigen::MatrixBase<Logits>& logits) {
  const detail::Evaluated<Logits> z(logits.derived());
  if (z.rows() == 0) detail::fail<ValueError>("predictions", "logits have no rows, expected at least one class");
  std::vector<int> classes(static_cast<std::size_t>(z.cols()));
  for (Index j = 0; j < z.cols(); ++j) classes[static_cast<std::size_t>(j)] = detail::largest_entry(z.col(j));
  return classes;
}

/// The fraction of the samples that count whose largest logit is at their label. Throws as softmax_cross_entropy does,
/// and ValueError if no sample counts.
template <class Logits>
double accuracy(const Eigen::MatrixBase<Logits>& logits, const Labels& labels, std::int64_t ignored = ignored_label) {
  const Index counted = detail::check_labels("accuracy", labels, logits.rows(), logits.cols(), ignored);
  if (counted == 0) {
    detail::fail<ValueError>("accuracy", "all " + std::to_string(labels.size()) + " labels are " +
                                             std::to_string(ignored) + ", expected one that counts");
  }
  const detail::Evaluated<Logits> z(logits.derived());
  Index right = 0;
  for (Index j = 0; j < z.cols(); ++j) {
    if (labels[j] != ignored && detail::largest_entry(z.col(j)) == labels[j]) ++right;
  }
  return static_cast<double>(right) / static_cast<double>(counted);
}

}  // namespace lora::inline LORA_ABI
