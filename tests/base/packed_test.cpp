#include "lora/base/packed.hpp"

#include "lora/adapters/adapted.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/base_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

#include <cstring>
#include <limits>
#include <memory>
#include <optional>

namespace {

using lora::Index;
using lora::Matrix;
using lora::Packed;
using lora::testing::random_matrix;
using lora_test::check;

template <class S>
using Layer = lora::Adapted<Packed<S>, lora::Lora<S>>;

// Panels of W0 are at most 32 rows high and 264 columns wide, tiles 8 columns, blocks of dy at most 8192 rows, passes
// about 128 samples: shapes below, at and above each of them, and primes.
const std::vector<std::pair<Index, Index>> shapes = {{1, 1},     {1, 300},  {300, 1},   {2, 3},    {7, 8},    {15, 17},
                                                     {16, 16},   {32, 8},   {33, 9},    {48, 264}, {64, 265}, {97, 101},
                                                     {10, 1031}, {1031, 5}, {532, 271}, {8200, 3}};
// More than a second cache holds, with panels and blocks that are not whole: tiles ask for the next panel.
const std::pair<Index, Index> large = {1001, 270};
const std::vector<Index> sample_counts = {1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 31, 32, 33, 44, 67};

template <class S>
Index slack() {
  return lora::detail::PanelLayout<S>::slack;
}

/// Small integers, whose products and sums are exact in any order.
template <class S>
Matrix<S> integers(Index rows, Index cols, lora::Rng& rng) {
  return random_matrix<S>(rows, cols, rng).unaryExpr([](S value) { return std::round(value * S(8)); }).eval();
}

/// All products of one shape, equal to the bit; results stand in larger matrices, whose other entries must stay.
template <class S>
void check_exact(Index out, Index in, Index samples, Index rank, lora::Rng& rng,
                 lora::Copies copies = lora::Copies::one) {
  CAPTURE(out, in, samples, rank);
  const Matrix<S> W0 = integers<S>(out, in, rng);
  const Packed<S> base(W0, copies);
  REQUIRE(base.dense() == W0);
  const Matrix<S> x = integers<S>(in + 3, samples, rng), dy = integers<S>(out + 2, samples, rng);
  const Matrix<S> U = integers<S>(out, rank, rng), V = integers<S>(in, rank, rng), Z = integers<S>(rank, samples, rng);
  const auto x_part = x.topRows(in), dy_part = dy.bottomRows(out);
  Matrix<S> y = Matrix<S>::Constant(out + 2, samples + 2, S(7)), dx = Matrix<S>::Constant(in + 2, samples + 2, S(7));
  const auto expect = [](const Matrix<S>& given, const Matrix<S>& product) {
    Matrix<S> expected = Matrix<S>::Constant(product.rows() + 2, product.cols() + 2, S(7));
    expected.block(1, 1, product.rows(), product.cols()) = product;
    CHECK((given.array() == expected.array()).all());
  };

  base.apply(x_part, y.block(1, 1, out, samples));
  expect(y, W0.lazyProduct(x_part));
  base.apply_transposed(dy_part, dx.block(1, 1, in, samples));
  expect(dx, W0.transpose().lazyProduct(dy_part));
  base.apply(x_part, y.block(1, 1, out, samples), U, Z);
  expect(y, Matrix<S>(W0.lazyProduct(x_part)) + U.lazyProduct(Z));
  base.apply_transposed(dy_part, dx.block(1, 1, in, samples), V, Z);
  expect(dx, Matrix<S>(W0.transpose().lazyProduct(dy_part)) + V.lazyProduct(Z));
  Packed<S>::multiply(W0, x_part, y.block(1, 1, out, samples));
  expect(y, W0.lazyProduct(x_part));
}

template <class S>
void check_shapes() {
  lora::Rng rng(1);
  for (const auto& [out, in] : shapes) {
    for (const Index samples : sample_counts) check_exact<S>(out, in, samples, 1 + samples % 9, rng);
  }
  for (const Index rank : {1, 2, 31, 32, 33, 64, 100}) {
    for (const Index samples : {1, 6, 20, 40, 257}) check_exact<S>(37, 41, samples, rank, rng);
  }
  for (const auto& [out, in] : shapes) {
    for (const Index samples : {1, 6, 33}) check_exact<S>(out, in, samples, 4, rng, lora::Copies::two);
  }
  for (const Index samples : {3, 4, 5, 6, 8, 9, 21, 197}) check_exact<S>(large.first, large.second, samples, 3, rng);
}

template <class S>
void check_laws() {
  for (const auto& [out, in] : std::vector<std::pair<Index, Index>>{{1, 1}, {3, 5}, {130, 70}, {70, 600}, {600, 70}}) {
    for (const Index samples : {1, 7, 64}) {
      CAPTURE(out, in, samples);
      lora::Rng rng(static_cast<std::uint64_t>(out * 1000 + in * 10 + samples));
      const Packed<S> base(random_matrix<S>(out, in, rng));
      check(lora::testing::base_laws(base, samples, (out * in + slack<S>()) * Index(sizeof(S))));
    }
  }
}

}  // namespace

