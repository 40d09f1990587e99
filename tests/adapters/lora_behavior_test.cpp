// What is particular to LoRA beside its equation: how it starts, what it refuses, what it trains, and when it drops.

#include "lora/core/parameters.hpp"
#include "lora/nn/lora_linear.hpp"
#include "lora/testing/generic.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <limits>

namespace {

using lora::Index;
using lora::Pass;
using lora::Scaling;
using lora::testing::random_matrix;
using lora_test::AdaptedLora;

/// A layer of one adapter with dropout: y, dx and the gradients of batches of 150 samples, whole and in parts.
template <class Layer>
void check_any_split(Layer& layer, lora::Rng& rng) {
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix(layer.in_features(), 150, rng), dy = random_matrix(layer.out_features(), 150, rng);
  typename Layer::Cache cache;
  const Pass pass{.training = true, .seed = 3, .step = 4};
  lora::zero_gradients(layer);
  const Eigen::MatrixXd y = layer.forward(x, cache, pass), dx = layer.backward(x, dy, cache);
  const Eigen::MatrixXd dA = layer.adapter().A.grad, dB = layer.adapter().B.grad;
  for (const Index size : {1, 50, 63, 64, 65, 128}) {
    CAPTURE(size);
    lora::zero_gradients(layer);
    for (Index first = 0; first < 150; first += size) {
      const Index count = std::min<Index>(size, 150 - first);
      Pass micro = pass;
      micro.first_sample = first;
      const Eigen::MatrixXd part = layer.forward(x.middleCols(first, count), cache, micro);
      CHECK((part - y.middleCols(first, count)).norm() < 1e-14 * y.norm());
      const Eigen::MatrixXd part_dx = layer.backward(x.middleCols(first, count), dy.middleCols(first, count), cache);
      CHECK((part_dx - dx.middleCols(first, count)).norm() < 1e-14 * dx.norm());
    }
    CHECK((layer.adapter().A.grad - dA).norm() < 1e-14 * dA.norm());
    CHECK((layer.adapter().B.grad - dB).norm() < 1e-14 * dB.norm());
  }
}

}  // namespace

TEST_CASE("lora: starts with A random, B zero, and the scale of its config") {
  lora::Rng rng(1), same(1);
  const lora::Lora<double> adapter(6, 10, {.rank = 4, .alpha = 2, .scaling = Scaling::alpha_over_sqrt_rank}, rng);
  CHECK(adapter.rank() == 4);
  CHECK(adapter.scale() == 1);
  CHECK(adapter.dropout.stream == same());  // the first draw tells its masks apart, the others fill A
  Eigen::MatrixXd A(4, 10);
  lora::initialize_a(A, lora::Init::gaussian, same);
  CHECK(adapter.A.value == A);
  CHECK(adapter.B.value == Eigen::MatrixXd::Zero(6, 4));
  CHECK(adapter.A.value.IsRowMajor);
  const lora::Lora<float> other(6, 10, {.rank = 3, .alpha = 1}, rng);
  CHECK(other.scale() == static_cast<float>(1.0 / 3));
  CHECK(other.dropout.stream != adapter.dropout.stream);
}

TEST_CASE("lora: a bad setting is refused, and no random number is used up") {
  lora::Rng rng(1);
  CHECK_THROWS_WITH(lora::Lora<double>(6, 10, {.rank = 0}, rng), "Lora: rank is 0, expected at least 1");
  CHECK_THROWS_WITH(lora::Lora<double>(6, 10, {.dropout = 1.5}, rng),
                    "Lora: dropout is 1.5, expected 0 <= dropout < 1");
  CHECK_THROWS_WITH((lora::Lora<double, 6, 10, 4>(6, 10, {.rank = 3}, rng)),
                    "Lora: rank is 3, expected the compile-time Rank = 4");
  CHECK_THROWS_WITH((lora::Lora<double, 6, 10, 4>(5, 10, {.rank = 4}, rng)),
                    "Lora: the adapter has 5 outputs, expected Out = 6");
  CHECK_THROWS_WITH((lora::Lora<double, 6, 10, 4>(6, 9, {.rank = 4}, rng)),
                    "Lora: the adapter has 9 inputs, expected In = 10");
  CHECK_THROWS_AS(lora::Lora<float>(6, 10, {.alpha = 1e300}, rng),
                  lora::ConfigError);  // the scale is not finite in float
  CHECK_NOTHROW(lora::Lora<double>(6, 10, {.alpha = 1e300}, rng));
  lora::Rng fresh(1);
  CHECK_THROWS_AS(lora::Lora<double>(6, 10, {.alpha = std::numeric_limits<double>::quiet_NaN()}, fresh),
                  lora::ConfigError);
  CHECK(fresh.position() == 0);
}

TEST_CASE("lora: parameters that are not trained get no gradient") {
  lora::Rng rng(5);
  for (const double dropout : {0.0, 0.5}) {
    AdaptedLora<double> layer(random_matrix(4, 6, rng), {.rank = 2, .dropout = dropout}, rng);
    lora::testing::fill_parameters(layer, rng);
    const auto x = random_matrix(6, 5, rng), dy = random_matrix(4, 5, rng);
    AdaptedLora<double>::Cache cache;
    layer.adapter().A.trainable = false;
    layer.forward(x, cache, {.training = true});
    const Eigen::MatrixXd dx = layer.backward(x, dy, cache);
    CHECK(layer.adapter().A.grad.size() == 0);
    CHECK(layer.adapter().B.grad.norm() > 0);
    layer.adapter().A.trainable = true;
    layer.adapter().B.trainable = false;
    layer.adapter().B.grad.resize(0, 0);
    CHECK(layer.backward(x, dy, cache) == dx);
    CHECK(layer.adapter().A.grad.norm() > 0);
    CHECK(layer.adapter().B.grad.size() == 0);
  }
}

TEST_CASE("lora: inference never drops") {
  lora::Rng rng(6), same(6);
  const auto W0 = random_matrix(4, 6, rng);
  const auto x = random_matrix(6, 70, rng);
  same.seek(rng.position());
  AdaptedLora<double> with(W0, {.rank = 2, .dropout = 0.9}, rng), without(W0, {.rank = 2}, same);
  lora::testing::fill_parameters(with, rng);
  lora::testing::fill_parameters(without, same);
  CHECK(with(x) == without(x));
  AdaptedLora<double>::Cache cache;
  CHECK(with.forward(x, cache, {.training = false, .seed = 3, .step = 4}) == without(x));
  CHECK(with.forward(x, cache, {.training = true, .seed = 3, .step = 4}) != without(x));
}

TEST_CASE("lora: dropout does not depend on how a batch is split") {
  lora::Rng rng(7);
  AdaptedLora<double> layer(random_matrix(4, 6, rng), {.rank = 2, .dropout = 0.5}, rng);
  check_any_split(layer, rng);
  // a single row is row-major at compile time: the distance of its columns is another
  lora::LoraLinear<double, 4, 1, 1> narrow(random_matrix(4, 1, rng), {.rank = 1, .dropout = 0.5}, rng);
  check_any_split(narrow, rng);
}

TEST_CASE("A rank whose factors no memory can hold is refused as a setting, not as a failed allocation") {
  lora::Rng rng(1);
  CHECK_THROWS_AS(lora::Lora<float>(4, 3, {.rank = lora::Index(1) << 62}, rng), lora::ConfigError);
}
