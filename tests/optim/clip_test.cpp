#include "lora/optim/clip.hpp"

#include "lora/optim/adam.hpp"
#include "lora/optim/sgd.hpp"
#include "optim/models.hpp"

#include <cmath>
#include <limits>

template double lora::gradient_norm(const lora_test::Pair<float>&, const lora::AdapterHandle&);
template double lora::gradient_norm(const lora_test::Pair<double>&, const lora::AdapterHandle&);
template double lora::clip_gradient_norm(lora_test::Pair<float>&, double, const lora::AdapterHandle&);
template double lora::clip_gradient_norm(lora_test::Pair<double>&, double, const lora::AdapterHandle&);

namespace {

using lora::clip_factor;
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

TEST_CASE("clip: every gradient counts once, whatever their number") {
  for (lora::Index size = 1; size <= 70; ++size) {
    lora::Parameter<float> p(Eigen::MatrixXf::Zero(size, 1));
    p.gradient().setOnes();
    CHECK(std::abs(gradient_norm(p) - std::sqrt(static_cast<double>(size))) <= 1e-15 * static_cast<double>(size));
    p.gradient().setZero();
    p.gradient()(size - 1) = 3;
    CHECK(gradient_norm(p) == 3);
  }
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

TEST_CASE("clip: as a factor it reads the gradients and leaves them") {
  auto pair = pair_of_norm_13<double>();
  CHECK(clip_factor(pair, 6.5).norm == 13);
  CHECK(clip_factor(pair, 6.5).factor == 6.5 / (13 + 1e-6));
  CHECK(clip_factor(pair, 13.1).factor == 1);
  CHECK(clip_factor(pair, 0).factor == 0);
  CHECK(pair.B.grad(3, 0) == 12);
  pair.A.grad(0, 0) = std::numeric_limits<double>::infinity();
  CHECK_FALSE(std::isfinite(clip_factor(pair, 1).norm));
  CHECK(clip_factor(pair, 1).factor == 1);
  CHECK_THROWS_WITH(clip_factor(pair, -1), "clip_factor: max_norm is -1, expected 0 or more");
}

namespace {

/// 5 steps of a pair, clipped in place or by the factor that the step takes; what A and B are then.
template <template <class> class Optimizer, class S>
std::pair<lora::Matrix<S>, lora::Matrix<S>> trained(bool in_place, const typename Optimizer<S>::Config& config) {
  lora_test::Pair<S> pair;
  pair.A.value.setConstant(S(0.3));
  pair.B.value.setConstant(S(-0.7));
  Optimizer<S> optimizer(config);
  for (int step = 1; step <= 5; ++step) {
    const auto each = static_cast<S>(step);
    pair.A.gradient() = pair.A.value * each;
    pair.B.gradient() = pair.B.value / each;
    if (in_place) {
      REQUIRE(clip_gradient_norm(pair, 0.2) > 0.2);
      optimizer.step(pair, 0.5);
    } else {
      optimizer.step(pair, 0.5, clip_factor(pair, 0.2).factor);
    }
  }
  return {pair.A.value, pair.B.value};
}

}  // namespace

TEMPLATE_TEST_CASE("clip: a step that takes the factor is a step with clipped gradients", "", float, double) {
  using S = TestType;
  CHECK(trained<lora::AdamW, S>(true, {.lr = 0.1}) == trained<lora::AdamW, S>(false, {.lr = 0.1}));
  // Where decay is added to the gradient, the compiler may fuse the two.
  const auto close = [](const auto& one, const auto& other) {
    const S within = 4 * std::numeric_limits<S>::epsilon();
    return one.first.isApprox(other.first, within) && one.second.isApprox(other.second, within);
  };
  const lora::AdamConfig adam{.lr = 0.1, .weight_decay = 0.01};
  CHECK(close(trained<lora::Adam, S>(true, adam), trained<lora::Adam, S>(false, adam)));
  const lora::SgdConfig sgd{.lr = 0.1, .momentum = 0.9, .weight_decay = 0.01};
  CHECK(close(trained<lora::Sgd, S>(true, sgd), trained<lora::Sgd, S>(false, sgd)));
  // And not one with the gradients as they are.
  auto pair = pair_of_norm_13<S>();
  const S before = pair.B.value(3, 0);
  lora::Sgd<S>({.lr = 1}).step(pair, 1, 0.25);
  CHECK(pair.B.value(3, 0) == before - 3);
}

TEST_CASE("clip: a gradient factor out of range is named, and nothing changes") {
  auto pair = pair_of_norm_13<double>();
  const auto before = pair;
  CHECK_THROWS_WITH(lora::AdamW<double>().step(pair, 1, -1),
                    "AdamW::step: gradient_factor is -1, expected a finite number, 0 or more");
  CHECK_THROWS_AS(lora::Sgd<double>().step(pair, 1, std::numeric_limits<double>::quiet_NaN()), lora::ConfigError);
  CHECK(pair.A.value == before.A.value);
  CHECK(pair.B.value == before.B.value);
}
