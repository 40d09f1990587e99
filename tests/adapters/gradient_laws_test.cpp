// The laws for LoRA that need double: of gradients, over shapes, ranks, samples, dropout and scalings; and of merging
// and adding, where double rounds in another way than float, in which laws_test.cpp has all laws.

#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

#include <algorithm>

namespace {

using lora::Bias;
using lora::Dynamic;
using lora::Index;
using lora::LoraConfig;
using lora::Scaling;
using lora::testing::Dual;
using lora::testing::GradientOptions;
using lora::testing::random_matrix;
using lora_test::AdaptedLora;
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
    if (dropout > 0 && shape.in * samples == 1) continue;  // it may leave nothing, and nothing would be checked
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

TEST_CASE("laws: LoRA in double, merge and sum, over shapes, ranks and samples") {
  for (const Shape& shape : shapes) {
    for (const Index rank : ranks_of(shape)) {
      for (const Index samples : {1, 7, 64, 130}) {
        CAPTURE(shape.out, shape.in, rank, samples);
        lora::Rng rng(static_cast<std::uint64_t>(shape.out * 10000 + shape.in * 100 + rank * 10 + samples));
        auto layer = make<AdaptedLora<double>>(shape, {.rank = rank, .dropout = 0.3}, rng);
        const auto x = random_matrix(shape.in, samples, rng);
        check(lora::testing::check_fresh(layer, x));
        lora::testing::fill_parameters(layer, rng);
        check(lora::testing::check_merged_output(layer, x));
        // summed in double itself, not in something wider: the rounding error grows with the rank
        const double epsilons = std::max(1.0, std::sqrt(static_cast<double>(rank)) / 4);
        check(lora::testing::check_merged_weight(layer, lora::testing::exact_weight(layer), epsilons));
        auto second = layer;
        lora::testing::fill_parameters(second, rng);
        check(lora::testing::check_sum(layer, second, x));
      }
    }
  }
}

TEST_CASE("laws: two adapters are the concatenated one") {
  lora::Rng rng(8);
  const LoraConfig config{.rank = 3, .alpha = 3};
  auto first = make<AdaptedLora<double>>({16, 17}, config, rng);
  AdaptedLora<double> second = first, both(first.base(), {.rank = 6, .alpha = 6}, rng);
  lora::testing::fill_parameters(first, rng);
  lora::testing::fill_parameters(second, rng);
  both.adapter().A.value << first.adapter().A.value, second.adapter().A.value;
  both.adapter().B.value << first.adapter().B.value, -2 * second.adapter().B.value;

  const auto x = random_matrix(17, 9, rng), dy = random_matrix(16, 9, rng);
  lora::Lora<double>::Kept<lora::Dynamic> kept[2];
  lora::Lora<double>::Scratch<lora::Dynamic> scratch;
  AdaptedLora<double>::Cache cache;
  Eigen::MatrixXd y(16, 9), dx(17, 9);
  first.adapter().forward(first.base(), x, y, kept[0], scratch, {});
  second.adapter().add(x, y, kept[1], scratch, {}, -2);
  first.adapter().backward(first.base(), x, dy, dx, kept[0], scratch, {});
  second.adapter().add_backward(x, dy, dx, kept[1], scratch, {});
  const Eigen::MatrixXd expected = both.forward(x, cache), expected_dx = both.backward(x, dy, cache);
  const auto close = [](const auto& given, const auto& wanted) {
    return (given - wanted).norm() < 1e-14 * wanted.norm();
  };
  CHECK(close(y, expected));
  CHECK(close(dx, expected_dx));
  CHECK(close(first.adapter().A.grad, both.adapter().A.grad.topRows(3)));
  CHECK(close(second.adapter().A.grad, both.adapter().A.grad.bottomRows(3)));
  CHECK(close(first.adapter().B.grad, both.adapter().B.grad.leftCols(3)));
  CHECK(
      close(second.adapter().B.grad, -2 * both.adapter().B.grad.rightCols(3)));  // the weight stands in front of B here
}
