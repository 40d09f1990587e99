#pragma once
/// Functions of each lane of a packet of floats or doubles: exp, tanh, and the activations that are made of exp.
///
///   largest error, in ulp             float   double      without fused multiply-add: float   double
///   exp(x), x <= 0                      1.1      1.1
///   sigmoid(x)                          2.5      2.5
///   tanh(x)                             2.6      2.6
///   silu(x) = x sigmoid(x)              3.5      3.5
///   its slope                             6        6
///   gelu(x) = x Phi(x)                  5.5      6.5                                      6      7.5
///   its slope                             6        7                                      6      8.5
///   gelu_tanh(x), GPT-2's               3.5      3.5
///   its slope                             7        7                                    7.5        7
///
/// ulp are those of the exact result; of the smallest normal number where that is larger; and for the slopes of silu
/// and gelu_tanh, which cross 0, of the sigmoid in them where that is larger. tests/kernels/packet_math_test.cpp checks
/// the numbers against a wider type. NaN gives NaN; where x is infinite the result is the limit. Results below the
/// smallest normal number are not flushed to 0, unless the processor does so.
///
/// Made of +, -, *, /, fused multiply-add and operations on bits, with no product in a sum that a compiler could fuse
/// on its own: the bits are the same for packets of every size, on every processor with fused multiply-add. To do
/// without it everywhere, for the same bits on processors that do not have it, would take 40 to 70 % more time.
///
/// The polynomials are minimax approximations of the relative error, found by the exchange algorithm of Remez in 50
/// digits and rounded to S; numerator and denominator of a quotient are multiplied by the same factor, of many the one
/// with which rounding does the least harm.

#include "lora/kernels/packet.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

template <class S>
struct MathConstants;

template <>
struct MathConstants<float> {
  /// q of degree 4 with exp(r) = 1 + r + r^2 q(r) for |r| <= log(2) / 2, to 2^-28 of exp(r).
  static constexpr std::array exponential = {0x1.fffffcp-2F, 0x1.55549p-3F, 0x1.5558f4p-5F, 0x1.123a6cp-7F,
                                             0x1.6a2352p-10F};
  static constexpr float inverse_log2 = 0x1.715476p0F;
  static constexpr float log2 = 0x1.63p-1F, log2_low = -0x1.bd0106p-13F;  ///< n log2 is exact

  /// exp(a^2/2) Phi(-a) = above / below, of degrees 4 and 5, for 0 <= a <= far, to 2^-26.3.
  static constexpr std::array tail_above = {0x1.0ff2f8p-1F, 0x1.db97c8p-2F, 0x1.8c9b1cp-3F, 0x1.5e878p-5F,
                                            0x1.1a366p-8F};
  static constexpr std::array tail_below = {0x1.0ff2f8p0F,  0x1.c6c7cep0F,  0x1.4609d8p0F,
                                            0x1.fbf6c4p-2F, 0x1.b759b4p-4F, 0x1.61b268p-7F};
  /// exp(a^2/2) (Phi(-a) - a phi(a)) = (root - a) above / below, of degrees 4 and 4, for 0 <= a <= far, to 2^-26.1.
  static constexpr std::array slope_above = {0x1.6cfe2ep-1F, 0x1.9d3f98p-1F, 0x1.9e115cp-2F, 0x1.a290f6p-4F,
                                             0x1.6c513p-7F};
  static constexpr std::array slope_below = {0x1.126608p0F, 0x1.7f8f78p0F, 0x1.b28c2p-1F, 0x1.e1b3a2p-3F,
                                             0x1.c899fp-6F};
  static constexpr float root = 0x1.80ead2p-1F, root_low = -0x1.a03fd4p-27F;

  /// 2 sqrt(2/pi) (a + 0.044715 a^3) = linear a + cubic a^3; linear without its low part has 12 bits.
  static constexpr float linear = 0x1.988p0F, linear_low = 0x1.14cf5p-14F;
  static constexpr float cubic = 0x1.2444f2p-4F, cubic_low = 0x1.49b16ap-29F;

  /// exp(-vanishing), and what the other functions make of it, is 0.
  static constexpr float vanishing = 112;
  // No argument beyond is needed; up to there, 2^(n + bias) is a normal number.
  static constexpr float far_exp = 120, far_tanh = 10, far_gelu = 15, far_gelu_tanh = 11;
  static constexpr int bias = 64;
};

template <>
struct MathConstants<double> {
  /// As above: degree 9, to 2^-57.9.
  static constexpr std::array exponential = {
      0x1.000000000000ap-1,  0x1.55555555554f9p-3,  0x1.55555555507f1p-5,  0x1.1111111127e85p-7,  0x1.6c16c1844afeep-10,
      0x1.a01a0129b3a35p-13, 0x1.a01999adcf1f5p-16, 0x1.71df262e0a285p-19, 0x1.28adce715d597p-22, 0x1.ad7effbbd58fp-26};
  static constexpr double inverse_log2 = 0x1.71547652b82fep0;
  static constexpr double log2 = 0x1.62e42fefa4p-1, log2_low = -0x1.8432a1b0e2634p-43;

