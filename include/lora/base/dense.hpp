#pragma once
/// A frozen weight as a plain matrix.

#include "lora/base/frozen_base.hpp"
#include "lora/base/shared_bytes.hpp"
#include "lora/core/error.hpp"

#include <memory>
#include <utility>

namespace lora::inline LORA_ABI {

/// W0 (out, in), never changed after construction.
///
/// With run-time sizes the matrix is held by shared ownership: copies of a layer, and any number of layers built from
/// the same Dense, keep one W0 in memory. With compile-time sizes it lies inside the object.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
class Dense {
  static_assert(detail::require_storable<S, Rows, Cols>());
  static constexpr bool fixed = Rows != Dynamic && Cols != Dynamic;

  /// The elements, which a matrix or another owner holds.
  struct Held {
    std::shared_ptr<const S> data;
    Index rows = 0, cols = 0;

    Held() = default;
    explicit Held(std::shared_ptr<const Matrix<S, Rows, Cols>> matrix)
        : data(matrix, matrix->data()), rows(matrix->rows()), cols(matrix->cols()) {}
  };

 public:
  using Scalar = S;
  using Weight = Matrix<S, Rows, Cols>;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  /// Takes ownership of the matrix; pass it with std::move to avoid the copy. Throws ShapeError if it is empty.
  Dense(Weight W0) : weight_(store(std::move(W0))) {  // NOLINT(google-explicit-constructor): a matrix is a frozen base
    detail::check_not_empty("Dense", "W0", rows(), cols());
  }

  /// Any matrix expression, checked against the compile-time sizes.
  template <class Derived>
  Dense(const Eigen::MatrixBase<Derived>& W0)  // NOLINT(google-explicit-constructor)
      : Dense(checked(W0.derived())) {}

  /// Shares a matrix that others hold too. Throws ShapeError if it is empty, StateError if it is null.
  explicit Dense(std::shared_ptr<const Weight> W0)
    requires(!fixed)
  {
    if (W0 == nullptr) throw StateError("Dense: W0 is a null pointer, expected a matrix to share");
    weight_ = Held(std::move(W0));
    detail::check_not_empty("Dense", "W0", rows(), cols());
  }

  /// Eigen's products, on this thread; the executor is ignored.
  void apply(const auto& x, auto& y, Executor* = nullptr) const { y.noalias() = dense() * x; }
  void apply_transposed(const auto& dy, auto& dx, Executor* = nullptr) const {
    dx.noalias() = dense().transpose() * dy;
  }

  Matrix<S, Rows> columns(Index first, Index count) const { return dense().middleCols(first, count); }

  Index rows() const { return dense().rows(); }
  Index cols() const { return dense().cols(); }
  Index bytes() const { return dense().size() * static_cast<Index>(sizeof(S)); }

  /// A Dense of another matrix (out, in).
  Dense like(Weight W) const { return Dense(std::move(W)); }

  /// W0, without a copy.
  decltype(auto) dense() const {
    if constexpr (fixed) {
      return static_cast<const Weight&>(weight_);
    } else {
      return Eigen::Map<const Weight>(weight_.data.get(), weight_.rows, weight_.cols);
    }
  }

  /// The elements, column by column.
  SharedBytes storage() const
    requires(!fixed)
  {
    return {std::shared_ptr<const std::byte>(weight_.data, reinterpret_cast<const std::byte*>(weight_.data.get())),
            static_cast<std::size_t>(bytes())};
  }
  /// The same base over another block of these bytes. Throws StateError for null, ShapeError for its size or alignment.
  Dense over(const SharedBytes& block) const
    requires(!fixed)
  {
    Dense other = *this;
    other.weight_.data = block.as<S>("Dense::over", static_cast<std::size_t>(rows() * cols()));
    return other;
  }

 private:
  static auto store(Weight&& W0) {
    if constexpr (fixed) {
      return std::move(W0);
    } else {
      return Held(std::make_shared<const Weight>(std::move(W0)));
    }
  }

  template <class Derived>
  static Weight checked(const Derived& W0) {
    if constexpr (Rows != Dynamic) detail::check_rows("Dense", "W0", W0.rows(), "out_features", Rows);
    if constexpr (Cols != Dynamic) detail::check_cols("Dense", "W0", W0.cols(), "in_features", Cols);
    return Weight(W0);
  }

  std::conditional_t<fixed, Weight, Held> weight_;
};

static_assert(FrozenBase<Dense<float>> && FrozenBase<Dense<double, 4, 3>>);

}  // namespace lora::inline LORA_ABI
