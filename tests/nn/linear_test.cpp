#include "lora/nn/linear.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "lora/core/parameters.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

using lora::Index;
using lora::Linear;
using lora::testing::random_matrix;
using lora::testing::same_bits;
using lora_test::check;

namespace {

constexpr Index in = 5, out = 4, samples = 3;
const lora::LoraConfig config{.rank = 2, .alpha = 3};

Linear<double> new_layer(lora::Rng& rng, bool bias = true) { return {{.in = in, .out = out, .bias = bias}, rng}; }

/// A frozen layer with two adapters of LoRA factors and biases, all values generic.
Linear<double> adapted_layer(lora::Rng& rng) {
  auto layer = new_layer(rng);
  layer.attach("a", {.rank = 2, .alpha = 3, .bias = lora::Bias::lora_only}, rng);
  layer.attach("b", {.rank = 3, .alpha = 5, .scaling = lora::Scaling::alpha_over_sqrt_rank, .bias = lora::Bias::all},
               rng);
  lora::testing::fill_parameters(layer, rng);
  return layer;
}

/// Refused with this type and exactly this message, and the layer still computes and lists the same.
template <class E>
void check_refused(Linear<double>& layer, const lora::Matrix<double>& x, auto&& f, const std::string& message) {
  const auto names = lora::tensor_names(layer);
  const lora::Matrix<double> before = layer(x);
  const auto selection = layer.adapters().selection();
  const bool frozen = layer.frozen();
  CHECK_THROWS_AS(f(), E);
  CHECK_THROWS_WITH(f(), message);
  CHECK(lora::tensor_names(layer) == names);
  CHECK(layer.adapters().selection() == selection);
  CHECK(layer.frozen() == frozen);
  check(same_bits("nothing has changed", layer(x), before));
}

}  // namespace

TEST_CASE("A linear layer computes W x + b") {
  lora::Matrix<double> W(2, 3);
  W << 1, 2, 3, 4, 5, 6;
  const Linear<double> layer(W, lora::Vector<double>{{10, 20}});
  const lora::Vector<double> x{{1, 0, -1}};
  CHECK(layer(x) == lora::Vector<double>{{8, 18}});
  CHECK((layer.in_features() == 3 && layer.out_features() == 2));
  CHECK(layer.merged() == W);
  CHECK(layer.merged_bias() == lora::Vector<double>{{10, 20}});
  CHECK(layer.delta().isZero(0));
  CHECK(lora::tensor_names(layer) == std::vector<std::string>{"weight", "bias"});
  const Linear<double> without(W);
  CHECK(without.bias() == nullptr);
  CHECK(Linear<double>(W).merged_bias().size() == 0);
  CHECK(lora::tensor_names(Linear<double>(W)) == std::vector<std::string>{"weight"});
}

TEST_CASE("A layer takes any matrix expression as its weight") {
  lora::Rng rng(12);
  const auto W = random_matrix(out, in, rng);
  CHECK(Linear<double>(W.transpose()).dense() == W.transpose());
  CHECK(Linear<double>(2 * W, lora::Vector<double>::Ones(out).eval()).dense() == 2 * W);
  CHECK_FALSE(Linear<double>(W).frozen());
  CHECK(Linear<double>(lora::Frozen<double>(W)).frozen());
}

TEST_CASE("A new layer starts uniform within 1 / sqrt(in)") {
  lora::Rng rng(1);
  const Linear<float> layer({.in = 400, .out = 50}, rng);
  const double bound = 1.0 / 20;
  CHECK(layer.dense().cwiseAbs().maxCoeff() <= bound);
  CHECK(layer.dense().cwiseAbs().maxCoeff() > 0.999 * bound);
  CHECK(layer.bias()->cwiseAbs().maxCoeff() <= bound);
  // Uniform: variance bound^2 / 3, whose sample variance from 20,000 numbers is within 2 % (about 3 standard errors).
  CHECK(std::abs(layer.dense().squaredNorm() / 20000 / (bound * bound / 3) - 1) < 0.02);
}