  /// Degrees 10 and 11, to 2^-56.6.
  static constexpr std::array tail_above = {0x1.f4bc24e380475p-1,  0x1.9bbeb80ea4d27p0,   0x1.4fcefe2105a83p0,
                                            0x1.5ed0348db6b4ap-1,  0x1.01717c55a2fcp-2,   0x1.14058b2e59ffbp-4,
                                            0x1.b53184004f3b3p-7,  0x1.f98cb4a7fcef1p-10, 0x1.99d7f2b9db00ap-13,
                                            0x1.a75de0d5cd995p-17, 0x1.abd496f4c9d7ep-22};
  static constexpr std::array tail_below = {0x1.f4bc24e380475p0,   0x1.31c131db2034ep2,   0x1.5d44f3b2f24c1p2,
                                            0x1.ed97e47cb9d8fp1,   0x1.e0872ac89d484p0,   0x1.5348b19eb792ap-1,
                                            0x1.63b66615c75e6p-3,  0x1.15f78b90e08eap-5,  0x1.3ee102f476811p-8,
                                            0x1.015ae0edf019ap-11, 0x1.094e452715d7fp-15, 0x1.0c1a5bba37b6ap-20};
  /// Degrees 10 and 10, to 2^-55.8.
  static constexpr std::array slope_above = {0x1.7f32949d0d302p-1,  0x1.7e28e140ec3f7p0,  0x1.6eceed696929fp0,
                                             0x1.b8884c37d3c83p-1,  0x1.6c9303ecbe984p-2, 0x1.b1b7f3f06ff73p-4,
                                             0x1.77cd75787cee2p-6,  0x1.d57a9ad084cd8p-9, 0x1.965547a38f4fep-12,
                                             0x1.bad0746282bf9p-16, 0x1.d1d848495ca8ep-21};
  static constexpr std::array slope_below = {0x1.2015ae7192683p0,   0x1.45905f31ababap1,  0x1.551b7ff0884bep1,
                                             0x1.b548e794206a6p0,   0x1.7cbe7a80f4869p-1, 0x1.d7f45a6ae952bp-3,
                                             0x1.a740f697931b7p-5,  0x1.10634cc21adc1p-7, 0x1.e453885506423p-11,
                                             0x1.0ea2657de8df9p-14, 0x1.23eccad60ca1ep-19};
  static constexpr double root = 0x1.80ead197f00b4p-1, root_low = -0x1.13e74c58cada8p-56;

  static constexpr double linear = 0x1.988453p0, linear_low = 0x1.ea1b284687e5ap-27;  ///< 26 bits
  static constexpr double cubic = 0x1.2444f2a4d8b4bp-4, cubic_low = -0x1.6c843a29d1c7p-61;

  static constexpr double vanishing = 756;
  static constexpr double far_exp = 760, far_tanh = 20, far_gelu = 39, far_gelu_tanh = 22;
  static constexpr int bias = 512;
};

/// V: Simd<float>, Simd<double>, or one with narrower packets.
template <class V>
class PacketMath {
  using S = typename V::Scalar;
  using Packet = typename V::Packet;
  using Constants = MathConstants<S>;

 public:
  /// For x <= 0.
  EIGEN_ALWAYS_INLINE static Packet exp(const Packet& x) {
    return unbiased(biased_exp(not_below(x, Constants::far_exp)));
  }

  EIGEN_ALWAYS_INLINE static Packet tanh(const Packet& x) {
    // with m = exp(-2a) - 1, a = |x|:   tanh(a) = -m / (2 + m)
    const Packet two = V::constant(2);
    const Exponential e = exponential<0>(not_below(V::multiply(V::negative(x), two), 2 * Constants::far_tanh));
    const Packet m = V::multiply_add(e.power, e.above_one, V::subtract(e.power, V::constant(1)));
    return V::with_sign(V::divide(m, V::add(two, m)), x);
  }

  EIGEN_ALWAYS_INLINE static Packet sigmoid(const Packet& x) {
    // with e = exp(-a):   sigmoid(-a) = e / (1 + e),   sigmoid(a) = 1 / (1 + e)
    const Packet e = exp(V::negative(x)), one = V::constant(1);
    return V::divide(V::select(V::less(x, V::zero()), e, one), V::add(one, e));
  }

