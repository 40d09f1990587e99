#pragma once
/// The scratch memory of a pass: a matrix that grows and never shrinks.
///
/// A training loop alternates between full batches and a last, smaller one; an Eigen matrix would be reallocated at
/// every change of size. A Buffer keeps its capacity, so after the first full batch nothing allocates.

#include "lora/core/scalar.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI {

/// Rows, Cols: compile-time sizes or Dynamic. With both fixed the memory lies inside the object, not on the heap.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
class Buffer {
  static_assert(detail::require_storable<S, Rows, Cols>());
  static constexpr bool fixed = Rows != Dynamic && Cols != Dynamic;

 public:
  using View = Eigen::Map<Matrix<S, Rows, Cols>>;
  using ConstView = Eigen::Map<const Matrix<S, Rows, Cols>>;

  /// Makes the buffer (rows, cols) and returns it; the contents are unspecified. Allocates only to grow.
  View resize(Index rows, Index cols) {
    if constexpr (fixed) {
      eigen_assert(rows == Rows && cols == Cols);
    } else if (rows * cols > storage_.size()) {
      storage_.resize(rows * cols);
    }
    rows_ = rows;
    cols_ = cols;
    return view();
  }

  View view() { return View(storage_.data(), rows_, cols_); }
  ConstView view() const { return ConstView(storage_.data(), rows_, cols_); }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  /// Bytes held, whether in use or not.
  Index bytes() const { return storage_.size() * static_cast<Index>(sizeof(S)); }

 private:
  Vector<S, fixed ? Rows * Cols : Dynamic> storage_;
  Index rows_ = Rows == Dynamic ? 0 : Rows;
  Index cols_ = Cols == Dynamic ? 0 : Cols;
};

namespace detail {

/// Columns first, ..., first + count - 1 of a Buffer's view, as a view of the same type, so that products see one type.
template <class View>
View columns_of(View& view, Index first, Index count)
  requires(View::ColsAtCompileTime == Dynamic)
{
  return View(view.data() + first * view.rows(), view.rows(), count);
}
template <class View>
View columns_of(View& view, Index, Index)
  requires(View::ColsAtCompileTime != Dynamic)
{
  return view;
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
