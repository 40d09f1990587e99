#pragma once
/// The adapter that changes nothing:   y = W0 x. It stands where an adapter is switched off, or brings only a bias.

#include "lora/adapters/adapter.hpp"

namespace lora {

template <class S, int Rows = Dynamic, int Cols = Dynamic>
struct NoAdapter {
  using Scalar = S;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  template <int Samples = Dynamic>
  struct Cache {
    Executor* executor = nullptr;  ///< of the last forward pass

    Index bytes() const { return 0; }
  };

  template <int N>
  void forward(const FrozenBase auto& base, const auto& x, auto& y, Cache<N>& cache, const Pass& pass, S = S(1)) const {
    cache.executor = pass.executor;
    base.apply(x, y, pass.executor);
  }

  template <int N>
  void backward(const FrozenBase auto& base, const auto&, const auto& dy, auto&& dx, Cache<N>& cache) const {
    if constexpr (wants_gradient<decltype(dx)>) base.apply_transposed(dy, dx, cache.executor);
  }

  template <int N>
  void add(const auto&, auto&, Cache<N>&, const Pass&, S) const {}

  template <int N>
  void add_backward(const auto&, const auto&, auto&&, Cache<N>&) const {}

  template <class W>
  void add_delta(Matrix<W>&, Index, const auto&, S = S(1)) const {}

  static void visit(auto&, auto&&) {}
};

static_assert(AdditiveAdapter<NoAdapter<float>>);

}  // namespace lora