TEST_CASE("The gradients of a linear layer are those of its forward pass") {
  lora::Rng rng(2);
  const auto x = random_matrix(in, samples, rng);
  auto layer = new_layer(rng);

  SECTION("trained in full") {
    check(lora::testing::check_gradients(layer, x), 3);  // weight, bias, x
    check(lora::testing::check_gradients<samples>(layer, x), 3);
  }
  SECTION("frozen: only x") {
    layer.freeze();
    check(lora::testing::check_gradients(layer, x), 1);
    CHECK(lora::count_parameters(layer).trainable == 0);
  }
  SECTION("weight frozen by flag") {
    lora::visit_parameters(
        layer, [](const lora::Path& path, auto& parameter) { parameter.trainable = path.ends_with("bias"); });
    check(lora::testing::check_gradients(layer, x), 2);
    lora::visit_parameters(layer, [](const lora::Path& path, auto& parameter) {
      CHECK((parameter.grad.size() > 0) == path.ends_with("bias"));
    });
  }
  SECTION("LoRA factors and a trained bias") {
    layer.attach("a", {.rank = 2, .alpha = 3, .bias = lora::Bias::all}, rng);
    lora::testing::fill_parameters(layer, rng);
    check(lora::testing::check_gradients(layer, x), 4);  // A, B, bias, x
    check(lora::testing::check_gradients<samples>(layer, x), 4);
  }
  SECTION("dropout with fixed masks") {
    layer.attach("a", {.rank = 2, .alpha = 3, .dropout = 0.4}, rng);
    lora::testing::fill_parameters(layer, rng);
    check(lora::testing::check_gradients(layer, x, {.pass = {.training = true, .seed = 7, .step = 3}}), 3);
  }
  SECTION("only a bias") {
    layer.attach_bias("a");
    lora::testing::fill_parameters(layer, rng);
    check(lora::testing::check_gradients(layer, x), 2);  // bias, x
  }
  SECTION("a trained copy of the layer") {
    layer.attach_full("a");
    lora::testing::fill_parameters(layer, rng);
    check(lora::testing::check_gradients(layer, x), 3);  // weight, bias, x
  }
  SECTION("a weighted sum of two adapters with biases") {
    auto two = adapted_layer(rng);
    two.select_sum({{"a", 0.7}, {"b", -1.3}});
    check(lora::testing::check_gradients(two, x), 7);  // twice A, B and bias; x
    two.attach_bias("c");
    lora::testing::fill_parameters(two, rng);
    two.select_sum({{"c", 0.5}, {"a", 2}});
    check(lora::testing::check_gradients(two, x), 5);
  }
  SECTION("a weighted sum under dropout") {
    layer.attach("a", {.rank = 2, .alpha = 3, .dropout = 0.4}, rng);
    layer.attach("b", {.rank = 3, .alpha = 1, .dropout = 0.2}, rng);
    lora::testing::fill_parameters(layer, rng);
    layer.select_sum({{"a", 0.7}, {"b", -1.3}});
    check(lora::testing::check_gradients(layer, x, {.pass = {.training = true, .seed = 7, .step = 3}}), 5);
  }
}

TEST_CASE("backward without dx gives the gradients of backward, and gradients add up") {
  lora::Rng rng(3);
  const auto x = random_matrix(in, samples, rng), dy = random_matrix(out, samples, rng);
  const auto check_sums = [&](Linear<double>& layer, std::size_t tensors) {
    Linear<double>::Cache cache;
    layer.forward(x, cache);
    layer.backward(x, dy, cache);
    std::vector<lora::Matrix<double>> once;
    const auto each = [&](auto&& f) {
      lora::visit_parameters(layer, [&](const lora::Path& path, auto& parameter) {
        INFO(path.str());
        if (lora::is_trained(path, parameter)) f(parameter.grad);
      });
    };
    each([&](const auto& grad) { once.push_back(grad); });
    CHECK(once.size() == tensors);
    layer.backward(x, dy, cache, lora::no_gradient);
    std::size_t slot = 0;
    each([&](const auto& grad) {
      CHECK(once[slot].norm() > 0);
      CHECK((grad - 2 * once[slot]).norm() <= 1e-14 * once[slot].norm());
      ++slot;
    });
    lora::zero_gradients(layer);
    each([](const auto& grad) { CHECK(grad.isZero(0)); });
  };
  auto layer = new_layer(rng);
  check_sums(layer, 2);
  layer.attach_full("copy");
  check_sums(layer, 2);
  layer.attach_bias("bias");
  check_sums(layer, 1);
  auto two = adapted_layer(rng);
  two.select_sum({{"a", 0.5}, {"b", 2}});
  check_sums(two, 6);
}

