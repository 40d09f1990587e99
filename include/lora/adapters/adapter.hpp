#pragma once
/// The concepts of an adapter: a change to a frozen weight. A new kind of adapter is one header that models them; the
/// laws in testing/adapter_laws.hpp say what must hold.

#include "lora/base/dense.hpp"
#include "lora/core/buffer.hpp"
#include "lora/core/layer_pass.hpp"
#include "lora/core/pass.hpp"
#include "lora/core/visit.hpp"

#include <algorithm>
#include <concepts>
#include <limits>
#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI {

/// x, dx (in, samples), y, dy (out, samples), sized by the caller and not overlapping.
///
///   forward(base, x, y, kept, scratch, pass)            y = adapted(W0, x)
///   backward(base, x, dy, dx, kept, scratch, pass)      dx = adapted'(x)^T dy; gradients of its parameters add up (+=)
///   add_delta(block, first, base)                       block += (adapted - W0)[:, first : first + block.cols()], in
///                                                       the precision of the block
///   visit(self, f)                                      lists its parameters by name
///
/// Kept<Samples> is what forward keeps for backward, one for each layer of a network; Scratch<Samples> is temporary
/// memory of a call, one for all layers. Both are default-constructible, grow and never shrink, and report their
/// bytes(). forward is const; backward gets the pass of its forward; the layer handles biases.
template <class A, class Base = Dense<typename A::Scalar>>
concept Adapter = FrozenBase<Base> && Visitable<A> &&
                  requires(A& adapter, const A& constant, const Base& base, const Matrix<typename A::Scalar, A::In>& x,
                           const Matrix<typename A::Scalar, A::Out>& dy, Matrix<typename A::Scalar, A::Out>& y,
                           Matrix<typename A::Scalar, A::In>& dx, Matrix<Wide<typename A::Scalar>>& block,
                           typename A::template Kept<Dynamic>& kept, typename A::template Scratch<Dynamic>& scratch,
                           const Pass& pass) {
                    constant.forward(base, x, y, kept, scratch, pass);
                    adapter.backward(base, x, dy, dx, kept, scratch, pass);
                    adapter.backward(base, x, dy, NoGradient(), kept, scratch, pass);
                    constant.add_delta(block, Index(), base);
                    { kept.bytes() } -> std::convertible_to<Index>;
                    { scratch.bytes() } -> std::convertible_to<Index>;
                  };

/// An adapter whose delta does not depend on W0, so that any number of them can be active together, each with a weight:
///
///   forward and add_delta take `weight` last;   add(x, y, kept, scratch, pass, weight): y += weight delta x
///   add_backward(x, dy, dx, kept, scratch, pass): dx += weight delta^T dy, and the gradients
template <class A>
concept AdditiveAdapter =
    Adapter<A> &&
    requires(A& adapter, const A& constant, const Matrix<typename A::Scalar, A::In>& x,
             const Matrix<typename A::Scalar, A::Out>& dy, Matrix<typename A::Scalar, A::Out>& y,
             Matrix<typename A::Scalar, A::In>& dx, typename A::template Kept<Dynamic>& kept,
             typename A::template Scratch<Dynamic>& scratch, const Pass& pass, typename A::Scalar weight) {
      constant.forward(Dense<typename A::Scalar>(x), x, y, kept, scratch, pass, weight);
      constant.add(x, y, kept, scratch, pass, weight);
      adapter.add_backward(x, dy, dx, kept, scratch, pass);
      adapter.add_backward(x, dy, NoGradient(), kept, scratch, pass);
    };

/// The size of an adapter, for the accounting: factors by their rank, all other elements one by one.
struct AdapterCount {
  Index rank = 0;         ///< total rank of its low-rank pairs
  Index frozen_a = 0;     ///< rows of their A that are not trained
  Index frozen_b = 0;     ///< columns of their B that are not trained
  Index trained = 0;      ///< further elements that are trained
  Index constant = 0;     ///< further elements that are not
  bool replaces = false;  ///< replaces W0 by its own weight, which is among those elements
  bool inert = false;     ///< its scale is 0: whatever its factors are, they change nothing and get no gradient

  bool trains() const { return frozen_a < rank || frozen_b < rank || trained > 0; }
};

namespace detail {

/// Accepts whatever describe() lists.
struct TableProbe {
  void setting(std::string_view, const auto&) const {}
  void tensor(std::string_view, const auto&) const {}
};

template <class S>
double largest_finite() {
  if constexpr (std::is_floating_point_v<S>) return static_cast<double>(std::numeric_limits<S>::max());
  return std::numeric_limits<double>::max();
}

}  // namespace detail

/// What a kind of adapter defines so that models can hold it by name (adapters/any_adapter.hpp); checked at compile
/// time.
///
///   check_fits(who, out, in)   throws ShapeError, naming the tensor, unless it fits a layer of this size
///   count()                    its size
///   summable                   whether it may be part of a weighted sum; true if and only if it is an AdditiveAdapter
///   shared                     whether all layers of a model share one part of it
///   max_weight()               the max weight in a sum with which it stays finite
///   describe(self, table)      its settings and tensors under PEFT's names, once: table.setting("r", rank),
///                              table.tensor("lora_A.weight", A)
///   peft_type                  "LORA"; empty if files do not store it as an adapter
template <class A>
concept AdapterKind = Adapter<A> && requires(const A& constant, const detail::Caller& who) {
  constant.check_fits(who, Index(), Index());
  { constant.count() } -> std::same_as<AdapterCount>;
  { constant.max_weight() } -> std::convertible_to<double>;
  { A::peft_type } -> std::convertible_to<std::string_view>;
  requires A::summable == AdditiveAdapter<A>;
  requires std::is_same_v<decltype(A::shared), const bool>;
  A::describe(constant, detail::TableProbe());
};

/// weight += delta, accumulated in Wide precision and rounded once, a few columns at a time so that no second dense
/// matrix exists. add_delta(block, first) adds the columns first, first + 1, ... of the delta to a block.
template <class S, int Out, int In>
void add_rounded_once(Matrix<S, Out, In>& weight, auto&& add_delta) {
  constexpr Index block_columns = 128;
  Matrix<Wide<S>> block;
  for (Index first = 0; first < weight.cols(); first += block_columns) {
    const Index count = std::min(block_columns, weight.cols() - first);
    block.resize(weight.rows(), count);
    S* const columns = weight.data() + first * weight.outerStride();
    std::transform(columns, columns + block.size(), block.data(), [](S w) { return static_cast<Wide<S>>(w); });
    add_delta(block, first);
    std::transform(block.data(), block.data() + block.size(), columns, [](Wide<S> w) { return static_cast<S>(w); });
  }
}

}  // namespace lora::inline LORA_ABI
