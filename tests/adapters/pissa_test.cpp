#include "lora/adapters/pissa.hpp"

#include "lora/adapters/adapted.hpp"
#include "lora/losses/mean_squared_error.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/sgd.hpp"
#include "lora/testing/generic.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"
#include "support/svd.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <variant>
#include <vector>

namespace {

using lora::Index;
using lora::LoraConfig;
using lora::ResidualLora;
using lora::Scaling;
using lora::testing::random_matrix;

/// Of decompositions, relative to the norm of what was decomposed.
template <class S>
constexpr double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;
template <class S>
constexpr double epsilon = static_cast<double>(std::numeric_limits<S>::epsilon());

template <class E>
std::string message(auto&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

/// s B A of the trained pair, in double.
template <class S>
Eigen::MatrixXd product(const ResidualLora<S>& adapter) {
  return static_cast<double>(adapter.scale()) * adapter.trained.B.value.template cast<double>() *
         adapter.trained.A.value.template cast<double>();
}

}  // namespace

TEST_CASE("pissa: four by three, by hand") {
  // W0 = 36 u1 v1^T + 9 u2 v2^T + 6 u3 v3^T with v1 = (1, 2, 2)/3, v2 = (2, 1, -2)/3, v3 = (2, -2, 1)/3
  Eigen::Matrix<double, 4, 3> W0, principal;
  W0 << 11, 11.5, 10, 5, 8.5, 16, 7, 15.5, 8, 1, 12.5, 14;
  principal << 9, 13.5, 9, 3, 10.5, 15, 9, 13.5, 9, 3, 10.5, 15;
  Eigen::Matrix<double, 4, 2> B;  // 3 u1, 1.5 u2: sqrt(36 / 4) = 3, sqrt(9 / 4) = 1.5
  B << 1.5, 0.75, 1.5, -0.75, 1.5, 0.75, 1.5, -0.75;
  Eigen::Matrix<double, 2, 3> A;
  A << 1, 2, 2, 1, 0.5, -1;
  lora::Rng rng(1);
  for (const LoraConfig& config :
       {LoraConfig{.rank = 2, .alpha = 8},
        LoraConfig{.rank = 2, .alpha = 4 * std::sqrt(2), .scaling = Scaling::alpha_over_sqrt_rank}}) {
    const auto adapter = lora::pissa(W0, config, rng);
    CHECK(adapter.scale() == Approx(4).epsilon(1e-15));
    CHECK((product(adapter) - principal).norm() <= 1e-13);
    for (Index k = 0; k < 2; ++k) {
      const double sign = adapter.trained.A.value(k, 0) > 0 ? 1 : -1;
      CHECK((sign * adapter.trained.A.value.row(k) - A.row(k)).norm() <= 1e-14);
      CHECK((sign * adapter.trained.B.value.col(k) - B.col(k)).norm() <= 1e-14);
    }
    CHECK(adapter.A0() == adapter.trained.A.value);
    CHECK(adapter.B0() == adapter.trained.B.value);
    CHECK(adapter.trained.alpha == config.alpha);
    CHECK(adapter.trained.scaling == config.scaling);
  }
}

TEMPLATE_TEST_CASE("pissa: starts as the nearest matrix of its rank, with factors of equal size", "", float, double) {
  using S = TestType;
  lora::Rng rng(2);
  for (const auto& [out, in, rank] : std::vector<std::tuple<Index, Index, Index>>{
           {1, 1, 1}, {9, 1, 1}, {1, 9, 1}, {12, 7, 3}, {7, 12, 7}, {40, 30, 8}}) {
    for (const Scaling scaling : {Scaling::alpha_over_rank, Scaling::alpha_over_sqrt_rank}) {
      CAPTURE(out, in, rank, scaling == Scaling::alpha_over_rank);
      const lora::RowMajorMatrix<S> W0 = random_matrix<S>(out, in + 2, rng);
      const auto block = W0.middleCols(1, in);
      const LoraConfig config{.rank = rank, .alpha = 5, .dropout = 0.1, .scaling = scaling};
      lora::Rng same = rng;
      const ResidualLora<S> adapter = lora::pissa(block, config, rng);
      const lora::Lora<S> plain(out, in, config, same);
      CHECK(adapter.trained.dropout.stream == plain.dropout.stream);
      CHECK(rng() == same());  // as many random numbers as a new Lora
      CHECK(adapter.trained.dropout.probability == 0.1);

      const Eigen::MatrixXd exact = block.template cast<double>();
      const auto best = lora::truncated_svd(exact, {.rank = rank});
      const double rounding = tolerance<S> * exact.norm();
      CHECK((product(adapter) - best.matrix()).norm() <= rounding);
      CHECK(std::abs((exact - product(adapter)).norm() - best.certificate.frobenius_error) <= rounding);
      const Eigen::MatrixXd BtB = (adapter.B0().transpose() * adapter.B0()).template cast<double>();
      const Eigen::MatrixXd AAt = (adapter.A0() * adapter.A0().transpose()).template cast<double>();
      CHECK((BtB - AAt).norm() <= tolerance<S> * AAt.norm());

      lora::Linear<S> layer{lora::Matrix<S>(block)};
      const auto x = random_matrix<S>(in, 5, rng);
      const lora::Matrix<S> before = layer(x);
      layer.attach("pissa", adapter);
      CHECK(layer.dense() == block);
      CHECK((layer(x) - before).template cast<double>().norm() <=
            2 * std::sqrt(static_cast<double>(in + rank)) * epsilon<S> *
                (exact.cwiseAbs() * x.cwiseAbs().template cast<double>()).norm() * 3);
    }
  }
}

TEST_CASE("pissa: any start is exact, also a randomized one, which is nearly the best") {
  lora::Rng rng(3);
  const auto W0 = random_matrix(60, 50, rng);
  const auto adapter = lora::pissa(W0, {.rank = 4}, rng, {.method = lora::SvdMethod::randomized, .seed = 1});
  const double best = lora::truncated_svd(W0, {.rank = 4}).certificate.frobenius_error;
  const double found = (W0 - product(adapter)).norm();
  CHECK(found > best);
  CHECK(found <= 1.02 * best);
  const lora::Adapted<lora::Dense<double>, ResidualLora<double>> layer(W0, adapter);
  const auto x = random_matrix(50, 5, rng);
  CHECK((layer(x) - W0 * x).norm() <= 1e-13 * (W0 * x).norm());
}

TEST_CASE("pissa: trains as on the residual base, number for number, and leaves W0 alone") {
  lora::Rng rng(4);
  const Index out = 6, in = 8, samples = 40;
  const auto W0 = random_matrix(out, in, rng), x = random_matrix(in, samples, rng);
  const Eigen::MatrixXd target = (W0 + 0.3 * random_matrix(out, in, rng)) * x;
  for (const Scaling scaling : {Scaling::alpha_over_rank, Scaling::alpha_over_sqrt_rank}) {
    const LoraConfig config{.rank = 3, .alpha = 6, .scaling = scaling};
    lora::Linear<double> layer(W0);
    layer.attach("pissa", lora::pissa(layer.dense(), config, rng));
    const lora::AnyBase<double> held = layer.base();
    const auto& own = layer.adapter("pissa").as<ResidualLora<double>>();
    const Eigen::MatrixXd A0 = own.A0(), B0 = own.B0();
    // the same by hand: W0 is overwritten with what the factors do not hold
    lora_test::AdaptedLora<double> residual(W0 - product(own), own.trained);

    const auto loss_of = [&](auto& model, auto& cache) {
      Eigen::MatrixXd dy;
      const double loss = lora::mean_squared_error(model.forward(x, cache), target, &dy);
      lora::zero_gradients(model);
      model.backward(x, dy, cache, lora::no_gradient);
      return loss;
    };
    lora::Linear<double>::Cache cache;
    lora_test::AdaptedLora<double>::Cache residual_cache;
    lora::Sgd<double> optimizer({.lr = 0.01, .momentum = 0.5}), residual_optimizer(optimizer.config());
    double first = 0, last = 0;
    for (int step = 0; step < 200; ++step) {
      last = loss_of(layer, cache);
      if (step == 0) first = last;
      CHECK(last == Approx(loss_of(residual, residual_cache)).epsilon(1e-9));
      optimizer.step(layer);
      residual_optimizer.step(residual);
    }
    CHECK(last < 0.7 * first);
    CHECK((own.trained.A.value - residual.adapter().A.value).norm() <= 1e-10 * A0.norm());
    CHECK((own.trained.B.value - residual.adapter().B.value).norm() <= 1e-10 * B0.norm());
    CHECK((own.trained.A.value - A0).norm() > 0.01 * A0.norm());
    CHECK(own.A0() == A0);
    CHECK(own.B0() == B0);
    CHECK(layer.base().shares_with(held));
    CHECK(layer.dense() == W0);
    const lora_test::AdaptedLora<double> ordinary(W0, own.to_lora());
    CHECK((ordinary.merged() - residual.merged()).norm() <= 1e-10 * W0.norm());
    CHECK((layer.merged() - ordinary.merged()).norm() <= 1e-14 * W0.norm());
    layer.select_none();
    CHECK(layer.merged() == W0);
  }
}

TEST_CASE("pissa: for every layer of a model, by its listing") {
  lora::Rng rng(5);
  lora::Mlp<lora::Linear<double>> net({6, 9, 4}, rng);
  const auto x = random_matrix(6, 7, rng);
  const Eigen::MatrixXd before = net(x);
  lora::visit_adaptable(net, [&](const lora::Path&, auto& layer) {
    layer.attach("pissa", lora::pissa(layer.dense(), {.rank = 3, .alpha = 6}, rng));
  });
  CHECK((net(x) - before).norm() <= 1e-13 * before.norm());
  CHECK(lora::count_parameters(net).trainable == 3 * (6 + 9) + 3 * (9 + 4));
  lora::select_none(net);
  CHECK(net(x) == before);
}

TEST_CASE("pissa: of a matrix of lower rank, the directions beyond start at zero") {
  lora::Rng rng(6);
  const Eigen::MatrixXd W0 = random_matrix(7, 2, rng) * random_matrix(2, 5, rng);
  const auto adapter = lora::pissa(W0, {.rank = 4}, rng);
  CHECK((product(adapter) - W0).norm() <= 1e-14 * W0.norm());
  CHECK(adapter.B0().rightCols(2).norm() <= 1e-7 * adapter.B0().norm());  // square roots of rounding
  CHECK(adapter.A0().bottomRows(2).norm() <= 1e-7 * adapter.A0().norm());
}

TEST_CASE("pissa: what it refuses, and how it says so") {
  lora::Rng rng(7);
  Eigen::MatrixXd W0 = random_matrix(4, 3, rng);
  lora::Rng untouched = rng;
  const auto refuses = [&](const LoraConfig& config, const lora::SvdOptions& options = {}) {
    return message<lora::ConfigError>([&] { lora::pissa(W0, config, rng, options); });
  };
  CHECK(refuses({.rank = 4}) == "pissa: rank is 4, expected 1 to 3");
  CHECK(refuses({.rank = 0}) == "pissa: rank is 0, expected at least 1");
  const std::string why =
      ", expected a scale above 0: with 0 the factors would never be trained, below 0 B A would take away the part of "
      "W0 that it starts from";
  CHECK(refuses({.rank = 2, .alpha = 0}) == "pissa: alpha is 0" + why);
  CHECK(refuses({.rank = 2, .alpha = -1}) == "pissa: alpha is -1" + why);
  CHECK(message<lora::ConfigError>([&] { lora::pissa(W0.cast<float>(), {.rank = 2, .alpha = 1e-60}, rng); }) ==
        "pissa: alpha is 1e-60" + why);
  CHECK(refuses({.rank = 2, .alpha = std::nan("")}) == "pissa: alpha is nan, expected a finite number");
  CHECK(refuses({.rank = 2, .dropout = 1}) == "pissa: dropout is 1, expected 0 <= dropout < 1");
  CHECK(refuses({.rank = 2}, {.energy = 0.5}) ==
        "pissa: options ask for a rank, energy or error, expected none: config.rank is the rank");
  CHECK(refuses({.rank = 2}, {.oversampling = -1}) == "pissa: oversampling is -1, expected 0 or more");
  CHECK(message<lora::ShapeError>([&] { lora::pissa(Eigen::MatrixXd(0, 3), {.rank = 1}, rng); }) ==
        "pissa: W0 is empty (0 x 3), expected at least 1 x 1");
  CHECK(message<lora::ValueError>([&] { lora::pissa(Eigen::MatrixXd::Zero(4, 3), {.rank = 1}, rng); }) ==
        "pissa: W0 is zero, expected a part to start from: two zero factors are never trained");
  CHECK_THROWS_WITH(lora::pissa(Eigen::MatrixXf::Constant(2, 2, 1e38F), {.rank = 1, .alpha = 1e-40}, rng),
                    lora_test::contains("pissa: the factors overflow: the largest singular value of W0 is "));
  W0(2, 1) = std::nan("");
  CHECK(message<lora::ValueError>([&] { lora::pissa(W0, {.rank = 2}, rng); }) ==
        "pissa: W0(2, 1) is nan, expected a finite number");
  W0(2, 1) = std::numeric_limits<double>::infinity();
  CHECK(message<lora::ValueError>([&] { lora::pissa(W0, {.rank = 2}, rng); }) ==
        "pissa: W0(2, 1) is inf, expected a finite number");
  CHECK(rng() == untouched());
}
