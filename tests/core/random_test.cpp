#include "lora/core/random.hpp"

#include "support/catch.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <vector>

namespace {

using Block = std::array<std::uint32_t, 4>;
using lora::philox4x32;
using lora::Rng;

// The published known answers: Random123, tests/kat_vectors, lines "philox4x32 10".
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
static_assert(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
              Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
static_assert(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});

static_assert(std::uniform_random_bit_generator<Rng>);

/// A scalar that is not built in, as the dual numbers are.
struct Wrapped {
  explicit Wrapped(double v) : value(v) {}
  double value;
  friend Wrapped operator+(Wrapped a, Wrapped b) { return Wrapped(a.value + b.value); }
  friend Wrapped operator-(Wrapped a, Wrapped b) { return Wrapped(a.value - b.value); }
  friend Wrapped operator*(Wrapped a, Wrapped b) { return Wrapped(a.value * b.value); }
};

template <class Draw>
std::vector<double> sample(std::size_t count, Draw draw) {
  std::vector<double> values(count);
  std::generate(values.begin(), values.end(), draw);
  return values;
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double mean_product(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0) / static_cast<double>(a.size());
}

/// Kolmogorov-Smirnov: sqrt(n) times the largest distance between the sample's distribution and the expected one.
template <class Cdf>
double kolmogorov_smirnov(std::vector<double> values, Cdf cdf) {
  std::sort(values.begin(), values.end());
  const double n = static_cast<double>(values.size());
  double distance = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = cdf(values[i]);
    distance = std::max({distance, expected - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - expected});
  }
  return distance * std::sqrt(n);
}
constexpr double ks_limit = 1.628;  // exceeded by 1 % of true samples

double chi_square(const std::vector<int>& counts) {
  const double expected = std::accumulate(counts.begin(), counts.end(), 0.0) / static_cast<double>(counts.size());
  double sum = 0;
  for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

}  // namespace

TEST_CASE("random: a draw is half a Philox block of (seed, stream, position)") {
  const std::uint64_t seed = 0x0123456789abcdef;
  const std::uint64_t stream = 0xfedcba9876543210;
  Rng rng(seed, stream);
  // Around zero, and where the block's number outgrows 32 bits.
  for (const std::uint64_t start : {std::uint64_t{0}, (std::uint64_t{1} << 33) - 3}) {
    rng.seek(start);
    for (std::uint64_t k = start; k < start + 6; ++k) {
      const auto b = k / 2;
      const Block block =
          philox4x32({static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b >> 32), 0x76543210, 0xfedcba98},
                     {0x89abcdef, 0x01234567});
      const std::size_t half = k % 2 == 0 ? 0 : 2;
      CHECK(rng.position() == k);
      CHECK(rng() == (std::uint64_t{block[half + 1]} << 32 | block[half]));
    }
  }
  CHECK(rng.seed() == seed);
  CHECK(rng.stream() == stream);
}

TEST_CASE("random: seeking equals drawing one after the other") {
  Rng sequential(5, 9);
  std::vector<std::uint64_t> draws(41);
  std::generate(draws.begin(), draws.end(), std::ref(sequential));
  CHECK(sequential.position() == draws.size());
  Rng jumping(5, 9);
  for (std::size_t step = 0; step < draws.size(); ++step) {
    const std::size_t k = step * 17 % draws.size();
    jumping.seek(k);
    CHECK(jumping() == draws[k]);
  }
  Rng saved(5, 9);
  saved.seek(sequential.position());
  Rng copy = sequential;
  for (int i = 0; i < 5; ++i) {
    const auto expected = sequential();
    CHECK(saved() == expected);
    CHECK(copy() == expected);
  }
}

