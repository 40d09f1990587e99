#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "lora/nn/layer_norm.hpp"
#include "lora/nn/rms_norm.hpp"
#include "lora/testing/gradient.hpp"
#include "lora/testing/layer_laws.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

using lora::Index;
using lora::LayerNorm;
using lora::Matrix;
using lora::RmsNorm;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;

static_assert(lora::Layer<LayerNorm<float>> && lora::Layer<RmsNorm<double>> && lora::Layer<LayerNorm<Dual>>);

namespace {

template <class Norm>
constexpr bool centered = requires(Norm& norm) { norm.bias(); };

/// A norm of generic parameters, which are trained.
template <class Norm>
Norm trained(Index features, lora::Rng& rng, double epsilon = 1e-3) {
  Norm norm(features, epsilon);
  lora::unfreeze(norm);
  lora::testing::fill_parameters(norm, rng);
  return norm;
}

/// In long double, as the equation says.
template <class Norm, class S = typename Norm::Scalar>
Matrix<long double> exact(const Norm& norm, const Matrix<S>& x) {
  Matrix<long double> y = x.template cast<long double>();
  const auto size = static_cast<long double>(x.rows());
  for (Index j = 0; j < x.cols(); ++j) {
    if constexpr (centered<Norm>) y.col(j).array() -= y.col(j).sum() / size;
    y.col(j) /= std::sqrt(y.col(j).squaredNorm() / size + static_cast<long double>(static_cast<S>(norm.epsilon())));
    y.col(j).array() *= norm.weight().value.template cast<long double>().array();
    if constexpr (centered<Norm>) y.col(j) += norm.bias().value.template cast<long double>();
  }
  return y;
}

template <class S>
S largest_difference(const Matrix<S>& given, const Matrix<long double>& expected) {
  return static_cast<S>((given.template cast<long double>() - expected).cwiseAbs().maxCoeff());
}

}  // namespace

TEMPLATE_TEST_CASE("Norms: within a few epsilon of long double, for every number of features", "", LayerNorm<float>,
                   LayerNorm<double>, RmsNorm<float>, RmsNorm<double>) {
  using S = typename TestType::Scalar;
  lora::Rng rng(1);
  for (Index features = 1; features <= 70; ++features) {
    CAPTURE(features);
    const auto norm = trained<TestType>(features, rng);
    const Matrix<S> x = random_matrix<S>(features, 3, rng);
    // |g h| is at most 4 sqrt(features); sums of 16 chains have an error of a few epsilon
    CHECK(largest_difference<S>(norm(x), exact(norm, x)) <= 40 * Eigen::NumTraits<S>::epsilon());
  }
}

TEMPLATE_TEST_CASE("LayerNorm: numbers far from zero do not cancel", "", float, double) {
  lora::Rng rng(2);
  for (const double far : {1e2, 4096.0, 1e5}) {
    CAPTURE(far);
    Matrix<TestType> x = random_matrix<TestType>(384, 4, rng);
    x.array() += static_cast<TestType>(far);
    const LayerNorm<TestType> norm(384, 1e-12);
    CHECK(largest_difference<TestType>(norm(x), exact(norm, x)) <= 20 * Eigen::NumTraits<TestType>::epsilon());
  }
}

TEST_CASE("LayerNorm: equal numbers have no variance, however their mean is rounded") {
  for (const float value : {0.1F, 8946952.0F, 7112969.5F, 539531.125F}) {
    for (const Index features : {385, 100003}) {
      CHECK(LayerNorm<float>(features, 1e-12)(Matrix<float>::Constant(features, 1, value)).allFinite());
    }
  }
}

