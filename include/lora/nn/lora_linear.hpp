#pragma once
/// A linear layer with LoRA.

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/nn/linear.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI {

/// y = W0 x + s B (A x) + b.   x (in, samples), y (out, samples), b (out) or none.
///
/// ```cpp
/// #include <lora/nn/lora_linear.hpp>
/// #include <lora/optim/sgd.hpp>
///
/// int main() {
///   lora::Rng rng(1);
///   const Eigen::MatrixXf W0 = Eigen::MatrixXf::Random(16, 32), x = Eigen::MatrixXf::Random(32, 4);
///   lora::LoraLinear<float> layer(W0, {.rank = 8, .alpha = 16}, rng);
///   lora::LoraLinear<float>::Cache cache;
///   const Eigen::MatrixXf y = layer.forward(x, cache);       // W0 x, because B starts at zero
///   const Eigen::MatrixXf dx = layer.backward(x, y, cache);  // dL/dx of L = |y|^2 / 2; also dL/dA and dL/dB
///   lora::Sgd<float>({.lr = 0.01}).step(layer);              // changes A and B, never W0
///   return layer(x).norm() < y.norm() && layer.dense() == W0 ? 0 : 1;
/// }
/// ```
///
/// With run-time sizes it is a Linear that starts with one adapter, "default": it can be saved, loaded, merged, given
/// more adapters and listed in a model. With any compile-time size it is the static form, Adapted: one adapter without
/// a name, on the stack, and with CacheFor<Samples> a training step never uses the heap.
template <class S, int Out = Dynamic, int In = Dynamic, int Rank = Dynamic>
using LoraLinear = std::conditional_t<Out == Dynamic && In == Dynamic && Rank == Dynamic, Linear<S>,
                                      Adapted<Dense<S, Out, In>, Lora<S, Out, In, Rank>>>;

}  // namespace lora::inline LORA_ABI
