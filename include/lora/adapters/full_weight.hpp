#pragma once
/// A weight that is trained in full:   y = W x
///
/// As an adapter it is a trained copy of one layer (PEFT's modules_to_save): W starts as W0 and replaces it while
/// selected, and off restores the base. It is also what a linear layer is before anything is frozen.

#include "lora/adapters/adapter.hpp"

#include <utility>

namespace lora {

/// W (out, in), trained.   dW = dy x^T, dx = W^T dy.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
struct FullWeight {
  using Scalar = S;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  Parameter<S, Out, In> weight;

  template <int Samples = Dynamic>
  struct Cache {
    Index bytes() const { return 0; }
  };

  explicit FullWeight(Matrix<S, Out, In> initial) : weight(std::move(initial)) {}

  template <FrozenBase Base, int N>
  void forward(const Base&, const auto& x, auto& y, Cache<N>&, const Pass& pass) const {
    multiply_like<Base>(weight.value, x, y, pass.executor);
  }

  template <int N>
  void backward(const auto&, const auto& x, const auto& dy, auto&& dx, Cache<N>&) {
    if (weight.trainable) weight.gradient().noalias() += dy * x.transpose();
    if constexpr (wants_gradient<decltype(dx)>) dx.noalias() = weight.value.transpose() * dy;
  }

  /// block += (W - W0)[:, first : first + block.cols()]
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const FrozenBase auto& base) const {
    block += weight.value.middleCols(first, block.cols()).template cast<W>() -
             base.columns(first, block.cols()).template cast<W>();
  }

  /// What stands in W0's place: the merged weight, to the bit.
  const Matrix<S, Out, In>& replacement() const { return weight.value; }

  static void visit(auto& self, auto&& f) { f("weight", self.weight); }
};

static_assert(Adapter<FullWeight<float>> && !AdditiveAdapter<FullWeight<float>>);

}  // namespace lora
