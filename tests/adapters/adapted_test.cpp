#include "support/adapted_lora.hpp"

#include "lora/core/parameters.hpp"
#include "lora/testing/generic.hpp"
#include "support/catch.hpp"

#include <type_traits>

namespace {

using lora::Bias;
using lora::Dynamic;
using lora::Index;
using lora::Pass;
using lora::testing::random_matrix;
using lora_test::AdaptedLora;
using Layer = AdaptedLora<double>;
using Vector = Eigen::VectorXd;

Layer make(Bias bias = Bias::none) {
  lora::Rng rng(1);
  const auto W0 = random_matrix(4, 6, rng);
  Layer layer(W0, Vector(random_matrix(4, 1, rng)), {.rank = 2, .alpha = 4, .dropout = 0.25, .bias = bias}, rng);
  lora::testing::fill_parameters(layer, rng);
  return layer;
}

Eigen::MatrixXd matrix(Index rows, Index cols, std::uint64_t seed) {
  lora::Rng rng(seed);
  return random_matrix(rows, cols, rng);
}

}  // namespace

TEST_CASE("adapted: y = W0 x + b + s B (A x), and merged is the same weight") {
  const Layer layer = make();
  const auto x = matrix(6, 5, 2);
  const auto& [A, B] = std::tie(layer.adapter().A.value, layer.adapter().B.value);
  CHECK(layer.adapter().scale() == 2);
  const Eigen::MatrixXd expected = (layer.base().dense() + 2 * B * A) * x + layer.bias()->replicate(1, 5);
  CHECK((layer(x) - expected).norm() < 1e-14 * expected.norm());
  CHECK((layer.delta() - 2 * B * A).norm() < 1e-15 * layer.delta().norm());
  CHECK((layer.merged() - layer.base().dense() - layer.delta()).norm() < 1e-15 * layer.merged().norm());
}

TEST_CASE("adapted: x and dy may be any expression") {
  Layer layer = make();
  const auto x = matrix(6, 5, 2), dy = matrix(4, 5, 3);
  Layer::Cache cache;
  const Eigen::MatrixXd y = layer.forward(x, cache), dx = layer.backward(x, dy, cache);
  const Eigen::MatrixXd dA = layer.adapter().A.grad;
  const auto check = [&](const auto& same_x, const auto& same_dy) {
    lora::zero_gradients(layer);
    CHECK((layer.forward(same_x, cache) - y).norm() <= 1e-15 * y.norm());
    CHECK((layer.backward(same_x, same_dy, cache) - dx).norm() <= 1e-15 * dx.norm());
    CHECK((layer.adapter().A.grad - dA).norm() <= 1e-15 * dA.norm());
  };
  Eigen::MatrixXd around_x = Eigen::MatrixXd::Ones(9, 11), around_dy = Eigen::MatrixXd::Ones(9, 11);
  around_x.block(2, 3, 6, 5) = x;
  around_dy.block(1, 4, 4, 5) = dy;
  check(around_x.block(2, 3, 6, 5), around_dy.block(1, 4, 4, 5));
  check(Eigen::Map<const Eigen::MatrixXd>(x.data(), 6, 5), Eigen::Map<const Eigen::MatrixXd>(dy.data(), 4, 5));
  const lora::RowMajorMatrix<double> rows_x = x, rows_dy = dy;
  check(rows_x, rows_dy);
  check(0.5 * (x + x), dy - Eigen::MatrixXd::Zero(4, 5));
  check(Eigen::MatrixXd(x.transpose()).transpose(), dy.cwiseAbs().cwiseProduct(dy.cwiseSign()));
}

