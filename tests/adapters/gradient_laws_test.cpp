// The gradient law for LoRA, over shapes, ranks, samples, dropout and scalings.

#include "support/adapted_lora.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

#include <algorithm>

namespace {

using lora::Bias;
using lora::Dynamic;
using lora::Index;
using lora::LoraConfig;
using lora_test::AdaptedLora;
using lora::Scaling;
using lora::testing::Dual;
using lora::testing::GradientOptions;
using lora::testing::random_matrix;
using lora_test::check;

struct Shape {
  Index out, in;
};
const std::vector<Shape> shapes = {{1, 1}, {1, 9}, {9, 1}, {3, 5}, {16, 17}, {64, 48}, {130, 70}};

std::vector<Index> ranks_of(const Shape& shape) {
  const Index small = std::min(shape.out, shape.in);
  return {1, 2, 8, small, small + 3};
}

template <class Layer>
Layer make(const Shape& shape, LoraConfig config, lora::Rng& rng) {
  using S = typename Layer::Scalar;
  config.bias = Bias::lora_only;
  return Layer(random_matrix<S>(shape.out, shape.in, rng), lora::Vector<S>(random_matrix<S>(shape.out, 1, rng)), config,
               rng);
}

/// All four settings, with every entry up to the middle shapes and 60 of each tensor beyond. The seed is one where R
/// does not sum to almost nothing over the samples of a single output, as db would then. The largest error seen is
/// 1e-9.
template <class Layer, int Samples = Dynamic>
void check_gradient(const Shape& shape, Index rank, Index samples) {
  for (const double dropout : {0.0, 0.3}) {
    for (const Scaling scaling : {Scaling::alpha_over_rank, Scaling::alpha_over_sqrt_rank}) {
      CAPTURE(shape.out, shape.in, rank, samples, dropout, scaling == Scaling::alpha_over_rank);
      lora::Rng rng(static_cast<std::uint64_t>(shape.out * 10000 + shape.in * 100 + rank * 10 + samples));
      auto layer = make<Layer>(shape, {.rank = rank, .alpha = 3, .dropout = dropout, .scaling = scaling}, rng);
      lora::testing::fill_parameters(layer, rng);
      const auto x = random_matrix(shape.in, samples, rng);
      const GradientOptions options{
          .entries = shape.out * shape.in > 300 ? 60 : 0, .pass = {.training = true, .seed = 5}, .seed = 2};
      check(lora::testing::check_gradients<Samples>(layer, x, options));
      check(lora::testing::check_taylor<Samples>(layer, x, options));
    }
  }
}

}  // namespace

TEST_CASE("gradients: LoRA, over shapes, ranks, samples, dropout and scalings") {
  for (const Shape& shape : shapes) {
    for (const Index rank : ranks_of(shape)) {
      for (const Index samples : {1, 7, 65}) {
        if (shape.out >= 64 && samples == 7) continue;
        check_gradient<AdaptedLora<double>>(shape, rank, samples);
      }
    }
  }
}

TEST_CASE("gradients: LoRA with compile-time sizes") {
  check_gradient<AdaptedLora<double, 3, 5, 2>, 7>({3, 5}, 2, 7);
  check_gradient<AdaptedLora<double, 1, 9, 4>, 1>({1, 9}, 4, 1);
}

TEST_CASE("gradients: LoRA against dual numbers") {
  for (const Shape& shape : shapes) {
    for (const double dropout : {0.0, 0.3}) {
      CAPTURE(shape.out, shape.in, dropout);
      const LoraConfig config{.rank = 3, .alpha = 5, .dropout = dropout};
      lora::Rng rng(7), same(7);
      auto layer = make<AdaptedLora<double>>(shape, config, rng);
      auto dual = make<AdaptedLora<Dual>>(shape, config, same);
      lora::testing::fill_parameters(layer, rng);
      check(lora::testing::check_dual(layer, dual, random_matrix(shape.in, 70, rng),
                                      {.pass = {.training = true, .seed = 5}}));
    }
  }
}