TEST_CASE("Turning off and switching are exact to the bit") {
  lora::Rng rng(4);
  auto layer = new_layer(rng);
  const auto x = random_matrix(in, samples, rng);
  const lora::Matrix<double> base = layer(x);

  layer.attach("a", {.rank = 2, .alpha = 3, .bias = lora::Bias::all}, rng);
  check(same_bits("fresh", layer(x), base));
  lora::testing::fill_parameters(layer, rng);
  const lora::Matrix<double> first = layer(x);
  CHECK(first != base);

  layer.attach("b", config, rng);
  check(same_bits("a fresh second adapter, alone", layer(x), base));
  lora::testing::fill_parameters(layer.adapter("b"), rng);
  const lora::Matrix<double> second = layer(x);
  CHECK((second != base && second != first));
  layer.attach_full("c");
  check(same_bits("a fresh copy", layer(x), base));
  lora::testing::fill_parameters(layer.adapter("c"), rng);
  CHECK(layer(x) != base);

  layer.select("a");
  check(same_bits("a again", layer(x), first));
  layer.select("b");
  check(same_bits("b again", layer(x), second));
  layer.select_none();
  check(same_bits("off", layer(x), base));
  layer.select_sum({{"a", 1}});
  check(same_bits("a sum of one with weight 1", layer(x), first));
  layer.select_sum({});
  check(same_bits("an empty sum", layer(x), base));
  layer.select("a");
  layer.detach("c");
  check(same_bits("another adapter is removed", layer(x), first));
  layer.detach("a");
  check(same_bits("the selected adapter is removed", layer(x), base));
  CHECK(layer.frozen());
  CHECK(lora::tensor_names(layer) == std::vector<std::string>{"weight", "bias", "adapters.b.A", "adapters.b.B"});
}

TEMPLATE_TEST_CASE("Freezing a layer, or a copy to train beside it, changes no bit of its outputs", "", float, double) {
  using S = TestType;
  lora::Rng rng(15);
  for (const auto& [rows, cols] : std::vector<std::pair<Index, Index>>{{5, 4}, {70, 300}, {64, 64}}) {
    Linear<S> layer({.in = cols, .out = rows}, rng);
    for (const Index count : {1, 7, 40}) {
      CAPTURE(rows, cols, count);
      const lora::Matrix<S> x = random_matrix<S>(cols, count, rng);
      const lora::Matrix<S> trained = layer(x);
      auto frozen = layer;
      frozen.freeze();
      check(same_bits("frozen", frozen(x), trained));
      frozen.attach_full("copy");
      check(same_bits("a copy as it starts", frozen(x), trained));
    }
  }
}

