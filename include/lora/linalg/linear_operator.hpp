#pragma once
/// Matrix-free operators: what the randomized methods need of a matrix A (m, n).

#include "lora/core/scalar.hpp"
#include "lora/kernels/few_columns.hpp"
#include "lora/linalg/detail/matrix_view.hpp"

#include <algorithm>
#include <concepts>
#include <utility>

namespace lora::inline LORA_ABI {

/// apply:            Y = A X      X (n, k),  Y (m, k)
/// apply_transposed: Y = A^T X    X (m, k),  Y (n, k)
/// columns:          Y = columns first, ..., first + count - 1 of A      Y (m, count)
/// The caller sizes Y, which does not overlap X. All are const.
template <class A>
concept LinearOperator =
    requires(const A& a, const Matrix<typename A::Scalar>& x, Matrix<typename A::Scalar>& y, Index first) {
      { a.rows() } -> std::convertible_to<Index>;
      { a.cols() } -> std::convertible_to<Index>;
      a.apply(x, y);
      a.apply_transposed(x, y);
      a.columns(first, y);
    };

/// A matrix in memory, in any storage order. Does not own it.
template <class S>
class DenseOperator {
 public:
  using Scalar = S;

  explicit DenseOperator(const detail::MatrixView<S>& A) : A_(A) {}

  Index rows() const { return A_.rows(); }
  Index cols() const { return A_.cols(); }
  const detail::MatrixView<S>& view() const { return A_; }
  void apply(const Matrix<S>& x, Matrix<S>& y) const { multiply(A_.transposed, x, y); }
  void apply_transposed(const Matrix<S>& x, Matrix<S>& y) const { multiply(!A_.transposed, x, y); }
  void columns(Index first, Matrix<S>& y) const {
    if (A_.transposed) {
      y = A_.stored.middleRows(first, y.cols()).transpose();
    } else {
      y = A_.stored.middleCols(first, y.cols());
    }
  }

 private:
  void multiply(bool transposed, const Matrix<S>& x, Matrix<S>& y) const {
    if (transposed) {
      detail::FewColumns<S>::transposed(A_.stored, x, y);
    } else {
      y.setZero();
      detail::FewColumns<S>::add(A_.stored, x, y);
    }
  }

  detail::MatrixView<S> A_;
};

/// after - before, never formed: the change that a fine-tuning has made. Owns neither.
template <class S>
class DifferenceOperator {
 public:
  using Scalar = S;

  /// Throws ShapeError if the two shapes differ.
  DifferenceOperator(const detail::MatrixView<S>& after, const detail::MatrixView<S>& before)
      : after_(after), before_(before) {
    detail::check_rows("DifferenceOperator", "before", before.rows(), "after.rows()", after.rows());
    detail::check_cols("DifferenceOperator", "before", before.cols(), "after.cols()", after.cols());
  }

  Index rows() const { return after_.rows(); }
  Index cols() const { return after_.cols(); }

  /// Works in blocks of columns of A, and subtracts before the product, where differences of large weights are exact or
  /// nearly so; after it they would be lost in rounding.
  void apply(const Matrix<S>& x, Matrix<S>& y) const {
    y.setZero();
    for_each_block([&](Index first, const Matrix<S>& block) {
      detail::FewColumns<S>::add(block, x.middleRows(first, block.cols()), y);
    });
  }
  void apply_transposed(const Matrix<S>& x, Matrix<S>& y) const {
    for_each_block([&](Index first, const Matrix<S>& block) {
      detail::FewColumns<S>::transposed(block, x, y.middleRows(first, block.cols()));
    });
  }
  void columns(Index first, Matrix<S>& y) const {
    Matrix<S> other(y.rows(), y.cols());
    after_.columns(first, y);
    before_.columns(first, other);
    y -= other;
  }

 private:
  void for_each_block(auto&& f) const {
    constexpr Index width = 128;
    Matrix<S> block;
    for (Index first = 0; first < cols(); first += width) {
      block.resize(rows(), std::min(width, cols() - first));
      columns(first, block);
      f(first, std::as_const(block));
    }
  }

  DenseOperator<S> after_, before_;
};

static_assert(LinearOperator<DenseOperator<float>> && LinearOperator<DifferenceOperator<double>>);

}  // namespace lora::inline LORA_ABI