TEST_CASE("adapted: backward without dx gives the gradients of backward") {
  Layer layer = make(Bias::all);
  const auto x = matrix(6, 70, 2), dy = matrix(4, 70, 3);
  Layer::Cache cache;
  layer.forward(x, cache, {.training = true});
  layer.backward(x, dy, cache);
  std::vector<Eigen::MatrixXd> gradients;
  lora::visit_parameters(layer, [&](const lora::Path&, auto& parameter) { gradients.push_back(parameter.grad); });
  lora::zero_gradients(layer);
  layer.backward(x, dy, cache, lora::no_gradient);
  std::size_t slot = 0;
  lora::visit_parameters(layer,
                         [&](const lora::Path&, auto& parameter) { CHECK(parameter.grad == gradients[slot++]); });
  CHECK(slot == 3);
}

TEST_CASE("adapted: names and counts, with the adapter on and off") {
  Layer layer = make(Bias::lora_only);
  CHECK(lora::tensor_names(layer) ==
        std::vector<std::string>{"weight", "bias", "adapter.A", "adapter.B", "adapter_bias"});
  CHECK(lora::count_parameters(layer).trainable == 2 * 6 + 4 * 2 + 4);
  CHECK(lora::count_parameters(layer).total == 24 + 4 + 20 + 4);
  layer.enable(false);
  CHECK(lora::count_parameters(layer).trainable == 0);
  CHECK(lora::count_parameters(make()).trainable == 20);
}

TEST_CASE("adapted: a trained bias belongs to the adapter") {
  Layer layer = make(Bias::lora_only);
  const auto x = matrix(6, 5, 2), dy = matrix(4, 5, 3);
  layer.enable(false);
  const Vector own = *layer.bias();
  layer.enable();
  CHECK(*layer.bias() != own);  // make() filled the copy
  Layer::Cache cache;
  layer.forward(x, cache);
  layer.backward(x, dy, cache);
  lora::visit_parameters(layer, [&](const lora::Path& path, auto& parameter) {
    if (path.str() != "adapter_bias") return;
    CHECK((parameter.grad - dy.rowwise().sum()).norm() < 1e-14);
    parameter.trainable = false;
  });
  layer.backward(x, dy, cache);
  lora::visit_parameters(layer, [&](const lora::Path& path, auto& parameter) {
    if (path.str() == "adapter_bias") CHECK((parameter.grad - dy.rowwise().sum()).norm() < 1e-14);  // not added to
  });
  layer.enable(false);
  CHECK(*layer.bias() == own);
  const auto made = make();
  CHECK(made.bias() != nullptr);
  lora::Rng rng(3);
  const Layer without(matrix(4, 6, 1), {.bias = Bias::all}, rng);
  CHECK(without.bias() == nullptr);  // nothing to train a copy of
}

TEST_CASE("adapted: with the adapter off, backward is the base's and leaves its gradients alone") {
  Layer layer = make();
  const auto x = matrix(6, 5, 2), dy = matrix(4, 5, 3);
  layer.enable(false);
  Layer::Cache cache;
  layer.forward(x, cache, {.training = true});
  const Eigen::MatrixXd dx = layer.backward(x, dy, cache);
  CHECK((dx - layer.base().dense().transpose() * dy).norm() < 1e-15 * dx.norm());
  CHECK(layer.adapter().A.grad.size() == 0);
  CHECK_NOTHROW(layer.backward(x, dy, cache, lora::no_gradient));
  CHECK(layer.adapter().B.grad.size() == 0);
}

TEST_CASE("adapted: a cache tells the bytes it holds") {
  Layer layer = make();
  const auto x = matrix(6, 5, 2), dy = matrix(4, 5, 3);
  Layer::Cache cache;
  CHECK(cache.bytes() == 0);
  layer.forward(x, cache);
  CHECK(cache.bytes() == (4 * 5 + 2 * 5) * 8);  // y and z = s A x
  layer.backward(x, dy, cache);
  CHECK(cache.bytes() == (4 * 5 + 2 * 5 + 6 * 5 + 2 * 5) * 8);  // and dx and g = s B^T dy
}

