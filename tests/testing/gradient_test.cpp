#include "lora/testing/gradient.hpp"

#include "lora/adapters/lora.hpp"
#include "lora/base/dense.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "support/catch.hpp"

#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace {

using lora::Index;
using lora::testing::check_gradients;
using lora::testing::check_taylor;
using lora::testing::LawResult;
using lora::testing::random_matrix;

/// y = (w .* x)^2, with a derivative that can be scaled wrongly.
struct Square {
  lora::Parameter<double> w{Eigen::MatrixXd::Ones(3, 1)};
  double factor = 2;

  struct Cache {};
  Eigen::MatrixXd forward(const Eigen::MatrixXd& x, Cache&) const {
    return (w.value.asDiagonal() * x).array().square().matrix();
  }
  Eigen::MatrixXd backward(const Eigen::MatrixXd& x, const Eigen::MatrixXd& dy, Cache&) {
    const Eigen::MatrixXd inner = factor * dy.cwiseProduct(w.value.asDiagonal() * x);
    w.gradient() += inner.cwiseProduct(x).rowwise().sum();
    return w.value.asDiagonal() * inner;
  }
  static void visit(auto& self, auto&& f) { f("w", self.w); }
};

/// A layer without parameters, a listing or a template Cache.
struct Negate {
  struct Cache {};
  Eigen::MatrixXd forward(const Eigen::MatrixXd& x, Cache&) const { return -x; }
  Eigen::MatrixXd backward(const Eigen::MatrixXd&, const Eigen::MatrixXd& dy, Cache&) const { return -dy; }
};

Square generic() {
  Square layer;
  lora::Rng rng(1);
  lora::testing::fill_parameters(layer, rng);
  return layer;
}

Eigen::MatrixXd input() {
  lora::Rng rng(2);
  return random_matrix(3, 4, rng);
}

}  // namespace

TEST_CASE("gradient: each tensor is reported by its name, x last, and values are left as they were") {
  Square layer = generic();
  const Eigen::MatrixXd before = layer.w.value;
  const auto results = check_gradients(layer, input());
  REQUIRE(results.size() == 2);
  CHECK(results[0].law == "gradient of w");
  CHECK(results[1].law == "gradient of x");
  CHECK(lora::testing::all_passed(results));
  CHECK(results[0].bound == 1e-7);
  CHECK(results[0].error > 0);
  CHECK(layer.w.value == before);
  CHECK(check_taylor(layer, input()).passed);
  CHECK(layer.w.value == before);
}

TEST_CASE("gradient: a derivative that is off by a millionth is caught, and says where") {
  Square layer = generic();
  layer.factor = 2 * (1 + 1e-6);
  for (const LawResult& result : check_gradients(layer, input())) {
    CHECK_FALSE(result.passed);
    CHECK(result.error > 0.5e-6);
    CHECK(result.error < 1.5e-6);
    CHECK_THAT(result.detail, lora_test::contains("worst at ("));
    CHECK_THAT(result.detail, lora_test::contains("analytic"));
  }
}

TEST_CASE("gradient: the Taylor remainder of a wrong derivative falls too slowly") {
  Square layer = generic();
  layer.factor = 2.1;
  const LawResult result = check_taylor(layer, input());
  CHECK_FALSE(result.passed);
  CHECK(result.error > 0.9);  // of order 1 instead of 2
}

TEST_CASE("gradient: a gradient that is missing, absent or not a number is caught") {
  Square layer = generic();
  layer.factor = 0;  // all gradients are zero
  CHECK_FALSE(check_gradients(layer, input())[0].passed);
  CHECK_FALSE(check_gradients(layer, input())[1].passed);
  layer.factor = std::numeric_limits<double>::quiet_NaN();
  CHECK_FALSE(check_gradients(layer, input())[0].passed);
  CHECK_FALSE(check_gradients(layer, input())[1].passed);
  CHECK_FALSE(check_taylor(layer, input()).passed);
}

TEST_CASE("A10: a gradient that is zero throughout is not kept, and says that nothing was checked") {
  Square layer = generic();
  layer.w.value.setZero();  // dw = 2 w x^2 dy and dx = 2 w^2 x dy are zero, whatever backward does
  layer.factor = 17;
  for (const LawResult& result : check_gradients(layer, input(), {.step = 0x1p-20})) {
    CHECK(result.vacuous);
    CHECK_FALSE(result.passed);
  }
  std::ostringstream out;
  out << check_gradients(layer, input(), {.step = 0x1p-20})[0];
  CHECK(out.str() ==
        "NOTHING CHECKED: gradient of w: the gradient is zero throughout, nothing was checked: give every parameter a "
        "generic value (fill_parameters)");
  CHECK(check_taylor(layer, input()).vacuous);
  CHECK_FALSE(lora::testing::all_passed(check_gradients(layer, input())));
  for (const LawResult& result : check_gradients(layer, input(), {.step = 0x1p-20, .allow_zero = true})) {
    CHECK(result.passed);
    CHECK_FALSE(result.vacuous);
  }
  // zero by one way alone is a wrong gradient, not a vacuous law
  layer = generic();
  layer.factor = 0;
  CHECK_FALSE(check_gradients(layer, input())[0].vacuous);
  CHECK_FALSE(check_gradients(layer, input())[0].passed);
}