TEMPLATE_TEST_CASE("Norms: the bits of a column do not depend on where it is", "", LayerNorm<float>, LayerNorm<double>,
                   RmsNorm<float>) {
  using S = typename TestType::Scalar;
  lora::Rng rng(3);
  for (const Index features : {1, 7, 16, 21, 64, 100}) {
    CAPTURE(features);
    auto norm = trained<TestType>(features, rng);
    const Matrix<S> x = random_matrix<S>(features, 5, rng), dy = random_matrix<S>(features, 5, rng);
    typename TestType::Cache cache;
    const Matrix<S> y = norm.forward(x, cache), dx = norm.backward(x, dy, cache);
    for (Index offset = 0; offset < 17; ++offset) {
      Matrix<S> wide = Matrix<S>::Constant(features + 20, 4, 7), wide_dy = wide, wide_dx = wide;
      auto part = wide.block(offset, 1, features, 2), part_dx = wide_dx.block(offset, 1, features, 2);
      auto part_dy = wide_dy.block(offset + 1, 1, features, 2);
      part = x.middleCols(2, 2);
      part_dy = dy.middleCols(2, 2);
      typename TestType::Kept kept;
      lora::Scratch scratch;
      Matrix<S> some_y(features, 2);
      norm.forward(part, some_y, &kept, scratch, {});
      norm.backward(part, part_dy, part_dx, kept, scratch);
      CHECK((some_y == y.middleCols(2, 2) && part_dx == dx.middleCols(2, 2)));
      part_dx.setZero();
      CHECK((wide_dx.array() == 7).count() == wide_dx.size() - part_dx.size());
    }
    // in place
    typename TestType::Kept kept;
    lora::Scratch scratch;
    Matrix<S> in_place = x, gradient = dy;
    norm.forward(in_place, in_place, nullptr, scratch, {});
    CHECK(in_place == y);
    norm.forward(x, in_place, &kept, scratch, {});
    norm.backward(x, gradient, gradient, kept, scratch);
    CHECK(gradient == dx);
  }
}

TEMPLATE_TEST_CASE("Norms: the laws of layers", "", LayerNorm<double>, RmsNorm<double>, LayerNorm<float>) {
  using S = typename TestType::Scalar;
  lora::Rng rng(4);
  for (const auto& [features, samples] : {std::pair<Index, Index>{2, 3}, {21, 8}, {70, 1}, {70, 900}}) {
    CAPTURE(features, samples);
    const auto norm = trained<TestType>(features, rng);
    check(lora::testing::layer_laws(norm, random_matrix<S>(features, samples, rng),
                                    random_matrix<S>(features, samples, rng)));
  }
}

TEMPLATE_TEST_CASE("Norms: backward is the derivative of forward", "", LayerNorm<double>, RmsNorm<double>) {
  lora::Rng rng(5);
  for (const Index features : {2, 13, 20}) {
    CAPTURE(features);
    auto norm = trained<TestType>(features, rng);
    const auto x = random_matrix(features, 4, rng);
    const std::size_t tensors = centered<TestType> ? 3 : 2;
    check(lora::testing::check_gradients(norm, x), tensors);
    check(lora::testing::check_taylor(norm, x));
    using DualNorm = std::conditional_t<centered<TestType>, LayerNorm<Dual>, RmsNorm<Dual>>;
    DualNorm dual(features, 1e-3);
    lora::unfreeze(dual);
    check(lora::testing::check_dual(norm, dual, x), tensors);
  }
}

TEST_CASE("Norms: parameters are frozen until they are made trainable") {
  lora::Rng rng(6);
  LayerNorm<double> norm(5);
  CHECK(lora::tensor_names(norm) == std::vector<std::string>{"weight", "bias"});
  CHECK(lora::tensor_names(RmsNorm<double>(5)) == std::vector<std::string>{"weight"});
  const auto x = random_matrix(5, 3, rng), dy = random_matrix(5, 3, rng);
  LayerNorm<double>::Cache cache;
  norm.forward(x, cache);
  CHECK(!norm.trains(cache.kept));
  norm.backward(x, dy, cache);
  CHECK((norm.weight().grad.size() == 0 && norm.bias().grad.size() == 0));
  norm.bias().trainable = true;
  CHECK(norm.trains(cache.kept));
  norm.backward(x, dy, cache, lora::no_gradient);
  CHECK(norm.weight().grad.size() == 0);
  CHECK((norm.bias().grad - dy.rowwise().sum()).norm() <= 1e-15);
  norm.weight().trainable = true;
  norm.bias().trainable = false;
  norm.bias().drop_gradient();
  norm.backward(x, dy, cache);
  CHECK((norm.weight().grad.size() == 5 && norm.bias().grad.size() == 0));
}

