#include "lora/nn/pooling.hpp"

#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"

#include <vector>

using lora::Index;
using lora::Matrix;
using lora::Sequences;
using lora::testing::random_matrix;

namespace {

/// The derivative of sum(dy .* f(x)), by central differences.
Matrix<double> by_differences(Matrix<double> x, const Matrix<double>& dy, auto&& f) {
  Matrix<double> dx(x.rows(), x.cols());
  for (Index k = 0; k < x.size(); ++k) {
    const double at = x.data()[k], h = 1e-6;
    x.data()[k] = at + h;
    const double above = f(x).cwiseProduct(dy).sum();
    x.data()[k] = at - h;
    dx.data()[k] = (above - f(x).cwiseProduct(dy).sum()) / (2 * h);
    x.data()[k] = at;
  }
  return dx;
}

}  // namespace

TEST_CASE("pooling: means and lengths by hand") {
  const Sequences sequences({2, 1});
  Matrix<double> x(2, 3);
  x << 1, 3, 3,  //
      2, 6, 4;
  Matrix<double> y(2, 2);
  lora::mean_pool<double>(x, sequences, y);
  CHECK((y.col(0) == Eigen::Vector2d(2, 4) && y.col(1) == Eigen::Vector2d(3, 4)));
  lora::normalize<double>(y, y);
  CHECK((y.col(1) - Eigen::Vector2d(0.6, 0.8)).norm() <= 1e-16);
  Matrix<double> zero = Matrix<double>::Zero(2, 1);
  lora::normalize<double>(zero, zero);
  CHECK(zero.isZero(0));
  std::vector<Index> first;
  lora::first_columns(Sequences({2, 1, 4}), first);
  CHECK(first == std::vector<Index>{0, 2, 3});
}

TEST_CASE("pooling: backward is the derivative of forward") {
  lora::Rng rng(1);
  const Sequences sequences({3, 1, 4});
  const auto x = random_matrix(5, 8, rng), dy = random_matrix(5, 3, rng);
  Matrix<double> dx(5, 8);
  lora::mean_pool_backward<double>(sequences, dy, dx);
  const Matrix<double> expected = by_differences(x, dy, [&](const Matrix<double>& in) {
    Matrix<double> y(5, 3);
    lora::mean_pool<double>(in, sequences, y);
    return y;
  });
  CHECK((dx - expected).norm() <= 1e-8 * expected.norm());

  const auto direction = random_matrix(5, 8, rng);
  lora::normalize_backward<double>(x, direction, dx);
  const Matrix<double> slope = by_differences(x, direction, [&](const Matrix<double>& in) {
    Matrix<double> y(5, 8);
    lora::normalize<double>(in, y);
    return y;
  });
  CHECK((dx - slope).norm() <= 1e-8 * slope.norm());
}

TEST_CASE("pooling: sizes that do not fit are refused") {
  Matrix<double> x(5, 8), y(5, 2);
  CHECK_THROWS_WITH(lora::mean_pool<double>(x, Sequences({3, 4}), y),
                    "mean_pool: x has 8 columns, expected the columns of the sequences = 7");
  CHECK_THROWS_WITH(lora::mean_pool<double>(x, Sequences({3, 4, 1}), y),
                    "mean_pool: y has 2 columns, expected the sequences = 3");
}