TEST_CASE("A10: so do a fresh adapter's laws, whose B is 0") {
  lora::Rng rng(5);
  const lora::Dense<double> base(random_matrix(4, 3, rng));
  lora::Adapted<lora::Dense<double>, lora::Lora<double>> layer(base, {.rank = 2}, rng);
  const auto results = check_gradients(layer, input());
  REQUIRE(results.size() == 3);
  CHECK(results[0].law == "gradient of adapter.A");
  CHECK(results[0].vacuous);
  CHECK(results[1].passed);
  CHECK(results[2].passed);
  const auto vacuous = [](const lora::testing::LawResults& laws) {
    std::vector<std::string> names;
    for (const LawResult& result : laws) {
      if (result.vacuous) names.push_back(result.law);
    }
    return names;
  };
  CHECK(vacuous(lora::testing::adapter_laws(layer, input())) ==
        std::vector<std::string>{"merge: output", "accumulates: adapter.A"});
  CHECK(lora::testing::check_sum(layer, layer, input()).vacuous);
  lora::testing::fill_parameters(layer, rng);
  CHECK(vacuous(check_gradients(layer, input())).empty());
  CHECK(vacuous(lora::testing::adapter_laws(layer, input())).empty());
  CHECK_FALSE(lora::testing::check_sum(layer, layer, input()).vacuous);
}

TEST_CASE("gradient: what is not trained is not compared, and a layer may have no listing") {
  Square layer = generic();
  layer.w.trainable = false;
  CHECK(check_gradients(layer, input()).size() == 1);
  Negate negate;
  const auto results = check_gradients(negate, input());
  REQUIRE(results.size() == 1);
  CHECK(results[0].passed);
  CHECK(check_taylor(negate, input()).passed);
}

TEST_CASE("gradient: a whole model is checked through two functions") {
  std::vector<Square> model = {generic(), generic()};
  std::vector<Eigen::MatrixXd> kept;
  const auto forward = [&](std::vector<Square>& layers, const Eigen::MatrixXd& x) {
    Square::Cache none;
    kept = {x};
    for (Square& layer : layers) kept.push_back(layer.forward(kept.back(), none));
    return kept.back();
  };
  const auto backward = [&](std::vector<Square>& layers, const Eigen::MatrixXd&, const Eigen::MatrixXd& dy) {
    Square::Cache none;
    Eigen::MatrixXd gradient = dy;
    for (std::size_t k = layers.size(); k-- > 0;) gradient = layers[k].backward(kept[k], gradient, none);
    return gradient;
  };
  const auto results = check_gradients(model, input(), forward, backward);
  REQUIRE(results.size() == 3);
  CHECK(results[1].law == "gradient of 1.w");
  CHECK(lora::testing::all_passed(results));
}

TEST_CASE("law: a result prints whether it was kept, by how much and where") {
  std::ostringstream out;
  out << lora::testing::judge("merge", 0.5, 1) << '\n' << lora::testing::judge("off", 2, 1, "first at (0, 0)");
  CHECK(out.str() == "kept:   merge (error 0.5, bound 1)\nBROKEN: off (error 2, bound 1): first at (0, 0)");
  CHECK_FALSE(lora::testing::judge("nan", std::numeric_limits<double>::quiet_NaN(), 1).passed);
  CHECK_FALSE(lora::testing::all_passed({}));
}

TEST_CASE("law: the same bits tell zero from minus zero, and sizes apart") {
  Eigen::MatrixXd a = Eigen::MatrixXd::Zero(2, 2), b = a;
  CHECK(lora::testing::same_bits("law", a, b).passed);
  b(1, 0) = -0.0;
  const LawResult result = lora::testing::same_bits("law", a, b);
  CHECK_FALSE(result.passed);
  CHECK(result.error == 1);
  CHECK(result.detail == "first at (1, 0): 0, expected -0");
  CHECK_FALSE(lora::testing::same_bits("law", a, Eigen::MatrixXd::Zero(2, 3)).passed);
}