TEST_CASE("adapted: results have the sizes that are known") {
  using Fixed = AdaptedLora<float, 4, 6, 2>;
  static_assert(std::is_same_v<decltype(std::declval<Fixed>().merged()), Eigen::Matrix<float, 4, 6>>);
  static_assert(
      std::is_same_v<decltype(std::declval<Fixed>()(Eigen::Matrix<float, 6, 3>())), Eigen::Matrix<float, 4, 3>>);
  static_assert(std::is_same_v<decltype(std::declval<Layer>()(Eigen::MatrixXd())), Eigen::MatrixXd>);
  static_assert(Fixed::Out == 4 && Fixed::In == 6 && Layer::Out == Dynamic);
}

// --- bad input: who, what was given, what was expected; and nothing has changed -------------------------------------

TEST_CASE("adapted: wrong shapes in forward are refused") {
  const Layer layer = make();
  Layer::Cache cache;
  CHECK_THROWS_AS(layer.forward(matrix(5, 3, 1), cache), lora::ShapeError);
  CHECK_THROWS_WITH(layer.forward(matrix(5, 3, 1), cache),
                    "LoraLinear::forward: x has 5 rows, expected in_features = 6");
  CHECK_THROWS_WITH(layer.forward(Eigen::MatrixXd(6, 0), cache),
                    "LoraLinear::forward: x is empty (6 x 0), expected at least 1 x 1");
  CHECK_THROWS_WITH(layer(matrix(7, 3, 1)), "LoraLinear::forward: x has 7 rows, expected in_features = 6");
  CHECK(cache.kept.samples == -1);
  CHECK(cache.bytes() == 0);
  Layer::CacheFor<3> three;
  CHECK_THROWS_WITH(layer.forward(matrix(6, 4, 1), three),
                    "LoraLinear::forward: x has 4 columns, expected the cache's compile-time Samples = 3");
}

TEST_CASE("adapted: backward refuses what does not belong to a forward pass, and adds to no gradient") {
  Layer layer = make(Bias::all);
  const auto x = matrix(6, 3, 1), dy = matrix(4, 3, 2);
  Layer::Cache cache;
  CHECK_THROWS_AS(layer.backward(x, dy, cache), lora::StateError);
  CHECK_THROWS_WITH(layer.backward(x, dy, cache),
                    "LoraLinear::backward: this cache has seen no forward pass, expected forward before backward");
  CHECK_THROWS_WITH(layer.backward(x, dy, cache, lora::no_gradient),
                    "LoraLinear::backward: this cache has seen no forward pass, expected forward before backward");
  layer.forward(x, cache);
  CHECK_THROWS_WITH(layer.backward(matrix(5, 3, 1), dy, cache),
                    "LoraLinear::backward: x has 5 rows, expected in_features = 6");
  CHECK_THROWS_WITH(layer.backward(matrix(6, 2, 1), dy, cache),
                    "LoraLinear::backward: x has 2 columns, expected samples in the forward pass = 3");
  CHECK_THROWS_WITH(layer.backward(x, matrix(6, 3, 1), cache),
                    "LoraLinear::backward: dy has 6 rows, expected out_features = 4");
  CHECK_THROWS_WITH(layer.backward(x, matrix(4, 4, 1), cache),
                    "LoraLinear::backward: dy has 4 columns, expected samples in the forward pass = 3");
  layer.enable(false);
  CHECK_THROWS_AS(layer.backward(x, dy, cache), lora::StateError);
  CHECK_THROWS_WITH(layer.backward(x, dy, cache),
                    "LoraLinear::backward: the adapter was switched on or off since the forward pass");
  layer.enable();
  lora::visit_parameters(layer, [](const lora::Path&, auto& parameter) { CHECK(parameter.grad.size() == 0); });
  CHECK_NOTHROW(layer.backward(x, dy, cache));  // the cache is still good
}

