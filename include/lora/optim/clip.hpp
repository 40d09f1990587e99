#pragma once
/// Clips gradients by their global norm: as a factor for the optimizer's pass, or in place.

#include "lora/core/parameters.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/optim/parameter_group.hpp"

#include <cmath>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// sqrt(sum of g^2) over the gradients of all parameters that are trained now, added up in double. Not finite if and
/// only if an entry is not (or, for double, if a square overflows).
/// With a handle: over the gradients of its adapter, whatever is selected.
template <class T>
double gradient_norm(const T& model, const AdapterHandle& adapter = {}) {
  double sum = 0;
  visit_parameters(model, [&](const Path& path, const auto& parameter) {
    if (!detail::is_trained_for(adapter, path, parameter)) return;
    const auto* const g = parameter.grad.data();
    sum += detail::sum_of<double>(parameter.grad.size(), [g](Index i) {
      const auto number = static_cast<double>(g[i]);
      return number * number;
    });
  });
  return std::sqrt(sum);
}

/// What clip_factor says: the global norm of the gradients, and what a step has to multiply them by.
struct GradientClip {
  double norm;
  double factor;  ///< max_norm / (norm + 1e-6); 1 if that is more, or if the norm is not finite
};

namespace detail {

template <class T>
GradientClip clip_factor(const char* who, const T& model, double max_norm, const AdapterHandle& adapter) {
  check_setting(who, "max_norm", max_norm, max_norm >= 0, "0 or more");
  check_has_parts(who, model, adapter);
  const double norm = gradient_norm(model, adapter);
  const double factor = max_norm / (norm + 1e-6);
  return {norm, std::isfinite(norm) && factor < 1 ? factor : 1};
}

}  // namespace detail

/// The global norm of the gradients and the factor that clips them, that of torch.nn.utils.clip_grad_norm_, without a
/// pass that writes them. The optimizer multiplies as it reads:
///
///   const auto clip = clip_factor(net, 1.0);
///   if (std::isfinite(clip.norm)) optimizer.step(net, lr_factor, clip.factor);
///
/// With a handle, for the gradients of one adapter: clip_factor(net, 1.0, alice).
/// Throws ConfigError if max_norm is negative or NaN, NameError for a handle whose adapter the model does not have.
/// Cost: one pass over the gradients.
template <class T>
GradientClip clip_factor(const T& model, double max_norm, const AdapterHandle& adapter = {}) {
  return detail::clip_factor("clip_factor", model, max_norm, adapter);
}

/// Scales the gradients of all trained parameters by the factor of clip_factor, and returns their norm before. Where it
/// is not finite they do not change: check the result, and skip the step.
///
///   if (!std::isfinite(clip_gradient_norm(net, 1.0))) continue;
///
/// With a handle, the gradients of one adapter by their own norm: clip_gradient_norm(net, 1.0, alice).
/// Throws as clip_factor does, with nothing changed.   Cost: one or two passes over the gradients.
template <class T>
double clip_gradient_norm(T& model, double max_norm, const AdapterHandle& adapter = {}) {
  const GradientClip clip = detail::clip_factor("clip_gradient_norm", std::as_const(model), max_norm, adapter);
  if (clip.factor == 1) return clip.norm;
  visit_parameters(model, [&](const Path& path, auto& parameter) {
    using S = typename std::remove_cvref_t<decltype(parameter.grad)>::Scalar;
    if (detail::is_trained_for(adapter, path, parameter)) detail::flat(parameter.grad) *= S(clip.factor);
  });
  return clip.norm;
}

}  // namespace lora::inline LORA_ABI
