#pragma once
/// The linear layer of a model:   y = W x + b, trained in full, frozen, or frozen with named adapters beside it.

#include "lora/adapters/adapter_set.hpp"
#include "lora/base/frozen.hpp"

#include <cmath>
#include <memory>

namespace lora {

/// Sizes of a new layer, by name because their order is a matter of taste: {.in = 64, .out = 128}.
struct LinearShape {
  Index in = 0;
  Index out = 0;
  bool bias = true;
};

/// x (in, samples), y (out, samples), W (out, in), b (out) or none.
///
/// A new layer trains W and b. The first attach() freezes it, once, by packing W into a Frozen that copies of the layer
/// share; from then on any number of named adapters stand beside it, and one, none or a weighted sum of them is
/// selected. Selecting, switching and turning off are exact to the bit, because nothing is ever added into W0.
///
/// forward is const and the layer keeps nothing of it; see Adapted for the rules on caches and threads.
template <class S>
class Linear {
 public:
  using Scalar = S;
  static constexpr int Out = Dynamic;
  static constexpr int In = Dynamic;

  template <int Samples = Dynamic>
  struct Cache {
    Buffer<S, Dynamic, Samples> y, dx;
    typename AdapterSet<S>::template Cache<Samples> adapters;
    Index samples = -1;  ///< in the last forward pass; -1 before the first

    Index bytes() const { return y.bytes() + dx.bytes() + adapters.bytes(); }
  };

  /// W and b uniform in (-1/sqrt(in), 1/sqrt(in)), PyTorch's default. Throws ShapeError if a size is below 1.
  Linear(const LinearShape& shape, Rng& rng) : weight_(FullWeight<S>(Matrix<S>())) {
    detail::check_not_empty("Linear", "the weight", shape.out, shape.in);
    const double bound = 1.0 / std::sqrt(static_cast<double>(shape.in));
    Matrix<S> weight(shape.out, shape.in);
    fill_uniform(weight, bound, rng);
    weight_ = FullWeight<S>(std::move(weight));
    if (!shape.bias) return;
    Vector<S> bias(shape.out);
    fill_uniform(bias, bound, rng);
    bias_.emplace(std::move(bias));
  }

  /// A given weight, trained from there. Throws ShapeError if W is empty or b does not fit.
  explicit Linear(Matrix<S> W, std::optional<Vector<S>> b = std::nullopt) : weight_(FullWeight<S>(std::move(W))) {
    detail::check_not_empty("Linear", "the weight", out_features(), in_features());
    set_bias(std::move(b));
  }

  /// The same with any matrix expression, such as a transpose.
  template <class Derived>
  explicit Linear(const Eigen::MatrixBase<Derived>& W, std::optional<Vector<S>> b = std::nullopt)
      : Linear(Matrix<S>(W), std::move(b)) {}

  /// A frozen weight, shared with whoever else holds it. Throws ShapeError if b does not fit.
  explicit Linear(Frozen<S> W0, std::optional<Vector<S>> b = std::nullopt) : weight_(std::move(W0)) {
    set_bias(std::move(b));
  }

  /// Freezes the layer if it is not yet, adds LoRA factors under a name and selects them alone. Throws NameError or
  /// ConfigError, and nothing has changed.
  void attach(std::string_view name, const LoraConfig& config, Rng& rng) {
    adapters_.check_new_name(name);
    Lora<S> factors(out_features(), in_features(), config, rng);
    std::optional<Vector<S>> bias;
    if (config.bias != Bias::none) bias = copy_of_bias();
    attach(name, std::move(factors), std::move(bias));
  }

  /// The same with any adapter: factors made elsewhere, factors that start from this weight (ResidualLora, made by
  /// pissa or olora from dense()), a trained copy, or only a bias (NoAdapter). Throws ShapeError if it does not fit
  /// this layer.
  void attach(std::string_view name, typename AdapterSet<S>::AnyAdapter adapter,
              std::optional<Vector<S>> bias = std::nullopt) {
    check_fits(adapter, bias);
    adapters_.check_new_name(name);
    freeze();
    adapters_.insert(name, std::move(adapter), std::move(bias));
  }

  /// A copy of W and b, trained in full, that belongs to the adapter (PEFT's modules_to_save).
  void attach_full(std::string_view name) { attach(name, FullWeight<S>(dense()), copy_of_bias()); }

  /// A trained copy of b alone. Throws StateError if the layer has no bias.
  void attach_bias(std::string_view name) {
    if (!bias_) throw StateError("Linear::attach_bias: the layer has no bias");
    attach(name, NoAdapter<S>(), copy_of_bias());
  }