TEST_CASE("field, awkward: weight 0 in a sum means absent, also of an adapter that holds NaN") {
  lora::Rng rng(25);
  auto layer = adapted_layer(rng);
  const auto x = random_matrix(in, samples, rng), dy = random_matrix(out, samples, rng);
  layer.attach_full("copy");
  layer.select("a");
  const lora::Matrix<double> alone = layer(x), merged = layer.merged();
  const lora::Vector<double> bias = layer.merged_bias();
  layer.select_none();
  const lora::Matrix<double> base = layer(x);
  lora::visit_parameters(layer.adapter("b"), [](const lora::Path&, auto& parameter) {
    parameter.value.setConstant(std::nan(""));
    parameter.drop_gradient();
  });
  for (const double zero : {0.0, -0.0, 1e-320 * 1e-320}) {
    layer.select_sum({{"a", 1}, {"b", zero}, {"copy", zero}});  // also of a kind that cannot be summed
    CHECK_FALSE(layer.adapters().selects("b"));
    CHECK(layer.adapters().weight_of("b") == 0);
    check(same_bits("a alone", layer(x), alone));
    check(same_bits("merged", layer.merged(), merged));
    check(same_bits("merged bias", lora::Matrix<double>(layer.merged_bias()), lora::Matrix<double>(bias)));
    lora::Linear<double>::Cache cache;
    layer.forward(x, cache);
    lora::zero_gradients(layer);
    CHECK(layer.backward(x, dy, cache).allFinite());
    lora::visit_parameters(layer, [&](const lora::Path& path, const auto& parameter) {
      CAPTURE(path.str());
      CHECK(parameter.grad.allFinite());
    });
    CHECK(layer.adapter("b").as<lora::Lora<double>>().A.grad.size() == 0);  // not even a gradient of 0
    layer.select_sum({{"b", zero}});
    check(same_bits("nothing", layer(x), base));
  }
  CHECK_THROWS_AS(layer.select_sum({{"b", 0}, {"b", 0}}), lora::NameError);
  CHECK_THROWS_AS(layer.select_sum({{"c", 0}}), lora::NameError);
}

TEST_CASE("A weighted sum is the sum of the parts, and merging keeps the outputs") {
  lora::Rng rng(5);
  auto layer = adapted_layer(rng);
  const auto x = random_matrix(in, samples, rng);
  const lora::Matrix<double> W0 = layer.dense();
  const lora::Vector<double> b = *layer.bias();
  const auto part = [&](const char* name) {
    layer.select(name);
    return std::pair(layer.delta(), layer.merged_bias());
  };
  const auto [delta_a, bias_a] = part("a");
  const auto [delta_b, bias_b] = part("b");
  CHECK(delta_a.norm() > 1);
  CHECK(bias_a != b);

  layer.select_sum({{"a", 0.7}, {"b", 0.3}});
  const lora::Matrix<double> expected = W0 + 0.7 * delta_a + 0.3 * delta_b;
  const lora::Vector<double> expected_bias = b + 0.7 * (bias_a - b) + 0.3 * (bias_b - b);
  const double epsilon = std::numeric_limits<double>::epsilon();
  CHECK((layer.merged() - expected).norm() <= 4 * epsilon * (W0.norm() + delta_a.norm() + delta_b.norm()));
  CHECK((layer.merged_bias() - expected_bias).norm() <= 8 * epsilon * (b.norm() + bias_a.norm() + bias_b.norm()));

  const lora::Matrix<double> unmerged = layer(x);
  const Linear<double> merged(layer.merged(), layer.merged_bias());
  CHECK((merged(x) - unmerged).norm() <= 20 * std::sqrt(double(in)) * epsilon * layer.merged().norm() * x.norm());

  // The order in which they are named does not matter.
  layer.select_sum({{"b", 0.3}, {"a", 0.7}});
  check(same_bits("order", layer(x), unmerged));

  layer.attach_full("copy");
  lora::testing::fill_parameters(layer, rng);
  const auto& copy = layer.adapters().at("copy").as<lora::FullWeight<double>>().weight.value;
  check(same_bits("a trained copy merges into itself", layer.merged(), copy));
  layer.select_none();
  check(same_bits("off merges into the base", layer.merged(), W0));
  check(same_bits("the base's bias", layer.merged_bias(), b));
}

