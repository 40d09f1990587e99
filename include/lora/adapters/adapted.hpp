#pragma once
/// One frozen weight with one adapter, by value: the form for a single matrix, and for compile-time sizes.

#include "lora/adapters/adapter.hpp"
#include "lora/adapters/lora_config.hpp"
#include "lora/core/random.hpp"

#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace lora {

namespace detail {

struct NoConfig {
  NoConfig() = delete;
};

template <class A>
struct ConfigOf {
  using type = NoConfig;
};
template <class A>
  requires requires { typename A::Config; }
struct ConfigOf<A> {
  using type = typename A::Config;
};

}  // namespace detail

/// y = adapted(W0, x) + b.   x (in, samples), y (out, samples), b (out) or none.
///
///   lora::LoraLinear<float> layer(W0, {.rank = 8, .alpha = 16}, rng);
///   lora::LoraLinear<float>::Cache<> cache;
///   const auto y  = layer.forward(x, cache);
///   const auto dx = layer.backward(x, dy, cache);
///
/// forward is const and the layer keeps nothing of it: many threads may run it at once, each with its own cache.
/// backward adds to the gradients of the adapter, so it belongs to one thread at a time. Results are views into the
/// cache: they hold until its next use.
/// x and dy may be any matrix expression; what is not column-major memory with contiguous columns is copied first.
template <FrozenBase Base_, Adapter<Base_> Adapter_>
class Adapted {
  using Config = typename detail::ConfigOf<Adapter_>::type;

 public:
  using Scalar = typename Base_::Scalar;
  static constexpr int Out = Base_::Out;
  static constexpr int In = Base_::In;
  using BiasVector = Vector<Scalar, Out>;

  /// What a pass needs, owned by the caller. After the largest batch nothing allocates. Samples: fixed or Dynamic.
  template <int Samples = Dynamic>
  struct Cache {
    Buffer<Scalar, Out, Samples> y;
    Buffer<Scalar, In, Samples> dx;
    typename Adapter_::template Cache<Samples> adapter;
    Index samples = -1;       ///< in the last forward pass; -1 before the first
    bool enabled = true;      ///< whether the adapter took part in it
    std::uint64_t layer = 0;  ///< whose pass it was
    Executor* executor = nullptr;

    Index bytes() const { return y.bytes() + dx.bytes() + adapter.bytes(); }
  };

  Adapted(Base_ base, Adapter_ adapter, std::optional<BiasVector> bias = std::nullopt)
      : base_(std::move(base)), bias_(checked(std::move(bias), base_)), adapter_(std::move(adapter)) {}

  /// Makes the adapter from its config, as in {.rank = 8, .alpha = 16}. Throws ConfigError.
  Adapted(Base_ base, const Config& config, Rng& rng)
      : base_(std::move(base)), adapter_(base_.rows(), base_.cols(), config, rng) {}

  /// The same with the frozen layer's own bias b (out). Throws ConfigError, or ShapeError if b does not fit W0.
  Adapted(Base_ base, BiasVector bias, const Config& config, Rng& rng)
      : base_(std::move(base)),
        bias_(checked(std::move(bias), base_)),
        adapter_(base_.rows(), base_.cols(), config, rng) {
    if (config.bias != Bias::none) trained_bias_.emplace(*bias_);
  }

  /// Throws ShapeError unless x has in_features rows and at least one sample.
  template <class X, int N>
  typename Buffer<Scalar, Out, N>::ConstView forward(const Eigen::MatrixBase<X>& x, Cache<N>& cache,
                                                     const Pass& pass = {}) const {
    static_assert(detail::require_same_scalar<Scalar, X>());
    detail::check_pass_input({layer_name(), "forward"}, x, in_features(), N);
    const Eigen::Ref<const Matrix<Scalar, In, N>> input(x.derived());
    detail::check_apart({layer_name(), "forward"}, "x", input, cache.y.view());
    cache.samples = -1;  // an exception below must not leave a half-filled cache that backward would accept
    auto y = cache.y.resize(out_features(), x.cols());
    cache.enabled = enabled_;
    cache.layer = identity_;
    cache.executor = pass.executor;
    if (enabled_) {
      adapter_.forward(base_, input, y, cache.adapter, pass);
    } else {
      base_.apply(input, y, pass.executor);
    }
    if (const BiasVector* b = bias()) y.colwise() += *b;
    cache.samples = x.cols();
    return std::as_const(cache.y).view();
  }

  /// Gradients of the adapter accumulate; returns dx (in, samples). x is the input of the last forward pass with this
  /// cache. Throws StateError without a forward pass, ShapeError if x or dy differ from it in size.
  template <class X, class Dy, int N>
  typename Buffer<Scalar, In, N>::ConstView backward(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy,
                                                     Cache<N>& cache) {
    check_backward({layer_name(), "backward"}, x, dy, cache);
    auto dx = cache.dx.resize(in_features(), x.cols());
    propagate(x, dy, dx, cache);
    return std::as_const(cache.dx).view();
  }

