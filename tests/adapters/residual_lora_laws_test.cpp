// The laws of an adapter, its gradients and its use of the heap; residual_lora_test.cpp has the rest.

#include "adapters/residual_layer.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

using lora::Frozen;
using lora::Index;
using lora::Lora;
using lora::LoraConfig;
using lora::ResidualLora;
using lora::Scaling;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;
using lora_test::exact_weight;
using lora_test::make;
using lora_test::Shape;

template <class S, int Out = lora::Dynamic, int In = lora::Dynamic, int Rank = lora::Dynamic>
using Layer = lora::Adapted<Frozen<S, Out, In>, ResidualLora<S, Out, In, Rank>>;

const std::vector<Shape> shapes = {{1, 1}, {1, 9}, {9, 1}, {3, 5}, {16, 17}, {64, 48}, {130, 70}};

/// | |W0| |x| + 2 s |B0| |A0| |x| |: what rounding in a new layer's output is relative to.
template <class L>
double size_of_terms(const L& layer, const lora::Matrix<double>& x) {
  const auto size = [](const auto& matrix) { return lora::Matrix<double>(matrix.cwiseAbs().template cast<double>()); };
  const double s = std::abs(static_cast<double>(layer.adapter().scale()));
  const lora::Matrix<double> start = size(layer.adapter().B0()) * size(layer.adapter().A0());
  return ((size(lora::dense(layer.base())) + 2 * s * start) * x.cwiseAbs()).norm();
}

template <class L>
void check_adapter(const Shape& shape, Index rank, Index samples) {
  using S = typename L::Scalar;
  CAPTURE(shape.out, shape.in, rank, samples);
  lora::Rng rng(static_cast<std::uint64_t>(shape.out * 10000 + shape.in * 100 + rank * 10 + samples));
  auto layer = make<L>(shape, {.rank = rank, .alpha = 3}, rng);
  const auto x = random_matrix<S>(shape.in, samples, rng);

  // fresh: a difference of equals, to rounding
  const double rounding = std::sqrt(static_cast<double>(shape.in + rank)) *
                          static_cast<double>(std::numeric_limits<S>::epsilon()) *
                          size_of_terms(layer, x.template cast<double>());
  const auto expected = lora::testing::detail::base_output(layer, x);
  for (const bool training : {false, true}) {
    const auto y = lora::testing::detail::output_of(layer, x, {.training = training, .seed = 1});
    CHECK((y - expected).template cast<double>().norm() <= rounding);
  }
  if constexpr (std::is_same_v<S, float>) {
    CHECK(layer.merged() == lora::dense(layer.base()));  // it cancels in double
  } else {
    CHECK((layer.merged() - lora::dense(layer.base())).norm() <=
          std::sqrt(static_cast<double>(rank)) * std::numeric_limits<S>::epsilon() *
              size_of_terms(layer, lora::Matrix<double>::Identity(shape.in, shape.in)));
  }

  // Of one number alone dropout may leave nothing, and nothing would be checked.
  layer.adapter().trained.dropout.probability = shape.in * samples == 1 ? 0 : 0.3;
  lora::testing::fill_parameters(layer, rng);
  check(lora::testing::adapter_laws(layer, x));
  const double epsilons = std::is_same_v<S, float> ? 1 : std::max(1.0, std::sqrt(2.0 * static_cast<double>(rank)) / 4);
  check(lora::testing::check_merged_weight(layer, exact_weight(layer), epsilons));
  auto second = layer;
  lora::testing::fill_parameters(second, rng);
  check(lora::testing::check_sum(layer, second, x));
}

}  // namespace

TEMPLATE_TEST_CASE("offset lora: keeps the laws of an adapter, over shapes, ranks and samples", "", float, double) {
  for (const Shape& shape : shapes) {
    for (const Index rank : {1, 2, 8}) {
      for (const Index samples : {1, 7, 64}) check_adapter<Layer<TestType>>(shape, rank, samples);
    }
  }
}

TEST_CASE("offset lora: keeps them with compile-time sizes") {
  check_adapter<Layer<double, 3, 5, 2>>({3, 5}, 2, 7);
  STATIC_REQUIRE(
      std::is_same_v<decltype(std::declval<ResidualLora<double, 3, 5, 2>>().to_lora()), Lora<double, 3, 5, 4>>);
}

TEST_CASE("offset lora: gradients, over shapes, ranks, samples, dropout and scalings") {
  for (const Shape& shape : shapes) {
    for (const Index rank : {1, 3, 8}) {
      for (const Index samples : {1, 65}) {
        for (const double dropout : {0.0, 0.3}) {
          if (dropout > 0 && shape.in * samples == 1) continue;
          for (const Scaling scaling : {Scaling::alpha_over_rank, Scaling::alpha_over_sqrt_rank}) {
            CAPTURE(shape.out, shape.in, rank, samples, dropout, scaling == Scaling::alpha_over_rank);
            lora::Rng rng(static_cast<std::uint64_t>(shape.out * 10000 + shape.in * 100 + rank * 10 + samples));
            auto layer =
                make<Layer<double>>(shape, {.rank = rank, .alpha = 3, .dropout = dropout, .scaling = scaling}, rng);
            lora::testing::fill_parameters(layer, rng);
            const auto x = random_matrix(shape.in, samples, rng);
            const lora::testing::GradientOptions options{
                .entries = shape.out * shape.in > 300 ? 20 : 0, .pass = {.training = true, .seed = 5}, .seed = 3};
            check(lora::testing::check_gradients(layer, x, options));
            check(lora::testing::check_taylor(layer, x, options));
          }
        }
      }
    }
  }
}

TEST_CASE("offset lora: gradients with compile-time sizes, and against dual numbers") {
  lora::Rng rng(3);
  auto fixed = make<Layer<double, 3, 5, 2>>({3, 5}, {.rank = 2, .dropout = 0.3}, rng);
  lora::testing::fill_parameters(fixed, rng);
  check(lora::testing::check_gradients<7>(fixed, random_matrix(5, 7, rng), {.pass = {.training = true, .seed = 5}}));
  for (const Shape& shape : shapes) {
    for (const double dropout : {0.0, 0.3}) {
      CAPTURE(shape.out, shape.in, dropout);
      const LoraConfig config{.rank = 3, .alpha = 5, .dropout = dropout};
      lora::Rng one(7), same(7);
      auto layer = make<Layer<double>>(shape, config, one);
      auto dual = make<Layer<Dual>>(shape, config, same);
      lora::testing::fill_parameters(layer, one);
      check(lora::testing::check_dual(layer, dual, random_matrix(shape.in, 70, one),
                                      {.pass = {.training = true, .seed = 5}}));
    }
  }
}

TEST_CASE("offset lora: no heap after the first pass, at sizes where Eigen needs none") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  for (const Shape& shape : shapes) {
    for (const double dropout : {0.0, 0.3}) {
      CAPTURE(shape.out, shape.in, dropout);
      lora::Rng rng(9);
      auto layer = make<Layer<float>>(shape, {.rank = 8, .dropout = dropout}, rng);
      const auto x = random_matrix<float>(shape.in, 64, rng), dy = random_matrix<float>(shape.out, 64, rng);
      check(lora::testing::check_no_heap(layer, x, dy, lora_test::heap_allocations, {.training = true}));
    }
  }
}