TEST_CASE("random: the bits of the transforms are pinned") {
  constexpr std::array<double, 8> normals = {0x1.407827c9b8c2ep+0,  0x1.1d3b4d4d8d114p-1, 0x1.256344ddbc08bp+0,
                                             0x1.9b7ed635d87c6p-2,  0x1.23064f5e93ea3p-3, 0x1.6a7445015d13dp+0,
                                             -0x1.cad311a68b0b6p+0, -0x1.9bc944669b727p+0};
  Rng doubles(1);
  Rng floats(1);
  Rng wrapped(1);
  for (const double expected : normals) {
    CHECK(doubles.normal<double>() == expected);
    CHECK(floats.normal<float>() == static_cast<float>(expected));
    CHECK(wrapped.normal<Wrapped>().value == expected);
  }
  Rng rng(2026, 3);
  CHECK(rng.uniform<double>() == 0x1.04f13e3d5f348p-4);
  CHECK(rng.uniform<float>() == 0x1.ee960cp-2f);
  CHECK(rng.uniform(-0.3, 0.7) == 0x1.d510f669c8006p-3);
  CHECK(rng.uniform(-0.3f, 0.7f) == 0x1.2654acp-1f);
  CHECK(rng.below(1000) == 920);
  CHECK(lora::normal_quantile(0x1p-40) == -0x1.c30d8560989abp+2);
  CHECK(lora::normal_quantile(0x1p-53) == -0x1.06b48528cea51p+3);
  CHECK(lora::normal_quantile(0x1.3p-200) == -0x1.06a67d98d0762p+4);

  // 200,000 normals from every region in one number (FNV-1a over their words).
  std::uint64_t hash = 0xcbf29ce484222325;
  for (int i = 0; i < 200000; ++i) {
    hash = (hash ^ std::bit_cast<std::uint64_t>(doubles.normal())) * 0x100000001b3;
  }
  CHECK(hash == 0xc72921377fb615fe);
}

TEST_CASE("random: uniform numbers are exact midpoints in the open interval") {
  Rng bits(11);
  Rng doubles(11);
  Rng floats(11);
  Rng scaled(11);
  Rng wrapped(11);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t draw = bits();
    const double u = doubles.uniform();
    const float v = floats.uniform<float>();
    CHECK(u * 0x1p53 == static_cast<double>(2 * (draw >> 12) + 1));
    CHECK(v * 0x1p24f == static_cast<float>(2 * (draw >> 41) + 1));
    CHECK((u > 0 && u < 1 && v > 0 && v < 1));
    CHECK(scaled.uniform(-2.0, 6.0) == 8 * u - 2);
    CHECK(wrapped.uniform(Wrapped(-2), Wrapped(6)).value == 8 * u - 2);
  }
  // The extremes of the formula, drawn or not: they neither reach a bound nor round to it.
  CHECK((0x1p52 - 1 + 0.5) * 0x1p-52 < 1);
  CHECK((0x1p23f - 1 + 0.5f) * 0x1p-23f < 1);
}

TEST_CASE("random: the normal quantile is accurate to 1e-15 over the whole range") {
  // Computed with 60 digits and rounded once.
  constexpr std::array<std::array<double, 2>, 15> known = {{{1e-300, -37.0470962993612},
                                                            {1e-100, -21.273453560965326},
                                                            {0x1p-53, -8.209536151601387},
                                                            {1e-11, -6.706023155495136},
                                                            {2e-11, -6.604077590405634},
                                                            {1e-5, -4.264890793922825},
                                                            {0.025, -1.9599639845400543},
                                                            {0.0749, -1.4402382675279637},
                                                            {0.0751, -1.43882539275254},
                                                            {0.25, -0.6744897501960817},
                                                            {0.4999, -0.00025066283008800747},
                                                            {0.6, 0.2533471031357997},
                                                            {0.9, 1.2815515655446006},
                                                            {0.975, 1.9599639845400538},
                                                            {0.999, 3.090232306167813}}};
  for (const auto& [p, expected] : known) {
    CAPTURE(p);
    CHECK(std::abs(lora::normal_quantile(p) - expected) <= 1e-15 * std::abs(expected));
  }
  CHECK(lora::normal_quantile(0.5) == 0);
  for (const double p : {0x1p-53, 0x1p-40, 0.0625, 0.25, 0.375}) {  // 1 - p is exact
    CHECK(lora::normal_quantile(1 - p) == -lora::normal_quantile(p));
  }
  for (const double p : {0.0, 1.0, -0.25, 1.5, std::nan("")}) {
    CHECK_THROWS_AS(lora::normal_quantile(p), lora::ValueError);
  }
}

