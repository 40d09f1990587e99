#include "lora/optim/clip.hpp"

#include "optim/models.hpp"

#include <cmath>
#include <limits>

template double lora::gradient_norm(const lora_test::Pair<float>&, const lora::AdapterHandle&);
template double lora::gradient_norm(const lora_test::Pair<double>&, const lora::AdapterHandle&);
template double lora::clip_gradient_norm(lora_test::Pair<float>&, double, const lora::AdapterHandle&);
template double lora::clip_gradient_norm(lora_test::Pair<double>&, double, const lora::AdapterHandle&);

namespace {

using lora::clip_gradient_norm;
using lora::gradient_norm;

/// Gradients of norm 13: 3 and 4 in A, 12 in B.
template <class S>
lora_test::Pair<S> pair_of_norm_13() {
  lora_test::Pair<S> pair;
  pair.A.gradient()(0, 1) = 3;
  pair.A.gradient()(1, 2) = -4;
  pair.B.gradient()(3, 0) = 12;
  return pair;
}

}  // namespace

TEMPLATE_TEST_CASE("clip: the norm is that of all gradients together, and all shrink alike", "", float, double) {
  auto pair = pair_of_norm_13<TestType>();
  CHECK(gradient_norm(pair) == 13);
  CHECK(clip_gradient_norm(pair, 6.5) == 13);
  const auto factor = static_cast<TestType>(6.5 / (13 + 1e-6));
  CHECK(pair.A.grad(0, 1) == 3 * factor);
  CHECK(pair.A.grad(1, 2) == -4 * factor);
  CHECK(pair.B.grad(3, 0) == 12 * factor);
  CHECK(std::abs(gradient_norm(pair) - 6.5) <= 1e-6);
}

TEST_CASE("clip: a norm within the limit is left as it is, to the bit") {
  auto pair = pair_of_norm_13<double>();
  const auto before = pair;
  CHECK(clip_gradient_norm(pair, 13.1) == 13);
  CHECK(clip_gradient_norm(pair, std::numeric_limits<double>::infinity()) == 13);
  CHECK(pair.A.grad == before.A.grad);
  CHECK(pair.B.grad == before.B.grad);
}

TEST_CASE("clip: what is not trained neither counts nor changes, and absent gradients stay absent") {
  auto pair = pair_of_norm_13<double>();
  pair.B.trainable = false;
  CHECK(clip_gradient_norm(pair, 1) == 5);
  CHECK(pair.B.grad(3, 0) == 12);
  lora_test::Pair<double> fresh;
  CHECK(clip_gradient_norm(fresh, 1) == 0);
  CHECK(fresh.A.grad.size() == 0);
}

TEST_CASE("clip: a norm that is not finite is reported and nothing is scaled") {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    auto pair = pair_of_norm_13<float>();
    pair.A.grad(0, 0) = bad;
    CHECK_FALSE(std::isfinite(clip_gradient_norm(pair, 1)));
    CHECK(pair.B.grad(3, 0) == 12);
  }
}

TEST_CASE("clip: the squares of large floats do not overflow") {
  auto pair = pair_of_norm_13<float>();
  pair.A.grad *= 1e30f;
  pair.B.grad *= 1e30f;
  CHECK(std::abs(clip_gradient_norm(pair, 1) / 13e30 - 1) <= 1e-6);
  CHECK(std::abs(gradient_norm(pair) - 1) <= 1e-6);
}

TEST_CASE("clip: a limit out of range is named") {
  auto pair = pair_of_norm_13<double>();
  CHECK_THROWS_AS(clip_gradient_norm(pair, std::numeric_limits<double>::quiet_NaN()), lora::ConfigError);
  CHECK_THROWS_WITH(clip_gradient_norm(pair, -1), "clip_gradient_norm: max_norm is -1, expected 0 or more");
  CHECK(pair.B.grad(3, 0) == 12);
}
