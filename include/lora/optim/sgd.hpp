#pragma once
/// Stochastic gradient descent, as torch.optim.SGD:
///
///   d <- dL/dp + weight_decay p
///   b <- d                                   at the parameter's first step
///   b <- momentum b + (1 - dampening) d      later
///   p <- p - lr b                            or, with nesterov, p - lr (d + momentum b)
///
///   p    parameter;   b    momentum buffer, of its shape, kept only if momentum > 0 (else b = d)
///
/// A change below half a unit in the last place of p is lost, as in PyTorch: in float, lr b below 3e-8 |p|. So a
/// weight_decay whose lr weight_decay is that small does nothing here; AdamW gathers it.
///
/// Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", ICML; written as
/// PyTorch does, with lr outside the buffer.

#include "lora/kernels/elementwise.hpp"
#include "lora/optim/optimizer.hpp"
#include "lora/optim/optimizer_state.hpp"

namespace lora::inline LORA_ABI {

struct SgdConfig {
  double lr = 1e-3;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  std::vector<ParameterGroup> groups = {};
};

/// Throws ConfigError that names the field, its value and what is allowed.
inline void validate(const SgdConfig& config, std::string_view who = "SgdConfig") {
  detail::check_not_negative(who, "lr", config.lr);
  detail::check_not_negative(who, "momentum", config.momentum);
  detail::check_setting(who, "dampening", config.dampening, std::isfinite(config.dampening), "a finite number");
  detail::check_not_negative(who, "weight_decay", config.weight_decay);
  if (config.nesterov && !(config.momentum > 0 && config.dampening == 0)) {
    detail::fail<ConfigError>(who, "nesterov is on with momentum " + detail::text_of(config.momentum) +
                                       " and dampening " + detail::text_of(config.dampening) +
                                       ", expected momentum above 0 and dampening 0");
  }
  detail::validate_groups(who, config.groups);
}

namespace detail {

/// The step of a packet of elements, with a buffer or without.
template <class S>
struct SgdUpdate {
  S factor;  ///< of the gradient
  S decay, momentum, share;
  S rate;  ///< -lr
  bool nesterov;

  template <class V, class Packet = typename V::Packet>
  void packet(const Packet& g, Packet (&of)[1]) const {
    auto& [p] = of;
    p = V::multiply_add(V::constant(rate), gradient<V>(g, p), p);
  }
  template <class V, class Packet = typename V::Packet>
  void packet(const Packet& g, Packet (&of)[2]) const {
    auto& [p, b] = of;
    const Packet d = gradient<V>(g, p);
    b = V::multiply_add(V::constant(momentum), b, V::multiply(V::constant(share), d));
    p = V::multiply_add(V::constant(rate), nesterov ? V::multiply_add(V::constant(momentum), b, d) : b, p);
  }

 private:
  template <class V, class Packet = typename V::Packet>
  Packet gradient(const Packet& g, const Packet& p) const {
    return V::multiply_add(V::constant(decay), p, V::multiply(V::constant(factor), g));
  }
};

}  // namespace detail

template <class S>
class Sgd {
 public:
  using Config = SgdConfig;
  using State = OptimizerState<S, 1>;

  /// Throws ConfigError for a setting out of range.
  explicit Sgd(Config config = {}) : config_(std::move(config)) { validate(config_, "Sgd"); }

  /// Updates every trained parameter of the model that has a gradient, once; lr_factor, from a schedule, multiplies
  /// every learning rate, and gradient_factor every gradient as it is read: that of clip_factor, or 1 / n to average n
  /// micro-batches. Gradients do not change; one that is not finite makes its parameter not finite, so check the norm
  /// that clip_factor or clip_gradient_norm gives first.
  /// A pass goes forward and backward between two steps: backward with parameters that have changed since its forward
  /// pass is the gradient of neither.
  /// Throws ConfigError, with nothing changed, unless both factors are finite and at least 0; StateError if nothing in
  /// the model is trained. A parameter that is trained but has no gradient yet is no error.
  /// Cost: one pass over p, dL/dp and b; no allocation after a parameter's first step.
  template <class T>
  void step(T& model, double lr_factor = 1, double gradient_factor = 1) {
    step(model, AdapterHandle(), lr_factor, gradient_factor);
  }

  /// As above for one adapter, whatever is selected: optimizer.step(net, alice). No forward pass may use an adapter
  /// during its step. Throws NameError too, with nothing changed, for a handle whose adapter the model does not have.
  template <class T>
  void step(T& model, const AdapterHandle& adapter, double lr_factor = 1, double gradient_factor = 1) {
    detail::check_not_negative("Sgd::step", "lr_factor", lr_factor);
    detail::check_not_negative("Sgd::step", "gradient_factor", gradient_factor);
    detail::check_has_parts("Sgd::step", model, adapter);
    state_.step("Sgd::step", model, config_.groups, adapter, [&](auto& slot, auto value, auto grad) {
      const auto [lr, weight_decay] = detail::settings_of(config_, slot.group);
      update(slot.moments[0], value, grad, S(lr * lr_factor), S(weight_decay), S(gradient_factor));
    });
  }

  const Config& config() const& { return config_; }
  const Config& config() const&& = delete;
  const State& state() const& { return state_; }
  const State& state() const&& = delete;
  State& state() & { return state_; }

 private:
  void update(auto& buffer, auto& value, const auto& grad, S lr, S weight_decay, S factor) {
    const bool keeps_buffer = config_.momentum > 0;
    const bool first_step = buffer.size() == 0;
    if (keeps_buffer && first_step) buffer.setZero(value.size());
    const detail::SgdUpdate<S> update = {
        .factor = factor,
        .decay = weight_decay,
        .momentum = S(config_.momentum),
        .share = S(first_step ? 1 : 1 - config_.dampening),
        .rate = -lr,
        .nesterov = config_.nesterov,
    };
    using V = detail::Simd<S>;
    if (keeps_buffer) {
      detail::update_elements<V, 2>(update, value.size(), grad.data(), {value.data(), buffer.data()});
    } else {
      detail::update_elements<V, 1>(update, value.size(), grad.data(), {value.data()});
    }
  }

  Config config_;
  State state_;
};

static_assert(OptimizerFor<Sgd<float>, Parameter<float>>);

}  // namespace lora::inline LORA_ABI
