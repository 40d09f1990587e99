#include "lora/adapters/no_adapter.hpp"

#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"

namespace {

using Layer = lora::Adapted<lora::Dense<float>, lora::NoAdapter<float>>;
using lora::testing::random_matrix;

}  // namespace

TEST_CASE("no adapter: is the base, bit for bit, and keeps the laws") {
  lora::Rng rng(1);
  const Layer layer(random_matrix<float>(6, 4, rng), lora::NoAdapter<float>());
  const auto x = random_matrix<float>(4, 9, rng);
  auto results = lora::testing::adapter_laws(layer, x);
  lora::testing::append(results, lora::testing::check_fresh(layer, x));
  results.push_back(lora::testing::check_sum(layer, layer, x));
  for (const auto& result : results) {
    INFO(result);
    CHECK(result.passed);
  }
  CHECK(layer.delta() == Eigen::MatrixXf::Zero(6, 4));
  CHECK(lora::count_parameters(layer).trainable == 0);
  CHECK(lora::count_parameters(layer).total == 24);
}

TEST_CASE("no adapter: passes the gradient of the input through") {
  lora::Rng rng(2);
  lora::Adapted<lora::Dense<double>, lora::NoAdapter<double>> layer(random_matrix(6, 4, rng),
                                                                    lora::NoAdapter<double>());
  for (const auto& result : lora::testing::check_gradients(layer, random_matrix(4, 9, rng))) {
    INFO(result);
    CHECK(result.passed);
  }
  const auto taylor = lora::testing::check_taylor(layer, random_matrix(4, 9, rng));
  INFO(taylor);
  CHECK(taylor.passed);  // linear: the remainder is rounding
}