TEST_CASE("adapted: a cache that belongs to another layer, or holds the input, is refused") {
  lora::Rng rng(1);
  const auto W0 = matrix(3, 3, 1), x = matrix(3, 2, 2);
  Layer one(W0, {.rank = 1}, rng);
  Layer other(W0, Vector(Vector::Ones(3)), {.rank = 2, .bias = Bias::all}, rng);
  Layer::Cache cache;
  one.forward(x, cache);
  CHECK_THROWS_AS(other.backward(x, x, cache), lora::StateError);
  CHECK_THROWS_WITH(other.backward(x, x, cache), "LoraLinear::backward: this cache has seen the pass of another layer");
  lora::visit_parameters(other, [](const lora::Path&, auto& parameter) { CHECK(parameter.grad.size() == 0); });

  const auto y = one.forward(x, cache);
  CHECK_THROWS_AS(one.forward(y, cache), lora::StateError);
  CHECK_THROWS_WITH(
      one.forward(y, cache),
      "LoraLinear::forward: x lies in the cache that this pass writes to, expected another cache or a copy");
  Layer copy = one;
  CHECK_THROWS_WITH(copy.backward(x, x, cache), "LoraLinear::backward: this cache has seen the pass of another layer");
  Layer::Cache of_copy;
  copy.forward(x, of_copy);
  copy.adapter() = other.adapter();
  CHECK_THROWS_WITH(copy.backward(x, x, of_copy),
                    "Lora::backward: the pass kept A x of rank 1, expected 2: the factors "
                    "are not those of the forward pass");
  lora::visit_parameters(copy, [](const lora::Path&, auto& parameter) { CHECK(parameter.grad.size() == 0); });

  const auto dx = one.backward(x, y, cache);  // y is read, and dx written elsewhere
  CHECK_THROWS_AS(one.backward(x, dx, cache), lora::StateError);
  CHECK_NOTHROW(one.backward(x, dx, cache, lora::no_gradient));  // writes no dx
}

TEST_CASE("adapted: a failed forward voids the cache no earlier pass may be confused with") {
  Layer layer = make();
  Layer::Cache cache;
  layer.forward(matrix(6, 3, 1), cache);
  CHECK_THROWS_AS(layer.forward(matrix(5, 3, 1), cache), lora::ShapeError);
  CHECK(cache.kept.samples == 3);  // refused before anything was touched: the earlier pass is still there
}

TEST_CASE("adapted: bad settings and biases are refused, and no random number is used up") {
  lora::Rng rng(1);
  const auto W0 = matrix(4, 6, 1);
  CHECK_THROWS_AS(Layer(W0, {.rank = 0}, rng), lora::ConfigError);
  CHECK_THROWS_AS(Layer(W0, {.alpha = INFINITY}, rng), lora::ConfigError);
  CHECK_THROWS_AS(Layer(W0, Vector(Vector::Ones(4)), {.dropout = -1}, rng), lora::ConfigError);
  CHECK_THROWS_WITH(Layer(W0, Vector(Vector::Ones(5)), {.rank = 2}, rng),
                    "LoraLinear: the bias has 5 rows, expected out_features = 4");
  CHECK_THROWS_AS((AdaptedLora<double, 4, 6, 3>(W0, {.rank = 2}, rng)), lora::ConfigError);
  CHECK_THROWS_AS((AdaptedLora<double, 4, 5, 2>(W0, {.rank = 2}, rng)), lora::ShapeError);
  CHECK(rng.position() == 0);
  CHECK_NOTHROW(Layer(W0, {.rank = 100}, rng));  // pointless, but allowed
}

TEST_CASE("The cache of another layer of the same shape is refused") {
  lora::Rng rng(8);
  const Eigen::MatrixXd W0 = Eigen::MatrixXd::Ones(4, 3), x = Eigen::MatrixXd::Ones(3, 2),
                        dy = Eigen::MatrixXd::Ones(4, 2);
  AdaptedLora<double> first(W0, {.rank = 2}, rng), second(W0, {.rank = 2}, rng);
  AdaptedLora<double>::Cache cache;
  first.forward(x, cache);
  CHECK_THROWS_AS(second.backward(x, dy, cache), lora::StateError);
  CHECK(second.adapter().B.grad.size() == 0);

  AdaptedLora<double> moved(std::move(first));  // the same layer elsewhere
  CHECK_NOTHROW(moved.backward(x, dy, cache));
}
