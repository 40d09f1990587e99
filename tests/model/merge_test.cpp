#include "lora/model/merge.hpp"

#include "lora/model/attach.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"

using lora::testing::random_matrix;
using lora::testing::same_bits;

TEMPLATE_TEST_CASE("A merged model has new weights and no adapters, and computes the same", "", float, double) {
  using S = TestType;
  lora::Rng rng(1);
  lora::Mlp<lora::Linear<S>> net({5, 7, 6, 4, 3}, rng);
  const auto x = lora::Matrix<S>(random_matrix(5, 9, rng).template cast<S>());
  lora::attach(net, {.rank = 2, .bias = lora::Bias::lora_only}, {.modules = {"fc1"}, .modules_to_save = {"fc3"}}, rng);
  lora::testing::fill_parameters(net, rng, 0.5);
  const lora::Matrix<S> adapted = net(x);

  auto merged = net;
  lora::merge(merged);
  CHECK(lora::tensor_names(merged) == std::vector<std::string>{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
                                                               "fc3.weight", "fc3.bias", "fc4.weight", "fc4.bias"});
  CHECK(lora::count_parameters(merged).trainable == 0);
  for (std::size_t l = 0; l < 4; ++l) {
    CHECK(merged.layers()[l].dense() == net.layers()[l].merged());
    CHECK(*merged.layers()[l].bias() == net.layers()[l].merged_bias());
  }
  CHECK((merged(x) - adapted).norm() <= 8 * std::numeric_limits<S>::epsilon() * adapted.norm());

  // The model it came from is as it was.
  CHECK(!merged.layers()[0].base().shares_with(net.layers()[0].base()));
  const auto same = same_bits("the model before", net(x), adapted);
  INFO(same);
  CHECK(same.passed);
}

TEST_CASE("Merging takes what is selected, of several adapters") {
  lora::Rng rng(2);
  lora::Mlp<lora::Linear<double>> net({4, 6, 3}, rng);
  const auto x = random_matrix(4, 5, rng);
  const lora::Matrix<double> base = net(x);
  lora::attach(net, {.rank = 2}, rng, "first");
  lora::testing::fill_parameters(net, rng, 0.5);
  lora::attach(net, {.rank = 1}, {.modules = {"fc2"}}, rng, "second");
  lora::testing::fill_parameters(net, rng, 0.5);

  auto none = net;
  lora::select_none(none);
  lora::merge(none);
  CHECK(none(x) == base);
  CHECK(none.layers()[0].adapters().empty());
  CHECK(none.layers()[0].base().shares_with(net.layers()[0].base()));

  auto second = net;
  lora::merge(second);
  CHECK(second.layers()[0].dense() == net.layers()[0].dense());
  CHECK((second(x) - net(x)).norm() <= 1e-14 * net(x).norm());
  CHECK((second(x) - base).norm() > 1e-3 * base.norm());

  net.layers()[1].select_sum({{"first", 0.5}, {"second", 2}});
  auto sum = net;
  lora::merge(sum);
  CHECK((sum(x) - net(x)).norm() <= 1e-14 * net(x).norm());
}

TEST_CASE("A model without adapters, trained or frozen, is left alone") {
  lora::Rng rng(3);
  lora::Mlp<lora::Linear<double>> net({4, 6, 3}, rng);
  const lora::Matrix<double> weight = net.layers()[0].dense();
  lora::merge(net);
  CHECK(net.layers()[0].dense() == weight);
  CHECK_FALSE(net.layers()[0].frozen());
}
