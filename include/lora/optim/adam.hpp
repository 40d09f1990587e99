#pragma once
/// Adam and AdamW, as torch.optim.Adam and torch.optim.AdamW (without amsgrad):
///
///   g <- dL/dp + weight_decay p                 Adam: decay is part of the gradient
///   p <- p - lr weight_decay p                  AdamW: decay is separate
///   m <- beta1 m + (1 - beta1) g                mean of the gradient
///   v <- beta2 v + (1 - beta2) g^2              mean of its square
///   p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
///
///   p       parameter;   m, v    of its shape, zero at first
///   t       the steps this parameter has taken, this one included
///
/// Two departures from PyTorch, where its arithmetic gives what nobody asked for:
///
///   decay   In float, 1 - lr weight_decay is 1 if lr weight_decay is below 3e-8 (lr = weight_decay = 1e-4: 1e-8), and
///           PyTorch does not decay at all. Here a decay of less than 16 epsilon per step is gathered, and applied in
///           every k-th step as (1 - lr weight_decay)^k, k the power of two that makes it at least 64 epsilon (8e-6 in
///           float). Only t is needed, so a run that is resumed does the same; where a schedule changes lr, k steps
///           count with the lr of the last of them.
///   0 / 0   With eps = 0, p does not change where m and v are both 0 (A of LoRA at its first step, when B = 0), nor
///           where v is too small for its scalar; PyTorch makes p NaN or infinite.
///
/// Sources: Kingma and Ba 2014, arXiv:1412.6980v9, algorithm 1; Loshchilov and Hutter 2017, arXiv:1711.05101v3,
/// algorithm 2, with the decay multiplied by lr as PyTorch does.

#include "lora/kernels/elementwise.hpp"
#include "lora/optim/optimizer.hpp"
#include "lora/optim/optimizer_state.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Decoupled: AdamW, whose weight_decay defaults to 0.01 instead of 0.
template <bool Decoupled>
struct BasicAdamConfig {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = Decoupled ? 1e-2 : 0;
  std::vector<ParameterGroup> groups = {};
};
using AdamConfig = BasicAdamConfig<false>;
using AdamWConfig = BasicAdamConfig<true>;

/// Throws ConfigError that names the field, its value and what is allowed.
template <bool Decoupled>
void validate(const BasicAdamConfig<Decoupled>& config,
              std::string_view who = Decoupled ? "AdamWConfig" : "AdamConfig") {
  detail::check_not_negative(who, "lr", config.lr);
  for (const std::size_t i : {0u, 1u}) {
    const double beta = config.betas[i];
    detail::check_setting(who, "betas[" + std::to_string(i) + "]", beta, beta >= 0 && beta < 1, "0 <= beta < 1");
  }
  detail::check_not_negative(who, "eps", config.eps);
  detail::check_not_negative(who, "weight_decay", config.weight_decay);
  detail::validate_groups(who, config.groups);
}

/// ```cpp
/// #include <lora/optim/adam.hpp>
///
/// int main() {
///   lora::Parameter<float> p(Eigen::MatrixXf::Random(4, 3));  // a model: a parameter, a layer, or a struct with visit
///   lora::AdamW<float> optimizer({.lr = 0.1, .betas = {0.9, 0.99}, .weight_decay = 0});
///   for (int step = 0; step < 200; ++step) {
///     p.gradient() = p.value;  // dL/dp of L = |p|^2 / 2
///     optimizer.step(p);
///   }
///   return p.value.norm() < 0.1F ? 0 : 1;
/// }
/// ```
template <class S, bool Decoupled>
class BasicAdam {
  static constexpr const char* name = Decoupled ? "AdamW" : "Adam";

 public:
  using Config = BasicAdamConfig<Decoupled>;
  using State = OptimizerState<S, 2>;

  /// Throws ConfigError for a setting out of range.
  explicit BasicAdam(Config config = {}) : config_(std::move(config)) { validate(config_, name); }

  /// Updates every trained parameter of the model that has a gradient, once; lr_factor, from a schedule, multiplies
  /// every learning rate, and gradient_factor every gradient as it is read: that of clip_factor, or 1 / n to average n
  /// micro-batches. Gradients do not change; one that is not finite makes its parameter not finite, so check the norm
  /// that clip_factor or clip_gradient_norm gives first.
  /// A pass goes forward and backward between two steps: backward with parameters that have changed since its forward
  /// pass is the gradient of neither.
  /// Throws ConfigError, with nothing changed, unless both factors are finite and at least 0; StateError if nothing in
  /// the model is trained. A parameter that is trained but has no gradient yet is no error.
  /// Cost: one pass over p, dL/dp, m and v; no allocation after a parameter's first step.
  template <class T>
  void step(T& model, double lr_factor = 1, double gradient_factor = 1) {
    step(model, AdapterHandle(), lr_factor, gradient_factor);
  }

