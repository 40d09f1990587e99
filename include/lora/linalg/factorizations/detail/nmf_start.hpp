#pragma once
/// The initial factors of a non-negative factorization X ~ W H.
///
/// Random: entries sqrt(mean(X) / k) |z| with z standard normal, so that W H has the magnitude of X.
///
/// NNDSVD: the first component is that of the SVD, sqrt(sigma_1) |u_1| and sqrt(sigma_1) |v_1|. For every other pair u
/// v^T, the larger of its two non-negative parts u+ v+^T and u- v-^T (u+ = max(u, 0), u- = max(-u, 0)) is kept:
///
///   w = sqrt(sigma ||u+|| ||v+||) u+ / ||u+||,   h = sqrt(sigma ||u+|| ||v+||) v+ / ||v+||     or the same with minus
///
/// Source: Boutsidis & Gallopoulos 2008, doi 10.1016/j.patcog.2007.09.010.
/// Compile time: that of truncated_svd.hpp.

#include "lora/core/random.hpp"
#include "lora/core/scalar.hpp"
#include "lora/linalg/factorizations/nmf_options.hpp"
#include "lora/linalg/truncated_svd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lora::inline LORA_ABI::detail {

/// Y = W H with both factors tall: W (m, k), Ht = H^T (n, k).
template <class S>
struct NmfFactors {
  Matrix<S> W, Ht;
};

/// Sums over the gradients of all entries in an iteration.
struct NmfStep {
  double met = 0;   ///< sum |projected gradient|, each entry's at its first update
  double size = 0;  ///< the sum of the terms whose differences the gradients are
};

/// The mean of scale * X, in double.
template <class S>
double mean(const MatrixView<S>& X, S scale) {
  double sum = 0;
  for (Index j = 0; j < X.stored.cols(); ++j) {
    sum += (X.stored.col(j).array() * scale).template cast<double>().sum();
  }
  return sum / (static_cast<double>(X.rows()) * static_cast<double>(X.cols()));
}

template <class S>
NmfFactors<S> random_start(const MatrixView<S>& X, S scale, const NmfOptions& options) {
  const S spread = static_cast<S>(std::sqrt(mean(X, scale) / static_cast<double>(options.rank)));
  Rng rng(options.seed);
  NmfFactors<S> start{Matrix<S>(X.rows(), options.rank), Matrix<S>(X.cols(), options.rank)};
  for (Matrix<S>* factor : {&start.W, &start.Ht}) {
    for (S& entry : factor->reshaped()) entry = spread * std::abs(rng.normal<S>());
  }
  return start;
}

template <class S>
NmfFactors<S> nndsvd_start(const MatrixView<S>& X, S scale, const NmfOptions& options, const Caller& who) {
  const auto svd = truncated_svd(DenseOperator<S>(X), {.rank = options.rank, .seed = options.seed}, who);
  NmfFactors<S> start{Matrix<S>(X.rows(), options.rank), Matrix<S>(X.cols(), options.rank)};
  // entries that would be zero but for rounding stay zero
  const S rounding = 16 * std::numeric_limits<S>::epsilon();
  for (Index k = 0; k < options.rank; ++k) {
    const auto part = [&](S sign, const auto& vector) -> Vector<S> {
      return (sign * vector.array() > rounding).select(sign * vector.array(), S(0));
    };
    Vector<S> u = part(S(1), svd.U.col(k)), v = part(S(1), svd.V.col(k));
    const Vector<S> minus_u = part(S(-1), svd.U.col(k)), minus_v = part(S(-1), svd.V.col(k));
    if (k == 0) {  // of one sign, by Perron and Frobenius, up to rounding and repeated singular values
      u += minus_u;
      v += minus_v;
    } else if (minus_u.norm() * minus_v.norm() > u.norm() * v.norm()) {
      u = minus_u;
      v = minus_v;
    }
    const S product = u.norm() * v.norm();
    const S size = product > S(0) ? std::sqrt(svd.singular_values(k) * scale * product) : S(0);
    start.W.col(k) = size > S(0) ? Vector<S>(u * (size / u.norm())) : Vector<S>::Zero(X.rows());
    start.Ht.col(k) = size > S(0) ? Vector<S>(v * (size / v.norm())) : Vector<S>::Zero(X.cols());
  }
  return start;
}

/// block (m, count) = columns first, ..., first + count - 1 of scale * X.
template <class S, class Block>
void copy_columns(const MatrixView<S>& X, S scale, Index first, Block&& block) {
  if (X.transposed) {
    block = scale * X.stored.middleRows(first, block.cols()).transpose();
  } else {
    block = scale * X.stored.middleCols(first, block.cols());
  }
}

/// Raises the zeros of W and H to sqrt(mean(X) / k) / 100 if W H has a zero under a positive entry of X, where the
/// divergence is infinite.
template <class S>
void make_finite(const MatrixView<S>& X, S scale, NmfFactors<S>& start) {
  constexpr Index width = 64;
  Matrix<S> block(X.rows(), std::min(width, X.cols()));
  Matrix<S> product(block.rows(), block.cols());
  bool finite = true;
  for (Index first = 0; finite && first < X.cols(); first += width) {
    const Index count = std::min(width, X.cols() - first);
    copy_columns(X, scale, first, block.leftCols(count));
    product.leftCols(count).noalias() = start.W * start.Ht.middleRows(first, count).transpose();
    finite = !(block.leftCols(count).array() > S(0) && !(product.leftCols(count).array() > S(0))).any();
  }
  if (finite) return;
  const S least = static_cast<S>(std::sqrt(mean(X, scale) / static_cast<double>(start.W.cols())) / 100);
  for (Matrix<S>* factor : {&start.W, &start.Ht}) {
    *factor = (factor->array() == S(0)).select(Matrix<S>::Constant(factor->rows(), factor->cols(), least), *factor);
  }
}

}  // namespace lora::inline LORA_ABI::detail
