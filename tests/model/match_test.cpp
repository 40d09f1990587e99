#include "lora/model/match.hpp"

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "lora/model/attach.hpp"
#include "lora/nn/linear.hpp"
#include "support/catch.hpp"

using lora::Linear;
using Role = lora::ModuleMatch::Role;

namespace {

using Names = std::vector<std::string>;

Linear<double> layer(lora::Rng& rng) { return Linear<double>({.in = 3, .out = 3}, rng); }

struct Attention {
  Linear<double> q_proj, k_proj, v_proj;
  explicit Attention(lora::Rng& rng) : q_proj(layer(rng)), k_proj(layer(rng)), v_proj(layer(rng)) {}
  static void visit(auto& self, auto&& f) {
    f("q_proj", self.q_proj);
    f("k_proj", self.k_proj);
    f("v_proj", self.v_proj);
  }
};

struct Block {
  Attention self_attn;
  std::vector<Linear<double>> mlp;
  explicit Block(lora::Rng& rng) : self_attn(rng), mlp{layer(rng), layer(rng)} {}
  static void visit(auto& self, auto&& f) {
    f("self_attn", self.self_attn);
    f("mlp", self.mlp);
  }
};

struct Body {
  std::vector<Block> layers;
  static void visit(auto& self, auto&& f) { f("layers", self.layers); }
};

struct Head {
  Linear<double> dense, out;
  lora::Parameter<double, lora::Dynamic, 1> temperature{lora::Vector<double>::Ones(1)};
  bool has_temperature = false;
  static void visit(auto& self, auto&& f) {
    f("dense", self.dense);
    f("out", self.out);
    if (self.has_temperature) f("temperature", self.temperature);
  }
};

/// Names as in the models of the transformers package.
struct Model {
  Body model;
  Head head;
  explicit Model(lora::Rng& rng) : model{{Block(rng), Block(rng), Block(rng)}}, head{layer(rng), layer(rng)} {}
  static void visit(auto& self, auto&& f) {
    f("model", self.model);
    f("head", self.head);
  }
};

/// Two parts under one name.
struct Twice {
  Linear<double> a, b;
  static void visit(auto& self, auto&& f) {
    f("fc", self.a);
    f("fc", self.b);
  }
};

Names paths(const Model& model, const lora::LoraConfig& config, const lora::Targets& targets = {},
            Role role = Role::adapter) {
  Names found;
  for (const auto& match : lora::match_modules(model, config, targets)) {
    if (match.role == role) found.push_back(match.path);
  }
  return found;
}

const lora::ModuleMatch& at(const std::vector<lora::ModuleMatch>& matches, const std::string& path) {
  for (const auto& match : matches) {
    if (match.path == path) return match;
  }
  throw std::runtime_error("no layer " + path);
}

}  // namespace

TEST_CASE("Targets are a list of names, a pattern, or all") {
  lora::Rng rng(1);
  const Model model(rng);
  CHECK(paths(model, {}).size() == 17);
  CHECK(paths(model, {}, {.modules = "all-linear"}).size() == 17);
  CHECK(paths(model, {}, {.modules = "All-Linear"}).size() == 17);
  CHECK(paths(model, {}, {.modules = {"q_proj", "head.out"}}) == Names{"model.layers.0.self_attn.q_proj",
                                                                       "model.layers.1.self_attn.q_proj",
                                                                       "model.layers.2.self_attn.q_proj", "head.out"});
  CHECK(paths(model, {}, {.modules = "model\\.layers\\.[02]\\..*[qk]_proj"}) ==
        Names{"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.2.self_attn.q_proj",
              "model.layers.2.self_attn.k_proj"});
  CHECK_THROWS_AS(paths(model, {}, {.modules = "q_proj"}), lora::NameError);  // a pattern is for the whole name
  const Names names{"out"};
  CHECK(paths(model, {}, {.modules = names}) == Names{"head.out"});
}

