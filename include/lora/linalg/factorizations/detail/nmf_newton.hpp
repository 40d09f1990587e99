#pragma once
/// Non-negative factorization under the Kullback-Leibler divergence by coordinate descent with Newton steps that cannot
/// overshoot.
///
/// In one entry h of H, the others fixed, the loss is convex with the derivatives
///
///   f'(h) = sum_i w_i - sum_i w_i x_i / y_i,     f''(h) = sum_i w_i^2 x_i / y_i^2,     y = the column of W H
///
/// with w the entry's column of W and x its column of X. The step stays on the near side of the minimum:
///
///   f' < 0:   h <- h - f' / f''                 f' is concave, so its tangent reaches zero before f' does
///   f' > 0:   h <- h - h f' / (f' + h f'')      Newton's step for h f'(h): convex, zero at 0 and at the minimum
///
/// So the loss never rises, no line search is needed, and entries whose minimum is 0 converge to it quadratically: they
/// become exact zeros, and can leave zero again. Multiplicative updates (Lee & Seung 2001) do neither.
///
/// Source: coordinate Newton steps for this loss: Hsieh & Dhillon 2011, doi 10.1145/2020408.2020577; the two concavity
/// arguments that make them monotone are given above.
/// Compile time (g++ 12 -O2): with nmf.hpp.

#include "lora/core/scalar.hpp"
#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/factorizations/detail/nmf_start.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Runs the iterations, each O(m n k) divisions. Allocates only in the constructor, but for what Eigen's products pack.
template <class S>
class NewtonSolver {
 public:
  NewtonSolver(const MatrixView<S>& X, S scale, Index rank)
      : X_(X),
        scale_(scale),
        x_(lanes, std::max(X.rows(), X.cols())),
        y_(lanes, x_.cols()),
        rows_(lanes, rank),
        sums_(rank),
        ends_(static_cast<std::size_t>(rank)) {
    nonzeros_.reserve(static_cast<std::size_t>(x_.cols() * rank));
  }

  /// Updates W, then H.
  NmfStep iterate(NmfFactors<S>& factors) {
    NmfStep step{improve(factors.W, factors.Ht, !X_.transposed), size_of(factors.W)};
    step.met += improve(factors.Ht, factors.W, X_.transposed);
    step.size += size_of(factors.Ht);
    return step;
  }

 private:
  static constexpr Index lanes = 64 / static_cast<Index>(sizeof(S));  // rows of F that are updated together
  using Lanes = Eigen::Array<S, static_cast<int>(lanes), 1>;
  using Panel = Eigen::Array<S, static_cast<int>(lanes), Dynamic>;

  /// One step for every entry of F (p, k) in X ~ F O^T, O (q, k). The rows of F are independent.
  double improve(Matrix<S>& F, const Matrix<S>& O, bool rows_are_stored_rows) {
    sums_ = O.colwise().sum();
    nonzeros_.clear();
    for (Index t = 0; t < O.cols(); ++t) {
      for (Index i = 0; i < O.rows(); ++i) {
        if (O(i, t) > S(0)) nonzeros_.push_back(i);
      }
      ends_[static_cast<std::size_t>(t)] = nonzeros_.size();
    }
    double met = 0;
    auto x = x_.leftCols(O.rows());
    for (Index first = 0; first < F.rows(); first += lanes) {
      const Index count = std::min(lanes, F.rows() - first);
      if (count < lanes) {  // rows beyond the last are zero and stay zero
        x.setZero();
        rows_.setZero();
      }
      if (rows_are_stored_rows) {
        x.topRows(count) = scale_ * X_.stored.middleRows(first, count).array();
      } else {
        x.topRows(count) = scale_ * X_.stored.middleCols(first, count).transpose().array();
      }
      rows_.topRows(count) = F.middleRows(first, count).array();
      y_.leftCols(O.rows()).setConstant(std::numeric_limits<S>::min());
      for (Index t = 0; t < F.cols(); ++t) add(O, t, rows_.col(t));
      for (Index t = 0; t < F.cols(); ++t) met += step(O, t);
      F.middleRows(first, count) = rows_.topRows(count).matrix();
    }
    return met;
  }

  /// The sum of sums_(t) over all entries (i, t) of F, after improve(F, ...). The gradient of the entry is sums_(t)
  /// minus the pull of the data on it.
  double size_of(const Matrix<S>& F) const {
    return static_cast<double>(F.rows()) * sums_.template cast<double>().sum();
  }

  /// Updates column t of rows_. Returns the sum of |projected gradient|.
  double step(const Matrix<S>& O, Index t) {
    const S* w = O.col(t).data();
    Lanes pull = Lanes::Zero(), curvature = Lanes::Zero();
    for (const Index i : nonzeros(t)) {
      const Lanes inverse = w[i] / y_.col(i);
      const Lanes share = inverse * x_.col(i);
      pull += share;
      curvature += inverse * share;
    }
    const Lanes gradient = sums_(t) - pull;
    const Lanes h = rows_.col(t);
    double met = 0;
    Lanes next;
    for (Index lane = 0; lane < lanes; ++lane) {
      const S f1 = gradient(lane), f2 = curvature(lane), at = h(lane);
      next(lane) = at;
      if (f1 < S(0) && f2 > S(0)) {
        next(lane) = at - f1 / f2;
        met -= static_cast<double>(f1);
      } else if (f1 > S(0) && at > S(0)) {
        next(lane) = at * (at * f2 / (f1 + at * f2));
        met += static_cast<double>(f1);
      }
    }
    rows_.col(t) = next;
    add(O, t, next - h);
    return met;
  }

  /// y += w_t change, kept above zero despite rounding.
  void add(const Matrix<S>& O, Index t, const Lanes& change) {
    const S* w = O.col(t).data();
    for (const Index i : nonzeros(t)) y_.col(i) = (y_.col(i) + w[i] * change).max(std::numeric_limits<S>::min());
  }

  /// The rows in which column t of O is not zero.
  std::span<const Index> nonzeros(Index t) const {
    const std::size_t begin = t > 0 ? ends_[static_cast<std::size_t>(t - 1)] : 0;
    return std::span(nonzeros_).subspan(begin, ends_[static_cast<std::size_t>(t)] - begin);
  }

  MatrixView<S> X_;
  S scale_;
  Panel x_, y_;                    // `lanes` rows of X and of F O^T
  Panel rows_;                     // `lanes` rows of F
  Vector<S> sums_;                 // of the columns of O
  std::vector<Index> nonzeros_;    // rows of the nonzeros of O, column by column
  std::vector<std::size_t> ends_;  // the end of each column in nonzeros_
};

}  // namespace lora::inline LORA_ABI::detail
