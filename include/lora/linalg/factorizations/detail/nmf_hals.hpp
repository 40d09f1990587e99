#pragma once
/// Non-negative factorization under the Frobenius loss by accelerated hierarchical alternating least squares.
///
///   w_t <- max(0, w_t + (X h_t - W G_t) / G_tt)     G = H H^T,   t = 1, ..., k, 1, ..., k, ...
///
/// w_t is a column of W, h_t a row of H: each step is the exact minimum over one column, so the loss never rises. The
/// products X H^T and H H^T, which cost n / k times as much as a sweep over all columns, are computed once for several
/// sweeps: until a sweep changes a tenth of what the first one did, for at most a quarter of the products' time.
/// Then the same with the roles of W and H swapped.
///
/// Source: Cichocki & Phan 2009, doi 10.1587/transfun.E92.A.708; Gillis & Glineur 2012, doi 10.1162/NECO_a_00256.
/// Compile time (g++ 12 -O2): with nmf.hpp.

#include "lora/core/scalar.hpp"
#include "lora/linalg/factorizations/detail/nmf_start.hpp"
#include "lora/linalg/linear_operator.hpp"

#include <algorithm>
#include <limits>

namespace lora::inline LORA_ABI::detail {

/// Runs the iterations. Allocates only in the constructor, except for what Eigen's products pack.
template <class S>
class HalsSolver {
 public:
  HalsSolver(const MatrixView<S>& X, S scale, Index rank, int sweeps)
      : X_(X),
        scale_(scale),
        sweeps_(sweeps),
        scaled_w_(X.rows(), rank),
        scaled_h_(X.cols(), rank),
        product_w_(X.rows(), rank),
        product_h_(X.cols(), rank),
        gram_(rank, rank),
        rows_(lanes, rank),
        wanted_(lanes, rank) {}

  /// Updates W, then H. The projected gradient is min(gradient, curvature * entry).
  NmfStep iterate(NmfFactors<S>& factors) {
    scaled_h_ = scale_ * factors.Ht;  // instead of X: no copy, and no product leaves the scalar's range
    X_.apply(scaled_h_, product_w_);
    gram_.noalias() = factors.Ht.transpose() * factors.Ht;
    double met = improve(factors.W, product_w_, sweeps_ > 0 ? sweeps_ : affordable_sweeps(X_.rows(), X_.cols()));
    scaled_w_ = scale_ * factors.W;
    X_.apply_transposed(scaled_w_, product_h_);
    gram_.noalias() = factors.W.transpose() * factors.W;
    met += improve(factors.Ht, product_h_, sweeps_ > 0 ? sweeps_ : affordable_sweeps(X_.cols(), X_.rows()));
    return {met, static_cast<double>(product_w_.sum()) + static_cast<double>(product_h_.sum())};
  }

 private:
  static constexpr Index lanes = 256 / static_cast<Index>(sizeof(S));  // rows of a factor swept together, in registers
  using Lanes = Eigen::Array<S, static_cast<int>(lanes), 1>;
  using Panel = Eigen::Array<S, static_cast<int>(lanes), Dynamic>;

  /// The max number of sweeps: together they take a quarter of the time of the products before them.
  int affordable_sweeps(Index own, Index other) const {
    const double k = static_cast<double>(gram_.rows()), p = static_cast<double>(own), q = static_cast<double>(other);
    return static_cast<int>(std::min(1 + 0.25 * (1 + (p * q + q * k) / (p * k + p)), 1e6));
  }

  /// Moves F (p, k) toward the minimum of ||X - F H||_F for fixed H, P = X H^T. The rows of F are independent.
  double improve(Matrix<S>& F, const Matrix<S>& P, int most_sweeps) {
    double met = 0;
    for (Index first = 0; first < F.rows(); first += lanes) {
      const Index count = std::min(lanes, F.rows() - first);
      if (count < lanes) {  // rows beyond the last are zero and stay zero
        rows_.setZero();
        wanted_.setZero();
      }
      rows_.topRows(count) = F.middleRows(first, count).array();
      wanted_.topRows(count) = P.middleRows(first, count).array();
      const double met_first = sweep();
      for (int n = 1; n < most_sweeps; ++n) {
        if (sweep() <= 0.1 * met_first) break;
      }
      F.middleRows(first, count) = rows_.topRows(count).matrix();
      met += met_first;
    }
    return met;
  }

  /// One step in every column of rows_. Returns the sum of |projected gradient|.
  double sweep() {
    constexpr S negligible = std::numeric_limits<S>::min() / std::numeric_limits<S>::epsilon();
    double met = 0;
    for (Index t = 0; t < rows_.cols(); ++t) {
      const S curvature = gram_(t, t);
      if (!(curvature > negligible)) continue;
      Lanes step = wanted_.col(t);
      for (Index s = 0; s < rows_.cols(); ++s) step -= rows_.col(s) * gram_(s, t);
      step = (step / curvature).max(-rows_.col(t));
      rows_.col(t) += step;
      met += static_cast<double>(curvature * step.abs().sum());
    }
    return met;
  }

  DenseOperator<S> X_;
  S scale_;
  int sweeps_;
  Matrix<S> scaled_w_, scaled_h_, product_w_, product_h_, gram_;
  Panel rows_, wanted_;  // `lanes` rows of F and of P
};

}  // namespace lora::inline LORA_ABI::detail
