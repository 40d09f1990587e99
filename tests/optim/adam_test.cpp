#include "lora/optim/adam.hpp"

#include "lora/optim/clip.hpp"
#include "lora/optim/schedule.hpp"
#include "optim/models.hpp"
#include "support/heap.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

template class lora::BasicAdam<float, false>;
template class lora::BasicAdam<double, false>;
template class lora::BasicAdam<float, true>;
template class lora::BasicAdam<double, true>;
template class lora::OptimizerState<float, 2>;
template class lora::OptimizerState<double, 2>;

namespace {

using lora::Adam;
using lora::AdamW;
using lora::Path;
using lora_test::distance_to;
using lora_test::Pair;

double after_ten_steps(auto optimizer, const std::array<double, 14>& expected) {
  Pair<double> pair;
  lora_test::train(optimizer, pair);
  return distance_to(pair, expected);
}

}  // namespace

TEST_CASE("adam: ten steps are PyTorch's to 1e-12") {
  CHECK(after_ten_steps(Adam<double>(), reference::adam) <= 1e-12);
  CHECK(after_ten_steps(Adam<double>({.lr = 0.05, .weight_decay = 0.1}), reference::adam_decay) <= 1e-12);
  CHECK(after_ten_steps(AdamW<double>(), reference::adamw) <= 1e-12);
  CHECK(after_ten_steps(AdamW<double>({.lr = 0.05, .betas = {0.8, 0.95}, .eps = 1e-6, .weight_decay = 0.1}),
                        reference::adamw_all) <= 1e-12);
}

TEST_CASE("adam: groups by name are PyTorch's parameter groups, LoRA+ among them") {
  const AdamW<double> optimizer(
      {.lr = 0.01,
       .weight_decay = 0.3,
       .groups = {{.select = [](const Path& p) { return p.ends_with("B"); }, .lr = 0.16, .weight_decay = 0.0}}});
  CHECK(after_ten_steps(optimizer, reference::adamw_groups) <= 1e-12);
}

TEST_CASE("adam: with a linear schedule and warm-up as PyTorch with Transformers' scheduler") {
  Pair<double> pair;
  AdamW<double> optimizer({.lr = 0.05, .weight_decay = 0.1});
  const lora::Schedule schedule{.shape = lora::ScheduleShape::linear, .warmup = 3, .total = 9};
  lora_test::train(optimizer, pair, [&](lora::Index step) { return schedule(static_cast<std::uint64_t>(step)); });
  CHECK(distance_to(pair, reference::adamw_linear) <= 1e-12);
}

TEST_CASE("adam: with clipped gradients as PyTorch, and the same norms") {
  Pair<double> pair;
  AdamW<double> optimizer({.lr = 0.05});
  for (std::size_t step = 0; step < 10; ++step) {
    lora_test::set_gradients(pair, static_cast<lora::Index>(step));
    const double expected = reference::adamw_clipped_norms[step];
    CHECK(std::abs(lora::clip_gradient_norm(pair, 1.5) - expected) <= 1e-12 * expected);
    optimizer.step(pair);
  }
  CHECK(distance_to(pair, reference::adamw_clipped) <= 1e-12);
}

TEST_CASE("adam: the defaults are PyTorch's") {
  const lora::AdamConfig adam;
  const lora::AdamWConfig adamw;
  CHECK(adam.lr == 1e-3);
  CHECK(adam.betas[0] == 0.9);
  CHECK(adam.betas[1] == 0.999);
  CHECK(adam.eps == 1e-8);
  CHECK(adam.weight_decay == 0);
  CHECK(adamw.lr == 1e-3);
  CHECK(adamw.weight_decay == 0.01);
}

TEST_CASE("adam: the first step goes against the sign of the gradient, by lr") {
  // m / (1 - beta1) = g and v / (1 - beta2) = g^2, so the change is lr g / (|g| + eps), whatever the size of g.
  lora::Parameter<double> p(Eigen::MatrixXd::Constant(1, 4, 2.0));
  p.gradient() << 1e-3, -1, 1e3, 0;
  Adam<double> optimizer({.lr = 0.25, .eps = 0x1p-30});
  optimizer.step(p);
  const double small = 0.25 * 1e-3 / (1e-3 + 0x1p-30);
  CHECK(std::abs(p.value(0) - (2 - small)) <= 1e-15);
  CHECK(std::abs(p.value(1) - 2.25) <= 1e-9);
  CHECK(std::abs(p.value(2) - 1.75) <= 1e-12);
  CHECK(p.value(3) == 2);
}

TEST_CASE("adam: AdamW without gradient only shrinks; Adam's decay passes through the moments") {
  lora::Parameter<double> p(Eigen::MatrixXd::Constant(1, 1, 8.0));
  p.gradient();
  lora::Parameter<double> q = p;
  AdamW<double> decoupled({.lr = 0.5, .weight_decay = 0.25});
  decoupled.step(p);
  CHECK(p.value(0) == 8.0 * (1 - 0.5 * 0.25));
  Adam<double> coupled({.lr = 0.5, .eps = 0, .weight_decay = 0.25});
  coupled.step(q);
  CHECK(std::abs(q.value(0) - 7.5) <= 1e-14);
}

