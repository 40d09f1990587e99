#include "lora/optim/sgd.hpp"

#include "lora/optim/schedule.hpp"
#include "optim/models.hpp"
#include "support/heap.hpp"

#include <limits>
#include <vector>

template class lora::Sgd<float>;
template class lora::Sgd<double>;
template class lora::OptimizerState<float, 1>;
template class lora::OptimizerState<double, 1>;

namespace {

using lora::Sgd;
using lora::SgdConfig;
using lora_test::distance_to;
using lora_test::Pair;

double after_ten_steps(const SgdConfig& config, const std::array<double, 14>& expected) {
  Pair<double> pair;
  Sgd<double> optimizer(config);
  lora_test::train(optimizer, pair);
  return distance_to(pair, expected);
}

}  // namespace

TEST_CASE("sgd: ten steps are PyTorch's to 1e-12") {
  CHECK(after_ten_steps({.lr = 0.1}, reference::sgd) <= 1e-12);
  CHECK(after_ten_steps({.lr = 0.1, .momentum = 0.9}, reference::sgd_momentum) <= 1e-12);
  CHECK(after_ten_steps({.lr = 0.1, .momentum = 0.8, .dampening = 0.3, .weight_decay = 0.05},
                        reference::sgd_dampening) <= 1e-12);
  CHECK(after_ten_steps({.lr = 0.1, .momentum = 0.9, .weight_decay = 0.02, .nesterov = true},
                        reference::sgd_nesterov) <= 1e-12);
}

TEST_CASE("sgd: with a cosine schedule and warm-up as PyTorch with Transformers' scheduler") {
  Pair<double> pair;
  Sgd<double> optimizer({.lr = 0.1, .momentum = 0.9});
  const lora::Schedule schedule{.shape = lora::ScheduleShape::cosine, .warmup = 2, .total = 10};
  lora_test::train(optimizer, pair, [&](lora::Index step) { return schedule(static_cast<std::uint64_t>(step)); });
  CHECK(distance_to(pair, reference::sgd_cosine) <= 1e-12);
}

TEST_CASE("sgd: the defaults are PyTorch's") {
  const SgdConfig config;
  CHECK(config.lr == 1e-3);
  CHECK(config.momentum == 0);
  CHECK(config.dampening == 0);
  CHECK(config.weight_decay == 0);
  CHECK_FALSE(config.nesterov);
}

TEST_CASE("sgd: without momentum there is no state to keep") {
  Pair<double> pair;
  Sgd<double> plain({.lr = 0.1}), heavy({.lr = 0.1, .momentum = 0.9});
  lora_test::train(plain, pair);
  CHECK(plain.state().bytes() == 0);
  lora_test::train(heavy, pair);
  CHECK(heavy.state().bytes() == 14 * sizeof(double));
}

TEST_CASE("sgd: a parameter longer than one stretch is updated entry by entry") {
  lora::Parameter<double> p(Eigen::MatrixXd::Random(37, 41));
  lora::Parameter<double> one = p;
  Sgd<double> all({.lr = 0.1, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true});
  const Eigen::MatrixXd start = p.value;
  p.grad = Eigen::MatrixXd::Random(37, 41);
  Eigen::MatrixXd expected = start;
  Eigen::MatrixXd buffer = Eigen::MatrixXd::Zero(37, 41);
  for (int step = 0; step < 3; ++step) {
    all.step(p);
    const Eigen::MatrixXd d = p.grad + 0.1 * expected;
    buffer = 0.9 * buffer + d;
    expected -= 0.1 * (d + 0.9 * buffer);
  }
  CHECK((p.value - expected).cwiseAbs().maxCoeff() <= 1e-15);
}

TEST_CASE("sgd: settings out of range are named") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(Sgd<float>({.lr = -0.1}), lora::ConfigError);
  CHECK_THROWS_WITH(Sgd<float>({.lr = -0.1}), "Sgd: lr is -0.1, expected a finite number, 0 or more");
  CHECK_THROWS_AS(Sgd<float>({.lr = nan}), lora::ConfigError);
  CHECK_THROWS_AS(Sgd<float>({.momentum = -0.1}), lora::ConfigError);
  CHECK_THROWS_AS(Sgd<float>({.dampening = nan}), lora::ConfigError);
  CHECK_THROWS_AS(Sgd<float>({.weight_decay = -1}), lora::ConfigError);
  CHECK_THROWS_AS(Sgd<float>({.nesterov = true}), lora::ConfigError);
  CHECK_THROWS_WITH(Sgd<float>({.momentum = 0.9, .dampening = 0.1, .nesterov = true}),
                    "Sgd: nesterov is on with momentum 0.9 and dampening 0.1, expected momentum above 0 and "
                    "dampening 0");
}

TEST_CASE("sgd: no allocation after the first step") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Pair<double> pair;
  lora_test::set_gradients(pair, 0);
  Sgd<double> optimizer({.lr = 0.1, .momentum = 0.9});
  CHECK(lora_test::heap_allocations_in([&] { optimizer.step(pair); }) > 0);
  CHECK(lora_test::heap_allocations_in([&] { optimizer.step(pair); }) == 0);
}
