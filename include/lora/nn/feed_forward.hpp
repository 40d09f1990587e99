#pragma once
/// The two layers of a transformer's block that work on each token alone.

#include "lora/core/layer_pass.hpp"
#include "lora/nn/activation_kind.hpp"
#include "lora/nn/linear.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// y = Wo f(Wi x + bi) + bo
///
///   x, y (features, tokens)   Wi (hidden, features)   Wo (features, hidden)
///
/// ```cpp
/// #include <lora/nn/feed_forward.hpp>
///
/// int main() {
///   lora::Rng rng(1);
///   using lora::ActivationKind;
///   const lora::FeedForward<float> layer({.in = 64, .out = 256}, {.in = 256, .out = 64}, ActivationKind::gelu, rng);
///   return layer(Eigen::MatrixXf::Random(64, 3)).rows() == 64 ? 0 : 1;
/// }
/// ```
///
/// A pass keeps the input of f (of Relu, the output); backward computes f again where a layer that trains reads it. The
/// names are BERT's: intermediate.dense, output.dense.
template <class S>
class FeedForward : public detail::CachedPass<FeedForward<S>, S> {
  using Thin = detail::CachedPass<FeedForward<S>, S>;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;

  Linear<S> intermediate, output;

  struct Kept {
    typename Linear<S>::Kept intermediate, output;
    Buffer<S> hidden;    ///< the input of f, or its output if f' needs no more
    Index samples = -1;  ///< -1: no pass that backward could follow

    Index bytes() const { return intermediate.bytes() + output.bytes() + hidden.bytes(); }
  };
  using Cache = detail::LayerCache<S, Dynamic, Dynamic, Dynamic, Kept, Scratch>;
  template <int>
  using CacheFor = Cache;

  /// New layers with PyTorch's default initialization. Throws ShapeError if a size is below 1 or they do not fit.
  FeedForward(const LinearShape& first, const LinearShape& second, ActivationKind activation, Rng& rng)
      : FeedForward(Linear<S>(first, rng), Linear<S>(second, rng), activation) {}
  /// Existing layers. Throws ShapeError if the second does not fit the first.
  FeedForward(Linear<S> first, Linear<S> second, ActivationKind activation)
      : intermediate(std::move(first)), output(std::move(second)), activation_(activation) {
    detail::check_extent(layer_name(), "output", output.in_features(), "inputs", "the outputs of intermediate",
                         intermediate.out_features());
  }

  using Thin::backward;
  using Thin::forward;

  /// Writes y (features, tokens). Throws what the layers throw.
  void forward(const Columns& x, MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass) const {
    detail::check_pass_input({layer_name(), "forward"}, x, in_features());
    const auto borrowed = scratch.borrow<S>();
    if (kept == nullptr) {
      auto bent = borrowed->resize(intermediate.out_features(), x.cols());
      intermediate.forward(x, bent, nullptr, scratch, pass);
      detail::with_activation(activation_, [&](auto f) { f.forward(bent, bent); });
      return output.forward(bent, y, nullptr, scratch, pass);
    }
    kept->samples = -1;
    auto hidden = kept->hidden.resize(intermediate.out_features(), x.cols());
    intermediate.forward(x, hidden, &kept->intermediate, scratch, pass);
    detail::with_activation(activation_, [&](auto f) {
      auto bent = f.needs_input ? borrowed->resize(hidden.rows(), hidden.cols()) : hidden;
      f.forward(hidden, bent);
      output.forward(bent, y, &kept->output, scratch, pass);
    });
    kept->samples = x.cols();
  }

  /// Gradients accumulate; writes dx (features, tokens). x is the input of the forward pass; it is read only if
  /// intermediate trains. Throws what check_backward does.
  void backward(const Columns& x, const Columns& dy, MutableColumns dx, Kept& kept, Scratch& scratch) {
    propagate(x, dy, &dx, kept, scratch);
  }
  void backward(const Columns& x, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    propagate(x, dy, nullptr, kept, scratch);
  }

  /// Throws what backward would throw, StateError or ShapeError, before any layer has added to its gradients.
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), kept.samples);
    intermediate.check_backward(who, x, kept.hidden.view(), kept.intermediate);  // of the size of its gradient
    output.check_backward(who, kept.hidden.view(), dy, kept.output);
  }
  bool trains(const Kept& kept) const { return intermediate.trains(kept.intermediate) || output.trains(kept.output); }

  ActivationKind activation() const { return activation_; }
  Index in_features() const { return intermediate.in_features(); }
  Index out_features() const { return output.out_features(); }

  static constexpr const char* layer_name() { return "FeedForward"; }

  static void visit(auto& self, auto&& f) {
    f("intermediate.dense", self.intermediate);
    f("output.dense", self.output);
  }

 private:
  void propagate(const Columns& x, const Columns& dy, MutableColumns* dx, Kept& kept, Scratch& scratch) {
    check_backward({layer_name(), "backward"}, x, dy, kept);
    const bool down = dx != nullptr || intermediate.trains(kept.intermediate);
    if (!down && !output.trains(kept.output)) return;
    const auto first = scratch.borrow<S>(), second = scratch.borrow<S>();
    const auto hidden = kept.hidden.view();
    detail::with_activation(activation_, [&](auto f) {
      const bool again = f.needs_input && output.trains(kept.output);
      if (again) f.forward(hidden, second->resize(hidden.rows(), hidden.cols()));
      const auto bent = again ? second->view() : hidden;  // if it is not read, of its size
      if (!down) return output.backward(bent, dy, no_gradient, kept.output, scratch);
      auto gradient = first->resize(hidden.rows(), hidden.cols());
      output.backward(bent, dy, gradient, kept.output, scratch);
      f.backward(hidden, bent, gradient, gradient);  // forward: h = f(u)   =>   du = f'(u) .* dh
      if (dx != nullptr) {
        intermediate.backward(x, gradient, *dx, kept.intermediate, scratch);
      } else {
        intermediate.backward(x, gradient, no_gradient, kept.intermediate, scratch);
      }
    });
  }

  ActivationKind activation_;
};

}  // namespace lora::inline LORA_ABI
