#pragma once
/// A frozen weight in the order in which products read it.

#include "lora/base/frozen_base.hpp"
#include "lora/base/plan.hpp"
#include "lora/core/error.hpp"
#include "lora/kernels/huge_pages.hpp"
#include "lora/kernels/merged_panels.hpp"
#include "lora/kernels/packed_product.hpp"
#include "lora/kernels/packed_transposed.hpp"
#include "lora/kernels/thin_product.hpp"
#include "lora/kernels/unpacked_product.hpp"

#include <memory>
#include <type_traits>

namespace lora {

/// W0 (out, in), packed once and never changed: y = W0 x + U Z and dx = W0^T dy + V G.
///
///   lora::LoraLinear<float> layer(std::move(W0), {.rank = 8, .alpha = 16}, rng);     holds a Packed<float>
///
/// A general matrix product copies W0 into such an order on every call, which for few samples takes longer than the
/// product. W0 never changes, so here it is done once, and both directions read the same copy. Packing takes the time
/// of a copy; the dense matrix is not kept, and dense() gives it back, bit for bit.
///
/// Copies share one W0 in memory. Products take x, dy and the factors as they lie if their columns are contiguous, need
/// no heap, and up to 120 KiB of stack. The adapter's term is added within the product, so a result differs by rounding
/// from that of Dense.
///
/// Those who prefer speed to memory give a plan: plan_for({.out = ..., .in = ..., .rank = 8, .samples = 64},
/// Prefer::speed), or one of their own. A pass that is materialized forms W0 + s B A in the cache, once for both
/// directions: the first one takes as much memory as one copy of W0 from the heap, and it stays.
template <class S>
class Packed {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>,
                "lora: Packed holds float or double. For other numbers use Dense.");
  using Layout = detail::PanelLayout<S>;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;
  static constexpr int Out = Dynamic;
  static constexpr int In = Dynamic;

  /// Packs W0; pass it with std::move to give its memory back at once. Throws ShapeError if it is empty.
  Packed(Matrix<S> W0, const Plan& plan = {})  // NOLINT(google-explicit-constructor): a matrix is a frozen base
      : Packed(plan, Columns(W0)) {}
  Packed(Matrix<S> W0, Copies copies) : Packed(std::move(W0), Plan{copies, Delta::two_step}) {}

  /// Any matrix expression. What lies in memory with contiguous columns, such as a block or a Ref, is not copied first.
  template <class Derived>
  Packed(const Eigen::MatrixBase<Derived>& W0, const Plan& plan = {})  // NOLINT(google-explicit-constructor)
      : Packed(plan, Columns(W0.derived())) {}
  template <class Derived>
  Packed(const Eigen::MatrixBase<Derived>& W0, Copies copies) : Packed(W0, Plan{copies, Delta::two_step}) {}

  void apply(const Columns& x, MutableColumns y) const { detail::packed_product<S>(layout_, panels(), x, y); }
  void apply(const Columns& x, MutableColumns y, const Columns& U, const Columns& Z) const {
    detail::packed_product<S>(layout_, panels(), x, y, {U, Z});
  }
  void apply_transposed(const Columns& dy, MutableColumns dx) const { multiply_transposed(dy, dx, {}); }
  void apply_transposed(const Columns& dy, MutableColumns dx, const Columns& V, const Columns& G) const {
    multiply_transposed(dy, dx, {V, G});
  }

  /// y = W0 x + U Z, or (W0 + s U V) x if the plan of this pass says so.
  void apply(const Columns& x, MutableColumns y, const Columns& U, const Columns& Z, const detail::Rows<S>& V, S s,
             MergedWeight<S>& merged) const {
    if (!merge(U, V, s, x.cols(), merged)) return apply(x, y, U, Z);
    detail::packed_product<S>(layout_, merged.numbers.data(), x, y);
  }
  void apply_transposed(const Columns& dy, MutableColumns dx, const Columns& V, const Columns& G,
                        const MergedWeight<S>& merged) const {
    if (!merged.formed) return apply_transposed(dy, dx, V, G);
    detail::PackedTransposed<S>::run(layout_, merged.numbers.data(), dy, dx);
  }