  /// Removes an adapter. The others stay selected or not as they were, and the base stays frozen. Throws NameError.
  void detach(std::string_view name) { adapters_.erase(name); }
  /// Selects one adapter, alone, with weight 1. Throws NameError.
  void select(std::string_view name) { adapters_.select(name); }
  /// The base alone, bit for bit as it was.
  void select_none() { adapters_.select_none(); }
  /// Selects a weighted sum: layer.select_sum({{"formal", 0.7}, {"legal", 0.3}}). Throws NameError or ConfigError.
  void select_sum(const std::vector<AdapterWeight>& chosen) { adapters_.select_sum(chosen); }

  /// Stops training W and b and packs W, shared and constant from then on; both are in memory for a moment. Outputs
  /// stay as they were, to the bit. Done by attach; a second call does nothing.
  void freeze() {
    auto* full = std::get_if<FullWeight<S>>(&weight_);
    if (full == nullptr) return;
    Frozen<S> frozen(Eigen::Ref<const Matrix<S>>(full->weight.value));
    weight_ = std::move(frozen);
    if (bias_) bias_->grad = Vector<S>();
  }
  bool frozen() const { return std::holds_alternative<Frozen<S>>(weight_); }

  /// Throws ShapeError unless x has in_features rows and at least one sample.
  template <class X, int N>
  typename Buffer<S, Dynamic, N>::ConstView forward(const Eigen::MatrixBase<X>& x, Cache<N>& cache,
                                                    const Pass& pass = {}) const {
    static_assert(detail::require_same_scalar<S, X>());
    detail::check_pass_input("Linear::forward", x, in_features(), N);
    const Eigen::Ref<const Matrix<S, Dynamic, N>> input(x.derived());
    detail::check_apart("Linear::forward", "x", input, cache.y.view());
    cache.samples = -1;
    auto y = cache.y.resize(out_features(), x.cols());
    if (frozen()) {
      adapters_.forward(base(), bias(), input, y, cache.adapters, pass);
    } else {
      multiply_like<Frozen<S>>(trained(), input, y, pass.executor);  // freezing changes no bit of y
      adapters_.add_bias(bias(), y);
    }
    cache.samples = x.cols();
    return std::as_const(cache.y).view();
  }

  /// Gradients accumulate; returns dx (in, samples). x is the input of the last forward pass with this cache. Throws
  /// StateError without a forward pass or if the selection changed since, ShapeError if x or dy differ from it in size.
  template <class X, class Dy, int N>
  typename Buffer<S, Dynamic, N>::ConstView backward(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy,
                                                     Cache<N>& cache) {
    check_backward("Linear::backward", x, dy, cache);
    propagate(x, dy, cache.dx.resize(in_features(), x.cols()), cache);
    return std::as_const(cache.dx).view();
  }

  /// backward without dx, for a first layer: it saves the product with W^T.
  template <class X, class Dy, int N>
  void backward_parameters(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy, Cache<N>& cache) {
    check_backward("Linear::backward_parameters", x, dy, cache);
    propagate(x, dy, NoGradient(), cache);
  }

  /// y as a new matrix, (out, samples).
  template <class X>
  Matrix<S, Dynamic, X::ColsAtCompileTime> operator()(const Eigen::MatrixBase<X>& x) const {
    Cache<X::ColsAtCompileTime> cache;
    return forward(x, cache);
  }

  /// The weight with the selected adapters added in, (out, in), rounded once. The layer is unchanged.
  Matrix<S> merged() const {
    if (const Matrix<S>* replacement = adapters_.replacement()) return *replacement;
    Matrix<S> weight = dense();
    add_delta_to(weight);
    return weight;
  }
  /// What the selected adapters add to W0, (out, in).
  Matrix<S> delta() const {
    Matrix<S> weight = Matrix<S>::Zero(out_features(), in_features());
    add_delta_to(weight);
    return weight;
  }
  /// The bias in effect, (out); empty if the layer has none.
  Vector<S> merged_bias() const {
    Vector<S> sum = Vector<S>::Zero(bias_ ? out_features() : 0);
    adapters_.add_bias(bias(), sum);
    return sum;
  }