TEST_CASE("random: samples have the distribution they should have") {
  constexpr std::size_t n = 100000;
  const double root = std::sqrt(static_cast<double>(n));
  const auto normal_cdf = [](double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; };
  const auto uniform_cdf = [](double x) { return x; };

  Rng rng(1234);
  const auto normals = sample(n, [&] { return rng.normal(); });
  const auto floats = sample(n, [&] { return static_cast<double>(rng.normal<float>()); });
  const auto uniforms = sample(n, [&] { return rng.uniform(); });
  const auto uniform_floats = sample(n, [&] { return static_cast<double>(rng.uniform<float>()); });
  CHECK(kolmogorov_smirnov(normals, normal_cdf) < ks_limit);
  CHECK(kolmogorov_smirnov(floats, normal_cdf) < ks_limit);
  CHECK(kolmogorov_smirnov(uniforms, uniform_cdf) < ks_limit);
  CHECK(kolmogorov_smirnov(uniform_floats, uniform_cdf) < ks_limit);

  // Moments 1 to 4 of a standard normal are 0, 1, 0, 3 with standard errors sqrt({1, 2, 15, 96} / n).
  std::vector<double> squares(n);
  std::transform(normals.begin(), normals.end(), squares.begin(), [](double x) { return x * x; });
  CHECK(std::abs(mean_of(normals)) < 3 / root);
  CHECK(std::abs(mean_of(squares) - 1) < 3 * std::sqrt(2.0) / root);
  CHECK(std::abs(mean_product(squares, normals)) < 3 * std::sqrt(15.0) / root);
  CHECK(std::abs(mean_product(squares, squares) - 3) < 3 * std::sqrt(96.0) / root);
}

TEST_CASE("random: streams, seeds and neighboring draws are uncorrelated") {
  constexpr std::size_t n = 100000;
  const double limit = 3 / std::sqrt(static_cast<double>(n));
  const auto normals = [&](std::uint64_t seed, std::uint64_t stream) {
    return sample(n, [rng = Rng(seed, stream)]() mutable { return rng.normal(); });
  };
  const auto reference = normals(1, 0);
  CHECK(std::abs(mean_product(reference, normals(1, 1))) < limit);
  CHECK(std::abs(mean_product(reference, normals(1, std::uint64_t{1} << 32))) < limit);
  CHECK(std::abs(mean_product(reference, normals(2, 0))) < limit);
  CHECK(std::abs(mean_product(reference, normals(1 | std::uint64_t{1} << 32, 0))) < limit);
  auto shifted = reference;
  for (int lag = 1; lag <= 4; ++lag) {
    std::rotate(shifted.begin(), shifted.begin() + 1, shifted.end());
    CAPTURE(lag);
    CHECK(std::abs(mean_product(reference, shifted)) < limit);
  }
}

TEST_CASE("random: below is unbiased") {
  Rng rng(99);
  std::vector<int> counts(10);
  for (int i = 0; i < 100000; ++i) ++counts.at(rng.below(10));
  CHECK(chi_square(counts) < 21.67);  // 9 degrees of freedom, 1 %

  // 2^64 mod n is large here: keeping every draw would put half of them, not a third, below 2^62.
  const std::uint64_t n = std::uint64_t{3} << 62;
  std::vector<int> thirds(3);
  rng.seek(0);
  for (int i = 0; i < 30000; ++i) ++thirds.at(rng.below(n) >> 62);
  CHECK(chi_square(thirds) < 9.21);  // 2 degrees of freedom, 1 %
  CHECK(rng.position() > 39000);     // a quarter of the draws is rejected
  CHECK(rng.position() < 41000);

  const auto before = rng.position();
  CHECK(rng.below(1) == 0);
  CHECK(rng.position() == before + 1);
  CHECK_THROWS_AS(rng.below(0), lora::ValueError);
  CHECK(rng.position() == before + 1);
}

TEST_CASE("random: shuffle gives every order the same chance") {
  Rng rng(7);
  std::map<std::array<int, 4>, int> orders;
  for (int i = 0; i < 24000; ++i) {
    std::array<int, 4> order = {0, 1, 2, 3};
    rng.shuffle(order);
    ++orders[order];
  }
  REQUIRE(orders.size() == 24);
  std::vector<int> counts;
  for (const auto& [order, count] : orders) counts.push_back(count);
  CHECK(chi_square(counts) < 41.64);  // 23 degrees of freedom, 1 %

  std::vector<int> pinned(10);
  std::iota(pinned.begin(), pinned.end(), 0);
  Rng(1).shuffle(pinned);
  CHECK(pinned == std::vector<int>{7, 2, 5, 4, 1, 6, 9, 3, 0, 8});

  std::vector<int> empty;
  std::vector<int> single = {5};
  const auto before = rng.position();
  rng.shuffle(empty);
  rng.shuffle(single);
  CHECK(rng.position() == before);
}