TEST_CASE("A trained bias or copy belongs to its adapter") {
  lora::Rng rng(6);
  auto layer = new_layer(rng);
  const lora::Vector<double> b = *layer.bias();
  layer.attach("a", {.rank = 2, .bias = lora::Bias::lora_only}, rng);
  layer.adapter("a").bias->value.array() += 1;
  CHECK(layer.merged_bias() != b);
  CHECK(*layer.bias() == b);
  layer.select_none();
  CHECK(layer.merged_bias() == b);
  CHECK(lora::tensor_names(layer) ==
        std::vector<std::string>{"weight", "bias", "adapters.a.A", "adapters.a.B", "adapters.a.bias"});
  CHECK(lora::count_parameters(layer).trainable == 0);
  layer.select("a");
  CHECK(lora::count_parameters(layer).trainable == 2 * (in + out) + out);
  layer.attach_bias("b");
  CHECK(lora::count_parameters(layer).trainable == out);
  layer.attach_full("c");
  CHECK(lora::count_parameters(layer).trainable == in * out + out);
}

TEST_CASE("A copy of a layer that is trained is independent") {
  lora::Rng rng(16);
  const auto layer = new_layer(rng);
  const auto x = random_matrix(in, samples, rng);
  const lora::Matrix<double> before = layer(x);
  auto copy = layer;
  lora::testing::fill_parameters(copy, rng);
  check(same_bits("the original", layer(x), before));
  CHECK(copy(x) != before);
}

TEST_CASE("A step of a frozen layer with one adapter takes no heap after the first") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(17);
  Linear<float> layer({.in = 300, .out = 200}, rng);
  layer.attach("a", {.rank = 8}, rng);
  const auto x = random_matrix<float>(300, 64, rng), dy = random_matrix<float>(200, 64, rng);
  Linear<float>::Cache cache;
  const auto step = [&] {
    layer.forward(x, cache);
    layer.backward(x, dy, cache);
  };
  step();
  CHECK(lora_test::heap_allocations_in(step) == 0);
}

TEST_CASE("Copies share the frozen weight but not the adapters") {
  lora::Rng rng(7);
  auto layer = new_layer(rng);
  const lora::Matrix<double> W = layer.dense();
  CHECK_THROWS_AS(layer.base(), lora::StateError);
  layer.attach("a", config, rng);
  CHECK(layer.dense() == W);
  const auto x = random_matrix(in, samples, rng);
  auto copy = layer;
  CHECK(copy.base().shares_with(layer.base()));
  const lora::Matrix<double> before = layer(x);
  lora::testing::fill_parameters(copy, rng);
  check(same_bits("the original", layer(x), before));
  CHECK(copy(x) != before);
  copy.detach("a");
  CHECK(layer.adapters().contains("a"));

  const lora::Frozen<double> shared(lora::Matrix<double>::Ones(out, in).eval());
  Linear<double> left(shared), right(shared);
  CHECK(left.frozen());
  CHECK(left.base().as<lora::Packed<double>>()->data() == right.base().as<lora::Packed<double>>()->data());
}

