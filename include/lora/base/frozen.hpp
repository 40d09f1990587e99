#pragma once
/// The frozen weight that LoraLinear holds.

#include "lora/base/dense.hpp"
#include "lora/base/packed.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI {

/// Packed for float and double with run-time sizes; Dense for compile-time sizes, which are small, and for other
/// scalars. Both hold W0 once, return it exactly, and with run-time sizes share it among copies.
template <class S, int Out = Dynamic, int In = Dynamic>
using Frozen =
    std::conditional_t<Out == Dynamic && In == Dynamic && (std::is_same_v<S, float> || std::is_same_v<S, double>),
                       Packed<S>, Dense<S, Out, In>>;

}  // namespace lora::inline LORA_ABI
