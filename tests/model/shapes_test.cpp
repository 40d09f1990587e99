#include "lora/model/shapes.hpp"

#include "lora/model/attach.hpp"
#include "lora/model/report.hpp"
#include "lora/nn/lora_linear.hpp"
#include "lora/nn/mlp.hpp"
#include "support/catch.hpp"

#include <optional>
#include <string>
#include <vector>

namespace {

const lora::LoraConfig rank2{.rank = 2, .alpha = 4};

void check_counts(const auto& model) {
  const auto counted = lora::count_parameters(model);
  const auto accounted = lora::account(lora::shapes_of(model), 3).current.parameters;
  CHECK(accounted.trainable == counted.trainable);
  CHECK(accounted.total == counted.total);
}

struct Model {
  lora::Mlp<lora::Linear<float>> body;
  std::vector<lora::Linear<float>> heads;
  lora::LoraLinear<float> side;
  lora::LoraLinear<float, 3, 4, 2> fixed;
  lora::Parameter<float> embedding{lora::Matrix<float>::Zero(11, 5)};
  lora::Matrix<float> positions = lora::Matrix<float>::Zero(5, 6);
  std::optional<lora::Linear<float>> none;

  explicit Model(lora::Rng& rng)
      : body({5, 8, 6}, rng),
        side(lora::Matrix<float>::Ones(4, 6).eval(), lora::Vector<float>::Ones(4), {.rank = 2, .bias = lora::Bias::all},
             rng),
        fixed(lora::Matrix<float>::Ones(3, 4).eval(), rank2, rng) {
    heads.emplace_back(lora::LinearShape{.in = 6, .out = 3}, rng);
    heads.emplace_back(lora::LinearShape{.in = 6, .out = 2, .bias = false}, rng);
  }

  static void visit(auto& self, auto&& f) {
    f("body", self.body);
    f("heads", self.heads);
    f("side", self.side);
    f("fixed", self.fixed);
    f("embedding", self.embedding);
    f("positions", self.positions);
    f("none", self.none);
  }
};

}  // namespace

TEST_CASE("A model's shapes are found by walking it") {
  lora::Rng rng(3);
  Model model(rng);
  std::string names;
  for (const auto& shape : lora::shapes_of(model)) names += shape.name + " ";
  CHECK(names == "body.fc1 body.fc2 heads.0 heads.1 side fixed embedding positions ");

  const auto shapes = lora::shapes_of(model);
  CHECK((shapes[0].out == 8 && shapes[0].in == 5 && shapes[0].bias && shapes[0].trained && shapes[0].trained_bias));
  CHECK_FALSE(shapes[3].bias);
  CHECK((shapes[4].rank == 2 && shapes[4].bias && !shapes[4].trained_bias && shapes[4].extra == 4));
  CHECK((shapes[6].out == 11 && shapes[6].in == 5 && !shapes[6].product && shapes[6].trained));
  CHECK((!shapes[7].product && !shapes[7].trained));

  SECTION("trained in full") { check_counts(model); }
  SECTION("frozen") {
    lora::freeze(model);
    check_counts(model);
    CHECK(lora::account(lora::shapes_of(model), 3).current.flops.backward == 0);
  }
  SECTION("one adapter") {
    lora::attach(model, rank2, rng, "more");
    check_counts(model);
  }
  SECTION("factors here, a trained copy there, biases everywhere") {
    lora::attach(model, {.rank = 3, .bias = lora::Bias::all},
                 {.modules = {"fc1"}, .modules_to_save = {"heads.0", "heads.1"}}, rng, "first");
    check_counts(model);
    CHECK(lora::shapes_of(model)[2].trained);
    CHECK(lora::shapes_of(model)[2].idle == 18);
    lora::attach(model, rank2, rng, "second");
    check_counts(model);
    lora::select_none(model);
    check_counts(model);
    lora::select(model, "first");
    check_counts(model);
    // Full fine-tuning is of the model without adapters, whatever is attached.
    CHECK(lora::account(lora::shapes_of(model), 3).full.parameters.total ==
          8 * 5 + 8 + 6 * 8 + 6 + 21 + 12 + 28 + 12 + 55 + 30);
  }
  SECTION("a frozen factor, and an adapter switched off") {
    model.side.adapter("default").as<lora::Lora<float>>().A.trainable = false;
    check_counts(model);
    model.side.select_none();
    check_counts(model);
    model.fixed.enable(false);
    check_counts(model);
  }
  SECTION("a weight frozen by hand") {
    lora::freeze(model.body.layers()[0]);
    check_counts(model);
  }
}

TEST_CASE("A layer alone is a model") {
  lora::Rng rng(4);
  lora::LoraLinear<double> layer(Eigen::MatrixXd::Ones(5, 3).eval(), rank2, rng);
  const auto shapes = lora::shapes_of(layer);
  REQUIRE(shapes.size() == 1);
  CHECK(shapes[0].name.empty());
  CHECK(shapes[0].bytes_per_number == 8);
  CHECK(lora::trainable_parameters(layer) == "trainable params: 16 || all params: 31 || trainable%: 51.6129");
}

namespace own {

/// A convolution of width 1: a layer of somebody else's that counts as a linear one.
struct Pointwise {
  lora::Parameter<float> kernel{lora::Matrix<float>::Zero(4, 3)};
  static void visit(auto& self, auto&& f) { f("kernel", self.kernel); }
};
lora::LayerShape layer_shape(const Pointwise&) { return {.out = 4, .in = 3, .trained = true}; }

}  // namespace own

TEST_CASE("A layer of one's own joins by a function beside it") {
  const own::Pointwise layer;
  const auto account = lora::account(lora::shapes_of(layer), 10);
  CHECK(account.current.flops.forward == 2 * 10 * 12);
  CHECK(account.current.parameters.total == 12);
}
