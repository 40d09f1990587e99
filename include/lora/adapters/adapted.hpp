#pragma once
/// One frozen weight with one adapter, held by value: the form for compile-time sizes, which needs no heap.

#include "lora/adapters/adapter.hpp"
#include "lora/adapters/lora_config.hpp"
#include "lora/core/random.hpp"

#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

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
///   lora::LoraLinear<float, 128, 64, 8> layer(W0, {.rank = 8, .alpha = 16}, rng);
///   lora::LoraLinear<float, 128, 64, 8>::CacheFor<32> cache;
///   const auto y  = layer.forward(x, cache);
///   const auto dx = layer.backward(x, dy, cache);
///
/// forward is const and stores nothing in the layer: many threads may run it at once, each with its own cache. backward
/// adds to the gradients of the adapter: one thread at a time. Results are views into the cache, valid until its next
/// use. The adapter has no name: a pass may ask for base_alone, and handles are refused.
/// x and dy may be any matrix expression; one that is not column-major with contiguous columns is copied first.
template <FrozenBase Base_, Adapter<Base_> Adapter_>
class Adapted : public detail::CachedPass<Adapted<Base_, Adapter_>, typename Base_::Scalar, Base_::Out, Base_::In> {
  using Config = typename detail::ConfigOf<Adapter_>::type;
  using Thin = detail::CachedPass<Adapted, typename Base_::Scalar, Base_::Out, Base_::In>;

 public:
  using Scalar = typename Base_::Scalar;
  static constexpr int Out = Base_::Out;
  static constexpr int In = Base_::In;
  using BiasVector = Vector<Scalar, Out>;

  /// What forward keeps for backward.
  template <int Samples>
  struct KeptFor {
    typename Adapter_::template Kept<Samples> adapter;
    Pass pass;
    Index samples = -1;       ///< -1: no pass that backward could follow
    bool enabled = true;      ///< whether the adapter was enabled in it
    std::uint64_t layer = 0;  ///< the layer that ran the pass

    Index bytes() const { return adapter.bytes(); }
  };
  using Kept = KeptFor<Dynamic>;
  template <int Samples>
  using CacheFor =
      detail::LayerCache<Scalar, Out, In, Samples, KeptFor<Samples>, typename Adapter_::template Scratch<Samples>>;
  using Cache = CacheFor<Dynamic>;

  Adapted(Base_ base, Adapter_ adapter, std::optional<BiasVector> bias = std::nullopt)
      : base_(std::move(base)), bias_(checked(std::move(bias), base_)), adapter_(std::move(adapter)) {}

  /// Constructs the adapter from its config, as in {.rank = 8, .alpha = 16}. Throws ConfigError.
  Adapted(Base_ base, const Config& config, Rng& rng) : base_(std::move(base)), adapter_(base_, config, rng) {}

  /// As above, with the bias b (out) of the frozen layer. Throws ConfigError, or ShapeError if b does not fit W0.
  Adapted(Base_ base, BiasVector bias, const Config& config, Rng& rng)
      : base_(std::move(base)), bias_(checked(std::move(bias), base_)), adapter_(base_, config, rng) {
    if (detail::bias_of(config) != Bias::none) trained_bias_.emplace(*bias_);
  }

  using Thin::backward;
  using Thin::forward;

  /// Writes y (out, samples). kept: what backward will need, or, with the scratch of a thread, null if no backward pass
  /// follows. Throws ShapeError for sizes that do not fit, NameError for a handle.
  template <int N>
  void forward(const Eigen::Ref<const Matrix<Scalar, In, N>>& x, auto&& y, KeptFor<N>* kept,
               typename Adapter_::template Scratch<N>& scratch, const Pass& pass) const {
    detail::check_pass_input({layer_name(), "forward"}, x, in_features());
    if (pass.adapter && !pass.adapter.is_base_alone()) {
      detail::fail<NameError>({layer_name(), "forward"},
                              "a layer with compile-time sizes has one adapter without a name, "
                              "and takes no handle; expected none, or base_alone");
    }
    KeptFor<N>& own = *kept;
    own.samples = -1;  // an exception below must not leave a half-filled one that backward would accept
    own.enabled = enabled_ && !pass.adapter.is_base_alone();
    own.pass = pass;
    own.layer = number_;
    if (own.enabled) {
      adapter_.forward(base_, x, y, own.adapter, scratch, pass);
    } else {
      base_.apply(x, y, pass.executor);
    }
    if (const BiasVector* b = bias(own.enabled)) y.colwise() += *b;
    own.samples = x.cols();
  }
  template <int N>
  void forward(const Eigen::Ref<const Matrix<Scalar, In, N>>& x, auto&& y, KeptFor<N>* kept, Scratch& scratch,
               const Pass& pass) const {
    KeptFor<N>& own = kept != nullptr ? *kept : scratch.get<KeptFor<N>>();
    forward<N>(x, y, &own, scratch.get<typename Adapter_::template Scratch<N>>(), pass);
    if (kept == nullptr) own.samples = -1;
  }