TEST_CASE("Norms: what does not fit is refused") {
  CHECK_THROWS_AS(LayerNorm<float>(0), lora::ShapeError);
  CHECK_THROWS_WITH(LayerNorm<float>(0), lora_test::contains("LayerNorm: the weight is empty"));
  CHECK_THROWS_AS(LayerNorm<float>(-1), lora::ShapeError);
  CHECK_THROWS_AS(LayerNorm<float>(4, 0), lora::ConfigError);
  CHECK_THROWS_WITH(RmsNorm<float>(4, -1e-5), "RmsNorm: epsilon is -1e-05, expected a positive number");
  CHECK_THROWS_AS(RmsNorm<float>(4, std::numeric_limits<double>::quiet_NaN()), lora::ConfigError);
  CHECK_THROWS_WITH(LayerNorm<float>(Eigen::VectorXf::Ones(4), Eigen::VectorXf::Zero(3)),
                    "LayerNorm: the bias has 3 rows, expected features = 4");
  LayerNorm<float> norm(4);
  LayerNorm<float>::Cache cache;
  const Matrix<float> x = Matrix<float>::Ones(4, 2), wrong = Matrix<float>::Ones(3, 2);
  CHECK_THROWS_WITH(norm.forward(wrong, cache), "LayerNorm::forward: x has 3 rows, expected in_features = 4");
  Matrix<float> y(4, 3);
  lora::Scratch scratch;
  CHECK_THROWS_WITH(norm.forward(x, y, nullptr, scratch, {}),
                    "LayerNorm::forward: y has 3 columns, expected the columns of x = 2");
}

TEST_CASE("Norms: nothing allocates after the largest batch") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(7);
  auto norm = trained<LayerNorm<float>>(37, rng);
  const Matrix<float> x = random_matrix<float>(37, 6, rng), dy = random_matrix<float>(37, 6, rng);
  LayerNorm<float>::Cache cache;
  norm.forward(x, cache);
  norm.backward(x, dy, cache);
  const auto fewer_x = x.leftCols(4), fewer_dy = dy.leftCols(4);
  CHECK(lora_test::heap_allocations_in([&] {
          norm.forward(x, cache);
          norm.backward(x, dy, cache);
          norm.forward(fewer_x, cache);
          norm.backward(fewer_x, fewer_dy, cache, lora::no_gradient);
        }) == 0);
}

namespace {

/// x and dy of reference.py.
Matrix<double> reference_x(Index features) {
  return Matrix<double>::NullaryExpr(features, 5,
                                     [](Index i, Index j) { return double((9 * i + 5 * j) % 19 - 9) / 2; });
}
Matrix<double> reference_dy(Index features) {
  return Matrix<double>::NullaryExpr(features, 5, [](Index i, Index j) { return double((4 * i + 7 * j) % 9 - 4) / 3; });
}

void check_near(const auto& given, const auto& stored) {
  REQUIRE(given.size() == static_cast<Index>(stored.size()));
  for (Index k = 0; k < given.size(); ++k) CHECK(std::abs(given(k) - stored[static_cast<std::size_t>(k)]) <= 1e-14);
}

}  // namespace

TEST_CASE("Norms: as in PyTorch") {
  constexpr Index features = 6;
  const Matrix<double> x = reference_x(features), dy = reference_dy(features);
  lora::Vector<double> weight(features), bias(features);
  for (Index i = 0; i < features; ++i) weight(i) = double(i - 2) / 2, bias(i) = double(3 * i % 4) - 1;

  LayerNorm<double> layer(weight, bias, 1e-5);
  lora::unfreeze(layer);
  LayerNorm<double>::Cache cache;
  check_near(Matrix<double>(layer.forward(x, cache)), reference::layer_norm);
  check_near(Matrix<double>(layer.backward(x, dy, cache)), reference::layer_norm_gradient);
  check_near(layer.weight().grad, reference::layer_norm_weight);
  check_near(layer.bias().grad, reference::layer_norm_bias);

  RmsNorm<double> rms(weight, 1e-6);
  lora::unfreeze(rms);
  RmsNorm<double>::Cache rms_cache;
  check_near(Matrix<double>(rms.forward(x, rms_cache)), reference::rms_norm);
  check_near(Matrix<double>(rms.backward(x, dy, rms_cache)), reference::rms_norm_gradient);
  check_near(rms.weight().grad, reference::rms_norm_weight);
}
