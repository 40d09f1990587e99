#pragma once
/// One matrix with LoRA beside it.

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/base/frozen.hpp"

namespace lora {

/// A frozen matrix with LoRA beside it. LoraLinear<float> has run-time sizes and packs W0; LoraLinear<float, Out, In,
/// Rank> lies on the stack, and with Cache<Samples> as well a whole training step touches no heap.
template <class S, int Out = Dynamic, int In = Dynamic, int Rank = Dynamic>
using LoraLinear = Adapted<Frozen<S, Out, In>, Lora<S, Out, In, Rank>>;

}  // namespace lora
