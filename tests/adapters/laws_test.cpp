// The laws of testing/adapter_laws.hpp for LoRA, over shapes, ranks and samples. All in float: what most of them say of
// bits, copies and threads does not depend on the scalar. gradient_laws_test.cpp has, in double, those where rounding
// enters, and spares this file the compile time of another scalar.

#include "support/laws.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <algorithm>

namespace {

using lora::Bias;
using lora::Index;
using lora::LoraConfig;
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

template <class Layer>
void check_adapter(const Shape& shape, Index rank, Index samples) {
  using S = typename Layer::Scalar;
  CAPTURE(shape.out, shape.in, rank, samples);
  lora::Rng rng(static_cast<std::uint64_t>(shape.out * 10000 + shape.in * 100 + rank * 10 + samples));
  // Of one number alone dropout may leave nothing, and nothing would be checked.
  const double dropout = shape.in * samples == 1 ? 0 : 0.3;
  auto layer = make<Layer>(shape, {.rank = rank, .dropout = dropout}, rng);
  const auto x = random_matrix<S>(shape.in, samples, rng);
  check(lora::testing::check_fresh(layer, x));
  lora::testing::fill_parameters(layer, rng);
  check(lora::testing::adapter_laws(layer, x));
  check(lora::testing::check_merged_weight(layer, lora::testing::exact_weight(layer)));
  auto second = layer;
  lora::testing::fill_parameters(second, rng);
  check(lora::testing::check_sum(layer, second, x));
  check(lora::testing::check_weighted(layer, x));
}

}  // namespace

TEST_CASE("laws: LoRA in float, over shapes, ranks and samples") {
  for (const Shape& shape : shapes) {
    for (const Index rank : ranks_of(shape)) {
      for (const Index samples : {1, 7, 64, 130}) check_adapter<AdaptedLora<float>>(shape, rank, samples);
    }
  }
}

TEST_CASE("laws: LoRA with compile-time sizes") { check_adapter<AdaptedLora<float, 3, 5, 2>>({3, 5}, 2, 7); }

TEST_CASE("laws: no heap after the first pass, at sizes where Eigen needs none") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  for (const Shape& shape : shapes) {
    for (const double dropout : {0.0, 0.3}) {
      CAPTURE(shape.out, shape.in, dropout);
      lora::Rng rng(9);
      auto layer = make<AdaptedLora<float>>(shape, {.rank = 8, .dropout = dropout}, rng);
      const auto x = random_matrix<float>(shape.in, 64, rng), dy = random_matrix<float>(shape.out, 64, rng);
      check(lora::testing::check_no_heap(layer, x, dy, lora_test::heap_allocations, {.training = true}));
    }
  }
}

TEST_CASE("laws: eight threads on one layer", "[threads]") {
  lora::Rng rng(10);
  auto layer = make<AdaptedLora<float>>({64, 48}, {.rank = 4, .dropout = 0.2}, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix<float>(48, 33, rng);
  check(lora::testing::check_const(layer, x, {}, 8, 200));
  check(lora::testing::check_const(layer, x, {.training = true, .seed = 1}, 8, 200));
  layer.enable(false);
  check(lora::testing::check_const(layer, x, {}, 8, 200));
}
