#include "lora/adapters/full_weight.hpp"

#include "lora/base/packed.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

namespace {

using Layer = lora::Adapted<lora::Dense<double>, lora::FullWeight<double>>;
using lora::testing::random_matrix;
using lora_test::check;

}  // namespace

TEST_CASE("full weight: keeps the laws of an adapter") {
  lora::Rng rng(1);
  for (const auto& [out, in] : std::vector<std::pair<lora::Index, lora::Index>>{{1, 1}, {3, 5}, {16, 17}}) {
    CAPTURE(out, in);
    const auto W0 = random_matrix(out, in, rng), x = random_matrix(in, 9, rng);
    Layer layer(W0, lora::FullWeight<double>(W0), Eigen::VectorXd(random_matrix(out, 1, rng)));
    check(lora::testing::check_fresh(layer, x));
    lora::testing::fill_parameters(layer, rng);
    check(lora::testing::adapter_laws(layer, x));
    check({lora::testing::check_merged_weight(layer, layer.adapter().weight.value.cast<long double>())});
    check(lora::testing::check_gradients(layer, x));
  }
}

TEST_CASE("full weight: the gradient of W is dy x^T") {
  Layer layer(Eigen::MatrixXd::Zero(2, 3), lora::FullWeight<double>(Eigen::MatrixXd::Ones(2, 3)));
  Layer::Cache cache;
  const Eigen::Vector3d x(1, 2, 3);
  const Eigen::Vector2d dy(10, 20);
  CHECK(layer.forward(x, cache) == Eigen::Vector2d(6, 6));
  CHECK(layer.backward(x, dy, cache) == Eigen::Vector3d(30, 30, 30));
  CHECK(layer.adapter().weight.grad == dy * x.transpose());
  CHECK(cache.kept.bytes() == 0);

  layer.adapter().weight.trainable = false;
  layer.adapter().weight.grad.resize(0, 0);
  CHECK(layer.backward(x, dy, cache) == Eigen::Vector3d(30, 30, 30));
  CHECK(layer.adapter().weight.grad.size() == 0);
}

TEST_CASE("full weight: what it adds to a packed weight, block after block") {
  lora::Rng rng(2);
  const auto W0 = random_matrix(70, 300, rng), W = random_matrix(70, 300, rng);
  const lora::Adapted<lora::Packed<double>, lora::FullWeight<double>> layer(W0, lora::FullWeight<double>(W));
  CHECK((layer.delta() - (W - W0)).norm() <= 1e-15 * W.norm());
  CHECK(layer.merged() == W);
}
