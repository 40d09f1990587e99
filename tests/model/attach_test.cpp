#include "lora/model/attach.hpp"

#include <string>
#include <utility>
#include <vector>

#include "lora/nn/mlp.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

using lora::Index;
using lora::Linear;
using lora::testing::random_matrix;
using lora::testing::same_bits;
using lora_test::check;

namespace {

using Names = std::vector<std::string>;

/// A user's own model: a vector of layers and two more, with a parameter beside them.
struct Net {
  std::vector<Linear<double>> blocks;
  Linear<double> q_proj, head;
  lora::Parameter<double, lora::Dynamic, 1> shift{lora::Vector<double>::Ones(4)};

  explicit Net(lora::Rng& rng)
      : blocks{{{.in = 3, .out = 3}, rng}, {{.in = 3, .out = 3}, rng}},
        q_proj({.in = 3, .out = 4, .bias = false}, rng),
        head({.in = 4, .out = 2}, rng) {}

  static void visit(auto& self, auto&& f) {
    f("blocks", self.blocks);
    f("q_proj", self.q_proj);
    f("shift", self.shift);
    f("head", self.head);
  }

  lora::Matrix<double> operator()(const lora::Matrix<double>& x) const {
    lora::Matrix<double> h = q_proj(blocks[1](blocks[0](x)));
    h.colwise() += shift.value;
    return head(h);
  }
};

/// Names and bits of everything that is listed, with what is trained.
struct Picture {
  Names names;
  std::vector<lora::Matrix<double>> values;
  std::vector<bool> trained;

  explicit Picture(const auto& model) {
    lora::visit_tensors(model, [&](const lora::Path& path, const auto& tensor) {
      names.push_back(path.str());
      if constexpr (lora::ParameterLike<std::remove_reference_t<decltype(tensor)>>) {
        values.push_back(tensor.value);
        trained.push_back(lora::is_trained(path, tensor));
      } else {
        if constexpr (requires { tensor.dense(); }) {
          values.push_back(tensor.dense());
        } else {
          values.push_back(tensor);
        }
        trained.push_back(false);
      }
    });
  }
  bool operator==(const Picture&) const = default;
};

Names trained_names(const auto& model) {
  Names names;
  lora::visit_parameters(model, [&](const lora::Path& path, const auto& parameter) {
    if (lora::is_trained(path, parameter)) names.push_back(path.str());
  });
  return names;
}

template <class E>
void check_refused(auto& model, auto&& f, const std::string& message) {
  const Picture before(model);
  CHECK_THROWS_AS(f(), E);
  CHECK_THROWS_WITH(f(), message);
  CHECK(Picture(model) == before);
}

void fill_adapter(Net& net, const std::string& name, lora::Rng& rng) {
  lora::visit_adaptable(net, [&](const lora::Path&, auto& layer) {
    if (layer.adapters().contains(name)) lora::testing::fill_parameters(layer.adapter(name), rng);
  });
}

}  // namespace

TEST_CASE("attach gives every layer factors and freezes the rest") {
  lora::Rng rng(1);
  Net net(rng);
  const auto x = random_matrix(3, 5, rng);
  const lora::Matrix<double> before = net(x);
  CHECK(lora::count_parameters(net).trainable == lora::count_parameters(net).total);

  lora::attach(net, {.rank = 2, .alpha = 4}, rng);
  CHECK(trained_names(net) == Names{"blocks.0.adapters.default.A", "blocks.0.adapters.default.B",
                                    "blocks.1.adapters.default.A", "blocks.1.adapters.default.B",
                                    "q_proj.adapters.default.A", "q_proj.adapters.default.B", "head.adapters.default.A",
                                    "head.adapters.default.B"});
  CHECK(lora::tensor_names(net) ==
        Names{"blocks.0.weight", "blocks.0.bias", "blocks.0.adapters.default.A", "blocks.0.adapters.default.B",
              "blocks.1.weight", "blocks.1.bias", "blocks.1.adapters.default.A", "blocks.1.adapters.default.B",
              "q_proj.weight", "q_proj.adapters.default.A", "q_proj.adapters.default.B", "shift", "head.weight",
              "head.bias", "head.adapters.default.A", "head.adapters.default.B"});
  check(same_bits("a fresh adapter changes nothing", net(x), before));
  CHECK(lora::count_parameters(net).trainable == 2 * (6 + 6 + 7 + 6));
}

