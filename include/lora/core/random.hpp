#pragma once
/// Random numbers with the same bits on every compiler, platform and thread count.
///
/// Draw k of a generator is a pure function of (seed, stream, k): the counter-based generator Philox4x32-10 turns the
/// counter into random bits, so seeking is free and a checkpoint stores one integer. The transforms to uniform and
/// normal numbers use only +, -, x, / and sqrt, which IEEE 754 rounds correctly, and std::fma written out where a
/// product meets a sum, so that no compiler can contract one into other bits; never log or cos of the C library, whose
/// last bits differ between platforms. What this promise needs: IEEE 754 doubles without excess precision (not x87),
/// and no -ffast-math.
///
/// Sources: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11,
/// doi 10.1145/2063384.2063405; Wichura 1988, Algorithm AS 241, Applied Statistics 37 (3), 477-484,
/// doi 10.2307/2347330.

#include "lora/core/error.hpp"

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <string>

namespace lora::inline LORA_ABI {

static_assert(std::numeric_limits<double>::is_iec559 && std::numeric_limits<float>::is_iec559,
              "lora: random numbers need IEEE 754 arithmetic to have the same bits everywhere");

namespace detail {

struct PhiloxConstants {
  static constexpr std::uint64_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
  static constexpr std::uint32_t weyl0 = 0x9E3779B9;  ///< the golden ratio's fraction times 2^32
  static constexpr std::uint32_t weyl1 = 0xBB67AE85;  ///< sqrt(3) - 1, times 2^32
  static constexpr int rounds = 10;
};

}  // namespace detail

/// Philox4x32-10: 128 random bits as a bijection of the 128-bit counter, chosen by the 64-bit key.
///
/// One round multiplies two of the counter's words to 64 bits each and mixes the halves,
///   (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)),
/// then the key advances by the Weyl constants. No state: any block, in any order, on any thread.
/// Source: Salmon et al. 2011.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) noexcept {
  using Philox = detail::PhiloxConstants;
  for (int round = 0; round < Philox::rounds; ++round) {
    const std::uint64_t product0 = Philox::multiplier0 * counter[0];
    const std::uint64_t product1 = Philox::multiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(product0)};
    key[0] += Philox::weyl0;
    key[1] += Philox::weyl1;
  }
  return counter;
}

namespace detail {

/// c0 + c1 x + ... + cn x^n.
template <std::size_t Size>
double polynomial(double x, const std::array<double, Size>& coefficients) {
  double sum = coefficients[Size - 1];
  for (std::size_t i = Size - 1; i > 0; --i) {
    sum = std::fma(sum, x, coefficients[i - 1]);
  }
  return sum;
}

/// (n0 + n1 x + ... + n7 x^7) / (1 + d1 x + ... + d7 x^7).
inline double quotient(double x, const std::array<double, 8>& numerator, const std::array<double, 7>& denominator) {
  return polynomial(x, numerator) / std::fma(polynomial(x, denominator), x, 1);
}

/// log(x) for finite x > 0, to about one ulp where |log x| > 1, the only part used here.
///
/// x = m 2^e with m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m + 1), so s^2 < 0.0295, give
///   log x = e log 2 + 2 atanh(s),   atanh(s) = s + s^3 (1/3 + s^2/5 + s^4/7 + ... + s^18/21);
/// the first term left out is below 2^-60 of atanh(s).
inline double log_of(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // exact, in [1/2, 1)
  if (mantissa < 0x1.6a09e667f3bcdp-1) {       // sqrt(1/2)
    mantissa *= 2;
    --exponent;
  }
  constexpr std::array<double, 10> series = {1. / 3,  1. / 5,  1. / 7,  1. / 9,  1. / 11,
                                             1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21};
  const double s = (mantissa - 1) / (mantissa + 1);
  const double z = s * s;
  const double atanh = std::fma(s * z, polynomial(z, series), s);
  constexpr double log2_high = 0x1.62e42fefa39efp-1;
  constexpr double log2_low = 0x1.abc9e3b39803fp-56;  // high + low = log 2 to 107 bits
  return std::fma(exponent, log2_high, std::fma(exponent, log2_low, 2 * atanh));
}

}  // namespace detail

