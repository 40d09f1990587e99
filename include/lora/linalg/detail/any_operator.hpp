#pragma once
// A type-erased LinearOperator, so that the algorithms are compiled once for each scalar.

#include "lora/core/error.hpp"
#include "lora/linalg/detail/matrix_view.hpp"
#include "lora/linalg/linear_operator.hpp"

#include <algorithm>
#include <cmath>
#include <concepts>
#include <string_view>

namespace lora::inline LORA_ABI::detail {

template <class S>
class AnyOperator {
 public:
  virtual Index rows() const = 0;
  virtual Index cols() const = 0;
  virtual void apply(const Matrix<S>& x, Matrix<S>& y) const = 0;
  virtual void apply_transposed(const Matrix<S>& x, Matrix<S>& y) const = 0;
  virtual void columns(Index first, Matrix<S>& y) const = 0;
  /// The matrix, if it is in memory, else null.
  virtual const MatrixView<S>* in_memory() const = 0;

 protected:
  ~AnyOperator() = default;
};

/// Does not own the operator.
template <LinearOperator Operator>
class OperatorReference final : public AnyOperator<typename Operator::Scalar> {
 public:
  using S = typename Operator::Scalar;

  explicit OperatorReference(const Operator& A) : A_(A) {}

  Index rows() const override { return A_.rows(); }
  Index cols() const override { return A_.cols(); }
  void apply(const Matrix<S>& x, Matrix<S>& y) const override { A_.apply(x, y); }
  void apply_transposed(const Matrix<S>& x, Matrix<S>& y) const override { A_.apply_transposed(x, y); }
  void columns(Index first, Matrix<S>& y) const override { A_.columns(first, y); }
  const MatrixView<S>* in_memory() const override {
    // tests the type, not the name of a member, which a custom operator may have too
    if constexpr (std::same_as<Operator, DenseOperator<S>>) {
      return &A_.view();
    } else {
      return nullptr;
    }
  }

 private:
  const Operator& A_;
};

/// max |a_ij|.   Throws ShapeError if A is empty, ValueError naming an entry that is not finite.
template <class S>
S largest_magnitude(const Caller& who, std::string_view name, const AnyOperator<S>& A) {
  if (const MatrixView<S>* view = A.in_memory()) return largest_magnitude(who, name, *view);
  check_not_empty(who, name, A.rows(), A.cols());
  S largest = 0;
  Matrix<S> column(A.rows(), 1);
  for (Index j = 0; j < A.cols(); ++j) {
    A.columns(j, column);
    for (Index i = 0; i < column.size(); ++i) {
      if (!std::isfinite(column(i))) fail_not_finite(who, name, i, j, column(i));
    }
    largest = std::max(largest, column.cwiseAbs().maxCoeff());
  }
  return largest;
}

}  // namespace lora::inline LORA_ABI::detail
