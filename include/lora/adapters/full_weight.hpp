#pragma once
/// A weight that is trained in full:   y = W x
///
/// As an adapter it is a trained copy of one layer (PEFT's modules_to_save): W starts as W0 and replaces it while
/// selected; deselecting it restores the base. It is also the weight of a linear layer before it is frozen.

#include "lora/adapters/adapter.hpp"
#include "lora/kernels/thin_product.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// W (out, in), trained.   dW = dy x^T, dx = W^T dy.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
struct FullWeight {
  using Scalar = S;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  Parameter<S, Out, In> weight;

  template <int N>
  struct Kept {
    Index bytes() const { return 0; }
  };
  template <int N>
  using Scratch = Kept<N>;

  explicit FullWeight(Matrix<S, Out, In> initial) : weight(std::move(initial)) {}

  /// y = W x; for W = W0 the result of the base, bit for bit
  template <FrozenBase Base, int N>
  void forward(const Base&, const auto& x, auto&& y, Kept<N>&, Scratch<N>&, const Pass& pass) const {
    multiply_like<Base>(weight.value, x, y, pass.executor);
  }

  template <int N>
  void backward(const auto&, const auto& x, const auto& dy, auto&& dx, Kept<N>&, Scratch<N>&, const Pass& pass) {
    if (weight.trainable) detail::add_thin_outer(dy, x, weight.gradient(), pass.executor);
    if constexpr (wants_gradient<decltype(dx)>) detail::thin_product(weight.value, dy, dx, pass.executor);
  }

  /// block += (W - W0)[:, first : first + block.cols()]
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const FrozenBase auto& base) const {
    const auto start = base.columns(first, block.cols());
    for (Index j = 0; j < block.cols(); ++j) {
      for (Index i = 0; i < block.rows(); ++i) {
        block(i, j) += static_cast<W>(weight.value(i, first + j)) - static_cast<W>(start(i, j));
      }
    }
  }

  /// The weight that replaces W0: the merged weight, to the bit.
  const Matrix<S, Out, In>& replacement() const { return weight.value; }

  static void visit(auto& self, auto&& f) { f("weight", self.weight); }

  // AdapterKind. Files store it as one of the modules_to_save.

  static constexpr const char* peft_type = "";
  static constexpr bool summable = false;
  static constexpr bool shared = false;

  void check_fits(const detail::Caller& who, Index out, Index in) const {
    detail::check_rows(who, "the trained weight", weight.value.rows(), "out_features", out);
    detail::check_cols(who, "the trained weight", weight.value.cols(), "in_features", in);
  }
  AdapterCount count() const {
    return {.trained = weight.trainable ? weight.value.size() : 0,
            .constant = weight.trainable ? 0 : weight.value.size(),
            .replaces = true};
  }
  double max_weight() const { return 1; }
  static void describe(auto& self, auto&& table) { table.tensor("weight", self.weight); }
};

static_assert(AdapterKind<FullWeight<float>>);

}  // namespace lora::inline LORA_ABI
