#pragma once
/// The concept of an optimizer. The laws in testing/optimizer_laws.hpp say what must hold.

#include "lora/abi.hpp"

namespace lora::inline LORA_ABI {

/// step(model)            one update of every trained parameter that has a gradient
/// step(model, factor)    the same with all learning rates times `factor`
///
/// The optimizer finds the parameters through the model's listing, keeps no pointers into it and does not touch
/// gradients.
template <class O, class Model>
concept OptimizerFor = requires(O& optimizer, Model& model, double factor) {
  optimizer.step(model);
  optimizer.step(model, factor);
};

}  // namespace lora::inline LORA_ABI