TEST_CASE("attach packs the layers without an adapter, too, and changes no bit") {
  lora::Rng rng(1);
  Net net(rng);
  const auto x = random_matrix(3, 5, rng);
  const lora::Matrix<double> before = net(x);
  lora::attach(net, {.rank = 2}, {.modules = {"q_proj"}}, rng);
  int layers = 0;
  lora::visit_adaptable(net, [&](const lora::Path& path, const auto& layer) {
    INFO(path.str());
    CHECK(layer.frozen());
    ++layers;
  });
  CHECK(layers == 4);
  check(same_bits("packing", net(x), before));
}

TEST_CASE("target_modules are whole names or ends of names after a dot") {
  lora::Rng rng(2);
  Net net(rng);
  const auto targets = [&](const Names& names) {
    auto model = net;
    lora::attach(model, {.rank = 1}, {.modules = names}, rng);
    return trained_names(model);
  };
  CHECK(targets({"q_proj"}) == Names{"q_proj.adapters.default.A", "q_proj.adapters.default.B"});
  CHECK(targets({"1"}) == Names{"blocks.1.adapters.default.A", "blocks.1.adapters.default.B"});
  CHECK(targets({"blocks.0"}) == Names{"blocks.0.adapters.default.A", "blocks.0.adapters.default.B"});
  CHECK(targets({"head", "q_proj"}).size() == 4);
  check_refused<lora::NameError>(
      net, [&] { lora::attach(net, {}, {.modules = {"proj"}}, rng); },
      "attach: modules names \"proj\", expected one of the layers blocks.0, blocks.1, "
      "q_proj, head");
}

TEST_CASE("Factors here, a trained copy there, biases everywhere, frozen elsewhere") {
  lora::Rng rng(3);
  Net net(rng);
  const auto x = random_matrix(3, 5, rng);
  const lora::Matrix<double> before = net(x);

  SECTION("lora_only") {
    lora::attach(net, {.rank = 2, .bias = lora::Bias::lora_only},
                 {.modules = {"0", "q_proj"}, .modules_to_save = {"head"}}, rng);
    CHECK(trained_names(net) == Names{"blocks.0.adapters.default.A", "blocks.0.adapters.default.B",
                                      "blocks.0.adapters.default.bias", "q_proj.adapters.default.A",
                                      "q_proj.adapters.default.B", "head.adapters.default.weight",
                                      "head.adapters.default.bias"});
  }
  SECTION("all") {
    lora::attach(net, {.rank = 2, .bias = lora::Bias::all}, {.modules = {"0", "q_proj"}}, rng);
    CHECK(trained_names(net) == Names{"blocks.0.adapters.default.A", "blocks.0.adapters.default.B",
                                      "blocks.0.adapters.default.bias", "blocks.1.adapters.default.bias",
                                      "q_proj.adapters.default.A", "q_proj.adapters.default.B",
                                      "head.adapters.default.bias"});
  }
  SECTION("a layer that is both a target and to be saved is saved") {
    lora::attach(net, {.rank = 2}, {.modules_to_save = {"head"}}, rng);
    CHECK(trained_names(net).back() == "head.adapters.default.bias");
    CHECK(trained_names(net).size() == 8);
  }
  check(same_bits("fresh", net(x), before));
  fill_adapter(net, "default", rng);
  CHECK(net(x) != before);
  lora::select_none(net);
  check(same_bits("off restores weights and biases", net(x), before));
  CHECK(trained_names(net).empty());
  lora::detach(net, "default");
  check(same_bits("detached", net(x), before));
  CHECK(lora::tensor_names(net) == Names{"blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias",
                                         "q_proj.weight", "shift", "head.weight", "head.bias"});
}

TEST_CASE("Switching a whole model between adapters gives the first one back, to the bit") {
  lora::Rng rng(4);
  Net net(rng);
  const auto x = random_matrix(3, 5, rng);
  const lora::Matrix<double> base = net(x);
  lora::attach(net, {.rank = 2, .bias = lora::Bias::all}, rng, "first");
  fill_adapter(net, "first", rng);
  const lora::Matrix<double> first = net(x);
  lora::attach(net, {.rank = 1}, {.modules = {"head"}}, rng, "second");
  check(same_bits("a fresh adapter is alone: the layers without it are the base", net(x), base));
  fill_adapter(net, "second", rng);
  const lora::Matrix<double> second = net(x);
  CHECK((first != base && second != base && second != first));
  CHECK(trained_names(net) == Names{"head.adapters.second.A", "head.adapters.second.B"});

  lora::select(net, "first");
  check(same_bits("first", net(x), first));
  lora::select(net, "second");
  check(same_bits("second", net(x), second));
  lora::select(net, "first");
  check(same_bits("first again", net(x), first));
  lora::select_none(net);
  check(same_bits("base", net(x), base));

  check_refused<lora::NameError>(
      net, [&] { lora::select(net, "third"); },
      "select: no layer of the model has an adapter \"third\", expected one of \"first\", \"second\"");
  check_refused<lora::NameError>(
      net, [&] { lora::detach(net, "third"); },
      "detach: no layer of the model has an adapter \"third\", expected one of \"first\", \"second\"");
  // A name that is taken in one layer only: no other layer may change.
  check_refused<lora::NameError>(
      net, [&] { lora::attach(net, {.rank = 1}, rng, "second"); }, "attach: an adapter \"second\" exists already");
  lora::detach(net, "second");
  lora::select(net, "first");
  check(same_bits("first once more", net(x), first));
}

