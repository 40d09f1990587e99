#pragma once
/// What a change to a frozen weight must offer. A new kind of adapter is one header that models this; the laws in
/// testing/adapter_laws.hpp say what must hold.

#include "lora/base/dense.hpp"
#include "lora/core/buffer.hpp"
#include "lora/core/pass.hpp"
#include "lora/core/visit.hpp"

#include <algorithm>
#include <type_traits>

namespace lora {

/// Given in place of dx when nobody needs the gradient of the input, as in the first layer of a network.
struct NoGradient {};

template <class Dx>
inline constexpr bool wants_gradient = !std::is_same_v<std::remove_cvref_t<Dx>, NoGradient>;

/// x, dx (in, samples), y, dy (out, samples), sized by the caller and not overlapping.
///
///   forward(base, x, y, cache, pass)        y = adapted(W0, x)
///   backward(base, x, dy, dx, cache)        dx = adapted'(x)^T dy; gradients of its own parameters accumulate (+=)
///   add_delta(block, first, base)           block += (adapted - W0)[:, first : first + block.cols()], in its precision
///   visit(self, f)                          its parameters by their names
///
/// forward is const and keeps in `cache` what backward needs, the pass included; biases are the layer's business.
template <class A, class Base = Dense<typename A::Scalar>>
concept Adapter = FrozenBase<Base> && Visitable<A> &&
                  requires(A& adapter, const A& constant, const Base& base, const Matrix<typename A::Scalar, A::In>& x,
                           const Matrix<typename A::Scalar, A::Out>& dy, Matrix<typename A::Scalar, A::Out>& y,
                           Matrix<typename A::Scalar, A::In>& dx, Matrix<Wide<typename A::Scalar>>& block,
                           typename A::template Cache<Dynamic>& cache, const Pass& pass) {
                    constant.forward(base, x, y, cache, pass);
                    adapter.backward(base, x, dy, dx, cache);
                    adapter.backward(base, x, dy, NoGradient(), cache);
                    constant.add_delta(block, Index(), base);
                  };

/// An adapter whose delta does not depend on W0, so that any number of them can be active together, each with a weight:
///
///   forward and add_delta take `weight` last;   add(x, y, cache, pass, weight): y += weight delta x
///   add_backward(x, dy, dx, cache): dx += weight delta^T dy, and the gradients
template <class A>
concept AdditiveAdapter =
    Adapter<A> && requires(A& adapter, const A& constant, const Matrix<typename A::Scalar, A::In>& x,
                           Matrix<typename A::Scalar, A::Out>& y, Matrix<typename A::Scalar, A::In>& dx,
                           typename A::template Cache<Dynamic>& cache, const Pass& pass, typename A::Scalar weight) {
      constant.add(x, y, cache, pass, weight);
      adapter.add_backward(x, y, dx, cache);
    };

/// weight += delta, accumulated in Wide precision and rounded once, a few columns at a time so that no second dense
/// matrix exists. add_delta(block, first) adds the columns first, first + 1, ... of the delta to a block.
template <class S, int Out, int In>
void add_rounded_once(Matrix<S, Out, In>& weight, auto&& add_delta) {
  constexpr Index block_columns = 128;
  Matrix<Wide<S>> block;
  for (Index first = 0; first < weight.cols(); first += block_columns) {
    const Index count = std::min(block_columns, weight.cols() - first);
    block = weight.middleCols(first, count).template cast<Wide<S>>();
    add_delta(block, first);
    weight.middleCols(first, count) = block.template cast<S>();
  }
}

}  // namespace lora