TEST_CASE("Excluded layers win over targets, and layers trained in full over both") {
  lora::Rng rng(2);
  const Model model(rng);
  const lora::LoraConfig config;
  const lora::Targets targets{.modules = "all-linear", .exclude = ".*mlp.*", .modules_to_save = {"head"}};
  CHECK(paths(model, config, targets).size() == 9);
  CHECK(paths(model, config, targets, Role::full) == Names{"head.dense", "head.out"});
  CHECK(paths(model, config, targets, Role::nothing).size() == 6);
  CHECK(paths(model, {}, {.exclude = {"q_proj", "head.out"}}).size() == 13);
  CHECK(paths(model, {}, {.modules = {"out"}, .exclude = {"out"}}).empty());
  CHECK(paths(model, {}, {.modules = {"head.out"}, .exclude = {"out"}}).empty());
  CHECK(paths(model, {}, {.exclude = {"out"}, .modules_to_save = {"out"}}, Role::full) == Names{"head.out"});
  CHECK(paths(model, {.bias = lora::Bias::all}, {.modules = {"out"}}, Role::bias).size() == 16);
}

TEST_CASE("Blocks are picked by their number") {
  lora::Rng rng(3);
  const Model model(rng);
  const Names first{"model.layers.1.self_attn.v_proj"};
  CHECK(paths(model, {}, {.modules = {"v_proj"}, .blocks = {1}}) == first);
  CHECK(paths(model, {}, {.modules = {"v_proj"}, .blocks = {1}, .block_names = {"layers"}}) == first);
  CHECK(paths(model, {}, {.modules = {"v_proj"}, .blocks = {1}, .block_names = {"h", "lay.rs"}}) == first);
  CHECK(paths(model, {}, {.modules = {"v_proj"}, .blocks = {0, 2}}).size() == 2);
  // The mlp's own number is its name's end, not a block's.
  CHECK(paths(model, {}, {.modules = {"mlp.0"}, .blocks = {2}}) == Names{"model.layers.2.mlp.0"});
  // A layer named in full is meant, whatever its number.
  CHECK(paths(model, {}, {.modules = {"model.layers.0.mlp.1", "k_proj"}, .blocks = {2}}) ==
        Names{"model.layers.0.mlp.1", "model.layers.2.self_attn.k_proj"});
}

