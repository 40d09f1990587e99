#pragma once
/// What LayerNorm and RmsNorm have in common: their passes.

#include "lora/core/layer_pass.hpp"
#include "lora/core/parameter.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/norms.hpp"

#include <cstdint>
#include <limits>
#include <utility>

namespace lora::inline LORA_ABI::detail {

/// Self: has layer_name() and a bias() if Centered. What forward keeps are the moments of each column, not the input.
template <class Self, class S, bool Centered>
class Norm : public CachedPass<Self, S> {
  using Thin = CachedPass<Self, S>;
  using Kernel = Norms<S, Centered>;

 public:
  using Scalar = S;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

  struct Kept {
    Buffer<S> moments;        ///< for each column
    Index samples = -1;       ///< -1: no pass that backward could follow
    std::uint64_t layer = 0;  ///< the layer that ran the pass
    Executor* executor = nullptr;
    Index bytes() const { return moments.bytes(); }
  };
  using Cache = LayerCache<S, Dynamic, Dynamic, Dynamic, Kept, Scratch>;
  template <int>
  using CacheFor = Cache;

  using Thin::backward;
  using Thin::forward;

  /// Writes y (features, samples), which may be the memory of x if no backward pass follows (kept null). Throws
  /// ShapeError.
  void forward(const Columns& x, MutableColumns y, Kept* kept, Scratch&, const Pass& pass) const {
    const Caller who(Self::layer_name(), "forward");
    check_pass_input(who, x, in_features());
    check_rows(who, "y", y.rows(), "features", in_features());
    check_cols(who, "y", y.cols(), "the columns of x", x.cols());
    if (kept == nullptr) return Kernel::forward(x, weight_.value, bias_.value, S(epsilon_), y, nullptr, pass.executor);
    kept->samples = -1;
    MutableColumns moments = kept->moments.resize(Kernel::moment_count, x.cols());
    Kernel::forward(x, weight_.value, bias_.value, S(epsilon_), y, &moments, pass.executor);
    kept->samples = x.cols();
    kept->layer = number_;
    kept->executor = pass.executor;
  }

  /// Gradients of the parameters that are trained accumulate; writes dx (features, samples), which may be the memory of
  /// dy. x is the input of the forward pass. Throws what check_backward does.
  void backward(const Columns& x, const Columns& dy, MutableColumns dx, Kept& kept, Scratch& scratch) {
    check_backward({Self::layer_name(), "backward"}, x, dy, kept);
    add_gradients(x, dy, kept, scratch);
    Kernel::backward(x, weight_.value, kept.moments.view(), dy, dx, kept.executor);
  }
  void backward(const Columns& x, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    check_backward({Self::layer_name(), "backward"}, x, dy, kept);
    add_gradients(x, dy, kept, scratch);
  }

  /// Throws what backward would throw, StateError or ShapeError, and changes nothing.
  void check_backward(const Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    check_pass_gradient(who, x, dy, in_features(), in_features(), kept.samples);
    if (kept.layer != number_) fail<StateError>(who, "this cache has seen the pass of another layer");
  }
  /// Whether backward would add to a gradient.
  bool trains(const Kept&) const { return weight_.trainable || (Centered && bias_.trainable); }

  /// g (features). Set `trainable` to train it.
  Parameter<S, Dynamic, 1>& weight() & { return weight_; }
  const Parameter<S, Dynamic, 1>& weight() const& { return weight_; }
  const Parameter<S, Dynamic, 1>& weight() const&& = delete;
  double epsilon() const { return epsilon_; }
  Index in_features() const { return weight_.value.size(); }
  Index out_features() const { return weight_.value.size(); }

 protected:
  /// Throws ShapeError if the weight is empty or the bias does not fit, ConfigError unless epsilon is positive and
  /// finite.
  Norm(Vector<S> weight, Vector<S> bias, double epsilon) : weight_(std::move(weight)), epsilon_(epsilon) {
    const Caller who(Self::layer_name());
    check_not_empty(who, "the weight", weight_.value.rows(), 1);
    if constexpr (Centered) check_rows(who, "the bias", bias.rows(), "features", in_features());
    if (!(epsilon > 0 && epsilon <= std::numeric_limits<double>::max())) {
      fail<ConfigError>(who, "epsilon is " + text_of(epsilon) + ", expected a positive number");
    }
    bias_.value = std::move(bias);
    weight_.trainable = bias_.trainable = false;
  }
  /// For a new layer. Throws ShapeError unless there is a feature.
  static Vector<S> filled(Index features, double value) {
    check_not_empty(Self::layer_name(), "the weight", features, 1);
    return Vector<S>::Constant(features, S(value));
  }

  Parameter<S, Dynamic, 1> weight_, bias_;  // not centered: no bias

 private:
  void add_gradients(const Columns& x, const Columns& dy, const Kept& kept, Scratch& scratch) {
    if (!trains(kept)) return;
    const auto sums = scratch.borrow<S>();
    auto view = sums->resize(x.rows(), 2);
    fill_with_zeros(view);
    Kernel::add_gradients(x, kept.moments.view(), dy, view, kept.executor);
    const S* const of_weight = view.data();
    if (weight_.trainable) add_multiple(S(1), of_weight, x.rows(), weight_.gradient().data());
    if (Centered && bias_.trainable) add_multiple(S(1), of_weight + x.rows(), x.rows(), bias_.gradient().data());
  }

  double epsilon_;
  OwnNumber number_;  // a copy has another, and refuses its original's pass
};

}  // namespace lora::inline LORA_ABI::detail
