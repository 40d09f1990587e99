#pragma once
/// The adapter that changes nothing:   y = W0 x. Used for an adapter that has only a bias.

#include "lora/adapters/adapter.hpp"

namespace lora::inline LORA_ABI {

template <class S, int Rows = Dynamic, int Cols = Dynamic>
struct NoAdapter {
  using Scalar = S;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  template <int N>
  struct Kept {
    Index bytes() const { return 0; }
  };
  template <int N>
  using Scratch = Kept<N>;

  template <int N>
  void forward(const FrozenBase auto& base, const auto& x, auto&& y, Kept<N>&, Scratch<N>&, const Pass& pass,
               S = S(1)) const {
    base.apply(x, y, pass.executor);
  }

  template <int N>
  void backward(const FrozenBase auto& base, const auto&, const auto& dy, auto&& dx, Kept<N>&, Scratch<N>&,
                const Pass& pass) const {
    if constexpr (wants_gradient<decltype(dx)>) base.apply_transposed(dy, dx, pass.executor);
  }

  template <int N>
  void add(const auto&, auto&&, Kept<N>&, Scratch<N>&, const Pass&, S) const {}

  template <int N>
  void add_backward(const auto&, const auto&, auto&&, Kept<N>&, Scratch<N>&, const Pass&) const {}

  template <class W>
  void add_delta(Matrix<W>&, Index, const auto&, S = S(1)) const {}

  static void visit(auto&, auto&&) {}

  // AdapterKind.

  static constexpr const char* peft_type = "";
  static constexpr bool summable = true;
  static constexpr bool shared = false;

  void check_fits(const detail::Caller&, Index, Index) const {}
  AdapterCount count() const { return {}; }
  double max_weight() const { return detail::largest_finite<S>(); }
  static void describe(auto&, auto&&) {}
};

static_assert(AdapterKind<NoAdapter<float>>);

}  // namespace lora::inline LORA_ABI
