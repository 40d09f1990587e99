#pragma once
/// Activations, elementwise. For each:   y = f(x),   dx = f'(x) .* dy.
///
/// x, y, dx, dy have one shape. x and y, and dx and dy, may be the same memory. backward gets the result of forward
/// and, if needs_input, its input; otherwise x is any matrix of that shape. NaN in x makes y and dx NaN there, as a NaN
/// in dy does where f' is not 0: a network that has gone wrong shows it.
///
/// In float and double, an element's bits depend on its value alone, not on its place in the matrix or in memory; y and
/// f' are within a few ulp for every x (kernels/packet_math.hpp says how many), and their limits where x is infinite.

#include "lora/core/scalar.hpp"
#include "lora/kernels/elementwise.hpp"
#include "lora/nn/detail/activation_formulas.hpp"

namespace lora::inline LORA_ABI {

namespace detail {

template <class Formula>
struct Activation {
  static constexpr bool needs_input = Formula::needs_input;
  static void forward(const auto& x, auto&& y) { map_matrix<typename Formula::Value>(y, x); }
  static void backward(const auto& x, const auto& y, const auto& dy, auto&& dx) {
    if constexpr (needs_input) {
      map_matrix<typename Formula::Gradient>(dx, x, dy);
    } else {
      map_matrix<typename Formula::Gradient>(dx, y, dy);
    }
  }
};

}  // namespace detail

/// f(x) = max(x, 0).   f(-1) = 0, f(0) = 0 with f'(0) = 0 as in PyTorch, f(2) = 2.
struct Relu : detail::Activation<detail::ReluFormula> {};

/// f(x) = tanh(x).   f(1) = 0.761594155955765, f' = 1 - y^2.
struct Tanh : detail::Activation<detail::TanhFormula> {};

/// f(x) = 1 / (1 + exp(-x)).   f(1) = 0.731058578630005, f' = y (1 - y).
struct Sigmoid : detail::Activation<detail::SigmoidFormula> {};

/// f(x) = x / (1 + exp(-x)).   f(1) = 0.731058578630005.
/// Source: Hendrycks & Gimpel 2016, arXiv:1606.08415, where it is named; swish in Ramachandran et al. 2017,
/// arXiv:1710.05941. PyTorch's silu, Llama's hidden_act.
struct Silu : detail::Activation<detail::SiluFormula> {};

/// f(x) = x Phi(x), Phi the normal distribution function.   f(1) = 0.841344746068543.
/// Source: Hendrycks & Gimpel 2016, arXiv:1606.08415. PyTorch's gelu(approximate="none").
struct Gelu : detail::Activation<detail::GeluFormula> {};

/// f(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).   f(1) = 0.841191990608277.
/// The approximation in Hendrycks & Gimpel 2016, section 2; GPT-2's, and PyTorch's gelu(approximate="tanh").
struct GeluTanh : detail::Activation<detail::GeluTanhFormula> {};

/// f(x) = x, for a network without activations.
struct Identity {
  static constexpr bool needs_input = false;
  static void forward(const auto& x, auto&& y) { y = x; }
  static void backward(const auto&, const auto&, const auto& dy, auto&& dx) { dx = dy; }
};

}  // namespace lora::inline LORA_ABI