TEST_CASE("packed: products of integers are exact at every edge, in float") { check_shapes<float>(); }
TEST_CASE("packed: products of integers are exact at every edge, in double") { check_shapes<double>(); }

TEST_CASE("packed: keeps the laws of a base, in float") { check_laws<float>(); }
TEST_CASE("packed: keeps the laws of a base, in double") { check_laws<double>(); }

TEMPLATE_TEST_CASE("packed: dx is the same to the bit, however far apart its columns lie", "", float, double) {
  using S = TestType;
  // 900 rows are more than one pass over dy takes; columns 4 KiB apart are collected first.
  const Index in = 4096 / Index(sizeof(S)), out = 900, samples = 61;
  lora::Rng rng(1);
  const Packed<S> base(random_matrix<S>(out, in, rng));
  const Matrix<S> dy = random_matrix<S>(out, samples, rng), V = random_matrix<S>(in, 40, rng);
  const Matrix<S> G = random_matrix<S>(40, samples, rng);
  Matrix<S> apart(in + 1, samples), dx(in, samples), wide = Matrix<S>::Constant(3 * in, samples, S(7));
  base.apply_transposed(dy, apart.topRows(in), V, G);
  base.apply_transposed(dy, dx, V, G);
  base.apply_transposed(dy, wide.middleRows(5, in), V, G);
  REQUIRE(dx == apart.topRows(in));
  REQUIRE(wide.middleRows(5, in) == dx);
  REQUIRE((wide.topRows(5).array() == S(7)).all());
  REQUIRE((wide.bottomRows(2 * in - 5).array() == S(7)).all());
}

TEMPLATE_TEST_CASE("packed: a weight that is not packed gives the same numbers, to the bit", "", float, double) {
  using S = TestType;
  lora::Rng rng(8);
  auto some = shapes;
  some.push_back(large);
  for (const auto& [out, in] : some) {
    for (const Index samples : {1, 4, 5, 8, 9, 40, 257}) {
      CAPTURE(out, in, samples);
      const Matrix<S> W = random_matrix<S>(out + 1, in, rng), x = random_matrix<S>(in, samples, rng);
      const auto W0 = W.topRows(out);
      Matrix<S> y(out, samples), expected(out, samples);
      Packed<S>(W0).apply(x, expected);
      Packed<S>::multiply(W0, x, y);
      CHECK(y == expected);
    }
  }
}

TEST_CASE("packed: gives W0 back bit for bit, whatever is in it") {
  lora::Rng rng(2);
  Matrix<float> W0 = random_matrix<float>(70, 300, rng);
  W0(0, 0) = -0.0F;
  W0(1, 0) = std::numeric_limits<float>::quiet_NaN();
  W0(69, 299) = -std::numeric_limits<float>::infinity();
  W0(33, 264) = std::numeric_limits<float>::denorm_min();
  const Packed<float> base(W0);
  const Matrix<float> back = base.dense();
  CHECK(std::memcmp(back.data(), W0.data(), static_cast<std::size_t>(W0.size()) * sizeof(float)) == 0);
  CHECK(base.columns(250, 49) == W0.middleCols(250, 49));
}

TEMPLATE_TEST_CASE("packed: a weight that is not finite spoils its own row and column only", "", float, double) {
  // Tiles read beyond the edge of a panel, into other columns: what they find there must not be seen.
  using S = TestType;
  const Index out = 37, in = 19;
  for (const Index row : {0, 32, 36}) {  // the last panel begins with row 24, 32 or 36
    Matrix<S> W0 = Matrix<S>::Ones(out, in);
    W0(row, 7) = std::numeric_limits<S>::infinity();
    const Packed<S> base(W0);
    for (const Index samples : {1, 3, 5, 12, 20}) {
      Matrix<S> y(out, samples), dx(in, samples);
      base.apply(Matrix<S>::Ones(in, samples).eval(), y);
      base.apply_transposed(Matrix<S>::Ones(out, samples).eval(), dx);
      for (Index i = 0; i < out; ++i) CHECK(y.row(i).allFinite() == (i != row));
      for (Index j = 0; j < in; ++j) CHECK(dx.row(j).allFinite() == (j != 7));
    }
  }
}

TEST_CASE("packed: W0 is in memory once, and copies share it") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  const Index out = 300, in = 500;
  const auto before = lora_test::heap_bytes();
  std::optional<Packed<float>> base(Matrix<float>::Ones(out, in));
  const auto held = lora_test::heap_bytes() - before;
  CHECK(base->bytes() == (out * in + slack<float>()) * 4);
  CHECK(held >= base->bytes());
  CHECK(held < base->bytes() + 512);  // the allocator's own
  Index rows = 0;
  CHECK(lora_test::heap_allocations_in([&] {
          const Packed<float> copy = *base;  // NOLINT(performance-unnecessary-copy-initialization)
          rows = copy.rows();
        }) == 0);
  CHECK(rows == out);
  base.reset();
  CHECK(lora_test::heap_bytes() == before);
}