  /// What a pass with an adapter of this rank does.
  Plan plan(Index rank, Index samples) const {
    const Delta fastest = plan_for({rows(), cols(), rank, samples}, Prefer::speed).delta;
    return {copies(), delta_ == Delta::whichever_is_faster ? fastest : delta_};
  }

  /// y = W x of another matrix, which is not packed: the same sums in the same order as in apply.
  static void multiply(const Columns& W, const Columns& x, MutableColumns y) { detail::unpacked_product<S>(W, x, y); }

  /// Z = T X and D += X G^T of low-rank factors, read where they lie: thin.hpp.
  static void thin_product(const auto& T, const auto& X, auto&& Z) { detail::thin_product(T.transpose(), X, Z); }
  static void add_outer(const auto& X, const auto& G, auto&& D) {
    if constexpr (std::remove_cvref_t<decltype(D)>::IsRowMajor) {
      detail::add_thin_outer(G, X, D.transpose());
    } else {
      detail::add_thin_outer(X, G, D);
    }
  }

  Index rows() const { return layout_.rows; }
  Index cols() const { return layout_.cols; }
  Index bytes() const { return panels_->size() * static_cast<Index>(sizeof(S)) * (transposed_ ? 2 : 1); }
  Copies copies() const { return transposed_ ? Copies::two : Copies::one; }

  /// The numbers of W0 in their packed order: the same memory in all copies of this base.
  const S* data() const { return panels(); }

  /// W0 as a new matrix.
  Matrix<S> dense() const { return columns(0, cols()); }

  /// W0[:, first : first + count] as a new matrix.
  Matrix<S> columns(Index first, Index count) const {
    Matrix<S> some(rows(), count);
    for (Index col = 0; col < count; ++col) {
      for (Index row = 0; row < rows(); row += Layout::height) {
        std::copy_n(panels() + layout_.position(row, first + col), layout_.panel_rows(row), &some(row, col));
      }
    }
    return some;
  }

 private:
  template <class>
  friend class Threaded;
  using Panels = Vector<S>;

  Packed(const Plan& plan, const Columns& W0) : layout_{W0.rows(), W0.cols()}, panels_(pack(W0)), delta_(plan.delta) {
    if (plan.copies == Copies::two) transposed_ = pack(W0.transpose());
  }

  static std::shared_ptr<const Panels> pack(const auto& W0) {
    detail::check_not_empty("Packed", "W0", W0.rows(), W0.cols());
    auto panels = std::make_shared<Panels>(W0.size() + Layout::slack);
    detail::prefer_huge_pages(panels->data(), static_cast<std::size_t>(panels->size()) * sizeof(S));
    Layout{W0.rows(), W0.cols()}.for_each_column([&](Index position, Index row, Index col, Index count) {
      panels->segment(position, count) = W0.col(col).segment(row, count);
    });
    panels->tail(Layout::slack).setZero();
    return panels;
  }

  /// Forms W0 + s U V if the plan for so many samples says so; returns whether.
  bool merge(const Columns& U, const detail::Rows<S>& V, S s, Index samples, MergedWeight<S>& merged) const {
    merged.formed = plan(U.cols(), samples).delta == Delta::materialized;
    if (!merged.formed) return false;
    if (merged.numbers.size() != panels_->size()) merged.numbers.setZero(panels_->size());
    detail::merge_panels<S>(layout_, panels(), U, V, s, merged.numbers.data());
    return true;
  }

  void multiply_transposed(const Columns& dy, MutableColumns dx, const detail::LowRankTerm<S>& term) const {
    if (transposed_) {
      detail::packed_product<S>({cols(), rows()}, transposed_->data(), dy, dx, term);
    } else {
      detail::PackedTransposed<S>::run(layout_, panels(), dy, dx, term);
    }
  }

  const S* panels() const { return panels_->data(); }

  Layout layout_;
  std::shared_ptr<const Panels> panels_;
  std::shared_ptr<const Panels> transposed_;  // of W0^T, or null
  Delta delta_;
};

static_assert(FrozenBase<Packed<float>> && FrozenBase<Packed<double>>);

}  // namespace lora
