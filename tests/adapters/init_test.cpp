#include "lora/adapters/init.hpp"

#include "support/catch.hpp"

#include <cmath>

namespace {

using lora::Index;
using lora::Init;
using lora::Rng;

Eigen::MatrixXd initialized(Init init, Index rank, Index in, std::uint64_t seed) {
  Rng rng(seed);
  Eigen::MatrixXd A(rank, in);
  lora::initialize_a(A, init, rng);
  return A;
}

}  // namespace

TEST_CASE("init: gaussian has mean 0 and standard deviation 1/rank") {
  const auto A = initialized(Init::gaussian, 8, 4000, 1);
  const double n = static_cast<double>(A.size());
  const double deviation = std::sqrt(A.squaredNorm() / n);
  CHECK(std::abs(A.mean()) < 3 * 0.125 / std::sqrt(n));
  CHECK(std::abs(deviation / 0.125 - 1) < 3 / std::sqrt(2 * n));
  CHECK(A.cwiseAbs().maxCoeff() > 3 * 0.125);  // not uniform
}

TEST_CASE("init: Kaiming-uniform fills (-1/sqrt(in), 1/sqrt(in)) evenly") {
  const auto A = initialized(Init::kaiming_uniform, 20, 1600, 2);
  const double bound = 1.0 / 40;
  const double n = static_cast<double>(A.size());
  CHECK(A.maxCoeff() < bound);
  CHECK(A.minCoeff() > -bound);
  CHECK(A.maxCoeff() > 0.999 * bound);
  CHECK(A.minCoeff() < -0.999 * bound);
  CHECK(std::abs(A.mean()) < 3 * bound / std::sqrt(3 * n));
  CHECK(std::abs(3 * A.squaredNorm() / n / (bound * bound) - 1) < 3 * std::sqrt(0.8 / n));
}

TEST_CASE("init: draws go row by row, the same numbers for every storage order") {
  Rng rng(3), expected(3);
  lora::RowMajorMatrix<double> by_rows(3, 4);
  lora::fill_normal(by_rows, 2.0, rng);
  for (Index i = 0; i < 3; ++i) {
    for (Index j = 0; j < 4; ++j) CHECK(by_rows(i, j) == 2.0 * expected.normal());
  }
  CHECK(rng.position() == 12);
  Rng again(3);
  Eigen::MatrixXd by_columns(3, 4);
  lora::fill_normal(by_columns, 2.0, again);
  CHECK(by_columns == by_rows);
}

TEST_CASE("init: float starts from the same numbers, rounded") {
  for (const Init init : {Init::gaussian, Init::kaiming_uniform}) {
    Rng rng(4);
    Eigen::MatrixXf A(4, 8);  // powers of two: the factors are exact
    lora::initialize_a(A, init, rng);
    CHECK((A.cast<double>() - initialized(init, 4, 8, 4)).norm() < 1e-7);
  }
}
