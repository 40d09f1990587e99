#pragma once
/// Activations, elementwise. For each:   y = f(x),   dx = f'(x) .* dy.
///
/// x, y, dx, dy have one shape. x and y, and dx and dy, may be the same memory. backward gets the result of forward
/// and, if needs_input, its input; otherwise x is any matrix of that shape. NaN in x makes y and dx NaN there, as a NaN
/// in dy does where f' is not 0: a network that has gone wrong shows it.

#include "lora/core/scalar.hpp"

#include <cmath>

namespace lora::inline LORA_ABI {

/// f(x) = max(x, 0).   f(-1) = 0, f(0) = 0 with f'(0) = 0 as in PyTorch, f(2) = 2.
struct Relu {
  static constexpr bool needs_input = false;
  static void forward(const auto& x, auto&& y) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    y = x.cwiseMax(S(0));  // of NaN and 0 Eigen's maximum takes the first
  }
  static void backward(const auto&, const auto& y, const auto& dy, auto&& dx) {
    using S = typename std::remove_cvref_t<decltype(y)>::Scalar;
    // y <= 0 is false for NaN, whose gradient is then dy, as in PyTorch
    dx = (y.array() <= S(0)).select(S(0), dy);
  }
};

/// f(x) = tanh(x).   f(1) = 0.761594155955765, f' = 1 - y^2.
struct Tanh {
  static constexpr bool needs_input = false;
  static void forward(const auto& x, auto&& y) { y = x.array().tanh().matrix(); }
  static void backward(const auto&, const auto& y, const auto& dy, auto&& dx) {
    using S = typename std::remove_cvref_t<decltype(y)>::Scalar;
    dx = dy.cwiseProduct((S(1) - y.array().square()).matrix());
  }
};

/// f(x) = x Phi(x), Phi the normal distribution function.   f(1) = 0.841344746068543.
/// Source: Hendrycks & Gimpel 2016, arXiv:1606.08415. PyTorch's gelu(approximate="none").
struct Gelu {
  static constexpr bool needs_input = true;
  static void forward(const auto& x, auto&& y) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    y = x.unaryExpr([](S value) { return value * phi(value); });
  }
  static void backward(const auto& x, const auto&, const auto& dy, auto&& dx) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    using std::exp;
    // f' = Phi(x) + x phi(x), with the density phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
    dx = dy.cwiseProduct(
        x.unaryExpr([](S value) { return phi(value) + value * S(0.39894228040143268) * exp(-value * value / S(2)); }));
  }

 private:
  template <class S>
  static S phi(const S& value) {
    using std::erf;
    return S(0.5) * (S(1) + erf(value * S(0.70710678118654752)));
  }
};

/// f(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).   f(1) = 0.841191990608277.
/// The approximation in Hendrycks & Gimpel 2016, section 2; GPT-2's, and PyTorch's gelu(approximate="tanh").
struct GeluTanh {
  static constexpr bool needs_input = true;
  static void forward(const auto& x, auto&& y) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    y = x.unaryExpr([](S value) { return value * S(0.5) * (S(1) + bend(value)); });
  }
  static void backward(const auto& x, const auto&, const auto& dy, auto&& dx) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    // with t = tanh(u):   f' = (1 + t)/2 + x/2 (1 - t^2) u',   u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
    dx = dy.cwiseProduct(x.unaryExpr([](S value) {
      const S t = bend(value);
      const S du = S(slope) * (S(1) + S(3 * cubic) * value * value);
      return S(0.5) * (S(1) + t) + S(0.5) * value * (S(1) - t * t) * du;
    }));
  }

 private:
  static constexpr double slope = 0.79788456080286536;  // sqrt(2/pi)
  static constexpr double cubic = 0.044715;

  template <class S>
  static S bend(const S& value) {
    using std::tanh;
    return tanh(S(slope) * (value + S(cubic) * value * value * value));
  }
};

/// f(x) = x, for a network without activations.
struct Identity {
  static constexpr bool needs_input = false;
  static void forward(const auto& x, auto&& y) { y = x; }
  static void backward(const auto&, const auto&, const auto& dy, auto&& dx) { dx = dy; }
};

}  // namespace lora::inline LORA_ABI