TEMPLATE_TEST_CASE("field, awkward: a decay below the rounding of the scalar is not lost", "", float, double) {
  using S = TestType;
  const double epsilon = static_cast<double>(std::numeric_limits<S>::epsilon());
  // in float the first is lr = weight_decay = 1e-4: a factor of 1 - 1e-8, which rounds to 1
  for (const double decay : {1e-8 / 0x1p-23 * epsilon, 0.4 * epsilon, 2 * epsilon, 15.9 * epsilon, 20 * epsilon}) {
    const double root = std::sqrt(decay);
    lora::Parameter<S> p(lora::Matrix<S>::Random(4, 5));
    p.gradient();
    const Eigen::MatrixXd start = p.value.template cast<double>();
    AdamW<S> optimizer({.lr = root, .weight_decay = root});
    const int steps = 1 << 16;
    for (int i = 0; i < steps; ++i) optimizer.step(p);
    const double expected = -std::expm1(steps * std::log1p(-decay));
    const Eigen::ArrayXXd given = 1 - p.value.template cast<double>().array() / start.array();
    CAPTURE(decay, expected);
    CHECK((given / expected - 1).abs().maxCoeff() <= 0.05);
  }
}

TEST_CASE("field, awkward: a gathered decay follows a schedule, and a resumed run to the bit") {
  AdamW<float> optimizer({.lr = 1e-4, .weight_decay = 1e-3});
  lora::Parameter<float> p(Eigen::MatrixXf::Constant(1, 8, 0.7F)), other = p;
  p.gradient();
  const std::uint64_t steps = 1 << 16;
  const lora::Schedule schedule{.shape = lora::ScheduleShape::cosine, .warmup = 1000, .total = steps};
  double expected = 0;
  for (std::uint64_t i = 0; i < steps; ++i) {
    if (i == steps / 3 + 5) {  // a new optimizer with the steps and moments of the old one, as a checkpoint has them
      AdamW<float> resumed({.lr = 1e-4, .weight_decay = 1e-3});
      auto& slot = resumed.state().slot(lora::Path(), p.value.size());
      const auto& old = optimizer.state().slots().at(0);
      slot.steps = old.steps;
      slot.moments = old.moments;
      optimizer = std::move(resumed);
    }
    optimizer.step(p, schedule(i));
    expected += std::log1p(-1e-7 * schedule(i));
  }
  CHECK(std::abs(std::log(static_cast<double>(p.value(3)) / 0.7) / expected - 1) <= 0.02);
  AdamW<float> undisturbed({.lr = 1e-4, .weight_decay = 1e-3});
  other.gradient();
  for (std::uint64_t i = 0; i < steps; ++i) undisturbed.step(other, schedule(i));
  CHECK(other.value == p.value);
}

TEMPLATE_TEST_CASE("field, awkward: with eps = 0 a zero gradient moves nothing, and NaN still shows", "", float,
                   double) {
  using S = TestType;
  lora::Parameter<S> p(lora::Matrix<S>::Constant(1, 19, S(2)));  // a block and a remainder
  p.gradient().setZero();
  p.gradient()(1) = S(3);
  p.gradient()(17) = S(-3);
  p.gradient()(4) = std::numeric_limits<S>::min();  // its square is 0
  p.gradient()(5) = std::numeric_limits<S>::quiet_NaN();
  lora::Parameter<S> q = p;
  AdamW<S> decoupled({.lr = 0.25, .eps = 0, .weight_decay = 0});
  decoupled.step(p);
  Adam<S> coupled({.lr = 0.25, .eps = 0});
  coupled.step(q);
  for (const auto& value : {p.value, q.value}) {
    CHECK(std::isnan(value(5)));
    CHECK(std::abs(value(1) - S(1.75)) <= S(1e-6));
    CHECK(std::abs(value(17) - S(2.25)) <= S(1e-6));
    for (const int still : {0, 2, 3, 4, 6, 15, 16, 18}) CHECK(value(still) == S(2));
  }
}

TEST_CASE("adam: a long parameter is updated entry by entry, in float as in double") {
  const Eigen::MatrixXd start = Eigen::MatrixXd::Random(37, 41);
  const Eigen::MatrixXd gradient = Eigen::MatrixXd::Random(37, 41);
  lora::Parameter<float> p(start.cast<float>());
  Eigen::MatrixXd expected = start;
  Eigen::MatrixXd m = Eigen::MatrixXd::Zero(37, 41), v = m;
  AdamW<float> optimizer({.lr = 0.01, .weight_decay = 0.1});
  p.grad = gradient.cast<float>();
  for (int t = 1; t <= 3; ++t) {
    optimizer.step(p);
    m = 0.9 * m + 0.1 * gradient;
    v = 0.999 * v + 0.001 * gradient.cwiseAbs2();
    const Eigen::ArrayXXd denominator = (v.array() / (1 - std::pow(0.999, t))).sqrt() + 1e-8;
    expected = (expected.array() * (1 - 0.01 * 0.1) - 0.01 / (1 - std::pow(0.9, t)) * m.array() / denominator).matrix();
  }
  CHECK((p.value.cast<double>() - expected).cwiseAbs().maxCoeff() <= 4 * std::numeric_limits<float>::epsilon());
}

