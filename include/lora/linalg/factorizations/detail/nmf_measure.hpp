#pragma once
/// The loss of a non-negative factorization, and how far it is from a stationary point, evaluated in double.
///
/// Gradients of the losses of nmf_options.hpp in Y = W H:   R = Y - X   or   R = 1 - X / Y   (entry by entry),
///   dW = R H^T (m, k),   dH = W^T R (k, n).
/// Stationary (Karush, Kuhn, Tucker): dW >= 0 everywhere and 0 wherever W > 0, and the same for H.

#include "lora/core/scalar.hpp"
#include "lora/linalg/factorizations/detail/nmf_start.hpp"
#include "lora/linalg/factorizations/nmf_options.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lora::inline LORA_ABI::detail {

struct NmfMeasure {
  double loss = 0;
  double residual = 0;
};

/// The largest ||p|| / ||q|| over the columns: p the projected gradient, q the term of the gradient that does not
/// depend on F: X H^T (Frobenius) or the sums of H (Kullback-Leibler) for W.
/// Where the gradient g is positive and the entry f is below its column's mean, p = g f / mean: f can fall by no more
/// than itself, and at f = 0 not at all. Invariant to scaling of X, and to opposite scaling of w_t and h_t.
inline double projected_gradient(const Eigen::MatrixXd& F, const Eigen::MatrixXd& gradient,
                                 const Eigen::MatrixXd& minuend) {
  double worst = 0;
  for (Index t = 0; t < F.cols(); ++t) {
    const double mean = F.col(t).mean(), size = minuend.col(t).norm();
    double sum = 0;
    for (Index i = 0; i < F.rows(); ++i) {
      const double g = gradient(i, t);
      const double p = g > 0 && F(i, t) < mean ? g * (F(i, t) / mean) : g > 0 && mean == 0 ? 0 : g;
      sum += p * p;
    }
    if (sum > 0) worst = std::max(worst, size > 0 ? std::sqrt(sum) / size : std::numeric_limits<double>::infinity());
  }
  return worst;
}

/// Measures factors of scale * X in blocks of columns, without another matrix of the size of X.
template <class S>
NmfMeasure measure(const MatrixView<S>& X, S scale, const NmfFactors<S>& factors, NmfLoss loss) {
  constexpr Index width = 64;
  const Eigen::MatrixXd W = factors.W.template cast<double>(), Ht = factors.Ht.template cast<double>();
  Eigen::MatrixXd dW = Eigen::MatrixXd::Zero(W.rows(), W.cols()), dHt(Ht.rows(), Ht.cols());
  Eigen::MatrixXd from_w = dW, from_h = dHt;
  Matrix<S> block(X.rows(), std::min(width, X.cols()));
  Eigen::MatrixXd x(block.rows(), block.cols()), y(block.rows(), block.cols());
  NmfMeasure result;
  for (Index first = 0; first < X.cols(); first += width) {
    const Index count = std::min(width, X.cols() - first);
    copy_columns(X, scale, first, block.leftCols(count));
    auto given = x.leftCols(count);
    auto made = y.leftCols(count);
    given = block.leftCols(count).template cast<double>();
    made.noalias() = W * Ht.middleRows(first, count).transpose();
    if (loss == NmfLoss::frobenius) {
      from_w.noalias() += given * Ht.middleRows(first, count);
      from_h.middleRows(first, count).noalias() = given.transpose() * W;
      made -= given;
      result.loss += made.squaredNorm() / 2;
    } else {
      for (Index j = 0; j < count; ++j) {
        for (Index i = 0; i < X.rows(); ++i) {
          const double a = given(i, j), b = made(i, j);
          // b - a (1 + log(b / a)), without the cancellation where b is near a
          result.loss += a > 0 ? b - a - a * std::log1p((b - a) / a) : b;
          made(i, j) = a > 0 ? (b - a) / b : 1;
        }
      }
    }
    dW.noalias() += made * Ht.middleRows(first, count);
    dHt.middleRows(first, count).noalias() = made.transpose() * W;
  }
  if (loss == NmfLoss::kullback_leibler) {
    from_w = Ht.colwise().sum().replicate(W.rows(), 1);
    from_h = W.colwise().sum().replicate(Ht.rows(), 1);
  }
  result.residual = std::max(projected_gradient(W, dW, from_w), projected_gradient(Ht, dHt, from_h));
  const double back = 1 / static_cast<double>(scale);
  result.loss *= loss == NmfLoss::frobenius ? back * back : back;
  return result;
}

}  // namespace lora::inline LORA_ABI::detail
