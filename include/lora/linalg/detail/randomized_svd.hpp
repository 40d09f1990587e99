#pragma once
/// A nearly optimal truncated SVD from a few products with the matrix, and its error.
///
///   P_i = orth(A^T orth(A P_{i-1})) against P_1, ..., P_{i-1},   P_0 = Omega,   i = 1, ..., q
///   P = [P_1 ... P_q],   A P = U S W^T,   V = P W
///
/// A (m, n) any LinearOperator;   Omega (n, k) standard normal from Rng(seed), k = rank + oversampling;   orth: QR.
/// These are q power iterations that keep all blocks rather than the last one: the best approximation in their span is
/// at least as good, and usually as good as with one iteration more. Cost: 2 q + 1 products with k vectors, and some
/// more for certificate and verification; memory for (m + n) k q elements.
///
/// The Frobenius error is measured, in blocks of columns, and always holds. The spectral error has the bound
///   ||E||_2 <= (a sqrt(2 / pi) max_i ||(E E^T)^p E x_i||)^(1 / (2 p + 1))     p = 2, nine standard normal x_i
/// with probability 1 - a^-9 = 1 - 1e-10, and ||E||_F with probability 1: the certificate has the smaller one.
///
/// Source: Musco & Musco 2015, arXiv:1504.05477 (block Krylov); Halko, Martinsson & Tropp 2011,
/// arXiv:0909.4061, algorithm 5.1 and lemma 4.1.
/// Compile time: that of truncated_svd.hpp, through which it is used.

#include "lora/core/function_ref.hpp"
#include "lora/core/random.hpp"
#include "lora/kernels/few_columns.hpp"
#include "lora/linalg/certificate.hpp"
#include "lora/linalg/detail/any_operator.hpp"
#include "lora/linalg/detail/thin_qr.hpp"
#include "lora/linalg/exact_svd.hpp"
#include "lora/linalg/svd_options.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace lora::inline LORA_ABI::detail {

/// A, scaled to a magnitude near 1 by scaling each operand, so that squares and powers neither overflow nor vanish.
template <class S>
class ScaledOperator {
 public:
  ScaledOperator(const AnyOperator<S>& A, S scale) : A_(A), scale_(scale) {}

  Index rows() const { return A_.rows(); }
  Index cols() const { return A_.cols(); }
  Matrix<S> apply(const Matrix<S>& x) const {
    Matrix<S> y(rows(), x.cols());
    A_.apply(scale_ * x, y);
    return y;
  }
  Matrix<S> apply_transposed(const Matrix<S>& x) const {
    Matrix<S> y(cols(), x.cols());
    A_.apply_transposed(scale_ * x, y);
    return y;
  }
  /// Calls f(first, block, of_rows) for consecutive blocks of columns, or of transposed rows if A is row-major.
  void for_each_block(FunctionRef<void(Index, Matrix<S>&, bool)> f) const {
    const MatrixView<S>* view = A_.in_memory();
    const bool of_rows = view != nullptr && view->transposed;
    const Index length = of_rows ? cols() : rows();
    const Index count = of_rows ? rows() : cols();
    const Index width = std::clamp<Index>(65536 / length, 16, 128);  // blocks of at most 256 KiB of floats, if possible
    Matrix<S> block;
    for (Index first = 0; first < count; first += width) {
      block.resize(length, std::min(width, count - first));
      if (view != nullptr) {
        block = view->stored.middleCols(first, block.cols());
      } else {
        A_.columns(first, block);
      }
      block *= scale_;
      f(first, block, of_rows);
    }
  }

 private:
  const AnyOperator<S>& A_;
  S scale_;
};

/// An orthonormal basis whose span contains the columns: as many vectors as columns, but at most as many as rows.
template <class S>
Matrix<S> orthonormal(Matrix<S> columns) {
  const Index count = std::min(columns.rows(), columns.cols());
  return ThinQr<S>(std::move(columns)).Q(0, count);
}

/// The SVD of the scaled A restricted to the directions P: U (m, K), sigma (K), V (n, K).
template <class S>
class Sketch {
 public:
  /// Takes an orthonormal P (n, K) and A P (m, K), K <= min(m, n).
  Sketch(Matrix<S> P, Matrix<S> AP) : P_(std::move(P)), qr_(std::move(AP)), core_(qr_.R()) {}