TEST_CASE("A name, setting or shape that does not fit is refused, and nothing has changed") {
  lora::Rng rng(8);
  const auto x = random_matrix(in, samples, rng);
  auto layer = new_layer(rng);
  // Before the first adapter: the layer must not freeze.
  check_refused<lora::ConfigError>(
      layer, x, [&] { layer.attach("a", {.rank = 0}, rng); }, "Lora: rank is 0, expected at least 1");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.attach("", config, rng); },
      "attach: the adapter name \"\" is not allowed, expected text without a dot");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.attach("a.b", config, rng); },
      "attach: the adapter name \"a.b\" is not allowed, expected text without a dot");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.select("a"); }, "select: there is no adapter \"a\": none has been attached");
  check_refused<lora::ShapeError>(
      layer, x, [&] { layer.attach("a", lora::Lora<double>(out, in + 1, config, rng)); },
      "Linear::attach: A has 6 columns, expected in_features = 5");
  lora::Lora<double> torn(out, in, config, rng);
  torn.B.value.resize(out, 3);
  check_refused<lora::ShapeError>(
      layer, x, [&] { layer.attach("a", torn); }, "Linear::attach: B has 3 columns, expected the rank of A = 2");
  check_refused<lora::ShapeError>(
      layer, x, [&] { layer.attach("a", lora::FullWeight<double>(lora::Matrix<double>::Zero(out + 1, in))); },
      "Linear::attach: the trained weight has 5 rows, expected out_features = 4");
  check_refused<lora::ShapeError>(
      layer, x, [&] { layer.attach("a", lora::NoAdapter<double>(), lora::Vector<double>::Zero(out + 1).eval()); },
      "Linear::attach: the trained bias has 5 rows, expected out_features = 4");

  layer.attach("a", config, rng);
  lora::testing::fill_parameters(layer, rng);
  layer.attach_full("full");
  lora::testing::fill_parameters(layer, rng);
  layer.select("a");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.attach("a", config, rng); }, "attach: an adapter \"a\" exists already");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.select("b"); }, "select: there is no adapter \"b\", expected one of \"a\", \"full\"");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.detach("b"); }, "detach: there is no adapter \"b\", expected one of \"a\", \"full\"");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.select_sum({{"a", 0.5}, {"b", 0.5}}); },
      "select_sum: there is no adapter \"b\", expected one of \"a\", \"full\"");
  check_refused<lora::NameError>(
      layer, x, [&] { layer.select_sum({{"a", 0.5}, {"a", 0.5}}); }, "select_sum: adapter \"a\" is named twice");
  check_refused<lora::ConfigError>(
      layer, x, [&] { layer.select_sum({{"a", std::nan("")}}); },
      "select_sum: the weight of adapter \"a\" is nan, expected a finite number, also times the adapter's scale");
  check_refused<lora::ConfigError>(
      layer, x, [&] { layer.select_sum({{"full", 0.5}}); },
      "select_sum: adapter \"full\" is of a kind that cannot be summed, expected it alone and with weight 1");
  check_refused<lora::ConfigError>(
      layer, x, [&] { layer.select_sum({{"a", 1}, {"full", 1}}); },
      "select_sum: adapter \"full\" is of a kind that cannot be summed, expected it alone and with weight 1");
  layer.select_sum({{"full", 1}});

  auto plain = new_layer(rng, false);
  std::optional<lora::Vector<double>> zero;
  zero.emplace(lora::Vector<double>::Zero(out));
  check_refused<lora::StateError>(
      plain, x, [&] { plain.attach_bias("a"); }, "Linear::attach_bias: the layer has no bias");
  check_refused<lora::StateError>(
      plain, x, [&] { plain.attach("a", lora::NoAdapter<double>(), zero); },
      "Linear::attach: the adapter brings a bias, but the layer has none to replace");
  // Without a bias there is none to train; the factors alone are attached.
  plain.attach("a", {.rank = 2, .bias = lora::Bias::all}, rng);
  CHECK_FALSE(plain.adapters().at("a").bias.has_value());

  Linear<float> single({.in = 2, .out = 2}, rng);
  single.attach("a", {.rank = 1, .alpha = 1e30}, rng);
  CHECK_THROWS_AS(single.select_sum({{"a", 1e39}}), lora::ConfigError);
  CHECK_THROWS_AS(single.select_sum({{"a", 1e30}}), lora::ConfigError);  // finite, but not times the scale

  CHECK_THROWS_AS((Linear<double>({.in = 0, .out = 3}, rng)), lora::ShapeError);
  CHECK_THROWS_AS(Linear<double>(lora::Matrix<double>()), lora::ShapeError);
  CHECK_THROWS_WITH(Linear<double>(lora::Matrix<double>::Ones(2, 3).eval(), lora::Vector<double>::Ones(3).eval()),
                    "Linear: the bias has 3 rows, expected out_features = 2");
}

