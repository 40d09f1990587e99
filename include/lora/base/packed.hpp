#pragma once
/// A frozen weight packed into panels, the order in which products read it.

#include "lora/base/frozen_base.hpp"
#include "lora/base/shared_bytes.hpp"
#include "lora/core/error.hpp"
#include "lora/kernels/elementwise.hpp"
#include "lora/kernels/huge_pages.hpp"
#include "lora/kernels/packed_product.hpp"
#include "lora/kernels/packed_transposed.hpp"
#include "lora/kernels/unpacked_product.hpp"

#include <algorithm>
#include <memory>
#include <type_traits>

namespace lora::inline LORA_ABI {

/// One copy of W0 serves both directions. A second one, of its transpose, doubles the memory and makes dx faster for a
/// small W0 (up to 96 x 96) or few samples (up to 12, with a W0 of up to 384 x 384).
enum class Copies { one, two };

/// W0 (out, in), packed once and never changed: y = W0 x + U Z and dx = W0^T dy + V G.
///
///   lora::LoraLinear<float> layer(std::move(W0), {.rank = 8, .alpha = 16}, rng);     holds a Packed<float>
///
/// A general matrix product packs W0 on every call, which for few samples takes longer than the product. W0 never
/// changes, so here it is packed once, and both directions read the same copy. Packing takes the time of a copy; the
/// dense matrix is not kept, but dense() returns it, bit for bit.
///
/// Copies of a Packed share one W0 in memory. Products read x, dy and the factors in place if their columns are
/// contiguous, do not allocate, and use up to 120 KiB of stack. The adapter's term is fused into the product, so a
/// result differs by rounding from that of Dense. Sizes are asserted, as in Eigen.
template <class S>
class Packed {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>,
                "lora: Packed holds float or double. For other scalars use Dense.");
  using Layout = detail::PanelLayout<S>;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;
  using Term = detail::LowRankTerm<S>;

 public:
  using Scalar = S;
  static constexpr int Out = Dynamic;
  static constexpr int In = Dynamic;

  /// Packs W0; pass it with std::move to free its memory at once. Throws ShapeError if it is empty.
  Packed(Matrix<S> W0, Copies copies = Copies::one)  // NOLINT(google-explicit-constructor): a matrix is a frozen base
      : Packed(copies, Columns(W0)) {}

  /// Any matrix expression. A matrix with contiguous columns, such as a block or a Ref, is not copied first.
  template <class Derived>
  Packed(const Eigen::MatrixBase<Derived>& W0, Copies copies = Copies::one)  // NOLINT(google-explicit-constructor)
      : Packed(copies, Columns(W0.derived())) {}

  /// y = W0 x
  void apply(const Columns& x, MutableColumns y, Executor* executor = nullptr) const {
    detail::packed_product<S>(layout_, panels(), x, y, {}, executor);
  }
  /// y = W0 x + U Z     U (out, rank), Z (rank, samples)
  void apply(const Columns& x, MutableColumns y, const Columns& U, const Columns& Z,
             Executor* executor = nullptr) const {
    eigen_assert(U.rows() == rows() && Z.cols() == x.cols());
    detail::packed_product<S>(layout_, panels(), x, y, {U, Z}, executor);
  }
  /// dx = W0^T dy
  void apply_transposed(const Columns& dy, MutableColumns dx, Executor* executor = nullptr) const {
    multiply_transposed(dy, dx, {}, executor);
  }
  /// dx = W0^T dy + V G     V (in, rank), G (rank, samples)
  void apply_transposed(const Columns& dy, MutableColumns dx, const Columns& V, const Columns& G,
                        Executor* executor = nullptr) const {
    eigen_assert(V.rows() == cols() && G.cols() == dy.cols());
    multiply_transposed(dy, dx, {V, G}, executor);
  }

  /// y = W x of another matrix, which is not packed: the same sums in the same order as apply.
  static void multiply(const Columns& W, const Columns& x, MutableColumns y, Executor* executor = nullptr) {
    detail::unpacked_product<S>(W, x, y, executor);
  }

  Index rows() const { return layout_.rows; }
  Index cols() const { return layout_.cols; }
  Index bytes() const { return elements(copies_) * static_cast<Index>(sizeof(S)); }
  Copies copies() const { return copies_; }

  /// The elements of W0 in packed order, in memory that all copies of this base share.
  const S* data() const { return panels(); }

  /// A Packed of another matrix (out, in), with as many copies.
  Packed like(Matrix<S> W) const { return Packed(std::move(W), copies()); }

  /// The panels and the slack that a kernel may read after them, then those of the transpose if there are two copies.
  SharedBytes storage() const {
    return {std::shared_ptr<const std::byte>(block_, reinterpret_cast<const std::byte*>(block_.get())),
            static_cast<std::size_t>(bytes())};
  }
  /// The same base over another block of these bytes, from the same build: their order depends on its packet size.
  /// Throws StateError for null, ShapeError for its size or alignment.
  Packed over(const SharedBytes& block) const {
    Packed other = *this;
    other.block_ = block.as<S>("Packed::over", static_cast<std::size_t>(elements(copies_)));
    return other;
  }

  /// W0 as a new matrix.
  Matrix<S> dense() const { return columns(0, cols()); }

  /// W0[:, first : first + count] as a new matrix.
  Matrix<S> columns(Index first, Index count) const {
    eigen_assert(first >= 0 && count >= 0 && first + count <= cols());
    Matrix<S> some(rows(), count);
    for (Index col = 0; col < count; ++col) {
      for (Index row = 0; row < rows(); row += Layout::mr) {
        std::copy_n(panels() + layout_.position(row, first + col), layout_.panel_rows(row), &some(row, col));
      }
    }
    return some;
  }

 private:
  Packed(Copies copies, const Columns& W0) : layout_{W0.rows(), W0.cols()}, copies_(copies) {
    detail::check_not_empty("Packed", "W0", W0.rows(), W0.cols());
    auto block = std::make_shared<Vector<S>>(elements(copies));
    detail::prefer_huge_pages(block->data(), static_cast<std::size_t>(block->size()) * sizeof(S));
    pack(W0, block->data());
    if (copies == Copies::two) pack(W0.transpose(), block->data() + elements(Copies::one));
    block_ = std::shared_ptr<const S>(block, block->data());
  }

  Index elements(Copies copies) const {
    return (layout_.rows * layout_.cols + Layout::slack) * (copies == Copies::two ? 2 : 1);
  }

  static void pack(const auto& W0, S* to) {
    Layout{W0.rows(), W0.cols()}.for_each_column([&](Index position, Index row, Index col, Index count) {
      if constexpr (detail::in_lines<decltype(W0), false>()) {
        std::copy_n(W0.data() + row + col * W0.outerStride(), count, to + position);
      } else {
        for (Index i = 0; i < count; ++i) to[position + i] = W0.coeff(row + i, col);
      }
    });
    std::fill_n(to + W0.size(), Layout::slack, S(0));
  }

  void multiply_transposed(const Columns& dy, MutableColumns dx, const Term& term, Executor* executor) const {
    if (copies_ == Copies::two) {
      detail::packed_product<S>({cols(), rows()}, panels() + elements(Copies::one), dy, dx, term, executor);
    } else {
      detail::packed_transposed<S>(layout_, panels(), dy, dx, term, executor);
    }
  }

  const S* panels() const { return block_.get(); }

  Layout layout_;
  Copies copies_;
  std::shared_ptr<const S> block_;  // the panels of W0, then those of W0^T if there are two copies
};

static_assert(FrozenBase<Packed<float>> && FrozenBase<Packed<double>>);

}  // namespace lora::inline LORA_ABI