  const Eigen::VectorXd& sigma() const { return core_.singular_values(); }
  bool verified() const { return core_.verified(); }
  /// The first `count` columns.
  Matrix<S> U(Index count) const { return qr_.apply(core_.U(count).template cast<S>()); }
  Matrix<S> V(Index count) const { return P_ * core_.V(count).template cast<S>(); }

 private:
  Matrix<S> P_;
  ThinQr<S> qr_;
  ExactSvd<double> core_;  // of R, K x K
};

/// Y.cols() orthonormal columns, orthogonal to the orthonormal columns of Q, so that [Q, result] spans Y; also if Y
/// adds nothing to Q. Requires Q.cols() + Y.cols() <= rows.
template <class S>
Matrix<S> continuation(const Eigen::Ref<const Matrix<S>>& Q, const Eigen::Ref<const Matrix<S>>& Y) {
  Matrix<S> both(Q.rows(), Q.cols() + Y.cols());
  both << Q, Y;
  return ThinQr<S>(std::move(both)).Q(Q.cols(), Y.cols());
}

template <class S>
Sketch<S> sketch(const ScaledOperator<S>& A, Index k, int power_iterations, std::uint64_t seed) {
  const Index smaller = std::min(A.rows(), A.cols());
  const Index all = power_iterations <= smaller / k ? power_iterations * k : smaller;
  Rng rng(seed);
  Matrix<S> P(A.cols(), all), AP(A.rows(), all);
  Matrix<S> Y = A.apply(normal_matrix<S>(A.cols(), k, rng));
  for (Index done = 0; done < all;) {
    const Index count = std::min(k, all - done);
    const Matrix<S> Z = A.apply_transposed(orthonormal<S>(std::move(Y)));
    const Matrix<S> next = continuation<S>(P.leftCols(done), Z.leftCols(count));
    Y = A.apply(next);
    P.middleCols(done, count) = next;
    AP.middleCols(done, count) = Y;
    done += count;
  }
  return Sketch<S>(std::move(P), std::move(AP));
}

/// ||A||_F of the scaled A.
template <class S>
double frobenius_norm(const ScaledOperator<S>& A) {
  double sum = 0;
  A.for_each_block([&](Index, const Matrix<S>& block, bool) { sum += sum_of_squares(block); });
  return std::sqrt(sum);
}

/// The certificate of U diag(sigma) V^T for the scaled A.
template <class S>
Certificate certify(const ScaledOperator<S>& A, const Matrix<S>& U, const Eigen::VectorXd& sigma, const Matrix<S>& V,
                    std::uint64_t seed) {
  const auto s = sigma.template cast<S>().eval();
  double norm = 0;
  double error = 0;
  A.for_each_block([&](Index first, Matrix<S>& block, bool of_rows) {
    const Matrix<S>& left = of_rows ? V : U;
    const Matrix<S>& right = of_rows ? U : V;
    norm += sum_of_squares(block);
    FewColumns<S>::add(left, (-s).asDiagonal() * right.middleRows(first, block.cols()).transpose(), block);
    error += sum_of_squares(block);
  });
  constexpr Index probes = 9;
  constexpr double factor = 12.915496650148840;  // 10^(10/9): each probe falls short by more with probability 1/factor
  constexpr int powers = 2;
  Rng rng(seed, 1);
  Matrix<S> x = normal_matrix<S>(A.cols(), probes, rng);
  double logarithm = 0;  // of the norms divided out, so that powers of a small residual do not vanish
  for (int i = 0; i <= 2 * powers; ++i) {
    const bool forward = i % 2 == 0;
    Matrix<S> y = forward ? A.apply(x) : A.apply_transposed(x);
    if (forward) {
      y.noalias() -= U * (s.asDiagonal() * (V.transpose() * x)).eval();
    } else {
      y.noalias() -= V * (s.asDiagonal() * (U.transpose() * x)).eval();
    }
    const double size = y.template cast<double>().colwise().norm().maxCoeff();
    if (!(size > 0)) return {std::sqrt(error), 0, std::sqrt(norm), 1};
    logarithm += std::log(size);
    x = y / S(size);
  }
  const double bound = std::exp((logarithm + std::log(factor * std::sqrt(2 / std::numbers::pi))) / (2 * powers + 1));
  Certificate result{std::sqrt(error), std::sqrt(error), std::sqrt(norm), 1};
  if (bound < result.spectral_error) {
    result.spectral_error = bound;
    result.probability = 1 - 1e-10;
  }
  return result;
}

}  // namespace lora::inline LORA_ABI::detail