TEST_CASE("forward and backward refuse what does not fit together") {
  lora::Rng rng(9);
  auto layer = adapted_layer(rng);
  const auto x = random_matrix(in, samples, rng), dy = random_matrix(out, samples, rng);
  Linear<double>::Cache cache;
  CHECK_THROWS_WITH(layer.forward(random_matrix(in + 1, samples, rng), cache),
                    "Linear::forward: x has 6 rows, expected in_features = 5");
  CHECK_THROWS_AS(layer.forward(lora::Matrix<double>(in, 0), cache), lora::ShapeError);
  const std::string none = ": this cache has seen no forward pass, expected forward before backward";
  CHECK_THROWS_AS(layer.backward(x, dy, cache), lora::StateError);
  CHECK_THROWS_WITH(layer.backward(x, dy, cache), "Linear::backward" + none);
  CHECK_THROWS_WITH(layer.backward(x, dy, cache, lora::no_gradient), "Linear::backward" + none);

  layer.forward(x, cache);
  CHECK_THROWS_WITH(layer.backward(x, random_matrix(out + 1, samples, rng), cache),
                    "Linear::backward: dy has 5 rows, expected out_features = 4");
  CHECK_THROWS_WITH(layer.backward(x, random_matrix(out, samples + 1, rng), cache),
                    "Linear::backward: dy has 4 columns, expected samples in the forward pass = 3");
  CHECK_THROWS_WITH(layer.backward(random_matrix(in, samples + 1, rng), dy, cache),
                    "Linear::backward: x has 4 columns, expected samples in the forward pass = 3");

  // A pass ends with the adapters that it began with.
  const lora::Matrix<double> dx = layer.backward(x, dy, cache);
  layer.select("a");
  check(same_bits("the pass before select", layer.backward(x, dy, cache), dx));
  layer.forward(x, cache);
  layer.backward(x, dy, cache);

  // A forward pass that failed leaves no cache that backward would accept.
  layer.forward(x, cache);
  CHECK_THROWS_AS(layer.forward(lora::Matrix<double>(in, 0), cache), lora::ShapeError);
  layer.forward(x, cache);

  // A layer that was frozen since has the same W and no gradient of it.
  auto full = new_layer(rng);
  Linear<double>::Cache other;
  full.forward(x, other);
  full.attach("a", config, rng);
  CHECK((full.backward(x, dy, other) - full.dense().transpose() * dy).norm() <=
        1e-14 * dy.norm() * full.dense().norm());
}

TEST_CASE("A cache that belongs to another layer, or holds the input, is refused") {
  lora::Rng rng(11);
  const auto x = random_matrix(3, samples, rng);
  Linear<double> one(random_matrix(3, 3, rng)), other(random_matrix(3, 3, rng)), sum(random_matrix(3, 3, rng));
  one.attach("a", {.rank = 1}, rng);
  other.attach("a", {.rank = 2}, rng);
  Linear<double>::Cache cache;
  one.forward(x, cache);
  CHECK_THROWS_AS(other.backward(x, x, cache), lora::StateError);
  CHECK_THROWS_WITH(other.backward(x, x, cache), "Linear::backward: this cache has seen the pass of another layer");

  one.select_none();
  one.select("a");
  sum.attach("a", {.rank = 1}, rng);
  sum.attach("b", {.rank = 1}, rng);
  sum.select_sum({{"a", 1}, {"b", 1}});
  one.forward(x, cache);
  CHECK_THROWS_WITH(sum.backward(x, x, cache), "Linear::backward: this cache has seen the pass of another layer");
  lora::visit_parameters(sum, [](const lora::Path&, auto& parameter) { CHECK(parameter.grad.size() == 0); });

  const auto y = one.forward(x, cache);
  CHECK_THROWS_AS(one.forward(y, cache), lora::StateError);
  CHECK_THROWS_WITH(one.forward(y.leftCols(2), cache),
                    "Linear::forward: x lies in the cache that this pass writes to, expected another cache or a copy");
  const auto dx = one.backward(x, y, cache);  // y is read, and dx written elsewhere
  CHECK_THROWS_AS(one.backward(x, dx, cache), lora::StateError);
  CHECK_NOTHROW(one.backward(x, lora::Matrix<double>(dx), cache));
}
