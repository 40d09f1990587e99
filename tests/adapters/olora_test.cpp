#include "lora/adapters/olora.hpp"

#include "lora/nn/lora_linear.hpp"
#include "lora/testing/generic.hpp"
#include "support/catch.hpp"
#include "support/svd.hpp"

#include <cmath>
#include <limits>
#include <string>

namespace {

using lora::Index;
using lora::LoraConfig;
using lora::ResidualLora;
using lora::testing::random_matrix;

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

TEST_CASE("olora: four by three, by hand") {
  // W0 = Q R with Q = the signs below / 2 and R = (2 4 6; 0 3 5; 0 0 1)
  Eigen::Matrix<double, 4, 3> Q;
  Q << 1, 1, 1, 1, -1, 1, 1, 1, -1, 1, -1, -1;
  Q /= 2;
  Eigen::Matrix3d R;
  R << 2, 4, 6, 0, 3, 5, 0, 0, 1;
  const Eigen::MatrixXd W0 = Q * R;
  lora::Rng rng(1);
  const auto adapter = lora::olora(W0, {.rank = 2, .alpha = 8}, rng);
  for (Index k = 0; k < 2; ++k) {
    const double sign = adapter.B0()(0, k) > 0 ? 1 : -1;
    CHECK((sign * adapter.B0().col(k) - Q.col(k)).norm() <= 1e-15);
    CHECK((sign * adapter.A0().row(k) - R.row(k)).norm() <= 1e-14);
  }
  CHECK(adapter.A0()(1, 0) == 0);
  CHECK(adapter.trained.A.value == adapter.A0());
  CHECK(adapter.trained.B.value == adapter.B0());
  // the scale does not enter the factors: the residual base is W0 - 4 Q_2 R_2, as in PEFT
  const auto other = lora::olora(W0, {.rank = 2, .alpha = 3}, rng);
  CHECK(other.A0() == adapter.A0());
  CHECK(other.B0() == adapter.B0());
  lora::Adapted<lora::Dense<double>, ResidualLora<double>> layer(W0, adapter);
  layer.adapter().trained.B.value.setZero();  // what is left is the residual base
  CHECK((layer.merged() - (W0 - 4 * Q.leftCols(2) * R.topRows(2))).norm() <= 1e-13);
}

TEMPLATE_TEST_CASE("olora: starts as the projection onto the first columns, and changes nothing", "", float, double) {
  using S = TestType;
  const double epsilon = static_cast<double>(std::numeric_limits<S>::epsilon());
  lora::Rng rng(2);
  const lora::RowMajorMatrix<S> wide = random_matrix<S>(9, 14, rng);
  for (const Index rank : {1, 4, 9}) {
    const auto W0 = wide.middleCols(2, 11);
    const LoraConfig config{.rank = rank, .alpha = static_cast<double>(rank), .dropout = 0.2};
    lora::Rng same = rng;
    const auto adapter = lora::olora(W0, config, rng);
    CHECK(adapter.trained.dropout.stream == lora::Lora<S>(9, 11, config, same).dropout.stream);
    CHECK(adapter.trained.dropout.probability == 0.2);
    const Eigen::MatrixXd exact = W0.template cast<double>();
    const Eigen::MatrixXd start = adapter.B0().template cast<double>() * adapter.A0().template cast<double>();
    CHECK((start - exact).leftCols(rank).norm() <= 8 * epsilon * exact.norm());
    CHECK((start.transpose() * (exact - start)).norm() <= 8 * epsilon * exact.squaredNorm());
    if (rank == 9) CHECK((start - exact).norm() <= 8 * epsilon * exact.norm());
    // a pair that is still its start changes nothing: residual_lora_test.cpp
    CHECK(adapter.trained.A.value == adapter.A0());
    CHECK(adapter.trained.B.value == adapter.B0());
  }
}

TEST_CASE("olora: what it refuses, and how it says so") {
  lora::Rng rng(3);
  lora::Rng untouched = rng;
  Eigen::MatrixXd W0 = Eigen::MatrixXd::Ones(4, 3);
  const auto refuses = [&](const LoraConfig& config) {
    return message<lora::ConfigError>([&] { lora::olora(W0, config, rng); });
  };
  CHECK(refuses({.rank = 4}) == "olora: rank is 4, expected 1 to 3");
  CHECK(refuses({.rank = 0}) == "olora: rank is 0, expected at least 1");
  const std::string why =
      ", expected a scale above 0: with 0 the factors would never be trained, below 0 B A would take away the part of "
      "W0 that it starts from";
  CHECK(refuses({.rank = 2, .alpha = 0}) == "olora: alpha is 0" + why);
  CHECK(refuses({.rank = 2, .alpha = -2}) == "olora: alpha is -2" + why);
  CHECK(message<lora::ShapeError>([&] { lora::olora(Eigen::MatrixXd(3, 0), {.rank = 1}, rng); }) ==
        "olora: W0 is empty (3 x 0), expected at least 1 x 1");
  W0(1, 2) = std::numeric_limits<double>::infinity();
  CHECK(message<lora::ValueError>([&] { lora::olora(W0, {.rank = 2}, rng); }) ==
        "olora: W0(1, 2) is inf, expected a finite number");
  CHECK(rng() == untouched());
}
