#include "lora/kernels/packet_math.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include "lora/core/random.hpp"
#include "support/catch.hpp"

using lora::Index;
using lora::detail::PacketMath;
using lora::detail::Simd;

namespace {

/// The largest errors that packet_math.hpp states.
struct Stated {
  double in_float, in_double, in_float_unfused, in_double_unfused;

  template <class S>
  double ulp() const {
    if (Simd<S>::fused) return std::is_same_v<S, float> ? in_float : in_double;
    return std::is_same_v<S, float> ? in_float_unfused : in_double_unfused;
  }
};

// The functions: packet, exact in a wider type T, and the number whose ulp count if it is larger than the result.

struct Exp {
  static constexpr Stated stated = {1.1, 1.1, 1.1, 1.1};
  static auto packet(auto math, const auto& x) { return math.exp(x); }
  template <class T>
  static T exact(T x) {
    return std::exp(x);
  }
};

struct Tanh {
  static constexpr Stated stated = {2.6, 2.6, 2.6, 2.6};
  static auto packet(auto math, const auto& x) { return math.tanh(x); }
  template <class T>
  static T exact(T x) {
    return std::tanh(x);
  }
};

struct Sigmoid {
  static constexpr Stated stated = {2.5, 2.5, 2.5, 2.5};
  static auto packet(auto math, const auto& x) { return math.sigmoid(x); }
  template <class T>
  static T exact(T x) {
    return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
  }
};

/// x sigmoid(z)
template <class T>
T gated(T x, T z) {
  return x == -std::numeric_limits<T>::infinity() ? T(0) : x * Sigmoid::exact(z);
}
/// Its derivative, of z' = dz.
template <class T>
T gated_slope(T x, T z, T dz) {
  return std::isinf(x) ? T(x > 0) : Sigmoid::exact(z) * (1 + x * dz * Sigmoid::exact(-z));
}

struct Silu {
  static constexpr Stated stated = {3.5, 3.5, 3.5, 3.5};
  static auto packet(auto math, const auto& x) { return math.silu(x); }
  template <class T>
  static T exact(T x) {
    return gated(x, x);
  }
};

struct SiluSlope {
  static constexpr Stated stated = {6, 6, 6, 6};
  static auto packet(auto math, const auto& x) { return math.silu_slope(x); }
  template <class T>
  static T exact(T x) {
    return gated_slope(x, x, T(1));
  }
  template <class T>
  static T scale(T x) {
    return Sigmoid::exact(x);
  }
};

struct Gelu {
  static constexpr Stated stated = {5.5, 6.5, 6, 7.5};
  static auto packet(auto math, const auto& x) { return math.gelu(x); }
  template <class T>
  static T exact(T x) {
    return x == -std::numeric_limits<T>::infinity() ? T(0) : x * distribution(x);
  }
  template <class T>
  static T distribution(T x) {
    return std::erfc(-x / std::numbers::sqrt2_v<T>) / 2;
  }
};

struct GeluSlope {
  static constexpr Stated stated = {6, 7, 6, 8.5};
  static auto packet(auto math, const auto& x) { return math.gelu_slope(x); }
  template <class T>
  static T exact(T x) {
    if (std::isinf(x)) return T(x > 0);
    constexpr long double root = 0xc.07568cbf8059eecp-4L, root_low = 0x1.8b3a735257d34p-68L;
    const auto distance = static_cast<T>((static_cast<long double>(x) + root) + root_low);
    if (std::abs(distance) < T(0.05)) return from_root(T(-root), distance);
    return Gelu::distribution(x) + x * density(x);
  }