  /// x sigmoid(x)
  EIGEN_ALWAYS_INLINE static Packet silu(const Packet& x) {
    const Packet minus_a = not_below(V::negative(x), Constants::far_exp);
    return gated(x, V::absolute(minus_a), biased_exp(minus_a));
  }
  EIGEN_ALWAYS_INLINE static Packet silu_slope(const Packet& x) {
    const Packet minus_a = not_below(V::negative(x), Constants::far_exp);
    return gated_slope(x, minus_a, V::constant(1), biased_exp(minus_a));
  }

  /// x Phi(x)
  EIGEN_ALWAYS_INLINE static Packet gelu(const Packet& x) {
    // a Phi(-a) is max(x, 0) - x Phi(x) for x = a and for x = -a
    const Packet a = V::minimum(V::absolute(x), V::constant(Constants::far_gelu)), square = V::multiply(a, a);
    const Packet above =
        V::multiply(V::multiply(biased_bell(a), a), polynomial(a, square, Constants::tail_above, unit));
    return V::subtract(V::maximum(x, V::zero()), V::divide(above, polynomial(a, square, Constants::tail_below)));
  }
  /// Phi(x) + x phi(x)
  EIGEN_ALWAYS_INLINE static Packet gelu_slope(const Packet& x) {
    // slope(-a) = Phi(-a) - a phi(a),   slope(a) = 1 - slope(-a)
    const Packet a = V::minimum(V::absolute(x), V::constant(Constants::far_gelu)), square = V::multiply(a, a);
    const Packet from_root = V::add(V::subtract(V::constant(Constants::root), a), V::constant(Constants::root_low));
    const Packet above =
        V::multiply(V::multiply(biased_bell(a), from_root), polynomial(a, square, Constants::slope_above, unit));
    const Packet slope = V::divide(above, polynomial(a, square, Constants::slope_below));
    return V::select(V::less(x, V::zero()), slope, V::subtract(V::constant(1), slope));
  }

  /// x sigmoid(k x + c x^3)
  EIGEN_ALWAYS_INLINE static Packet gelu_tanh(const Packet& x) {
    const Packet a = V::minimum(V::absolute(x), V::constant(Constants::far_gelu_tanh));
    return gated(x, a, biased_exp_of_cubic(a));
  }
  EIGEN_ALWAYS_INLINE static Packet gelu_tanh_slope(const Packet& x) {
    const Packet a = V::minimum(V::absolute(x), V::constant(Constants::far_gelu_tanh));
    const Packet slope = V::multiply_add(V::multiply(a, a), V::constant(3 * Constants::cubic),
                                         V::constant(Constants::linear + Constants::linear_low));
    return gated_slope(x, V::negated(a), slope, biased_exp_of_cubic(a));
  }

 private:
  /// Numbers that are multiplied by 2^bias, so that they are normal where the result may not be.
  static constexpr S unit = std::is_same_v<S, float> ? S(0x1p-64) : S(0x1p-512);
  EIGEN_ALWAYS_INLINE static Packet unbiased(const Packet& x) { return V::multiply(x, V::constant(unit)); }

  EIGEN_ALWAYS_INLINE static Packet not_below(const Packet& x, S far) { return V::maximum(x, V::constant(-far)); }

  /// c_0 + c_1 x + ..., times `scale`, a power of 2. Even and odd powers apart, which is faster and rounds less.
  template <std::size_t N>
  EIGEN_ALWAYS_INLINE static Packet polynomial(const Packet& x, const Packet& square, const std::array<S, N>& c,
                                               S scale = 1) {
    Packet sum = V::constant(c[N - 1] * scale), other = V::constant(c[N - 2] * scale);
    for (std::size_t k = N - 2; k > 0; k -= 2) {  // sum goes on from c[k + 1], other from c[k]
      sum = V::multiply_add(sum, square, V::constant(c[k - 1] * scale));
      if (k == 1) return V::multiply_add(other, x, sum);
      other = V::multiply_add(other, square, V::constant(c[k - 2] * scale));
    }
    return V::multiply_add(sum, x, other);
  }

