#pragma once
// A frozen weight with LoRA, by value and of any sizes: what the laws of adapters are checked on.

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/base/frozen.hpp"

namespace lora_test {

template <class S, int Out = lora::Dynamic, int In = lora::Dynamic, int Rank = lora::Dynamic>
using AdaptedLora = lora::Adapted<lora::Frozen<S, Out, In>, lora::Lora<S, Out, In, Rank>>;

}  // namespace lora_test
