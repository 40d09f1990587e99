// Optimizers on real models: what attach, select, detach and a move do to a training run.

#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/clip.hpp"
#include "lora/optim/sgd.hpp"
#include "support/adapted_lora.hpp"

#include "support/catch.hpp"
#include "support/heap.hpp"

#include <string>
#include <utility>
#include <vector>

namespace {

using lora::AdamW;
using lora::Path;
using Net = lora::Mlp<lora::Linear<float>>;

const Eigen::MatrixXf inputs = [] {
  lora::Rng rng(5);
  Eigen::MatrixXf x(6, 12);
  for (float& value : x.reshaped()) value = rng.normal<float>();
  return x;
}();
const std::vector<int> labels = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2};

Net adapted_net() {
  lora::Rng rng(1);
  Net net({6, 8, 3}, rng);
  lora::attach(net, {.rank = 2, .alpha = 4}, rng, "a");
  lora::attach(net, {.rank = 3, .alpha = 6}, rng, "b");
  lora::select(net, "a");
  return net;
}

struct Training {
  Net net = adapted_net();
  Net::Cache cache;
  Eigen::MatrixXf dy;
  AdamW<float> optimizer{
      {.lr = 0.01, .groups = {{.select = [](const Path& p) { return p.ends_with("B"); }, .lr = 0.16}}}};

  float step() {
    lora::zero_gradients(net);
    const float loss = lora::softmax_cross_entropy(net.forward(inputs, cache), labels, &dy);
    net.backward(inputs, dy, cache, lora::no_gradient);
    lora::clip_gradient_norm(net, 1);
    optimizer.step(net);
    return loss;
  }
};

/// Every number of the model, in listing order.
std::vector<float> numbers(const Net& net) {
  std::vector<float> all;
  lora::visit_parameters(net, [&](const Path&, const auto& parameter) {
    all.insert(all.end(), parameter.value.data(), parameter.value.data() + parameter.value.size());
  });
  return all;
}

}  // namespace

TEST_CASE("optimizers and adapters: the loss falls; only the selected adapter moves") {
  Training training;
  const auto base = lora::Matrix<float>(training.net.forward(inputs, training.cache));
  const float before = training.step();
  for (int k = 0; k < 60; ++k) training.step();
  CHECK(training.step() < before / 2);
  CHECK(training.optimizer.state().slots().size() == 4);  // A and B of two layers, nothing of b or of the base
  lora::select(training.net, "b");
  CHECK(training.net.forward(inputs, training.cache) == base);  // b was never trained, and the base never is
}

TEST_CASE("optimizers and adapters: training b in between changes nothing for a") {
  Training straight, detour;
  for (int k = 0; k < 6; ++k) straight.step();

  for (int k = 0; k < 3; ++k) detour.step();
  lora::select(detour.net, "b");
  for (int k = 0; k < 4; ++k) detour.step();
  lora::detach(detour.net, "b");
  lora::select(detour.net, "a");
  for (int k = 0; k < 3; ++k) detour.step();

  lora::detach(straight.net, "b");
  CHECK(numbers(detour.net) == numbers(straight.net));
}

TEST_CASE("optimizers and adapters: a model that moves or is copied between steps trains to the same bits") {
  Training still, moving;
  for (int k = 0; k < 6; ++k) {
    still.step();
    moving.step();
    Net copy = moving.net;
    moving.net = std::move(copy);
  }
  CHECK(numbers(moving.net) == numbers(still.net));
}

TEST_CASE("optimizers and adapters: after the first, a training step allocates nothing") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Training training;
  training.step();
  CHECK(lora_test::heap_allocations_in([&] { training.step(); }) == 0);
}

TEST_CASE("optimizers and adapters: a layer on the stack is a model of its own") {
  lora::Rng rng(3);
  const Eigen::Matrix<double, 4, 5> w0 = Eigen::Matrix<double, 4, 5>::Identity();
  lora_test::AdaptedLora<double, 4, 5, 2> layer(w0, {.rank = 2, .alpha = 2}, rng);
  using Layer = lora_test::AdaptedLora<double, 4, 5, 2>;
  Layer::CacheFor<3> cache;
  const Eigen::Matrix<double, 5, 3> x = Eigen::Matrix<double, 5, 3>::Random();
  lora::Sgd<double> optimizer({.lr = 0.5, .momentum = 0.5});
  Eigen::Matrix<double, 4, 3> dy;
  double last = 0;
  const auto step = [&] {
    lora::zero_gradients(layer);
    last = lora::softmax_cross_entropy(layer.forward(x, cache), std::vector<int>{0, 1, 2}, &dy);
    layer.backward(x, dy, cache);
    optimizer.step(layer);
  };
  step();
  const double first = last;
  for (int k = 0; k < 50; ++k) step();
  CHECK(last < first / 4);
}

TEST_CASE(
    "optimizers and adapters: a step with nothing to train is refused; one for a handle, or without gradients, not") {
  Training run;
  run.step();
  const lora::AdapterHandle a = lora::adapter(run.net, "a"), b = lora::adapter(run.net, "b");
  lora::select_none(run.net);
  const std::vector<float> before = numbers(run.net);
  CHECK_THROWS_AS(run.optimizer.step(run.net), lora::StateError);
  CHECK_THROWS_WITH(run.optimizer.step(run.net),
                    "AdamW::step: there is nothing to train: all 8 parameters are frozen, or of adapters that are not "
                    "selected");
  CHECK(numbers(run.net) == before);
  run.optimizer.step(run.net, a);
  CHECK(numbers(run.net) != before);
  run.optimizer.step(run.net, b);  // trained, but no backward pass has reached it

  lora::freeze(run.net);
  CHECK_THROWS_WITH(run.optimizer.step(run.net, b),
                    "AdamW::step: there is nothing to train: all 8 parameters are frozen, or of adapters that are not "
                    "the handle's");
  lora::Sgd<float> sgd;
  lora::Parameter<float> alone(Eigen::MatrixXf::Ones(2, 2));
  alone.trainable = false;
  CHECK_THROWS_WITH(sgd.step(alone),
                    "Sgd::step: there is nothing to train: all 1 parameters are frozen, or of adapters that are not "
                    "selected");
  alone.trainable = true;
  CHECK_NOTHROW(sgd.step(alone));
  std::vector<lora::Parameter<float>> none;
  CHECK_THROWS_WITH(sgd.step(none), "Sgd::step: the model lists no parameters, expected some to train in its visit");
}