TEST_CASE("packed: a second copy is asked for, counted, and keeps the laws") {
  lora::Rng rng(8);
  const auto W0 = random_matrix<float>(70, 130, rng);
  const Packed<float> one(W0), two(W0, lora::Copies::two);
  CHECK(one.copies() == lora::Copies::one);
  CHECK(two.copies() == lora::Copies::two);
  CHECK(two.bytes() == 2 * one.bytes());
  check(lora::testing::base_laws(two, 9, 2 * (70 * 130 + slack<float>()) * 4));
  Layer<double> layer(Packed<double>(random_matrix(20, 31, rng), lora::Copies::two), {.rank = 3, .alpha = 2}, rng);
  lora::testing::fill_parameters(layer, rng);
  check(lora::testing::check_gradients(layer, random_matrix(31, 7, rng)));
}

TEST_CASE("packed: products need no heap") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(3);
  const Packed<float> base(random_matrix<float>(130, 300, rng));
  for (const Index samples : {1, 6, 14, 40}) {
    const auto x = random_matrix<float>(300, samples, rng), dy = random_matrix<float>(130, samples, rng);
    const auto U = random_matrix<float>(130, 4, rng), V = random_matrix<float>(300, 4, rng);
    const auto Z = random_matrix<float>(4, samples, rng);
    Matrix<float> y(130, samples), dx(300, samples);
    CHECK(lora_test::heap_allocations_in([&] {
            base.apply(x, y, U, Z);
            base.apply_transposed(dy, dx, V, Z);
          }) == 0);
  }
}

TEST_CASE("packed: a layer fuses its adapter and keeps the laws and gradients of any layer") {
  lora::Rng rng(4);
  Layer<double> layer(random_matrix(37, 29, rng), lora::Vector<double>(random_matrix(37, 1, rng)),
                      {.rank = 5, .alpha = 3, .bias = lora::Bias::lora_only}, rng);
  check(lora::testing::check_fresh(layer, random_matrix(29, 6, rng)));
  lora::testing::fill_parameters(layer, rng);
  for (const Index samples : {1, 6, 20, 35}) {
    CAPTURE(samples);
    const auto x = random_matrix(29, samples, rng);
    check(lora::testing::adapter_laws(layer, x));
    check(lora::testing::check_gradients(layer, x));
  }
}

TEST_CASE("packed: a layer with dropout keeps the laws and gradients too") {
  lora::Rng rng(5);
  Layer<double> layer(random_matrix(20, 31, rng), {.rank = 3, .alpha = 2, .dropout = 0.4}, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix(31, 9, rng);
  check(lora::testing::adapter_laws(layer, x));
  check(lora::testing::check_gradients(layer, x, {.pass = {.training = true, .seed = 3, .step = 1}}));
}

TEST_CASE("packed: a step of a layer is that over Dense to rounding") {
  lora::Rng rng(6);
  const auto W0 = random_matrix<float>(130, 70, rng);
  lora::Rng first(7), second(7);
  lora_test::AdaptedLora<float> dense(W0, {.rank = 8, .alpha = 16}, first);
  Layer<float> packed(W0, {.rank = 8, .alpha = 16}, second);
  dense.adapter().B.value = packed.adapter().B.value = random_matrix<float>(130, 8, rng);
  for (const Index samples : {1, 8, 50}) {
    CAPTURE(samples);
    const auto x = random_matrix<float>(70, samples, rng), dy = random_matrix<float>(130, samples, rng);
    lora_test::AdaptedLora<float>::Cache dense_cache;
    Layer<float>::Cache packed_cache;
    const auto y = dense.forward(x, dense_cache);
    CHECK((packed.forward(x, packed_cache) - y).norm() < 1e-6F * y.norm());
    const auto dx = dense.backward(x, dy, dense_cache);
    CHECK((packed.backward(x, dy, packed_cache) - dx).norm() < 1e-6F * dx.norm());
    CHECK((packed.adapter().A.grad - dense.adapter().A.grad).norm() < 1e-6F * dense.adapter().A.grad.norm());
    CHECK((packed.adapter().B.grad - dense.adapter().B.grad).norm() < 1e-6F * dense.adapter().B.grad.norm());
  }
}

TEST_CASE("packed: refuses what is no weight") {
  CHECK_THROWS_WITH(Packed<double>(Eigen::MatrixXd(0, 7)), "Packed: W0 is empty (0 x 7), expected at least 1 x 1");
  CHECK_THROWS_WITH(Packed<float>(Eigen::MatrixXf(7, 0)), "Packed: W0 is empty (7 x 0), expected at least 1 x 1");
  CHECK_THROWS_AS(Packed<double>(Eigen::MatrixXd(0, 0)), lora::ShapeError);
}
