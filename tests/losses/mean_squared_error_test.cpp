#include "lora/losses/mean_squared_error.hpp"

#include "lora/testing/dual.hpp"
#include "lora/testing/generic.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"

#include "support/heap.hpp"

#include <cmath>
#include <utility>
#include <vector>

template float lora::mean_squared_error(const Eigen::MatrixBase<Eigen::MatrixXf>&,
                                        const Eigen::MatrixBase<Eigen::MatrixXf>&, Eigen::MatrixXf*,
                                        const lora::LossOptions&);
template double lora::mean_squared_error(const Eigen::MatrixBase<Eigen::MatrixXd>&,
                                         const Eigen::MatrixBase<Eigen::MatrixXd>&, Eigen::Map<Eigen::MatrixXd>*,
                                         const lora::LossOptions&);

namespace {

using Eigen::MatrixXd;
using lora::mean_squared_error;

/// The input of reference.py.
MatrixXd reference_prediction() {
  return MatrixXd::NullaryExpr(
      3, 4, [](Eigen::Index i, Eigen::Index j) { return static_cast<double>((4 * i + 7 * j) % 9 - 4) / 3; });
}
MatrixXd reference_target() {
  return MatrixXd::NullaryExpr(
      3, 4, [](Eigen::Index i, Eigen::Index j) { return static_cast<double>((2 * i + 5 * j) % 7 - 3) / 3; });
}

}  // namespace

TEST_CASE("mean_squared_error: loss and derivative are PyTorch's") {
  const MatrixXd y = reference_prediction();
  const MatrixXd t = reference_target();
  MatrixXd dy;
  const double loss = mean_squared_error(y, t, &dy);
  CHECK(std::abs(loss - reference::squared_error_loss) <= 1e-15);
  CHECK(mean_squared_error(y, t) == loss);
  const Eigen::Map<const MatrixXd> expected(reference::squared_error_gradient.data(), 3, 4);
  CHECK((dy - expected).cwiseAbs().maxCoeff() <= 1e-16);
}

TEST_CASE("mean_squared_error: the derivative is that of the loss, by dual numbers") {
  using lora::testing::Dual;
  const MatrixXd y = reference_prediction();
  const lora::Matrix<Dual> t = reference_target().cast<Dual>();
  MatrixXd dy;
  mean_squared_error(y, reference_target(), &dy);
  lora::Matrix<Dual> dual = y.cast<Dual>();
  for (Eigen::Index k = 0; k < y.size(); ++k) {
    dual(k).derivative = 1;
    CHECK(std::abs(mean_squared_error(dual, t).derivative - dy(k)) <= 1e-16);
    dual(k).derivative = 0;
  }
}

TEST_CASE("mean_squared_error: in place of the prediction or the target, and into a block") {
  const MatrixXd y = reference_prediction();
  const MatrixXd t = reference_target();
  MatrixXd expected;
  const double loss = mean_squared_error(y, t, &expected);

  MatrixXd over_prediction = y;
  CHECK(mean_squared_error(over_prediction, t, &over_prediction) == loss);
  CHECK(over_prediction == expected);
  MatrixXd over_target = t;
  CHECK(mean_squared_error(y, over_target, &over_target) == loss);
  CHECK(over_target == expected);
  MatrixXd memory = MatrixXd::Constant(5, 6, 7.0);
  auto block = memory.block(1, 1, 3, 4);
  CHECK(mean_squared_error(y, t, &block) == loss);
  CHECK(block == expected);

  // the given matrices in blocks, and row by row in memory
  MatrixXd large = MatrixXd::Constant(7, 8, 5.0);
  large.block(2, 3, 3, 4) = y;
  const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> by_rows = t;
  MatrixXd dy;
  CHECK(mean_squared_error(large.block(2, 3, 3, 4), by_rows, &dy) == Approx(loss).epsilon(1e-15));
  CHECK(dy == expected);
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> dy_by_rows;
  CHECK(mean_squared_error(y, t, &dy_by_rows) == loss);
  CHECK(dy_by_rows == expected);
}

TEST_CASE("mean_squared_error: a sum of many floats keeps float's precision") {
  const Eigen::MatrixXf y = Eigen::MatrixXf::Constant(100, 10000, 0.3f);
  const Eigen::MatrixXf t = Eigen::MatrixXf::Zero(100, 10000);
  const auto expected = static_cast<float>(static_cast<double>(0.3f) * static_cast<double>(0.3f));
  CHECK(mean_squared_error(y, t) == expected);
}

