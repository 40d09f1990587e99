#include "lora/nn/softmax.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lora/core/random.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/testing/dual.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

using lora::Index;
using lora::Matrix;
using lora::Softmax;
using lora::testing::Dual;

namespace {

template <class S>
Matrix<S> random(Index rows, Index cols, lora::Rng& rng, double range = 5) {
  return Matrix<S>::NullaryExpr(rows, cols, [&] { return static_cast<S>(rng.uniform(-range, range)); });
}

/// In long double, without a shift: for small x.
template <class S>
Matrix<long double> exact(const Matrix<S>& x) {
  Matrix<long double> y = x.template cast<long double>();
  for (Index j = 0; j < y.cols(); ++j) {
    for (Index i = 0; i < y.rows(); ++i) y(i, j) = std::exp(y(i, j));
    y.col(j) /= y.col(j).sum();
  }
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("Softmax: within a few epsilon of long double, for every number of rows", "", float, double) {
  lora::Rng rng(1);
  for (Index rows = 1; rows <= 70; ++rows) {
    const Matrix<TestType> x = random<TestType>(rows, 3, rng);
    Matrix<TestType> y;
    Softmax::forward(x, y);
    const Matrix<long double> expected = exact(x);
    // exp has an error of 1 ulp and its argument of half one of up to 10; the sum, the quotient and the product follow
    const auto error = ((y.template cast<long double>() - expected).array() / expected.array()).abs().maxCoeff();
    CAPTURE(rows);
    CHECK(static_cast<double>(error) <= 10 * static_cast<double>(Eigen::NumTraits<TestType>::epsilon()));
  }
}

TEMPLATE_TEST_CASE("Softmax: the bits of a column do not depend on where it is", "", float, double) {
  using M = Matrix<TestType>;
  using Rows = Eigen::Matrix<TestType, lora::Dynamic, lora::Dynamic, Eigen::RowMajor>;
  lora::Rng rng(2);
  for (const Index rows : {1, 7, 16, 21, 37, 64, 100}) {
    CAPTURE(rows);
    const M x = random<TestType>(rows, 4, rng), dy = random<TestType>(rows, 4, rng);
    M y, dx;
    Softmax::forward(x, y);
    Softmax::backward(x, y, dy, dx);
    M in_place = x, gradient_in_place = dy;
    Softmax::forward(in_place, in_place);
    CHECK(in_place == y);
    Softmax::backward(x, y, gradient_in_place, gradient_in_place);
    CHECK(gradient_in_place == dx);

    for (Index offset = 0; offset < 17; ++offset) {
      M wide = M::Constant(rows + 20, 6, 7), wide_dx = wide;
      auto part = wide.block(offset, 1, rows, 4);
      auto part_dx = wide_dx.block(offset, 1, rows, 4);
      part = x;
      Softmax::forward(part, part);
      Softmax::backward(part, part, dy, part_dx);
      CHECK((part == y && part_dx == dx));
    }
    Rows row_y, row_dx;
    Softmax::forward(Rows(x), row_y);
    Softmax::backward(x, row_y, Rows(dy), row_dx);
    CHECK((row_y == y && row_dx == dx));
  }
}

TEMPLATE_TEST_CASE("Softmax: the sums have the same bits for packets of any size", "", float, double) {
  using lora::detail::Simd;
  using V = Simd<TestType>;
  lora::Rng rng(3);
  using Column = lora::Vector<TestType>;
  const Column x = random<TestType>(75, 1, rng, 40), z = random<TestType>(75, 1, rng);
  const TestType most = x.maxCoeff();
  Column y(75), other(75);
  const TestType sum = lora::detail::exponentials<Column, Column, V>(x, most, &y);
  CHECK(sum == lora::detail::exponentials<Column, Column, Simd<TestType, 1>>(x, most, &other));
  CHECK(y == other);
  CHECK(sum == lora::detail::exponentials<Column, Column, Simd<TestType, 2>>(x, most, &other));
  CHECK(y == other);
  CHECK(sum == lora::detail::exponentials(x, most, static_cast<Column*>(nullptr)));
  const TestType product = lora::detail::sum_of_products<Column, Column, V>(x, z);
  CHECK(product == lora::detail::sum_of_products<Column, Column, Simd<TestType, 1>>(x, z));
  CHECK(product == lora::detail::sum_of_products<Column, Column, Simd<TestType, 2>>(x, z));
}

TEST_CASE("Softmax: backward is the derivative of forward, by dual numbers") {
  lora::Rng rng(4);
  const Matrix<double> x = random<double>(23, 3, rng), direction = random<double>(23, 3, rng),
                       dy = random<double>(23, 3, rng);
  Matrix<Dual> dual(23, 3), dual_y;
  for (Index k = 0; k < x.size(); ++k) dual(k) = Dual(x(k), direction(k));
  Softmax::forward(dual, dual_y);
  Matrix<double> y, dx;
  Softmax::forward(x, y);
  Softmax::backward(x, y, dy, dx);
  double forward = 0, largest = 0;
  for (Index k = 0; k < x.size(); ++k) {
    forward += dual_y(k).derivative * dy(k);
    largest += std::abs(dual_y(k).derivative * dy(k));
    CHECK(std::abs(dual_y(k).value - y(k)) <= 1e-15);
  }
  CHECK(std::abs(forward - dx.cwiseProduct(direction).sum()) <= 1e-14 * largest);
  // and of duals, whose derivative is then the second
  Matrix<Dual> dual_dx;
  Softmax::backward(dual, dual_y, Matrix<Dual>(dy.cast<Dual>()), dual_dx);
  for (Index k = 0; k < x.size(); ++k) CHECK(std::abs(dual_dx(k).value - dx(k)) <= 1e-15);
}

TEMPLATE_TEST_CASE("Softmax: masked, large and broken columns", "", float, double) {
  const TestType infinity = std::numeric_limits<TestType>::infinity();
  Matrix<TestType> x = Matrix<TestType>::Constant(20, 5, 1);
  x.col(0).tail(19).setConstant(-infinity);  // one score is left
  x.col(1).head(10).setConstant(std::numeric_limits<TestType>::max());
  x.col(2).setConstant(-infinity);
  x(19, 3) = std::numeric_limits<TestType>::quiet_NaN();
  x(3, 4) = infinity;
  Matrix<TestType> y;
  Softmax::forward(x, y);
  CHECK(y(0, 0) == 1);
  CHECK((y.col(0).tail(19).array() == 0).all());
  CHECK((y.col(1).head(10).array() == TestType(1) / 10).all());
  CHECK((y.col(1).tail(10).array() == 0).all());
  for (Index j = 2; j < 5; ++j) CHECK(y.col(j).array().isNaN().all());

  Matrix<TestType> empty(4, 4);
  Softmax::forward(Matrix<TestType>(0, 3), empty);
  CHECK((empty.rows() == 0 && empty.cols() == 3));
}

TEST_CASE("Softmax: softmax_cross_entropy has the same probabilities") {
  lora::Rng rng(5);
  const Matrix<float> x = random<float>(37, 2, rng);
  Matrix<float> y, dlogits;
  Softmax::forward(x, y);
  lora::softmax_cross_entropy(x, {3, 36}, &dlogits, {.normalizer = 1});
  y(3, 0) -= 1;
  y(36, 1) -= 1;
  CHECK(y == dlogits);
}

TEST_CASE("Softmax: nothing allocates") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(6);
  Matrix<float> x = random<float>(37, 2, rng), y = x, dx = x;
  CHECK(lora_test::heap_allocations_in([&] {
          Softmax::forward(x, y);
          Softmax::backward(x, y, x, dx);
          Softmax::forward(x.topRows(30), y.topRows(30));
          Softmax::backward(x, y.topRows(30), x.topRows(30), dx.topRows(30));
        }) == 0);
}
