#include "lora/kernels/arithmetic.hpp"

#include <array>
#include <cmath>
#include <limits>

#include "lora/core/random.hpp"
#include "lora/testing/dual.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

using lora::Index;
using lora::Matrix;
using lora::Vector;

namespace {

template <class S>
Matrix<S> random(Index rows, Index cols, lora::Rng& rng) {
  return Matrix<S>::NullaryExpr(rows, cols, [&] { return static_cast<S>(rng.uniform(-4., 4.)); });
}

/// Whether `got` is `wanted` but for `roundings` of numbers up to `size`.
template <class S>
bool close(const Matrix<S>& got, const Matrix<long double>& wanted, double size, double roundings) {
  const auto bound = static_cast<long double>(roundings * size * std::numeric_limits<S>::epsilon());
  return ((got.template cast<long double>() - wanted).array().abs() <= bound).all();
}

}  // namespace

TEMPLATE_TEST_CASE("arithmetic: sums and products of columns of any length, in place too, as in long double",
                   "[kernels]", float, double) {
  using S = TestType;
  using Wide = Matrix<long double>;
  const auto wide = [](const Matrix<S>& m) -> Wide { return m.template cast<long double>(); };
  lora::Rng rng(1);
  for (Index n = 0; n <= 40; ++n) {
    CAPTURE(n);
    const Matrix<S> x = random<S>(n, 1, rng), z = random<S>(n, 1, rng), before = random<S>(n, 1, rng);
    const S a = S(0.7);
    const auto one = [&](auto&& f) {  // into memory of which the next element must not change
      Matrix<S> y = Matrix<S>::Constant(n + 1, 1, S(77));
      y.topRows(n) = before;
      f(y.data());
      REQUIRE(y(n) == S(77));
      return Matrix<S>(y.topRows(n));
    };
    CHECK(close<S>(one([&](S* y) { lora::detail::multiply_by(a, x.data(), n, y); }), a * wide(x), 4, 1));
    CHECK(close<S>(one([&](S* y) { lora::detail::multiply_by(a, static_cast<const S*>(y), n, y); }), a * wide(before),
                   4, 1));
    CHECK(
        close<S>(one([&](S* y) { lora::detail::add_multiple(a, x.data(), n, y); }), wide(before) + a * wide(x), 8, 2));
    CHECK(close<S>(one([&](S* y) { lora::detail::multiple_of_difference(a, x.data(), z.data(), n, y); }),
                   a * (wide(x) - wide(z)), 8, 2));
    CHECK(close<S>(one([&](S* y) { lora::detail::multiply_each(x.data(), z.data(), n, y); }),
                   wide(x).cwiseProduct(wide(z)), 16, 1));
    CHECK(close<S>(one([&](S* y) { lora::detail::add_each_product(x.data(), z.data(), n, y); }),
                   wide(before) + wide(x).cwiseProduct(wide(z)), 20, 2));
  }
}

TEMPLATE_TEST_CASE("arithmetic: columns of blocks, of any height, without the heap", "[kernels]", float, double) {
  using S = TestType;
  lora::Rng rng(2);
  for (const Index rows : {1, 15, 64, 511, 512, 513, 1100}) {
    CAPTURE(rows);
    const Matrix<S> all = random<S>(rows + 5, 7, rng);
    const auto X = lora::detail::part_of(all, 2, rows, 1, 5);
    Matrix<S> into = Matrix<S>::Constant(rows + 3, 7, S(9)), expected = into;
    const Vector<S> b = random<S>(rows, 1, rng), c = random<S>(rows, 1, rng);
    Vector<S> sum = b;
    const auto allocations = lora_test::heap_allocations_in([&] {
      auto Y = lora::detail::part_of(into, 1, rows, 1, 5);
      lora::detail::copy_columns<S>(X, Y);
      lora::detail::add_columns<S>(S(0.5), X, Y);
      lora::detail::add_to_columns<S>(b, Y);
      lora::detail::add_difference_to_columns<S>(S(0.25), c, b, Y);
      lora::detail::add_sum_of_columns<S>(S(2), X, sum);
    });
    if (lora_test::heap_is_counted) CHECK(allocations == 0);
    const auto block = all.block(2, 1, rows, 5);
    expected.block(1, 1, rows, 5) = (S(1.5) * Matrix<S>(block)).colwise() + Vector<S>(b + S(0.25) * (c - b));
    CHECK((into - expected).cwiseAbs().maxCoeff() <= 16 * std::numeric_limits<S>::epsilon());
    CHECK((into.row(0).array() == S(9)).all());
    CHECK((into.row(rows + 1).array() == S(9)).all());
    const Vector<S> wanted = b + S(2) * block.rowwise().sum();
    CHECK((sum - wanted).cwiseAbs().maxCoeff() <= 200 * std::numeric_limits<S>::epsilon());
  }
}

TEMPLATE_TEST_CASE("arithmetic: a sum in lanes has each term once, for any count", "[kernels]", float, double) {
  using S = TestType;
  for (Index n = 0; n <= 70; ++n) {
    CAPTURE(n);
    const S sum = lora::detail::sum_of<S>(n, [](Index i) { return static_cast<S>(i * i + 1); });
    CHECK(sum == static_cast<S>((n - 1) * n * (2 * n - 1) / 6 + n));  // exact: small whole numbers
  }
}

TEST_CASE("arithmetic: dual numbers carry their derivatives", "[kernels]") {
  using lora::testing::Dual;
  const std::array<Dual, 3> x = {Dual(1, 1), Dual(2, 0), Dual(3, 1)};
  std::array<Dual, 3> y = {Dual(1), Dual(1), Dual(1)};
  lora::detail::add_multiple(Dual(2, 1), x.data(), 3, y.data());  // 1 + a x: derivative a' x + a x'
  CHECK(y[0].value == 3);
  CHECK(y[0].derivative == 3);
  CHECK(y[1].derivative == 2);
  CHECK(y[2].derivative == 5);
}