TEST_CASE("mean_squared_error: bad input is named, and nothing is written") {
  const MatrixXd y = reference_prediction();
  MatrixXd dy = MatrixXd::Constant(2, 2, 7.0);
  CHECK_THROWS_AS(mean_squared_error(y, MatrixXd(2, 4), &dy), lora::ShapeError);
  CHECK_THROWS_WITH(mean_squared_error(y, MatrixXd(2, 4), &dy),
                    "mean_squared_error: target has 2 rows, expected rows of the prediction = 3");
  CHECK_THROWS_WITH(mean_squared_error(y, MatrixXd(3, 5), &dy),
                    "mean_squared_error: target has 5 columns, expected samples = 4");
  CHECK_THROWS_AS(mean_squared_error(MatrixXd(3, 0), MatrixXd(3, 0), &dy), lora::ValueError);
  auto view = dy.block(0, 0, 2, 2);
  CHECK_THROWS_AS(mean_squared_error(y, y, &view), lora::ShapeError);
  CHECK(dy == MatrixXd::Constant(2, 2, 7.0));
}

TEST_CASE("mean_squared_error: nothing is allocated once the derivative has its size") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  const MatrixXd y = reference_prediction();
  const MatrixXd t = reference_target();
  MatrixXd dy;
  const auto call = [&] { mean_squared_error(y, t, &dy); };
  CHECK(lora_test::heap_allocations_in(call) == 1);
  CHECK(lora_test::heap_allocations_in(call) == 0);
}

TEST_CASE("mean_squared_error: weights per sample make a sum of the samples' own losses") {
  lora::Rng rng(3);
  const auto y = lora::testing::random_matrix(4, 5, rng), t = lora::testing::random_matrix(4, 5, rng);
  const std::vector<double> weights{0.5, 0, 2, -1, 0.25};
  Eigen::MatrixXd dy, own;
  double expected = 0;
  const double loss = lora::mean_squared_error(y, t, &dy, {.weights = weights});
  for (int j = 0; j < 5; ++j) {
    expected += weights[static_cast<std::size_t>(j)] * lora::mean_squared_error(y.col(j), t.col(j), &own);
    CHECK((dy.col(j) - weights[static_cast<std::size_t>(j)] * own).norm() <= 1e-15);
  }
  CHECK(std::abs(loss - expected) <= 1e-14);
  CHECK(lora::mean_squared_error(y, t, nullptr, {.weights = weights}) == loss);
  const std::vector<double> three(3, 1.0), bad{1, 1, std::nan(""), 1, 1};
  CHECK_THROWS_WITH(lora::mean_squared_error(y, t, &dy, {.weights = three}),
                    "mean_squared_error: 3 weights given, expected one per sample = 5");
  CHECK_THROWS_WITH(lora::mean_squared_error(y, t, &dy, {.weights = bad}),
                    "mean_squared_error: the weight of sample 2 is nan, expected a finite number");
}

TEST_CASE("field, awkward: micro-batches of unequal size add up to the squared error of the whole") {
  const MatrixXd y = reference_prediction(), t = reference_target();
  MatrixXd whole, part;
  const double loss = mean_squared_error(y, t, &whole);
  const auto all = static_cast<double>(y.cols());
  CHECK(mean_squared_error(y, t, &part, {.normalizer = all}) == loss);
  CHECK(part == whole);
  const std::vector<double> ones(4, 1.0);
  CHECK(std::abs(mean_squared_error(y, t, nullptr, {.weights = ones, .normalizer = all}) - loss) <= 1e-15);
  double sum = 0;
  for (const auto& [first, count] : {std::pair(0, 1), std::pair(1, 3)}) {
    sum += mean_squared_error(y.middleCols(first, count), t.middleCols(first, count), &part, {.normalizer = all});
    CHECK((part - whole.middleCols(first, count)).cwiseAbs().maxCoeff() <= 1e-16);
  }
  CHECK(std::abs(sum - loss) <= 1e-15);
  CHECK_THROWS_AS(mean_squared_error(y, t, &part, {.normalizer = 0}), lora::ConfigError);
  CHECK_THROWS_WITH(mean_squared_error(y, t, &part, {.normalizer = -2}),
                    "mean_squared_error: normalizer is -2, expected a finite number above 0");
}

TEST_CASE("mean_squared_error: a sample of weight 0 does not count, whatever is in it") {
  MatrixXd y = reference_prediction(), dy;
  const MatrixXd t = reference_target();
  const std::vector<double> weights = {1, 0, 0.5, 2};
  const double loss = mean_squared_error(y, t, nullptr, {.weights = weights});
  y.col(1).setConstant(std::nan(""));
  CHECK(mean_squared_error(y, t, &dy, {.weights = weights}) == loss);
  CHECK((dy.col(1).array() == 0).all());
  CHECK(dy.allFinite());
}