 private:
  template <class T>
  static T density(T x) {
    return std::exp(-x * x / 2) * std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
  }
  /// The integral of the second derivative, phi(x) (2 - x^2), by Gauss's formula of five points: exact to rounding,
  /// where Phi and x phi would cancel.
  template <class T>
  static T from_root(T root, T distance) {
    const auto at = [&](T place) {
      const T x = root + distance * (1 + place) / 2;
      return density(x) * (2 - x * x);
    };
    const T inner = std::sqrt(5 - 2 * std::sqrt(T(10) / 7)) / 3, outer = std::sqrt(5 + 2 * std::sqrt(T(10) / 7)) / 3;
    const T root70 = std::sqrt(T(70));
    const T sum =
        512 * at(0) + (322 + 13 * root70) * (at(inner) + at(-inner)) + (322 - 13 * root70) * (at(outer) + at(-outer));
    return distance * sum / 1800;
  }
};

template <class T>
struct Cubic {
  static inline const T linear = 2 * std::sqrt(2 / std::numbers::pi_v<T>);
  static T z(T x) { return linear * (x + T(0.044715L) * x * x * x); }
  static T dz(T x) { return linear * (1 + 3 * T(0.044715L) * x * x); }
};

struct GeluTanh {
  static constexpr Stated stated = {3.5, 3.5, 3.5, 3.5};
  static auto packet(auto math, const auto& x) { return math.gelu_tanh(x); }
  template <class T>
  static T exact(T x) {
    return gated(x, Cubic<T>::z(x));
  }
};

struct GeluTanhSlope {
  static constexpr Stated stated = {7, 7, 7.5, 7};
  static auto packet(auto math, const auto& x) { return math.gelu_tanh_slope(x); }
  template <class T>
  static T exact(T x) {
    return gated_slope(x, Cubic<T>::z(x), Cubic<T>::dz(x));
  }
  template <class T>
  static T scale(T x) {
    return Sigmoid::exact(Cubic<T>::z(x));
  }
};

/// Arguments of every sign and exponent; more of those where a result is neither 0 nor its limit; and numbers next to
/// each other where a function or its formula changes.
template <class S>
std::vector<S> arguments() {
  using Limits = std::numeric_limits<S>;
  std::vector<S> x = {0,
                      -S(0),
                      Limits::infinity(),
                      -Limits::infinity(),
                      Limits::max(),
                      Limits::lowest(),
                      Limits::min(),
                      -Limits::min(),
                      Limits::denorm_min(),
                      -Limits::denorm_min()};
  const bool slow = Limits::digits > 24 && std::numeric_limits<long double>::digits > 64;  // in software
  lora::Rng rng(1);
  if constexpr (std::is_same_v<S, float>) {
    constexpr std::uint64_t stride = 4093;  // a prime: all kinds of significands
    for (std::uint64_t bits = 0; bits < (std::uint64_t(1) << 32); bits += stride) {
      const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
      if (std::isfinite(value)) x.push_back(value);
    }
  } else {
    for (int k = 0; k < (slow ? 1000 : 60000); ++k) {
      const auto value = std::bit_cast<double>(rng());
      if (std::isfinite(value)) x.push_back(value);
    }
  }
  for (const double range : {1., 6., 15., 40., 110., 760.}) {
    for (int k = 0; k < (slow ? 1000 : 100000); ++k) x.push_back(static_cast<S>(rng.uniform(-range, range)));
  }
  std::vector<double> places = {
      0.75179152469356446, 1.2784645427610738, 0.75246142, 1, 8.66, 9.01, 10, 11, 13, 14.2, 15};
  places.insert(places.end(), {18.4, 19.06, 20, 21.5, 22, 37.5, 38.5, 39, 87.3, 103.97, 104, 708.4, 745.1, 745.2});
  for (int n = 0; n < 6; ++n) places.push_back((n + 0.5) * std::numbers::ln2);  // exp's next power of 2
  for (const double place : places) {
    S above = static_cast<S>(place), below = above;
    for (int k = 0; k < (slow ? 5 : 50); ++k) {
      x.insert(x.end(), {above, -above, below, -below});
      above = std::nextafter(above, Limits::infinity());
      below = std::nextafter(below, S(0));
    }
  }
  return x;
}

template <class F, class V>
std::vector<typename V::Scalar> computed(const std::vector<typename V::Scalar>& x) {
  std::vector<typename V::Scalar> y(x.size());
  for (std::size_t i = 0; i < x.size(); i += V::lanes)
    V::store(y.data() + i, F::packet(PacketMath<V>(), V::load(x.data() + i)));
  return y;
}

template <class S>
bool same_bits(S a, S b) {
  using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
  return std::bit_cast<Bits>(a) == std::bit_cast<Bits>(b);
}

/// The error of y in ulp of the exact result, or of `scale` if that is larger.
template <class S, class T>
double error_in_ulp(S y, T exact, T scale) {
  if (std::isinf(exact)) return y == static_cast<S>(exact) ? 0 : std::numeric_limits<double>::infinity();
  int exponent = 0;
  std::frexp(std::max({std::abs(exact), scale, T(std::numeric_limits<S>::min())}), &exponent);
  return static_cast<double>(std::abs(std::ldexp(T(y) - exact, std::numeric_limits<S>::digits - exponent)));
}

template <class S, class F>
void check_accuracy(std::vector<S> x) {
  using T = std::conditional_t<std::is_same_v<S, float>, double, long double>;
  if (std::numeric_limits<T>::digits < std::numeric_limits<S>::digits + 11) return;  // nothing to compare with
  if (std::is_same_v<F, Exp>) {
    for (S& value : x) value = -std::abs(value);
  }
  while (x.size() % 16 != 0) x.push_back(1);
  const std::vector<S> y = computed<F, Simd<S>>(x);
  double worst = 0;
  S worst_x = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    T scale = 0;
    if constexpr (requires { F::scale(T()); }) scale = F::scale(T(x[i]));
    const double error = error_in_ulp(y[i], F::exact(T(x[i])), scale);
    if (error <= worst) continue;
    worst = error;
    worst_x = x[i];
    if (std::isnan(error)) break;
  }
  CAPTURE(worst_x);
  CHECK(worst <= F::stated.template ulp<S>());