  /// As above for one adapter, whatever is selected: optimizer.step(net, alice). No forward pass may use an adapter
  /// during its step. Throws NameError too, with nothing changed, for a handle whose adapter the model does not have.
  template <class T>
  void step(T& model, const AdapterHandle& adapter, double lr_factor = 1, double gradient_factor = 1) {
    detail::check_not_negative(Decoupled ? "AdamW::step" : "Adam::step", "lr_factor", lr_factor);
    detail::check_not_negative(Decoupled ? "AdamW::step" : "Adam::step", "gradient_factor", gradient_factor);
    detail::check_has_parts(Decoupled ? "AdamW::step" : "Adam::step", model, adapter);
    state_.step(Decoupled ? "AdamW::step" : "Adam::step", model, config_.groups, adapter,
                [&](auto& slot, const Flat& value, const FlatGradient& grad) {
                  const auto [lr, weight_decay] = detail::settings_of(config_, slot.group);
                  update(slot, value, grad, lr * lr_factor, weight_decay, gradient_factor);
                });
  }

  const Config& config() const& { return config_; }
  const Config& config() const&& = delete;
  const State& state() const& { return state_; }
  const State& state() const&& = delete;
  State& state() & { return state_; }

 private:
  using Flat = Eigen::Map<Eigen::Array<S, Dynamic, 1>>;
  using FlatGradient = Eigen::Map<const Eigen::Array<S, Dynamic, 1>>;
  void update(typename State::Slot& slot, Flat value, FlatGradient grad, double lr, double weight_decay,
              double gradient_factor);

  Config config_;
  State state_;
};

namespace detail {

/// What AdamW multiplies p by in step t: 1 - decay, or, if decay is next to the rounding of S, its k-th power in every
/// k-th step and 1 in the others.
template <class S>
double decay_factor(double decay, std::uint64_t t) {
  if constexpr (!std::is_floating_point_v<S>) return 1 - decay;  // not rounded as its format says, or not at all
  constexpr double epsilon =
      std::is_same_v<S, float> ? std::numeric_limits<float>::epsilon() : std::numeric_limits<double>::epsilon();
  if (!(decay > 0 && decay < 16 * epsilon)) return 1 - decay;
  constexpr int most = 62;  // steps are 64 bits
  int log_k = 0;
  while (log_k < most && std::ldexp(decay, log_k) < 64 * epsilon) ++log_k;
  const std::uint64_t k = std::uint64_t(1) << log_k;
  return t % k == 0 ? std::exp(static_cast<double>(k) * std::log1p(-decay)) : 1;
}

/// The step of a packet of elements. The remainder of an array is a packet too: an element has the same bits wherever
/// it is in memory.
template <class S, bool Decoupled>
struct AdamUpdate {
  S factor, coupled;  ///< of the gradient; of p in it
  S keep1, add1, keep2, add2;
  S correction, eps, rate;
  S shrink;  ///< of p, if the decay is decoupled

  template <class V, class Packet = typename V::Packet>
  void packet(const Packet& g, Packet (&of)[3]) const {
    auto& [p, m, v] = of;
    Packet gradient = V::multiply(V::constant(factor), g);
    if constexpr (!Decoupled) gradient = V::multiply_add(V::constant(coupled), p, gradient);
    m = V::multiply_add(V::constant(keep1), m, V::multiply(V::constant(add1), gradient));
    v = V::multiply_add(V::constant(keep2), v, V::multiply(V::constant(add2), V::multiply(gradient, gradient)));
    const Packet size = V::multiply_add(V::square_root(v), V::constant(correction), V::constant(eps));
    Packet change = V::divide(V::multiply(V::constant(rate), m), size);
    if (eps == S(0)) change = zero_where_zero<V>(change, size);
    p = V::subtract(Decoupled ? V::multiply(V::constant(shrink), p) : p, change);
  }

 private:
  template <class V, class Packet = typename V::Packet>
  static Packet zero_where_zero(const Packet& change, const Packet& size) {
    if constexpr (has_packets<S>) {
      return V::cleared(change, V::at_most(size, V::zero()));
    } else {
      return size == S(0) ? S(0) : change;
    }
  }
};

}  // namespace detail

/// The factors are computed in double and rounded once to S. Defined outside the class for lora::compiled.
template <class S, bool Decoupled>
void BasicAdam<S, Decoupled>::update(typename State::Slot& slot, Flat value, FlatGradient grad, double lr,
                                     double weight_decay, double gradient_factor) {
  auto& mean = slot.moments[0];
  auto& square = slot.moments[1];
  if (mean.size() == 0) mean.setZero(slot.size);
  if (square.size() == 0) square.setZero(slot.size);
  const auto [beta1, beta2] = config_.betas;
  const auto t = static_cast<double>(slot.steps);
  const detail::AdamUpdate<S, Decoupled> update = {
      .factor = S(gradient_factor),
      .coupled = S(weight_decay),
      .keep1 = S(beta1),
      .add1 = S(1 - beta1),
      .keep2 = S(beta2),
      .add2 = S(1 - beta2),
      .correction = S(1 / std::sqrt(1 - std::pow(beta2, t))),
      .eps = S(config_.eps),
      .rate = S(lr / (1 - std::pow(beta1, t))),
      .shrink = S(detail::decay_factor<S>(lr * weight_decay, slot.steps)),
  };
  detail::update_elements<detail::Simd<S>, 3>(update, slot.size, grad.data(),
                                              {value.data(), mean.data(), square.data()});
}

template <class S>
using Adam = BasicAdam<S, false>;
template <class S>
using AdamW = BasicAdam<S, true>;

static_assert(OptimizerFor<Adam<float>, Parameter<float>> && OptimizerFor<AdamW<double>, Parameter<double>>);

}  // namespace lora::inline LORA_ABI