namespace {

/// A parameter in memory that somebody else owns.
struct Borrowed {
  Eigen::Map<Eigen::VectorXf> value;
  Eigen::Map<Eigen::VectorXf> grad;
  bool trainable = true;
};

}  // namespace

TEST_CASE("adam: the bits do not depend on where in memory the parameter lies") {
  constexpr lora::Index size = 45;
  const Eigen::VectorXf start = Eigen::VectorXf::Random(size);
  const Eigen::VectorXf gradient = Eigen::VectorXf::Random(size);
  const auto trained_at = [&](lora::Index offset) {
    Eigen::VectorXf memory(size + 16), gradients(size + 16);
    Borrowed p{{memory.data() + offset, size}, {gradients.data() + offset, size}};
    p.value = start;
    AdamW<float> optimizer({.lr = 0.01, .weight_decay = 0.1});
    for (const float sign : {1.0f, -0.5f, 0.25f}) {
      p.grad = sign * gradient;
      optimizer.step(p);
    }
    return Eigen::VectorXf(p.value);
  };
  const Eigen::VectorXf expected = trained_at(0);
  for (lora::Index offset = 1; offset < 16; ++offset) CHECK(trained_at(offset) == expected);
}

TEST_CASE("adam: settings out of range are named") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(AdamW<float>({.lr = -1}), lora::ConfigError);
  CHECK_THROWS_WITH(AdamW<float>({.lr = -1}), "AdamW: lr is -1, expected a finite number, 0 or more");
  CHECK_THROWS_WITH(AdamW<float>({.lr = -1e-9}), "AdamW: lr is -1e-09, expected a finite number, 0 or more");  // D1
  CHECK_THROWS_AS(Adam<float>({.lr = std::numeric_limits<double>::infinity()}), lora::ConfigError);
  CHECK_THROWS_WITH(Adam<float>({.betas = {0.9, 1.0}}), "Adam: betas[1] is 1, expected 0 <= beta < 1");
  CHECK_THROWS_AS(Adam<float>({.betas = {nan, 0.9}}), lora::ConfigError);
  CHECK_THROWS_AS(Adam<float>({.betas = {-0.1, 0.9}}), lora::ConfigError);
  CHECK_THROWS_AS(Adam<float>({.eps = -1e-8}), lora::ConfigError);
  CHECK_THROWS_AS(Adam<float>({.weight_decay = nan}), lora::ConfigError);
  const auto all = [](const Path&) { return true; };
  CHECK_THROWS_AS(AdamW<float>({.groups = {{.lr = 1e-3}}}), lora::ConfigError);
  CHECK_THROWS_WITH(AdamW<float>({.groups = {{.lr = 1e-3}}}), lora_test::contains("groups[0].select is empty"));
  CHECK_THROWS_WITH(AdamW<float>({.groups = {{.select = all}, {.select = all, .lr = -1.0}}}),
                    lora_test::contains("groups[1].lr is -1, expected"));
  CHECK_THROWS_WITH(AdamW<float>({.groups = {{.select = all, .weight_decay = nan}}}),
                    lora_test::contains("groups[0].weight_decay is nan"));
}

TEST_CASE("adam: a learning-rate factor out of range changes nothing") {
  Pair<double> pair;
  lora_test::set_gradients(pair, 0);
  const Pair<double> before = pair;
  AdamW<double> optimizer;
  CHECK_THROWS_AS(optimizer.step(pair, -1.0), lora::ConfigError);
  CHECK_THROWS_WITH(optimizer.step(pair, std::numeric_limits<double>::infinity()),
                    "AdamW::step: lr_factor is inf, expected a finite number, 0 or more");
  CHECK(pair.A.value == before.A.value);
  CHECK(pair.B.value == before.B.value);
  CHECK(optimizer.state().slots().empty());
}

TEST_CASE("adam: no allocation after the first step") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Pair<double> pair;
  lora_test::set_gradients(pair, 0);
  AdamW<double> optimizer({.groups = {{.select = [](const Path& p) { return p.ends_with("B"); }, .lr = 16e-3}}});
  CHECK(lora_test::heap_allocations_in([&] { optimizer.step(pair); }) > 0);
  CHECK(lora_test::heap_allocations_in([&] { optimizer.step(pair); }) == 0);
  CHECK(lora_test::heap_allocations_in([&] { lora::clip_gradient_norm(pair, 0.1); }) == 0);
}
