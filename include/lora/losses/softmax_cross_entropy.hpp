#pragma once
/// Softmax and cross-entropy in one pass:
///
///   p = softmax(z) = exp(z - max z) / sum_k exp(z_k - max z)
///   L = -1/n sum_j log p[label_j, j]          dL/dz = (p - onehot(labels)) / n
///
///   z (classes, samples)    logits, one sample per column
///   label_j                 the class of sample j, 0 to classes - 1
///   n                       the number of samples
///
/// Each column is shifted by its maximum, so no exponential overflows, and the logarithm is taken of the sum, never of
/// a probability that may have become 0. The same as PyTorch's cross_entropy with reduction="mean". With a weight w_j
/// for each sample, such as 1 over the number of samples of its user, w_j replaces 1/n.

#include "lora/losses/detail/derivative.hpp"

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

inline void check_labels(std::string_view who, std::span<const int> labels, Index classes, Index samples) {
  if (samples == 0 || classes == 0) {
    fail<ValueError>(who, "logits are empty (" + std::to_string(classes) + " x " + std::to_string(samples) +
                              "), expected at least one class and one sample");
  }
  if (std::ssize(labels) != samples) {
    fail<ShapeError>(
        who, std::to_string(labels.size()) + " labels given, expected one per sample = " + std::to_string(samples));
  }
  for (std::size_t j = 0; j < labels.size(); ++j) {
    if (labels[j] >= 0 && labels[j] < classes) continue;
    fail<ValueError>(who, "the label of sample " + std::to_string(j) + " is " + std::to_string(labels[j]) +
                              ", expected 0 to " + std::to_string(classes - 1));
  }
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

}  // namespace detail

/// Returns the mean loss over the samples and, if `dlogits` is given, writes its derivative by the logits, of their
/// shape. dlogits may be the same memory as the logits, which are then overwritten; it must not overlap them in any
/// other way. A matrix is resized to fit; a map or block must fit.
///
///   float loss = softmax_cross_entropy(logits, labels, &dlogits);
///
/// Throws ShapeError unless there is one label per sample, one weight per sample or none, and dlogits fits; ValueError
/// for a label out of range, a weight that is not finite or an empty batch; it writes nothing then. A logit that is NaN
/// or +infinity makes the loss NaN. Cost: one pass over the logits, no allocation once dlogits has its size. The sum
/// over samples is in Wide precision.
template <class Logits, class Derivative = Matrix<typename Logits::Scalar>>
typename Logits::Scalar softmax_cross_entropy(const Eigen::MatrixBase<Logits>& logits, std::span<const int> labels,
                                              Derivative* dlogits = nullptr, std::span<const double> weights = {}) {
  using S = typename Logits::Scalar;
  static_assert(Scalar<S>, "lora: a loss needs logits of float, double or another lora::Scalar.");
  constexpr const char* who = "softmax_cross_entropy";
  using std::log;
  detail::check_labels(who, labels, logits.rows(), logits.cols());
  detail::check_weights(who, weights, logits.cols());
  const detail::Evaluated<Logits> z(logits.derived());
  if (dlogits != nullptr) detail::size_derivative<S>(who, "dlogits", *dlogits, z.rows(), z.cols());

  const double mean = 1.0 / static_cast<double>(z.cols());
  Wide<S> total(0);
  for (Index j = 0; j < z.cols(); ++j) {
    const auto column = z.col(j).array();
    const Index label = labels[static_cast<std::size_t>(j)];
    const S largest = column.maxCoeff();
    const double weight = weights.empty() ? mean : weights[static_cast<std::size_t>(j)];
    Wide<S> own(largest - column(label));
    if (dlogits == nullptr) {
      own += Wide<S>(log((column - largest).exp().sum()));
    } else {
      auto derivative = dlogits->col(j).array();
      derivative = (column - largest).exp();
      const S sum = derivative.sum();
      own += Wide<S>(log(sum));
      derivative *= S(weight) / sum;
      derivative(label) -= S(weight);
    }
    total += weights.empty() ? own : Wide<S>(weight) * own;
  }
  return S(weights.empty() ? total / Wide<S>(static_cast<double>(z.cols())) : total);
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

/// The fraction of the samples whose largest logit is at their label. Throws as softmax_cross_entropy does.
template <class Logits>
double accuracy(const Eigen::MatrixBase<Logits>& logits, std::span<const int> labels) {
  detail::check_labels("accuracy", labels, logits.rows(), logits.cols());
  const detail::Evaluated<Logits> z(logits.derived());
  Index right = 0;
  for (Index j = 0; j < z.cols(); ++j) {
    if (detail::largest_entry(z.col(j)) == labels[static_cast<std::size_t>(j)]) ++right;
  }
  return static_cast<double>(right) / static_cast<double>(z.cols());
}

}  // namespace lora::inline LORA_ABI