  /// backward without dx, for a first layer: it saves the product with W0^T.
  template <class X, class Dy, int N>
  void backward_parameters(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy, Cache<N>& cache) {
    check_backward({layer_name(), "backward_parameters"}, x, dy, cache);
    propagate(x, dy, NoGradient(), cache);
  }

  /// adapted(W0, x) + b as a new matrix.
  template <class X>
  Matrix<Scalar, Out, X::ColsAtCompileTime> operator()(const Eigen::MatrixBase<X>& x) const {
    Cache<X::ColsAtCompileTime> cache;
    return forward(x, cache);
  }

  /// W0 + s B A, a new weight (out, in), rounded once; W0 itself when the adapter is off.
  Matrix<Scalar, Out, In> merged() const {
    if (!enabled_) return lora::dense(base_);
    if constexpr (requires { adapter_.replacement(); }) {
      return adapter_.replacement();
    } else {
      Matrix<Scalar, Out, In> weight = lora::dense(base_);
      add_delta_to(weight);
      return weight;
    }
  }

  /// s B A alone, (out, in).
  Matrix<Scalar, Out, In> delta() const {
    Matrix<Scalar, Out, In> weight = Matrix<Scalar, Out, In>::Zero(out_features(), in_features());
    add_delta_to(weight);
    return weight;
  }

  /// Off is the frozen layer, bit for bit: nothing was overwritten.
  void enable(bool on = true) { enabled_ = on; }
  bool enabled() const { return enabled_; }

  Index in_features() const { return base_.cols(); }
  Index out_features() const { return base_.rows(); }
  const Base_& base() const { return base_; }
  Adapter_& adapter() { return adapter_; }
  const Adapter_& adapter() const { return adapter_; }
  /// The bias in effect: the adapter's trained copy while it is enabled and has one, else the base's; null without any.
  const BiasVector* bias() const {
    if (enabled_ && trained_bias_) return &trained_bias_->value;
    return bias_ ? &*bias_ : nullptr;
  }

  /// Throws what backward would throw, and changes nothing: for a network that asks before its first layer adds to its
  /// gradients.
  template <int N>
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Cache<N>& cache) const {
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), cache.samples);
    if (cache.layer != identity_) detail::fail<StateError>(who, "this cache has seen the pass of another layer");
    if (cache.enabled != enabled_) {
      detail::fail<StateError>(who, "the adapter was switched on or off since the forward pass");
    }
    if constexpr (requires { adapter_.check_backward(who, cache.adapter, x.cols()); }) {
      if (enabled_) adapter_.check_backward(who, cache.adapter, x.cols());
    }
  }

  static void visit(auto& self, auto&& f) {
    f("weight", self.base_);
    f("bias", self.bias_);
    f("adapter", self.adapter_, self.enabled_);
    f("adapter_bias", self.trained_bias_, self.enabled_);
  }

 private:
  static constexpr const char* layer_name() {
    if constexpr (requires { Adapter_::layer_name; }) {
      return Adapter_::layer_name;
    } else {
      return "Adapted";
    }
  }

  /// Before the adapter is made, so that a refused bias takes no random numbers.
  static std::optional<BiasVector> checked(std::optional<BiasVector> bias, const Base_& base) {
    if (bias) detail::check_rows(layer_name(), "the bias", bias->rows(), "out_features", base.rows());
    return bias;
  }

  template <int N>
  void propagate(const auto& x, const auto& dy, auto&& dx, Cache<N>& cache) {
    static_assert(
        detail::require_same_scalar<Scalar, std::remove_cvref_t<decltype(x)>, std::remove_cvref_t<decltype(dy)>>());
    const Eigen::Ref<const Matrix<Scalar, In, N>> input(x.derived());
    const Eigen::Ref<const Matrix<Scalar, Out, N>> dout(dy.derived());
    if constexpr (wants_gradient<decltype(dx)>) detail::check_apart({layer_name(), "backward"}, "dy", dout, dx);
    if (!enabled_) {
      if constexpr (wants_gradient<decltype(dx)>) base_.apply_transposed(dout, dx, cache.executor);
      return;
    }
    // forward: y = ... + b   =>   db = the sum of dy over the samples
    if (trained_bias_ && trained_bias_->trainable) trained_bias_->gradient() += dout.rowwise().sum();
    adapter_.backward(base_, input, dout, dx, cache.adapter);
  }

  void add_delta_to(Matrix<Scalar, Out, In>& weight) const {
    add_rounded_once<Scalar>(weight, [&](auto& block, Index first) { adapter_.add_delta(block, first, base_); });
  }

  Base_ base_;
  std::optional<BiasVector> bias_;
  Adapter_ adapter_;
  std::optional<Parameter<Scalar, Out, 1>> trained_bias_;
  bool enabled_ = true;
  std::uint64_t identity_ = detail::next_identity();  // a copy may go on with its original's cache
};

}  // namespace lora
