#include "lora/adapters/residual_lora.hpp"

#include "adapters/residual_layer.hpp"
#include "lora/model/shapes.hpp"
#include "lora/nn/linear.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace {

using lora::Frozen;
using lora::Index;
using lora::Lora;
using lora::ResidualLora;
using lora::Scaling;
using lora::testing::random_matrix;
using lora_test::check;
using lora_test::exact_weight;
using lora_test::generic_pair;
using lora_test::make;
using lora_test::Shape;

template <class S, int Out = lora::Dynamic, int In = lora::Dynamic, int Rank = lora::Dynamic>
using Layer = lora::Adapted<Frozen<S, Out, In>, ResidualLora<S, Out, In, Rank>>;

template <class E>
std::string message(auto&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("offset lora: dropout is that of the residual base: the constant pair sees x, the trained one M .* x") {
  lora::Rng rng(4);
  auto layer = make<Layer<double>>({6, 5}, {.rank = 2, .alpha = 3, .dropout = 0.4}, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto& own = layer.adapter();
  const auto x = random_matrix(5, 9, rng), dy = random_matrix(6, 9, rng);
  const lora::Pass pass{.training = true, .seed = 8, .step = 2};
  Eigen::MatrixXd mask(5, 9);
  lora::DropoutMask(0.4, own.trained.dropout.stream, pass).fill(mask, 0);
  REQUIRE((mask.array() == 0).any());

  const Eigen::MatrixXd residual = lora::dense(layer.base()) - 1.5 * own.B0() * own.A0();
  const Eigen::MatrixXd BA = own.trained.B.value * own.trained.A.value;
  Layer<double>::Cache cache;
  Eigen::MatrixXd expected = residual * x + 1.5 * BA * mask.cwiseProduct(x);
  expected.colwise() += *layer.bias();
  CHECK((layer.forward(x, cache, pass) - expected).norm() <= 1e-13);
  const Eigen::MatrixXd dx = residual.transpose() * dy + 1.5 * mask.cwiseProduct(BA.transpose() * dy);
  CHECK((layer.backward(x, dy, cache) - dx).norm() <= 1e-13);
  CHECK(cache.kept.adapter.bytes() == 2 * 2 * 9 * 8);  // z of both pairs alone: no mask
}

TEMPLATE_TEST_CASE("offset lora: the ordinary adapter of twice the rank is the same", "", float, double) {
  using S = TestType;
  for (const Scaling scaling : {Scaling::alpha_over_rank, Scaling::alpha_over_sqrt_rank}) {
    for (const Index rank : {1, 3, 7}) {
      CAPTURE(rank, scaling == Scaling::alpha_over_rank);
      lora::Rng rng(5);
      auto layer = make<Layer<S>>({9, 8}, {.rank = rank, .alpha = 0.7, .dropout = 0.25, .scaling = scaling}, rng);
      lora::testing::fill_parameters(layer, rng);
      const ResidualLora<S>& offset = layer.adapter();
      const Lora<S> plain = offset.to_lora();
      CHECK(plain.rank() == 2 * rank);
      CHECK(plain.scaling == scaling);
      CHECK(plain.dropout.probability == 0.25);
      CHECK(plain.dropout.stream == offset.trained.dropout.stream);
      CHECK(plain.A.value.topRows(rank) == offset.trained.A.value);
      CHECK(plain.A.value.bottomRows(rank) == offset.A0());
      CHECK(plain.B.value.leftCols(rank) == offset.trained.B.value);
      CHECK(plain.B.value.rightCols(rank) == -offset.B0());
      if (scaling == Scaling::alpha_over_rank) {
        CHECK(plain.alpha == 1.4);
        CHECK(plain.scale() == offset.scale());
      } else {
        CHECK(plain.alpha == Approx(0.7 * std::sqrt(2.0)).epsilon(1e-15));
        CHECK(std::abs(plain.scale() - offset.scale()) <= std::numeric_limits<S>::epsilon() * offset.scale());
      }
      const lora_test::AdaptedLora<S> ordinary(layer.base(), plain);
      const auto exact = exact_weight(layer);
      check(lora::testing::check_merged_weight(ordinary, exact, 2));
      check(lora::testing::check_merged_weight(layer, exact, 2));
    }
  }
}

TEST_CASE("offset lora: a pair trained since, of another rank than its start") {
  lora::Rng rng(6);
  const auto now = generic_pair<Lora<double>>({5, 4}, {.rank = 3, .alpha = 6}, rng);
  const auto start = generic_pair<Lora<double>>({5, 4}, {.rank = 1, .alpha = 100, .dropout = 0.9}, rng);
  const ResidualLora<double> offset(now, start);
  const Layer<double> layer(random_matrix(5, 4, rng), offset);
  check(lora::testing::check_merged_weight(layer, exact_weight(layer)));
  const lora_test::AdaptedLora<double> plain(layer.base(), offset.to_lora());
  CHECK(plain.adapter().rank() == 4);
  CHECK(plain.adapter().alpha == 8);
  check(lora::testing::check_merged_weight(plain, exact_weight(layer)));
}

TEST_CASE("offset lora: A0 and B0 are listed and counted, and nothing trains them") {
  lora::Rng rng(7);
  lora::Linear<double> layer({.in = 4, .out = 5}, rng);
  layer.attach("start", ResidualLora<double>(generic_pair<Lora<double>>({5, 4}, {.rank = 2}, rng)));
  CHECK(lora::tensor_names(layer) == std::vector<std::string>{"weight", "bias", "adapters.start.A", "adapters.start.B",
                                                              "adapters.start.A0", "adapters.start.B0"});
  const auto count = lora::count_parameters(layer);
  CHECK(count.trainable == 2 * (4 + 5));
  CHECK(count.total == 4 * 5 + 5 + 4 * (4 + 5));
  lora::unfreeze(layer);
  CHECK(lora::count_parameters(layer).trainable == count.trainable);

  const auto account = lora::account({lora::layer_shape(layer)}, 10);
  CHECK(account.current.parameters.total == count.total);
  CHECK(account.current.parameters.trainable == count.trainable);
  CHECK(account.current.flops.forward == 2 * 10 * (4 * 5 + 4 * (4 + 5)));
  CHECK(account.current.flops.backward == 2 * 10 * (4 * 5 + 4 * (4 + 5)) + 2 * 10 * 2 * (4 + 5));
  layer.select_none();
  CHECK(lora::account({lora::layer_shape(layer)}, 10).current.parameters.total == count.total);

  layer.select("start");
  auto& own = layer.adapter("start").as<ResidualLora<double>>();
  const Eigen::MatrixXd A0 = own.A0(), B0 = own.B0();
  lora::Linear<double>::Cache cache;
  const auto x = random_matrix(4, 3, rng);
  layer.forward(x, cache);
  layer.backward(x, random_matrix(5, 3, rng), cache);
  lora::visit_parameters(layer, [](const lora::Path& path, auto& parameter) {
    if (path.in_adapter()) CHECK(parameter.grad.norm() > 0);
    parameter.value -= parameter.gradient();
  });
  CHECK(own.A0() == A0);
  CHECK(own.B0() == B0);
  CHECK(own.trained.A.value != A0);
}

TEST_CASE("offset lora: beside other adapters of one layer") {
  lora::Rng rng(8);
  lora::Linear<double> layer({.in = 6, .out = 5}, rng);
  const auto x = random_matrix(6, 7, rng), dy = random_matrix(5, 7, rng);
  layer.attach("plain", generic_pair<Lora<double>>({5, 6}, {.rank = 3}, rng));
  layer.attach("start", ResidualLora<double>(generic_pair<Lora<double>>({5, 6}, {.rank = 2, .alpha = 3}, rng)));
  lora::testing::fill_parameters(layer, rng);
  check(lora::testing::check_switch(layer, "start", "plain", x));

  const auto delta_of = [&](const char* name) {
    layer.select(name);
    return layer.delta();
  };
  const Eigen::MatrixXd wanted = layer.dense() + 0.5 * delta_of("plain") - 2 * delta_of("start");
  for (const bool plain_first : {true, false}) {
    plain_first ? layer.select_sum({{"plain", 0.5}, {"start", -2}}) : layer.select_sum({{"start", -2}, {"plain", 0.5}});
    CHECK((layer.merged() - wanted).norm() <= 1e-14 * wanted.norm());
    lora::Linear<double>::Cache cache;
    Eigen::MatrixXd expected = wanted * x;
    expected.colwise() += *layer.bias();
    CHECK((layer.forward(x, cache) - expected).norm() <= 1e-13 * expected.norm());
    CHECK((layer.backward(x, dy, cache) - wanted.transpose() * dy).norm() <= 1e-13 * expected.norm());
    check(lora::testing::check_gradients(layer, x));
  }
  layer.select_sum({{"start", 0}});
  CHECK(layer.merged() == layer.dense());
}

TEST_CASE("offset lora: what it refuses, and how it says so") {
  lora::Rng rng(9);
  const auto pair = generic_pair<Lora<double>>({5, 4}, {.rank = 2}, rng);
  const auto wide = generic_pair<Lora<double>>({5, 3}, {.rank = 2}, rng);
  const auto tall = generic_pair<Lora<double>>({6, 4}, {.rank = 2}, rng);
  auto torn = pair;
  torn.A.value.conservativeResize(1, 4);
  CHECK(message<lora::ShapeError>([&] { ResidualLora<double>{torn}; }) ==
        "ResidualLora: B has 2 columns, expected the rank of A = 1");
  CHECK(message<lora::ShapeError>([&] { ResidualLora<double>(pair, torn); }) ==
        "ResidualLora: B0 has 2 columns, expected the rank of A0 = 1");
  CHECK(message<lora::ShapeError>([&] { ResidualLora<double>(pair, wide); }) ==
        "ResidualLora: A0 has 3 columns, expected the columns of A = 4");
  CHECK(message<lora::ShapeError>([&] { ResidualLora<double>(pair, tall); }) ==
        "ResidualLora: B0 has 6 rows, expected the rows of B = 5");

  lora::Linear<double> layer({.in = 4, .out = 5}, rng);
  CHECK(message<lora::ShapeError>([&] { layer.attach("start", ResidualLora<double>(wide)); }) ==
        "Linear::attach: A has 3 columns, expected in_features = 4");
  CHECK(message<lora::ShapeError>([&] { layer.attach("start", ResidualLora<double>(tall)); }) ==
        "Linear::attach: B has 6 rows, expected out_features = 5");
  CHECK_FALSE(layer.frozen());
  ResidualLora<double> big(pair);
  big.trained.alpha = 1e300;
  layer.attach("big", std::move(big));
  CHECK(message<lora::ConfigError>([&] { layer.select_sum({{"big", 1e10}}); }) ==
        "select_sum: the weight of adapter \"big\" is 1e+10, expected a finite number, also times the "
        "adapter's scale");
}
