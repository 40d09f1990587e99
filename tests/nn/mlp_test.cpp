#include "lora/nn/mlp.hpp"

#include <string>
#include <vector>

#include "lora/model/attach.hpp"
#include "lora/nn/lora_linear.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

using lora::Index;
using lora::Linear;
using lora::Mlp;
using lora::testing::random_matrix;
using lora::testing::same_bits;
using lora_test::check;

namespace {

using Net = Mlp<Linear<double>, lora::Tanh>;

/// One word per parameter: its name, with "+" where a backward pass has left a gradient.
std::string gradients(auto& model) {
  std::string text;
  lora::visit_parameters(model, [&](const lora::Path& path, auto& parameter) {
    text += path.str() + (parameter.grad.size() > 0 ? "+ " : " ");
  });
  return text;
}

}  // namespace

TEST_CASE("An Mlp is its layers with the activation between them") {
  lora::Rng rng(1);
  Mlp<Linear<double>> net({3, 5, 4, 2}, rng);
  const auto x = random_matrix(3, 6, rng);
  const auto& layers = net.layers();
  const lora::Matrix<double> h1 = layers[0](x).cwiseMax(0.0);
  const lora::Matrix<double> h2 = layers[1](h1).cwiseMax(0.0);
  const auto same = same_bits("by hand", net(x), layers[2](h2));
  INFO(same);
  CHECK(same.passed);
  CHECK((net.in_features() == 3 && net.out_features() == 2));
  CHECK(lora::tensor_names(net) ==
        std::vector<std::string>{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"});
  CHECK(lora::count_parameters(net).total == 15 + 5 + 20 + 4 + 8 + 2);
}

TEMPLATE_TEST_CASE("The gradients of an Mlp are those of its forward pass", "", lora::Tanh, lora::Gelu, lora::GeluTanh,
                   lora::Identity) {
  lora::Rng rng(2);
  Mlp<Linear<double>, TestType> net({3, 5, 4, 2}, rng);
  const auto x = random_matrix(3, 4, rng);
  check(lora::testing::check_gradients(net, x), 7);
  lora::attach(net, {.rank = 2, .alpha = 3, .bias = lora::Bias::all}, rng);
  lora::testing::fill_parameters(net, rng, 0.5);
  check(lora::testing::check_gradients(net, x), 10);
  check(lora::testing::check_gradients<4>(net, x), 10);
}

TEST_CASE("The gradients of an Mlp with ReLU, away from its kink") {
  lora::Rng rng(31);
  Mlp<Linear<double>> net({3, 6, 5, 2}, rng);
  const auto x = random_matrix(3, 4, rng);
  Mlp<Linear<double>>::Cache cache;
  net.forward(x, cache);
  for (std::size_t l : {0u, 1u})
    REQUIRE(net.layers()[l](l == 0 ? x : lora::Matrix<double>(cache.kept.hidden[0].view())).cwiseAbs().minCoeff() >
            1e-3);
  check(lora::testing::check_gradients(net, x), 7);
  SECTION("with one layer of factors, one trained copy, one frozen layer and dropout") {
    lora::attach(net, {.rank = 2, .alpha = 1, .dropout = 0.3}, {.modules = {"fc1"}, .modules_to_save = {"fc3"}}, rng);
    lora::visit_parameters(net, [&](const lora::Path& path, auto& parameter) {
      if (path.ends_with("B"))
        parameter.value = 0.1 * random_matrix(parameter.value.rows(), parameter.value.cols(), rng);
    });
    check(lora::testing::check_gradients(net, x, {.pass = {.training = true, .seed = 1, .step = 2}}), 5);
  }
}

TEST_CASE("backward without dx stops at the lowest layer that has something to train") {
  lora::Rng rng(4);
  Net net({3, 5, 4, 2}, rng);
  const auto x = random_matrix(3, 4, rng), dy = random_matrix(2, 4, rng);
  Net::Cache cache, reference;

  SECTION("a frozen bottom gets no gradient and no dx is computed for it") {
    lora::freeze(net.layers()[0]);
    net.forward(x, cache);
    net.backward(x, dy, cache, lora::no_gradient);
    CHECK(gradients(net) == "fc1.weight fc1.bias fc2.weight+ fc2.bias+ fc3.weight+ fc3.bias+ ");
  }
  SECTION("only the last layer") {
    lora::attach(net, {.rank = 2}, {.modules = {"fc3"}}, rng);
    net.forward(x, cache);
    net.backward(x, dy, cache, lora::no_gradient);
    CHECK(gradients(net) == "fc3.adapters.default.A+ fc3.adapters.default.B+ ");  // fc1 and fc2 are packed
  }
  SECTION("a frozen layer in the middle passes the gradient on") {
    lora::freeze(net.layers()[1]);
    net.forward(x, cache);
    net.backward(x, dy, cache, lora::no_gradient);
    CHECK(gradients(net) == "fc1.weight+ fc1.bias+ fc2.weight fc2.bias fc3.weight+ fc3.bias+ ");
  }
  SECTION("nothing to train: nothing happens") {
    lora::freeze(net);
    net.forward(x, cache);
    net.backward(x, dy, cache, lora::no_gradient);
    CHECK(gradients(net) == "fc1.weight fc1.bias fc2.weight fc2.bias fc3.weight fc3.bias ");
  }
  SECTION("the gradients are those of backward") {
    auto other = net;
    net.forward(x, cache);
    net.backward(x, dy, cache);
    other.forward(x, reference);
    other.backward(x, dy, reference, lora::no_gradient);
    std::vector<lora::Matrix<double>> expected;
    lora::visit_parameters(net, [&](const lora::Path&, auto& parameter) { expected.push_back(parameter.grad); });
    std::size_t slot = 0;
    lora::visit_parameters(other, [&](const lora::Path& path, auto& parameter) {
      INFO(path.str());
      CHECK(lora::Matrix<double>(parameter.grad) == expected[slot++]);
    });
  }
}

TEST_CASE("An Mlp of layers made elsewhere must fit together") {
  lora::Rng rng(5);
  std::vector<Linear<double>> layers;
  CHECK_THROWS_AS(Net(layers), lora::ConfigError);
  CHECK_THROWS_WITH(Net(layers), "Mlp: no layers given, expected at least one");
  layers.emplace_back(lora::LinearShape{.in = 3, .out = 5}, rng);
  layers.emplace_back(lora::LinearShape{.in = 4, .out = 2}, rng);
  CHECK_THROWS_AS(Net(layers), lora::ShapeError);
  CHECK_THROWS_WITH(Net(layers), "Mlp: layer fc2 has 4 inputs, expected outputs of fc1 = 5");
  CHECK_THROWS_AS(Net({3}, rng), lora::ConfigError);
  CHECK_THROWS_WITH(Net({3}, rng), "Mlp: 1 widths given, expected at least inputs and outputs");
  CHECK_THROWS_AS(Net({3, 0, 2}, rng), lora::ShapeError);
}

TEST_CASE("An Mlp refuses wrong inputs and a backward pass without forward") {
  lora::Rng rng(6);
  Net net({3, 5, 2}, rng);
  const auto x = random_matrix(3, 4, rng), dy = random_matrix(2, 4, rng);
  Net::Cache cache;
  CHECK_THROWS_AS(net.backward(x, dy, cache), lora::StateError);
  CHECK_THROWS_WITH(net.backward(x, dy, cache),
                    "Mlp::backward: this cache has seen no forward pass, expected forward before backward");
  CHECK_THROWS_AS(net.backward(x, dy, cache, lora::no_gradient), lora::StateError);
  CHECK_THROWS_AS(net.forward(random_matrix(4, 4, rng), cache), lora::ShapeError);
  // The pass that failed has left caches behind, but none that a backward pass would take.
  CHECK_THROWS_AS(net.backward(x, dy, cache), lora::StateError);
  net.forward(x, cache);
  CHECK_THROWS_WITH(net.backward(x, random_matrix(2, 5, rng), cache),
                    "Mlp::backward: dy has 5 columns, expected samples in the forward pass = 4");
  CHECK_THROWS_WITH(net.backward(random_matrix(3, 5, rng), dy, cache),
                    "Mlp::backward: x has 5 columns, expected samples in the forward pass = 4");
  CHECK_THROWS_WITH(net.backward(random_matrix(4, 4, rng), dy, cache, lora::no_gradient),
                    "Mlp::backward: x has 4 rows, expected in_features = 3");
  lora::visit_parameters(net, [](const lora::Path&, auto& parameter) { CHECK(parameter.grad.size() == 0); });
}

TEST_CASE("A network of one layer, and one of LoraLinear layers") {
  lora::Rng rng(7);
  const auto x = random_matrix(3, 4, rng);
  Net one({3, 2}, rng);
  check(lora::testing::check_gradients(one, x), 3);

  std::vector<lora::LoraLinear<double>> layers;
  layers.emplace_back(lora::Matrix<double>(random_matrix(5, 3, rng)), lora::LoraConfig{.rank = 2}, rng);
  layers.emplace_back(lora::Matrix<double>(random_matrix(2, 5, rng)), lora::LoraConfig{.rank = 2}, rng);
  Mlp<lora::LoraLinear<double>, lora::Tanh> net(std::move(layers));
  lora::testing::fill_parameters(net, rng, 0.5);
  check(lora::testing::check_gradients(net, x), 5);
}

TEST_CASE("A pass ends with the adapters that it began with, whatever is selected meanwhile") {
  lora::Rng rng(12);
  Net net({3, 5, 4, 2}, rng);
  lora::attach(net, {.rank = 2}, rng);
  const auto x = random_matrix(3, 4, rng), dy = random_matrix(2, 4, rng);
  Net::Cache cache;
  net.forward(x, cache);
  const lora::Matrix<double> dx = net.backward(x, dy, cache);
  const auto before = gradients(net);
  lora::zero_gradients(net);
  net.layers()[0].select_none();
  lora::detach(net, "default");
  CHECK(net.backward(x, dy, cache) == dx);
}