  Index in_features() const { return frozen() ? base().cols() : trained().cols(); }
  Index out_features() const { return frozen() ? base().rows() : trained().rows(); }
  /// W or W0, (out, in), without adapters, as a new matrix.
  Matrix<S> dense() const { return frozen() ? lora::dense(base()) : trained(); }
  /// W0 as it is held. Throws StateError if the layer is not frozen.
  const Frozen<S>& base() const {
    if (!frozen()) throw StateError("Linear::base: the layer is not frozen; dense() gives its weight");
    return std::get<Frozen<S>>(weight_);
  }
  /// b, without adapters; null if the layer has none.
  const Vector<S>* bias() const { return bias_ ? &bias_->value : nullptr; }
  const AdapterSet<S>& adapters() const { return adapters_; }
  /// The factors and the trained bias of one adapter, to read and to change in place. Throws NameError.
  typename AdapterSet<S>::Member& adapter(std::string_view name) { return adapters_.at(name); }

  /// Throws what backward would throw, and changes nothing: for a network that asks before its first layer adds to its
  /// gradients.
  template <int N>
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Cache<N>& cache) const {
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), cache.samples);
    if (frozen()) adapters_.check_backward(who, cache.adapters, x.cols());
  }

  static void visit(auto& self, auto&& f) {
    if (auto* full = std::get_if<FullWeight<S>>(&self.weight_)) {
      f("weight", full->weight);
      f("bias", self.bias_);
    } else {
      f("weight", std::get<Frozen<S>>(self.weight_));
      if (self.bias_) f("bias", std::as_const(self.bias_->value));
    }
    f("adapters", self.adapters_);
  }

 private:
  const Matrix<S>& trained() const { return std::get<FullWeight<S>>(weight_).weight.value; }

  void set_bias(std::optional<Vector<S>> b) {
    if (!b) return;
    detail::check_rows("Linear", "the bias", b->rows(), "out_features", out_features());
    bias_.emplace(std::move(*b));
  }

  std::optional<Vector<S>> copy_of_bias() const {
    if (!bias_) return std::nullopt;
    return bias_->value;
  }

  void check_fits(const typename AdapterSet<S>::AnyAdapter& adapter, const std::optional<Vector<S>>& bias) const {
    const auto check_out = [&](const char* what, const auto& matrix) {
      detail::check_rows("Linear::attach", what, matrix.rows(), "out_features", out_features());
    };
    const auto check_in = [&](const char* what, const auto& matrix) {
      detail::check_cols("Linear::attach", what, matrix.cols(), "in_features", in_features());
    };
    const auto check_pair = [&](const Lora<S>& factors) {
      check_in("A", factors.A.value);
      check_out("B", factors.B.value);
      detail::check_cols("Linear::attach", "B", factors.B.value.cols(), "the rank of A", factors.rank());
    };
    if (const auto* factors = std::get_if<Lora<S>>(&adapter)) {
      check_pair(*factors);
    } else if (const auto* offset = std::get_if<ResidualLora<S>>(&adapter)) {
      check_pair(offset->trained);
      check_in("A0", offset->A0());
      check_out("B0", offset->B0());
    } else if (const auto* full = std::get_if<FullWeight<S>>(&adapter)) {
      check_out("the trained weight", full->weight.value);
      check_in("the trained weight", full->weight.value);
    }
    if (bias && !bias_)
      throw StateError("Linear::attach: the adapter brings a bias, but the layer has none to replace");
    if (bias) check_out("the trained bias", *bias);
  }

  template <int N>
  void propagate(const auto& x, const auto& dy, auto&& dx, Cache<N>& cache) {
    static_assert(
        detail::require_same_scalar<S, std::remove_cvref_t<decltype(x)>, std::remove_cvref_t<decltype(dy)>>());
    const Eigen::Ref<const Matrix<S, Dynamic, N>> input(x.derived());
    const Eigen::Ref<const Matrix<S, Dynamic, N>> dout(dy.derived());
    if constexpr (wants_gradient<decltype(dx)>) detail::check_apart("Linear::backward", "dy", dout, dx);
    if (frozen()) return adapters_.backward(base(), input, dout, dx, cache.adapters);
    // forward: y = W x + b   =>   dW = dy x^T, db = the sum of dy over the samples, dx = W^T dy
    auto& weight = std::get<FullWeight<S>>(weight_).weight;
    if (weight.trainable) weight.gradient().noalias() += dout * input.transpose();
    if (bias_ && bias_->trainable) bias_->gradient() += dout.rowwise().sum();
    if constexpr (wants_gradient<decltype(dx)>) dx.noalias() = weight.value.transpose() * dout;
  }

  void add_delta_to(Matrix<S>& weight) const {
    if (!frozen()) return;
    add_rounded_once<S>(weight, [&](auto& block, Index first) { adapters_.add_delta(block, first, base()); });
  }

  std::variant<FullWeight<S>, Frozen<S>> weight_;
  std::optional<Parameter<S, Dynamic, 1>> bias_;
  AdapterSet<S> adapters_;
};

}  // namespace lora
