#pragma once
/// How the engine sees matrices: in memory, with contiguous columns.

#include "lora/core/scalar.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI::detail {

template <class S>
using Columns = Eigen::Ref<const Matrix<S>, 0, Eigen::OuterStride<>>;
template <class S>
using MutableColumns = Eigen::Ref<Matrix<S>, 0, Eigen::OuterStride<>>;

/// Rows row, ..., row + rows - 1 of columns col, ..., col + cols - 1, of a matrix with contiguous columns. Blocks of
/// matrices, maps and other blocks are types of their own in Eigen, each with its own way to become a Ref; this is one.
template <class M>
auto part_of(M& matrix, Index row, Index rows, Index col, Index cols) {
  static_assert(!bool(std::remove_const_t<M>::IsRowMajor));
  auto* const first = matrix.data() + row + col * matrix.outerStride();
  using S = std::remove_pointer_t<decltype(matrix.data())>;
  using Plain = Matrix<std::remove_const_t<S>>;
  using Part = std::conditional_t<std::is_const_v<S>, const Plain, Plain>;
  const Eigen::OuterStride<> stride(matrix.outerStride());
  return Eigen::Ref<Part, 0, Eigen::OuterStride<>>(
      Eigen::Map<Part, 0, Eigen::OuterStride<>>(first, rows, cols, stride));
}
auto middle_columns(auto& matrix, Index first, Index count) { return part_of(matrix, 0, matrix.rows(), first, count); }
auto middle_rows(auto& matrix, Index first, Index count) { return part_of(matrix, first, count, 0, matrix.cols()); }

/// One of them.
template <class S>
using FlatColumn = Eigen::Map<std::conditional_t<std::is_const_v<S>, const Vector<std::remove_const_t<S>>, Vector<S>>>;

}  // namespace lora::inline LORA_ABI::detail