TEST_CASE("A block, or a name of modules, that has no effect is refused") {
  lora::Rng rng(3);
  const Model model(rng);
  const auto refused = [&](const lora::Targets& targets) -> std::string {
    try {
      lora::match_modules(model, lora::LoraConfig(), targets);
    } catch (const lora::NameError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(
      refused({.modules = {"v_proj"}, .blocks = {0, 2, 7}}) ==
      "match_modules: blocks has 7, a block without a layer that modules matches by its end, expected some of 0, 1, 2");
  CHECK(refused({.modules = {"v_proj"}, .blocks = {1}, .block_names = {"h"}}) ==
        "match_modules: blocks has 1, a block without a layer that modules matches by its end; no block has one");
  CHECK_THAT(refused({.modules = {"model.layers.0.mlp.1"}, .blocks = {2}}), lora_test::contains("blocks has 2"));
  CHECK(refused({.modules = {"v_proj", "out"}, .blocks = {1}}) ==
        "match_modules: modules has \"out\", which gives no layer an adapter; head.out, for example: blocks needs a "
        "block's number in its name");
  CHECK(refused({.modules = {"v_proj", "out"}, .modules_to_save = {"head.out"}}) ==
        "match_modules: modules has \"out\", which gives no layer an adapter; head.out, for example: modules_to_save "
        "has \"head.out\"");
  // What is meant for several layers, and what is excluded by name, may leave some out.
  CHECK(refused({.modules = {"dense", "0"}, .exclude = {"dense"}, .blocks = {1}}).empty());
  CHECK(refused({.modules = {"q_proj"}, .modules_to_save = {"layers.0.self_attn.q_proj"}}).empty());
  CHECK(refused({.modules = "all-linear", .modules_to_save = {"out"}}).empty());
}

TEST_CASE("The first number in a name counts, but not in the first two segments") {
  // what Python's re.match(r".*?\.[^.]*\.(\d+)\.", name) captures
  const auto number = [](const char* path) { return lora::detail::BlockNumber({}, "test").of(path).value_or(-1); };
  CHECK(number("transformer.h.3.attn.c_attn") == 3);
  CHECK(number("a.h.3.b.5.c") == 3);
  CHECK(number("a.h.3.b.5") == 3);
  CHECK(number("h.3.attn") == -1);
  CHECK(number("h.3.b.5.c") == 5);
  CHECK(number("3.attn") == -1);
  CHECK(number("a.1.2.x") == 2);
  CHECK(number("a.b.x3.c") == -1);
  CHECK(number("a.b.3") == -1);
  CHECK(number("") == -1);
  // and re.match(r"(?:^|.*?\.)h\.(\d+)\.", name)
  const auto in_h = [](const char* path) { return lora::detail::BlockNumber({"h"}, "test").of(path).value_or(-1); };
  CHECK(in_h("a.h.3.b.5.c") == 3);
  CHECK(in_h("a.b.3.h.5.c") == 5);
  CHECK(in_h("a.xh.3.b") == -1);
  CHECK(in_h("h.3.b") == 3);
}

TEST_CASE("modules_to_save spares layers from adapters that differ from its names at a dot, as in PEFT") {
  lora::detail::ModelPaths model;
  for (const char* path : {"v.wo.3", "v.wo_3", "v.wo4"}) model.layers.push_back({path, false});
  const auto matches = lora::detail::match_modules(model, lora::LoraConfig(), {.modules_to_save = {"v.wo.3"}}, "attach",
                                                   lora::detail::TargetWords());
  CHECK(at(matches, "v.wo.3").role == Role::full);
  CHECK(at(matches, "v.wo_3").role == Role::nothing);
  CHECK(at(matches, "v.wo_3").reason == "modules_to_save has \"v.wo.3\", in which PEFT takes a dot for any character");
  CHECK(at(matches, "v.wo4").role == Role::adapter);
}

TEST_CASE("Ranks and alphas of their own: the first pattern that matches") {
  lora::Rng rng(4);
  Model model(rng);
  const lora::LoraConfig config{.rank = 4,
                                .alpha = 8,
                                .rank_pattern = {{"layers\\.1\\..*", 2}, {"q_proj", 3}, {"head.out", 1}},
                                .alpha_pattern = {{"out", 0.5}}};
  const lora::Targets targets{.modules = {"q_proj", "out", "dense"}};
  const auto matches = lora::match_modules(model, config, targets);
  CHECK(at(matches, "model.layers.0.self_attn.q_proj").rank == 3);
  CHECK(at(matches, "model.layers.1.self_attn.q_proj").rank == 2);
  CHECK(at(matches, "head.out").rank == 1);
  CHECK(at(matches, "head.dense").rank == 4);
  CHECK(at(matches, "head.out").alpha == 0.5);
  CHECK(at(matches, "head.dense").alpha == 8);

  lora::attach(model, config, targets, rng);
  const auto& factors = model.head.out.adapters().at("default").as<lora::Lora<double>>();
  CHECK(factors.rank() == 1);
  CHECK(factors.alpha == 0.5);
  CHECK(model.model.layers[1].self_attn.q_proj.adapters().at("default").as<lora::Lora<double>>().rank() == 2);
}

TEST_CASE("The reason for every layer") {
  lora::Rng rng(5);
  const Model model(rng);
  const auto matches = lora::match_modules(
      model, {.bias = lora::Bias::all},
      {.modules = {"q_proj", "v_proj", "dense"}, .exclude = {"head.dense"}, .blocks = {1}, .modules_to_save = {"out"}});
  const auto why = [&](const std::string& path) { return at(matches, path).reason; };
  CHECK(why("model.layers.1.self_attn.v_proj") == "modules has \"v_proj\"");
  CHECK(why("model.layers.0.self_attn.v_proj") == "bias is all, and blocks does not have 0");
  CHECK(why("model.layers.1.self_attn.k_proj") == "bias is all, and modules does not have it");
  CHECK(why("head.dense") == "bias is all, and exclude has \"head.dense\"");
  CHECK(why("head.out") == "modules_to_save has \"out\"");
  CHECK(at(lora::match_modules(model, {}), "head.out").reason == "modules is empty: all layers");
  CHECK(at(lora::match_modules(model, {}, {.modules = ".*out"}), "head.out").reason == "modules is \".*out\"");
}

TEST_CASE("Contradictions, and names and patterns that match nothing, are refused") {
  lora::Rng rng(6);
  Model model(rng);
  const auto refused = [&](const lora::LoraConfig& config, const lora::Targets& targets = {}) -> std::string {
    const Names before = lora::tensor_names(model);
    const auto position = rng.position();
    std::string message;
    try {
      lora::attach(model, config, targets, rng);
    } catch (const lora::Error& error) {
      message = error.what();
    }
    CHECK(lora::tensor_names(model) == before);
    CHECK(rng.position() == position);
    return message;
  };
  CHECK(refused({}, {.modules = ".*", .blocks = {1}}) ==
        "attach: blocks (layers_to_transform) goes with a list of modules, not with a pattern");
  CHECK(refused({}, {.block_names = {"h"}}) ==
        "attach: block_names (layers_pattern) is given without blocks (layers_to_transform)");
  CHECK(refused({}, {.blocks = {1}, .block_names = {"h|layers"}}) ==
        "attach: block_names (layers_pattern) has \"h|layers\", expected (h|layers), or several names");
  CHECK(refused({}, {.modules = "(a"}) == "attach: the pattern \"(a\" has an unmatched opening bracket");
  CHECK(refused({.rank_pattern = {{"a)(b", 2}}}) == "attach: the pattern \"a)(b\" has an unmatched closing bracket");
  CHECK(refused({.rank_pattern = {{"fc9", 2}}}) ==
        "attach: rank_pattern has \"fc9\", which matches no layer that receives an adapter");
  CHECK(refused({.alpha_pattern = {{"out", 2}}}, {.modules_to_save = {"out"}}) ==
        "attach: alpha_pattern has \"out\", which matches no layer that receives an adapter");
  CHECK(refused({.rank_pattern = {{"out", 0}}}) == "attach::head.out: rank is 0, expected at least 1");
  CHECK(refused({.rank_pattern = {{"out", lora::Index(1) << 60}}}) ==
        "attach::head.out: rank is 1152921504606846976 for a layer of 3 x 3, expected factors that memory can hold");
  CHECK(refused({.rank = lora::Index(1) << 40}) ==
        "attach::model.layers.0.self_attn.q_proj: rank is 1099511627776 for a layer of 3 x 3, expected factors that "
        "memory can hold");
  // F4: one name, written as a string, is a pattern for whole names
  CHECK_THAT(
      refused({}, {.modules = "out"}),
      lora_test::contains("attach: modules is the pattern \"out\", which is not the whole name of any of the layers") &&
          lora_test::contains("head.out") && lora_test::contains("a list, {\"out\"}, has ends of names"));
  CHECK_THAT(refused({}, {.exclude = "fc9.*"}), lora_test::contains("attach: exclude is the pattern \"fc9.*\""));
  CHECK_THAT(refused({}, {.exclude = ".*"}), lora_test::contains("attach: the targets match no layer of the model"));
  CHECK(refused({}, {.exclude = {"fc9"}}).find("attach: exclude names \"fc9\", expected one of the layers") == 0);
  CHECK(refused({}, {.modules_to_save = {"heads"}})
            .find("attach: modules_to_save names \"heads\", expected one of the layers") == 0);

  model.head.has_temperature = true;
  CHECK(refused({}, {.modules_to_save = {"head"}}) ==
        "attach: modules_to_save names \"head\", but the parameter head.temperature belongs to no layer that takes "
        "adapters");
  CHECK_NOTHROW(lora::attach(model, {}, {.modules = {"out"}}, rng));
}

TEST_CASE("Two layers of one name are refused") {
  lora::Rng rng(7);
  Twice twice{layer(rng), layer(rng)};
  CHECK_THROWS_AS(lora::attach(twice, {}, rng), lora::NameError);
  CHECK_THROWS_WITH(lora::attach(twice, {}, rng), "attach: two layers of the model are called \"fc\"");
}

TEST_CASE("F5: all patterns of a config have a bound together, not only each of them") {
  // Costly, but less than what a single pattern may cost.
  const std::string costly = "(?:(?=(?:(?=(?:(?=(?:a*)*x|)a)*y|)a)*z|)a)*";
  const lora::Pattern pattern(costly, "test");
  std::string name;
  std::size_t cost = 0;
  try {
    for (;;) {
      std::size_t left = 20'000'000;
      static_cast<void>(pattern.matches(name, left));
      cost = 20'000'000 - left;
      name += "aaaa";
    }
  } catch (const lora::ConfigError&) {
    name.resize(name.size() - 4);
  }
  REQUIRE(cost > 5'000'000);
  lora::detail::ModelPaths model;
  for (int k = 0; k < 2000; ++k) model.layers.push_back({"layers." + std::to_string(k) + "." + name, false});
  const auto soon_refused = [&](const lora::LoraConfig& config, const lora::Targets& targets) {
    CHECK_THROWS_WITH(lora::detail::match_modules(model, config, targets, "attach", lora::detail::TargetWords()),
                      lora_test::contains("takes too long to decide"));
  };
  soon_refused({}, {.modules = ".*\\." + costly + "b|.*"});
  soon_refused({.rank_pattern = {{costly + "b", 2}}}, {});
  const std::vector<lora::detail::ModelPaths::Layer> layers = model.layers;
  for (std::size_t k = 0; k < layers.size(); ++k) model.layers[k].path = "m." + name + "." + std::to_string(k) + ".q";
  soon_refused({}, {.modules = {"q"}, .blocks = {1}, .block_names = {"(" + costly + "b|layers)"}});
  model.layers = layers;

  // Plain names, of which a config may have many, cost none of it; and there they match as patterns do.
  lora::LoraConfig config;
  for (int k = 0; k < 2000; ++k) config.rank_pattern.emplace_back("layers." + std::to_string(k) + "." + name, k + 1);
  const auto matches =
      lora::detail::match_modules(model, config, lora::Targets(), "attach", lora::detail::TargetWords());
  CHECK((matches.at(0).rank == 1 && matches.at(1999).rank == 2000));
  for (const auto& [key, path, found] :
       {std::tuple("q", "a.q", true), std::tuple("q", "q", true), std::tuple("q", "aq", false),
        std::tuple("a.q", "axq", true), std::tuple("a.q", "b.axq", true), std::tuple("a.q", "a\u00fcq", true),
        std::tuple("a.q", "aq", false), std::tuple(".q", "aq", true), std::tuple(".q", "\u00fcq", true),
        std::tuple(".q", "q", false), std::tuple("", "a", false), std::tuple("q", "a\n.q", false),
        std::tuple("^a.q$", "axq", true), std::tuple("^a.q$", "b.axq", false), std::tuple("a\\.q", "b.a.q", true),
        std::tuple("a\\.q", "b.axq", false), std::tuple("^a\\.q", "a.q", true), std::tuple("q\\$", "q", false)}) {
    INFO(key << " and " << path);
    lora::detail::PatternTable table;
    table.add(key, "test");
    CHECK(table.matches(0, path) == found);
    CHECK(lora::Pattern("(?:.*\\.)?(?:" + std::string(key) + ")", "test").matches(path) == found);
  }
}

TEST_CASE("A list of very many names takes no longer than the layers have names for") {
  std::vector<std::string> names;
  for (int k = 0; k < 100'000; ++k) names.push_back("nothing." + std::to_string(k));
  names.push_back("q");
  lora::detail::ModelPaths model;
  for (int k = 0; k < 2000; ++k) model.layers.push_back({"layers." + std::to_string(k) + ".q", false});
  const lora::detail::ModuleMatcher matcher("modules", names, "test");
  for (const auto& layer : model.layers) CHECK(matcher.reason(layer.path) == "modules has \"q\"");
  CHECK(lora::detail::ModuleMatcher("modules", {"a.q", "q", "q"}, "test").reason("b.a.q") == "modules has \"a.q\"");
  CHECK(matcher.has_whole("q"));
  CHECK_FALSE(matcher.has_whole("layers.1.q"));
}