  const std::vector<S> half = computed<F, Simd<S, 1>>(x), quarter = computed<F, Simd<S, 2>>(x);
  CHECK(std::equal(y.begin(), y.end(), half.begin(), same_bits<S>));
  CHECK(std::equal(y.begin(), y.end(), quarter.begin(), same_bits<S>));
}

}  // namespace

TEMPLATE_TEST_CASE("packet math: errors in ulp are at most what the header states, whatever the packet", "", float,
                   double) {
  const std::vector<TestType> x = arguments<TestType>();
  SECTION("exp") { check_accuracy<TestType, Exp>(x); }
  SECTION("tanh") { check_accuracy<TestType, Tanh>(x); }
  SECTION("sigmoid") { check_accuracy<TestType, Sigmoid>(x); }
  SECTION("silu") { check_accuracy<TestType, Silu>(x); }
  SECTION("silu_slope") { check_accuracy<TestType, SiluSlope>(x); }
  SECTION("gelu") { check_accuracy<TestType, Gelu>(x); }
  SECTION("gelu_slope") { check_accuracy<TestType, GeluSlope>(x); }
  SECTION("gelu_tanh") { check_accuracy<TestType, GeluTanh>(x); }
  SECTION("gelu_tanh_slope") { check_accuracy<TestType, GeluTanhSlope>(x); }
}

namespace {

template <class S, class F>
S at(S x) {
  return computed<F, Simd<S>>(std::vector<S>(static_cast<std::size_t>(Simd<S>::lanes), x))[0];
}

template <class S, class F>
void check_limits(double below, double above) {
  const S infinity = std::numeric_limits<S>::infinity();
  CHECK(at<S, F>(-infinity) == static_cast<S>(below));
  CHECK(at<S, F>(infinity) == static_cast<S>(above));
  CHECK(at<S, F>(std::numeric_limits<S>::lowest()) == static_cast<S>(below));
  CHECK(std::isnan(at<S, F>(std::numeric_limits<S>::quiet_NaN())));
  CHECK(std::isnan(at<S, F>(-std::numeric_limits<S>::quiet_NaN())));
}

}  // namespace

TEMPLATE_TEST_CASE("packet math: limits at infinity, and NaN", "", float, double) {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(at<TestType, Exp>(-std::numeric_limits<TestType>::infinity()) == 0);
  CHECK(std::isnan(at<TestType, Exp>(std::numeric_limits<TestType>::quiet_NaN())));
  check_limits<TestType, Tanh>(-1, 1);
  check_limits<TestType, Sigmoid>(0, 1);
  check_limits<TestType, Silu>(0, infinity);
  check_limits<TestType, SiluSlope>(0, 1);
  check_limits<TestType, Gelu>(0, infinity);
  check_limits<TestType, GeluSlope>(0, 1);
  check_limits<TestType, GeluTanh>(0, infinity);
  check_limits<TestType, GeluTanhSlope>(0, 1);
}

TEMPLATE_TEST_CASE("packet math: exact values at 0", "", float, double) {
  const TestType zero = 0;
  CHECK(at<TestType, Exp>(zero) == 1);
  CHECK(same_bits(at<TestType, Tanh>(-zero), -zero));
  CHECK(at<TestType, Sigmoid>(zero) == TestType(0.5));
  for (const TestType x : {zero, -zero}) {
    CHECK(at<TestType, Silu>(x) == 0);
    CHECK(at<TestType, SiluSlope>(x) == TestType(0.5));
    CHECK(at<TestType, Gelu>(x) == 0);
    CHECK(at<TestType, GeluSlope>(x) == TestType(0.5));
    CHECK(at<TestType, GeluTanh>(x) == 0);
    CHECK(at<TestType, GeluTanhSlope>(x) == TestType(0.5));
  }
}
