#pragma once
/// A frozen weight of any kind, chosen at run time: what a layer of a model holds.

#include "lora/base/frozen.hpp"
#include "lora/core/scratch.hpp"
#include "lora/kernels/packed_product.hpp"

#include <memory>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// A FrozenBase of run-time sizes that a layer can hold. It may quantize W0, map it from a file, or reorder it.
///
///   like(W)       a base of the same kind from a matrix (out, in), so that merging keeps the kind
///   storage()     its elements, as one shared block of bytes
///   over(block)   the same base over another block of these bytes
template <class B>
concept RunTimeBase = FrozenBase<B> && B::Out == Dynamic && B::In == Dynamic && std::is_copy_constructible_v<B> &&
                      requires(const B& base, Matrix<typename B::Scalar> W) {
                        { base.like(std::move(W)) } -> std::same_as<B>;
                        { base.storage() } -> std::same_as<SharedBytes>;
                        { base.over(base.storage()) } -> std::same_as<B>;
                      };

/// Models FrozenBase; holds any RunTimeBase of this scalar. Copies share the held base, which decides whether a product
/// is fused.   Cost: one virtual call for each product.
template <class S>
class AnyBase {
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;
  static constexpr int Out = Dynamic;
  static constexpr int In = Dynamic;

  template <class B>
    requires(!std::is_same_v<B, AnyBase> && std::is_same_v<typename B::Scalar, S> && RunTimeBase<B>)
  AnyBase(B base)  // NOLINT(google-explicit-constructor): any base is an AnyBase
      : held_(hold(std::move(base))) {}

  /// A matrix, in the order in which products read it (Frozen<S>).
  AnyBase(Matrix<S> W0) : AnyBase(Frozen<S>(std::move(W0))) {}  // NOLINT(google-explicit-constructor)
  template <class Derived>
  AnyBase(const Eigen::MatrixBase<Derived>& W0)  // NOLINT(google-explicit-constructor)
      : AnyBase(Frozen<S>(W0)) {}

  void apply(const Columns& x, MutableColumns y, Executor* executor = nullptr) const { held_->apply(x, y, executor); }
  void apply(const Columns& x, MutableColumns y, const Columns& U, const Columns& Z,
             Executor* executor = nullptr) const {
    held_->apply(x, y, U, Z, executor);
  }
  void apply_transposed(const Columns& dy, MutableColumns dx, Executor* executor = nullptr) const {
    held_->apply_transposed(dy, dx, executor);
  }
  void apply_transposed(const Columns& dy, MutableColumns dx, const Columns& U, const Columns& Z,
                        Executor* executor = nullptr) const {
    held_->apply_transposed(dy, dx, U, Z, executor);
  }

  /// y = W x of a trained matrix, summed in the order of Frozen, so that freezing it changes no bit.
  static void multiply(const Columns& W, const Columns& x, MutableColumns y, Executor* executor = nullptr) {
    multiply_like<Frozen<S>>(W, x, y, executor);
  }

  Index rows() const { return held_->rows; }
  Index cols() const { return held_->cols; }
  Index bytes() const { return held_->bytes(); }
  Matrix<S> columns(Index first, Index count) const { return held_->columns(first, count); }
  Matrix<S> dense() const { return columns(0, cols()); }
  /// A base of the held kind from another matrix (out, in).
  AnyBase like(Matrix<S> W) const { return held_->like(std::move(W)); }
  /// The elements as one shared block of bytes, and the same base over another block. Throws StateError for a null
  /// block, ShapeError for its size or alignment.
  SharedBytes storage() const { return held_->storage(); }
  AnyBase over(const SharedBytes& block) const { return held_->over(block); }

  /// The held base, or null if it is not a B.
  template <class B>
  const B* as() const& {
    return held_->tag == detail::tag_of<B>() ? &static_cast<const Held<B>&>(*held_).base : nullptr;
  }
  template <class B>
  const B* as() const&& = delete;
  /// Whether both hold the same base object.
  bool shares_with(const AnyBase& other) const { return held_ == other.held_; }

 private:
  struct Interface {
    const void* tag;
    Index rows, cols;

    Interface(const void* own_tag, Index own_rows, Index own_cols) : tag(own_tag), rows(own_rows), cols(own_cols) {}
    virtual ~Interface() = default;
    virtual void apply(const Columns&, MutableColumns&, Executor*) const = 0;
    virtual void apply(const Columns&, MutableColumns&, const Columns&, const Columns&, Executor*) const = 0;
    virtual void apply_transposed(const Columns&, MutableColumns&, Executor*) const = 0;
    virtual void apply_transposed(const Columns&, MutableColumns&, const Columns&, const Columns&, Executor*) const = 0;
    virtual Index bytes() const = 0;
    virtual Matrix<S> columns(Index first, Index count) const = 0;
    virtual AnyBase like(Matrix<S>&& W) const = 0;
    virtual SharedBytes storage() const = 0;
    virtual AnyBase over(const SharedBytes& block) const = 0;
  };

  template <class B>
  struct Held final : Interface {
    B base;

    explicit Held(B own) : Interface(detail::tag_of<B>(), own.rows(), own.cols()), base(std::move(own)) {}
    void apply(const Columns& x, MutableColumns& y, Executor* executor) const override { base.apply(x, y, executor); }
    void apply(const Columns& x, MutableColumns& y, const Columns& U, const Columns& Z,
               Executor* executor) const override {
      lora::apply(base, x, y, U, Z, executor);
    }
    void apply_transposed(const Columns& dy, MutableColumns& dx, Executor* executor) const override {
      base.apply_transposed(dy, dx, executor);
    }
    void apply_transposed(const Columns& dy, MutableColumns& dx, const Columns& U, const Columns& Z,
                          Executor* executor) const override {
      lora::apply_transposed(base, dy, dx, U, Z, executor);
    }
    Index bytes() const override { return base.bytes(); }
    Matrix<S> columns(Index first, Index count) const override { return base.columns(first, count); }
    AnyBase like(Matrix<S>&& W) const override { return AnyBase(base.like(std::move(W))); }
    SharedBytes storage() const override { return base.storage(); }
    AnyBase over(const SharedBytes& block) const override { return AnyBase(base.over(block)); }
  };

  /// Defined outside the class, so that it can be compiled once for the common bases (lora/compiled.hpp).
  template <class B>
  static std::shared_ptr<const Interface> hold(B base);

  std::shared_ptr<const Interface> held_;
};

template <class S>
template <class B>
std::shared_ptr<const typename AnyBase<S>::Interface> AnyBase<S>::hold(B base) {
  return std::shared_ptr<const Interface>(new Held<B>(std::move(base)));
}

static_assert(FrozenBase<AnyBase<float>> && FrozenBase<AnyBase<double>>);

}  // namespace lora::inline LORA_ABI