TEST_CASE("A refused attach leaves a trained model as it was") {
  lora::Rng rng(5);
  Net net(rng);
  const auto attach = [&](const lora::LoraConfig& config, const lora::Targets& targets = {},
                          const char* name = "default") {
    return [&net, &rng, config, targets, name] { lora::attach(net, config, targets, rng, name); };
  };
  check_refused<lora::ConfigError>(net, attach({.rank = 0}), "attach: rank is 0, expected at least 1");
  check_refused<lora::ConfigError>(net, attach({.dropout = 1}), "attach: dropout is 1, expected 0 <= dropout < 1");
  check_refused<lora::NameError>(
      net, attach({}, {.modules_to_save = {"tail"}}),
      "attach: modules_to_save names \"tail\", expected one of the layers blocks.0, blocks.1, q_proj, head");
  check_refused<lora::NameError>(
      net, attach({}, {.modules = {"head", "shift"}}),
      "attach: modules names \"shift\", expected one of the layers blocks.0, blocks.1, q_proj, head");
  check_refused<lora::NameError>(net, attach({}, {}, ""),
                                 "attach: the adapter name \"\" is not allowed, expected text without a dot");
  check_refused<lora::NameError>(net, attach({}, {}, "a.b"),
                                 "attach: the adapter name \"a.b\" is not allowed, expected text without a dot");
  CHECK(lora::count_parameters(net).trainable == lora::count_parameters(net).total);

  lora::Parameter<double> alone(lora::Matrix<double>::Ones(2, 2));
  CHECK_THROWS_AS(lora::attach(alone, {}, rng), lora::NameError);
  CHECK_THROWS_WITH(lora::attach(alone, {}, rng), "attach: the model has no layer that takes adapters");
  CHECK(alone.trainable);

  // A scale that only the factors of fc2 cannot take is found before fc1 gets its trained copy.
  lora::Mlp<Linear<float>> mlp({3, 4, 2}, rng);
  const auto position = rng.position();
  CHECK_THROWS_AS(lora::attach(mlp, {.rank = 1, .alpha = 1e39}, {.modules = {"fc2"}, .modules_to_save = {"fc1"}}, rng),
                  lora::ConfigError);
  CHECK_FALSE(mlp.layers()[0].frozen());
  CHECK(rng.position() == position);
}

TEST_CASE("A model may be one layer, and layers may be attached to one by one") {
  lora::Rng rng(6);
  Linear<double> layer({.in = 3, .out = 2}, rng);
  lora::attach(layer, {.rank = 1}, rng);
  CHECK(trained_names(layer) == Names{"adapters.default.A", "adapters.default.B"});

  Net net(rng);
  net.head.attach("mine", {.rank = 1}, rng);
  CHECK_FALSE(net.q_proj.frozen());
  CHECK(trained_names(net) == Names{"blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias",
                                    "q_proj.weight", "shift", "head.adapters.mine.A", "head.adapters.mine.B"});
}

TEST_CASE("The gradients of an adapted network, factors, copies and frozen layers mixed") {
  lora::Rng rng(7);
  lora::Mlp<Linear<double>, lora::Tanh> net({3, 5, 4, 4, 2}, rng);
  lora::attach(net, {.rank = 2, .alpha = 3, .scaling = lora::Scaling::alpha_over_sqrt_rank, .bias = lora::Bias::all},
               {.modules = {"fc1", "fc3"}, .modules_to_save = {"fc4"}}, rng);
  lora::testing::fill_parameters(net, rng, 0.5);
  const auto x = random_matrix(3, 4, rng);
  const auto results = lora::testing::check_gradients(net, x);
  CHECK(results.size() == 10);  // fc1: A, B, bias; fc2: bias; fc3: A, B, bias; fc4: weight, bias; x
  for (const auto& result : results) check(result);
}
