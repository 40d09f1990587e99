#pragma once
/// An activation chosen at run time, as a published model's config names it.

#include "lora/nn/activations.hpp"

namespace lora::inline LORA_ABI {

enum class ActivationKind { gelu, gelu_tanh, relu, silu };

namespace detail {

/// Calls f(Activation()) with the type of that kind.
decltype(auto) with_activation(ActivationKind kind, auto&& f) {
  switch (kind) {
    case ActivationKind::gelu_tanh: return f(GeluTanh());
    case ActivationKind::relu: return f(Relu());
    case ActivationKind::silu: return f(Silu());
    case ActivationKind::gelu: break;
  }
  return f(Gelu());
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
