#pragma once
/// The formulas of the activations: of packets, for float and double, and of one number, for every other scalar.
///
/// Value is f(x). Gradient is f' dy, and gets x if needs_input, else y = f(x).

#include "lora/kernels/packet_math.hpp"

#include <cmath>

namespace lora::inline LORA_ABI::detail {

/// Slope times dy.
template <class Slope>
struct TimesSlope {
  template <class V>
  EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& at, const typename V::Packet& dy) {
    return V::multiply(dy, Slope::template packet<V>(at));
  }
  template <class S>
  static S scalar(const S& at, const S& dy) {
    return dy * Slope::scalar(at);
  }
};

struct ReluFormula {
  static constexpr bool needs_input = false;
  struct Value {
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return V::maximum(x, V::zero());
    }
    template <class S>
    static S scalar(const S& x) {
      return x < S(0) ? S(0) : x;
    }
  };
  struct Gradient {
    // y <= 0 is false for NaN, whose gradient is then dy, as in PyTorch
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& y, const typename V::Packet& dy) {
      return V::select(V::at_most(y, V::zero()), V::zero(), dy);
    }
    template <class S>
    static S scalar(const S& y, const S& dy) {
      return y <= S(0) ? S(0) : dy;
    }
  };
};

struct TanhFormula {
  static constexpr bool needs_input = false;
  struct Value {
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::tanh(x);
    }
    template <class S>
    static S scalar(const S& x) {
      using std::tanh;
      return tanh(x);
    }
  };
  struct Slope {  // 1 - y^2
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& y) {
      const auto one = V::constant(1);
      return V::multiply(V::subtract(one, y), V::add(one, y));
    }
    template <class S>
    static S scalar(const S& y) {
      return (S(1) - y) * (S(1) + y);
    }
  };
  using Gradient = TimesSlope<Slope>;
};

struct SigmoidFormula {
  static constexpr bool needs_input = false;
  struct Value {
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::sigmoid(x);
    }
    template <class S>
    static S scalar(const S& x) {
      using std::exp;
      const S e = exp(x < S(0) ? x : -x);
      return (x < S(0) ? e : S(1)) / (S(1) + e);
    }
  };
  struct Slope {  // y (1 - y)
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& y) {
      return V::multiply(y, V::subtract(V::constant(1), y));
    }
    template <class S>
    static S scalar(const S& y) {
      return y * (S(1) - y);
    }
  };
  using Gradient = TimesSlope<Slope>;
};

struct SiluFormula {
  static constexpr bool needs_input = true;
  struct Value {
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::silu(x);
    }
    template <class S>
    static S scalar(const S& x) {
      return x * SigmoidFormula::Value::scalar(x);
    }
  };
  struct Slope {  // s + x s (1 - s), s the sigmoid
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::silu_slope(x);
    }
    template <class S>
    static S scalar(const S& x) {
      const S s = SigmoidFormula::Value::scalar(x);
      return s + x * s * (S(1) - s);
    }
  };
  using Gradient = TimesSlope<Slope>;
};

struct GeluFormula {
  static constexpr bool needs_input = true;
  struct Value {
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::gelu(x);
    }
    template <class S>
    static S scalar(const S& x) {
      return x * distribution(x);
    }
  };
  struct Slope {  // Phi + x phi, with the density phi = exp(-x^2 / 2) / sqrt(2 pi)
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::gelu_slope(x);
    }
    template <class S>
    static S scalar(const S& x) {
      using std::exp;
      return distribution(x) + x * S(0.39894228040143268) * exp(-x * x / S(2));
    }
  };
  using Gradient = TimesSlope<Slope>;

 private:
  template <class S>
  static S distribution(const S& x) {  // Phi
    using std::erfc;
    return S(0.5) * erfc(-x * S(0.70710678118654752));
  }
};

struct GeluTanhFormula {
  static constexpr bool needs_input = true;
  struct Value {
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::gelu_tanh(x);
    }
    template <class S>
    static S scalar(const S& x) {  // (1 + tanh(u)) / 2 is the sigmoid of 2u
      return x * SigmoidFormula::Value::scalar(bend(x));
    }
  };
  struct Slope {  // s + x s (1 - s) (2u)'
    template <class V>
    EIGEN_ALWAYS_INLINE static auto packet(const typename V::Packet& x) {
      return PacketMath<V>::gelu_tanh_slope(x);
    }
    template <class S>
    static S scalar(const S& x) {
      const S s = SigmoidFormula::Value::scalar(bend(x));
      return s + x * s * (S(1) - s) * S(linear) * (S(1) + S(3 * cubic) * x * x);
    }
  };
  using Gradient = TimesSlope<Slope>;

 private:
  static constexpr double linear = 1.5957691216057307;  // 2 sqrt(2/pi)
  static constexpr double cubic = 0.044715;

  template <class S>
  static S bend(const S& x) {  // 2u
    return S(linear) * (x + S(cubic) * x * x * x);
  }
};

}  // namespace lora::inline LORA_ABI::detail