  /// Gradients accumulate; writes dx (in, samples), unless it is no_gradient. Throws what check_backward does.
  template <int N>
  void backward(const Eigen::Ref<const Matrix<Scalar, In, N>>& x, const Eigen::Ref<const Matrix<Scalar, Out, N>>& dy,
                auto&& dx, KeptFor<N>& kept, typename Adapter_::template Scratch<N>& scratch) {
    check_backward({layer_name(), "backward"}, x, dy, kept);
    if (!kept.enabled) {
      if constexpr (wants_gradient<decltype(dx)>) base_.apply_transposed(dy, dx, kept.pass.executor);
      return;
    }
    // forward: y = ... + b   =>   db = the sum of dy over the samples
    if (trained_bias_ && trained_bias_->trainable) trained_bias_->gradient() += dy.rowwise().sum();
    adapter_.backward(base_, x, dy, dx, kept.adapter, scratch, kept.pass);
  }
  template <int N>
  void backward(const Eigen::Ref<const Matrix<Scalar, In, N>>& x, const Eigen::Ref<const Matrix<Scalar, Out, N>>& dy,
                auto&& dx, KeptFor<N>& kept, Scratch& scratch) {
    backward<N>(x, dy, dx, kept, scratch.get<typename Adapter_::template Scratch<N>>());
  }

  /// Throws what backward would throw, StateError or ShapeError, and changes nothing.
  template <int N>
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const KeptFor<N>& kept) const {
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), kept.samples);
    if (kept.layer != number_) detail::fail<StateError>(who, "this cache has seen the pass of another layer");
    if (kept.enabled != (enabled_ && !kept.pass.adapter.is_base_alone())) {
      detail::fail<StateError>(who, "the adapter was switched on or off since the forward pass");
    }
  }

  /// Whether backward after such a pass would add to a gradient.
  template <int N>
  bool trains(const KeptFor<N>& kept) const {
    bool any = trained_bias_ && trained_bias_->trainable;
    visit_parameters(adapter_, [&](const Path&, const auto& parameter) { any = any || parameter.trainable; });
    return kept.enabled && any;
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

  /// Switches the adapter on or off. Off is the frozen layer, bit for bit.
  void enable(bool on = true) { enabled_ = on; }
  bool enabled() const { return enabled_; }

  Index in_features() const { return base_.cols(); }
  Index out_features() const { return base_.rows(); }
  const Base_& base() const& { return base_; }
  const Base_& base() const&& = delete;
  Adapter_& adapter() & { return adapter_; }
  const Adapter_& adapter() const& { return adapter_; }
  const Adapter_& adapter() const&& = delete;
  /// The bias in effect: the trained copy if the adapter is enabled and has one, else the base's; null if there is
  /// none.
  const BiasVector* bias() const& { return bias(enabled_); }
  const BiasVector* bias() const&& = delete;

  static constexpr const char* layer_name() {
    if constexpr (std::is_same_v<Config, LoraConfig>) {
      return "LoraLinear";
    } else {
      return "Adapted";
    }
  }

  static void visit(auto& self, auto&& f) {
    f("weight", self.base_);
    f("bias", self.bias_);
    f("adapter", self.adapter_, self.enabled_);
    f("adapter_bias", self.trained_bias_, self.enabled_);
  }

 private:
  /// Checks the bias before the adapter is constructed, so that a refused bias draws no random numbers.
  static std::optional<BiasVector> checked(std::optional<BiasVector> bias, const Base_& base) {
    if (bias) detail::check_rows(layer_name(), "the bias", bias->rows(), "out_features", base.rows());
    return bias;
  }

  const BiasVector* bias(bool enabled) const {
    if (enabled && trained_bias_) return &trained_bias_->value;
    return bias_ ? &*bias_ : nullptr;
  }

  void add_delta_to(Matrix<Scalar, Out, In>& weight) const {
    add_rounded_once<Scalar>(weight, [&](auto& block, Index first) { adapter_.add_delta(block, first, base_); });
  }

  Base_ base_;
  std::optional<BiasVector> bias_;
  Adapter_ adapter_;
  std::optional<Parameter<Scalar, Out, 1>> trained_bias_;
  bool enabled_ = true;
  detail::OwnNumber number_;
};

}  // namespace lora::inline LORA_ABI
