// The laws for Linear with named adapters: what holds for one adapter holds for a selection of them.

#include "lora/nn/linear.hpp"

#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

namespace {

using lora::Linear;
using lora::testing::LawResults;
using lora::testing::random_matrix;

void check(const LawResults& results) {
  for (const auto& result : results) {
    INFO(result);
    CHECK(result.passed);
  }
}

/// 6 inputs, 5 outputs; the adapters "german" and "french", with generic values.
Linear<double> make(lora::Rng& rng) {
  Linear<double> layer({.in = 6, .out = 5}, rng);
  layer.attach("german", {.rank = 2, .dropout = 0.3, .bias = lora::Bias::all}, rng);
  layer.attach("french", {.rank = 3}, rng);
  lora::testing::fill_parameters(layer, rng);
  return layer;
}

const lora::Pass training{.training = true, .seed = 4, .step = 2};

}  // namespace

TEST_CASE("linear laws: switching is exact to the bit") {
  lora::Rng rng(1);
  const auto layer = make(rng);
  check(lora::testing::check_switch(layer, "german", "french", random_matrix(6, 9, rng)));
}

TEST_CASE("linear laws: a copy is complete and independent, and gradients accumulate") {
  lora::Rng rng(2);
  auto layer = make(rng);
  const auto x = random_matrix(6, 9, rng), dy = random_matrix(5, 9, rng);
  layer.select_sum({{"german", 0.5}, {"french", -2}});
  check(lora::testing::check_copy(layer, x));
  layer.select("german");
  check(lora::testing::check_accumulates(layer, x, dy, training));
}

TEST_CASE("linear laws: the gradients of one adapter, of a weighted sum, and of a trained weight") {
  lora::Rng rng(3);
  auto layer = make(rng);
  const auto x = random_matrix(6, 9, rng);
  layer.select("german");
  check(lora::testing::check_gradients(layer, x, {.pass = training}));
  check({lora::testing::check_taylor(layer, x, {.pass = training})});
  layer.select_sum({{"german", 0.5}, {"french", -2}});
  const auto results = lora::testing::check_gradients(layer, x, {.pass = training});
  CHECK(results.size() == 6);  // A, B and b of one, A and B of the other, x
  check(results);
  check({lora::testing::check_taylor(layer, x, {.pass = training})});
  Linear<double> trained({.in = 6, .out = 5}, rng);
  check(lora::testing::check_gradients(trained, x));
}

TEST_CASE("linear laws: no heap after the first pass") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(4);
  auto layer = make(rng);
  const auto x = random_matrix(6, 64, rng), dy = random_matrix(5, 64, rng);
  layer.select_sum({{"german", 0.5}, {"french", -2}});
  check({lora::testing::check_no_heap(layer, x, dy, lora_test::heap_allocations, training)});
}

TEST_CASE("linear laws: eight threads on one layer", "[threads]") {
  lora::Rng rng(5);
  auto layer = make(rng);
  layer.select_sum({{"german", 0.5}, {"french", -2}});
  check({lora::testing::check_const(layer, random_matrix(6, 33, rng), training, 8, 200)});
}
