#pragma once
/// Clips gradients by their global norm.

#include "lora/core/parameters.hpp"
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
    if (detail::is_trained_for(adapter, path, parameter))
      sum += detail::flat(parameter.grad).template cast<double>().squaredNorm();
  });
  return std::sqrt(sum);
}

/// Scales the gradients of all trained parameters by c = max_norm / (norm + 1e-6) if c < 1, with their global norm, and
/// returns the norm before. As torch.nn.utils.clip_grad_norm_, except that gradients whose norm is not finite do not
/// change: check the result, and skip the step.
///
///   if (!std::isfinite(clip_gradient_norm(net, 1.0))) continue;
///
/// With a handle, the gradients of one adapter by their own norm: clip_gradient_norm(net, 1.0, alice).
/// Throws, with nothing changed, ConfigError if max_norm is negative or NaN, NameError for a handle whose adapter the
/// model does not have.   Cost: one or two passes over the gradients.
template <class T>
double clip_gradient_norm(T& model, double max_norm, const AdapterHandle& adapter = {}) {
  detail::check_setting("clip_gradient_norm", "max_norm", max_norm, max_norm >= 0, "0 or more");
  detail::check_has_parts("clip_gradient_norm", model, adapter);
  const double norm = gradient_norm(std::as_const(model), adapter);
  const double factor = max_norm / (norm + 1e-6);
  if (!std::isfinite(norm) || !(factor < 1)) return norm;
  visit_parameters(model, [&](const Path& path, auto& parameter) {
    using S = typename std::remove_cvref_t<decltype(parameter.grad)>::Scalar;
    if (detail::is_trained_for(adapter, path, parameter)) detail::flat(parameter.grad) *= S(factor);
  });
  return norm;
}

}  // namespace lora::inline LORA_ABI
