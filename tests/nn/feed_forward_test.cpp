#include "lora/nn/feed_forward.hpp"

#include <string>
#include <vector>

#include "lora/model/attach.hpp"
#include "lora/nn/detail/hidden_dropout.hpp"
#include "lora/parallel/workers.hpp"
#include "lora/testing/gradient.hpp"
#include "lora/testing/layer_laws.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

using lora::ActivationKind;
using lora::FeedForward;
using lora::Matrix;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;

namespace {

constexpr std::array kinds = {ActivationKind::gelu, ActivationKind::gelu_tanh, ActivationKind::relu,
                              ActivationKind::silu};

template <class S>
FeedForward<S> new_layer(ActivationKind kind, lora::Rng& rng) {
  return {{.in = 5, .out = 7}, {.in = 7, .out = 5}, kind, rng};
}

static_assert(lora::Layer<FeedForward<float>>);

}  // namespace

TEST_CASE("FeedForward: its layers, with the activation between them") {
  lora::Rng rng(1);
  const auto x = random_matrix(5, 9, rng);
  const auto by_hand = [&](const FeedForward<double>& layer, auto f) {
    Matrix<double> hidden = layer.intermediate(x);
    f.forward(hidden, hidden);
    return layer.output(hidden);
  };
  const auto gelu = new_layer<double>(ActivationKind::gelu, rng),
             tanh = new_layer<double>(ActivationKind::gelu_tanh, rng);
  const auto relu = new_layer<double>(ActivationKind::relu, rng), silu = new_layer<double>(ActivationKind::silu, rng);
  CHECK(gelu(x) == by_hand(gelu, lora::Gelu()));
  CHECK(tanh(x) == by_hand(tanh, lora::GeluTanh()));
  CHECK(relu(x) == by_hand(relu, lora::Relu()));
  CHECK(silu(x) == by_hand(silu, lora::Silu()));
  CHECK(lora::tensor_names(gelu) == std::vector<std::string>{"intermediate.dense.weight", "intermediate.dense.bias",
                                                             "output.dense.weight", "output.dense.bias"});
}

TEST_CASE("FeedForward: the laws of layers, and backward is the derivative of forward") {
  lora::Rng rng(2);
  const auto x = random_matrix(5, 9, rng), dy = random_matrix(5, 9, rng);
  for (const ActivationKind kind : kinds) {
    auto layer = new_layer<double>(kind, rng);
    check(lora::testing::layer_laws(layer, x, dy));
    check(lora::testing::check_gradients(layer, x), 5);
    auto dual = new_layer<Dual>(kind, rng);
    check(lora::testing::check_dual(layer, dual, x), 5);
    for (const char* name : {"intermediate.dense", "output.dense"}) {
      auto adapted = layer;
      lora::attach(adapted, {.rank = 2, .dropout = 0.2}, {.modules = {name}}, rng);
      lora::testing::fill_parameters(adapted, rng, 0.5);
      const lora::Pass pass{.training = true, .seed = 3, .step = 4};
      check(lora::testing::layer_laws(adapted, x, dy, pass));
      check(lora::testing::check_gradients(adapted, x, {.pass = pass}), 3);
    }
  }
}

TEST_CASE("FeedForward: sizes that do not fit are refused") {
  lora::Rng rng(3);
  CHECK_THROWS_WITH(FeedForward<double>({.in = 5, .out = 7}, {.in = 6, .out = 5}, ActivationKind::gelu, rng),
                    "FeedForward: output has 6 inputs, expected the outputs of intermediate = 7");
  auto layer = new_layer<double>(ActivationKind::gelu, rng);
  FeedForward<double>::Cache cache;
  CHECK_THROWS_WITH(layer.forward(random_matrix(4, 2, rng), cache),
                    "FeedForward::forward: x has 4 rows, expected in_features = 5");
  CHECK_THROWS_AS(layer.backward(random_matrix(5, 2, rng), random_matrix(5, 2, rng), cache), lora::StateError);
}

TEST_CASE("FeedForward and dropout: the threads share the columns, and change no bit", "[threads]") {
  lora::Rng rng(5);
  const Matrix<float> x = random_matrix(16, 200, rng).cast<float>(), dy = random_matrix(16, 200, rng).cast<float>();
  lora::Workers two(2);
  for (const ActivationKind kind : kinds) {
    FeedForward<float> layer({.in = 16, .out = 256}, {.in = 256, .out = 16}, kind, rng);
    const auto pass = [&](lora::Executor* executor) {
      FeedForward<float>::Cache cache;
      lora::zero_gradients(layer);
      std::vector<Matrix<float>> all = {layer.forward(x, cache, {.executor = executor}), layer.backward(x, dy, cache)};
      lora::visit_parameters(layer, [&](const lora::Path&, auto& parameter) { all.emplace_back(parameter.grad); });
      return all;
    };
    CHECK(pass(nullptr).size() == 6);
    CHECK(pass(&two) == pass(nullptr));
  }
  const auto dropped = [&](lora::Executor* executor) {
    lora::Scratch scratch;
    Matrix<float> y = Matrix<float>::Ones(256, 200);
    lora::detail::drop<float>(y, 0.3, 7, {.training = true, .seed = 2, .executor = executor}, scratch);
    return y;
  };
  CHECK(dropped(&two) == dropped(nullptr));
  CHECK(dropped(nullptr).sum() == Catch::Detail::Approx(256 * 200).epsilon(0.02));
}