/// The x with P(Z <= x) = p for a standard normal Z: the inverse of the normal distribution function.
///
/// Three quotients of polynomials of degree 7 over 7, in the variable that fits each region of q = p - 1/2:
///   |q| <= 0.425            x = q N(t) / D(t)        t = 0.425^2 - q^2
///   else, r <= 5            |x| = N(t) / D(t)        t = r - 1.6,    r = sqrt(-log(min(p, 1 - p)))
///   else                    |x| = N(t) / D(t)        t = r - 5       (p below 1.4e-11 or as close to 1)
/// Relative error below 1e-15. Odd to the bit: quantile(1 - p) = -quantile(p) wherever 1 - p is exact.
/// Throws ValueError unless 0 < p < 1.   Source: AS 241, PPND16.
inline double normal_quantile(double p) {
  if (!(p > 0 && p < 1)) {
    detail::fail<ValueError>("normal_quantile", "p is " + detail::text_of(p) + ", expected 0 < p < 1");
  }
  constexpr std::array<double, 8> central_numerator = {
      3.3871328727963666080,   1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
      4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3};
  constexpr std::array<double, 7> central_denominator = {
      4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
      3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3};
  constexpr std::array<double, 8> middle_numerator = {
      1.42343711074968357734, 4.63033784615654529590,    5.76949722146069140550,    3.64784832476320460504,
      1.27045825245236838258, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr std::array<double, 7> middle_denominator = {
      2.05319162663775882187,    1.67638483018380384940,    6.89767334985100004550e-1, 1.48103976427480074590e-1,
      1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9};
  constexpr std::array<double, 8> tail_numerator = {
      6.65790464350110377720,    5.46378491116411436990,    1.78482653991729133580,    2.96560571828504891230e-1,
      2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr std::array<double, 7> tail_denominator = {
      5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
      1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15};
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) {
    const double t = std::fma(-q, q, 0.180625);
    return q * detail::quotient(t, central_numerator, central_denominator);
  }
  const double r = std::sqrt(-detail::log_of(q < 0 ? p : 1 - p));
  const double x = r <= 5 ? detail::quotient(r - 1.6, middle_numerator, middle_denominator)
                          : detail::quotient(r - 5, tail_numerator, tail_denominator);
  return q < 0 ? -x : x;
}

/// A stream of 64-bit random numbers; draw k is a pure function of (seed, stream, k).
///
///   draw 2b, draw 2b + 1 = the two halves of philox4x32({b, stream}, seed), low words first.
///
/// Models std::uniform_random_bit_generator. Period 2^64 draws; streams of one seed never share a block. Every uniform
/// and every normal takes exactly one draw, whatever its type. A copy continues with the same numbers as the original.
class Rng {
 public:
  using result_type = std::uint64_t;

  explicit Rng(std::uint64_t seed, std::uint64_t stream = 0) noexcept : seed_(seed), stream_(stream) {}

  static constexpr result_type min() noexcept { return 0; }
  static constexpr result_type max() noexcept { return std::numeric_limits<result_type>::max(); }

  std::uint64_t seed() const noexcept { return seed_; }
  std::uint64_t stream() const noexcept { return stream_; }

  /// The number of draws so far. seek(position()) continues a saved generator exactly.
  std::uint64_t position() const noexcept { return position_; }
  void seek(std::uint64_t position) noexcept {
    position_ = position;
    if (position_ % 2 != 0) fill();
  }

  result_type operator()() noexcept {
    if (position_ % 2 == 0) fill();
    const std::size_t half = position_++ % 2 * 2;
    return std::uint64_t{block_[half + 1]} << 32 | block_[half];
  }

  /// Uniform in the open interval (0, 1): (k + 1/2) 2^-52 with k the draw's top 52 bits, for float (k + 1/2) 2^-23 with
  /// its top 23. Exact in that type, symmetric about 1/2, never 0 or 1. Other scalars are constructed from the double.
  template <class S = double>
  S uniform() {
    static_assert(!std::integral<S>, "lora: uniform needs a real scalar; for integers use below(n)");
    if constexpr (std::same_as<S, float>) {
      return (static_cast<float>((*this)() >> 41) + 0.5f) * 0x1p-23f;
    } else {
      return static_cast<S>((static_cast<double>((*this)() >> 12) + 0.5) * 0x1p-52);
    }
  }

  /// low + u (high - low), rounded once after the difference; rounding can reach either bound.
  template <class S>
  S uniform(S low, S high) {
    if constexpr (std::floating_point<S>) {
      return std::fma(uniform<S>(), high - low, low);
    } else {
      return low + uniform<S>() * (high - low);
    }
  }

  /// Standard normal: normal_quantile of a uniform double. Largest magnitude 8.21 (p = 2^-53). Float is that double
  /// rounded once; other scalars are constructed from the double.
  template <class S = double>
  S normal() {
    static_assert(!std::integral<S>, "lora: normal needs a real scalar");
    return static_cast<S>(normal_quantile(uniform<double>()));
  }

  /// Uniform on {0, ..., n - 1}, without bias: draws below 2^64 mod n are rejected, which leaves a multiple of n
  /// values. Takes one draw, and one more with probability below n / 2^64.   Throws ValueError if n is 0.
  std::uint64_t below(std::uint64_t n) {
    if (n == 0) detail::fail<ValueError>("Rng::below", "n is 0, expected at least 1");
    const std::uint64_t rejected = (max() - n + 1) % n;
    std::uint64_t draw = (*this)();
    while (draw < rejected) draw = (*this)();
    return draw % n;
  }

  /// Puts a random-access range in random order, every order equally likely (Fisher-Yates, from the back).
  template <class Range>
  void shuffle(Range&& range) {
    const auto first = std::begin(range);
    for (auto left = std::end(range) - first; left > 1; --left) {
      const auto chosen = below(static_cast<std::uint64_t>(left));
      std::iter_swap(first + (left - 1), first + static_cast<decltype(left)>(chosen));
    }
  }

 private:
  void fill() noexcept {
    constexpr auto low_word = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    constexpr auto high_word = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    const std::uint64_t b = position_ / 2;
    block_ = philox4x32({low_word(b), high_word(b), low_word(stream_), high_word(stream_)},
                        {low_word(seed_), high_word(seed_)});
  }

  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t position_ = 0;
  std::array<std::uint32_t, 4> block_{};  // the block of the last draw, kept for its second half
};

}  // namespace lora::inline LORA_ABI