  /// power (1 + above_one), power = 2^(n + Bias)
  struct Exponential {
    Packet power, above_one;
  };
  /// exp(x + low) 2^Bias for x = n log(2) + r; low, if given, is what x lost when it was rounded.
  template <int Bias, class... Low>
  EIGEN_ALWAYS_INLINE static Exponential exponential(const Packet& x, const Low&... low) {
    constexpr std::uint64_t significand = std::uint64_t(3) << (std::numeric_limits<S>::digits - 2);
    // A sum with this number is rounded to an integer, and its last bits are n + Bias + the exponent's own bias.
    constexpr S shift = S(significand + std::uint64_t(std::numeric_limits<S>::max_exponent - 1 + Bias));
    const Packet shifted = V::multiply_add(x, V::constant(Constants::inverse_log2), V::constant(shift));
    const Packet n = V::subtract(shifted, V::constant(shift));
    Packet r = V::multiply_add(n, V::constant(-Constants::log2), x);
    if constexpr (sizeof...(Low) == 0) {
      r = V::multiply_add(n, V::constant(-Constants::log2_low), r);
    } else {
      r = V::add(r, V::multiply_add(n, V::constant(-Constants::log2_low), low...));
    }
    const Packet square = V::multiply(r, r);
    return {V::as_exponent(shifted), V::multiply_add(square, polynomial(r, square, Constants::exponential), r)};
  }
  /// exp(x + low) 2^bias. Where the result of every function is 0, so is this: a number that becomes 0 by underflow can
  /// cost a hundred cycles, and scores that are masked by -infinity are common.
  template <class... Low>
  EIGEN_ALWAYS_INLINE static Packet biased_exp(const Packet& x, const Low&... low) {
    const Exponential e = exponential<Constants::bias>(x, low...);
    const Packet power = V::cleared(e.power, V::at_most(x, V::constant(-Constants::vanishing)));
    return V::multiply(V::add(e.above_one, V::constant(1)), power);
  }

  /// a b = high + low, but for the last bits of low.
  struct Product {
    Packet high, low;
  };
  EIGEN_ALWAYS_INLINE static Product product(const Packet& a, const Packet& b) {
    const Packet high = V::multiply(a, b);
    if constexpr (V::fused) return {high, V::multiply_add(a, b, V::negated(high))};
    const Packet a1 = upper_half(a), a2 = V::subtract(a, a1), b1 = upper_half(b), b2 = V::subtract(b, b1);
    const Packet rest = V::add(V::subtract(V::multiply(a1, b1), high), V::multiply(a1, b2));
    return {high, V::add(V::add(rest, V::multiply(a2, b1)), V::multiply(a2, b2))};
  }
  /// The upper half of the significand's bits: the product of two such numbers is exact.
  EIGEN_ALWAYS_INLINE static Packet upper_half(const Packet& a) {
    using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
    constexpr Bits mask = ~Bits(0) << (std::numeric_limits<S>::digits + 1) / 2;
    return V::masked(a, V::constant(std::bit_cast<S>(mask)));
  }

  /// exp(-a^2 / 2) 2^bias
  EIGEN_ALWAYS_INLINE static Packet biased_bell(const Packet& a) {
    const Product square = product(a, a);
    const Packet half = V::constant(S(-0.5));
    return biased_exp(V::multiply(square.high, half), V::multiply(square.low, half));
  }

  /// exp(-(k a + c a^3)) 2^bias, whose exponent is computed with half as many bits again as S has.
  EIGEN_ALWAYS_INLINE static Packet biased_exp_of_cubic(const Packet& a) {
    const Packet k = V::constant(Constants::linear), c = V::constant(Constants::cubic);
    const Product square = product(a, a);
    // k + c a^2 = high + low
    const Packet high = upper_half(V::multiply_add(square.high, c, k));
    Packet low = V::subtract(k, high);
    if constexpr (V::fused) {
      low = V::multiply_add(square.high, c, low);
    } else {
      const Product term = product(square.high, c);
      low = V::add(V::add(low, term.high), term.low);
    }
    const Packet rounded_off =
        V::multiply_add(square.high, V::constant(Constants::cubic_low), V::constant(Constants::linear_low));
    low = V::add(low, V::multiply_add(square.low, c, rounded_off));
    const Product cubic = product(a, high);
    return biased_exp(V::negated(cubic.high), V::negated(V::multiply_add(a, low, cubic.low)));
  }

  /// x sigmoid(z), z of the sign of x, for a = |x| and e = exp(-|z|):   max(x, 0) - a e / (1 + e)
  EIGEN_ALWAYS_INLINE static Packet gated(const Packet& x, const Packet& a, const Packet& biased_e) {
    const Packet sum = V::add(V::constant(1), unbiased(biased_e));
    return V::multiply_add(V::divide(V::multiply(a, biased_e), sum), V::constant(-unit), V::maximum(x, V::zero()));
  }
  /// Its derivative: with z' = dz/dx, e / (1 + e)^2 ((1 + e) - a z') where x < 0, and 1 minus that elsewhere.
  EIGEN_ALWAYS_INLINE static Packet gated_slope(const Packet& x, const Packet& minus_a, const Packet& dz,
                                                const Packet& biased_e) {
    const Packet sum = V::add(V::constant(1), unbiased(biased_e));
    const Packet factor = V::multiply_add(minus_a, dz, sum);
    const Packet biased = V::divide(V::multiply(biased_e, factor), V::multiply(sum, sum));
    const Packet complement = V::multiply_add(biased, V::constant(-unit), V::constant(1));
    return V::select(V::less(x, V::zero()), unbiased(biased), complement);
  }
};

}  // namespace lora::inline LORA_ABI::detail
