// The proof that the run-time layer is open: two kinds of adapter and a base of the tests go by name through attach,
// select, sums, reports, merging, handles and threads, without a word about them in the library.

#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/model/merge.hpp"
#include "lora/model/report.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"
#include "support/laws.hpp"

#include <thread>
#include <vector>

namespace {

using lora::Matrix;
using lora::testing::random_matrix;
using lora::testing::same_bits;
using lora_test::check;
using lora_test::Coarse;
using lora_test::NormsConfig;
using lora_test::ShiftConfig;

using Net = lora::Mlp<lora::Linear<double>, lora::Tanh>;

template <class S>
struct Refusing;

/// Its constructor throws for the third layer, or makes v with a row too many.
struct RefusingConfig {
  bool throws = true;
  template <class S>
  using Kind = Refusing<S>;
};

template <class S>
struct Refusing : lora_test::Shift<S> {
  using Config = RefusingConfig;
  Refusing(const lora::FrozenBase auto& base, const RefusingConfig& config, lora::Rng& rng)
      : lora_test::Shift<S>(base, {}, rng) {
    if (base.cols() != 4) return;
    if (config.throws) throw lora::ConfigError("Refusing: 4 columns");
    this->v.value.setZero(base.rows() + 1);
  }
};

/// The first layer on a base of the test's own.
Net new_net(lora::Rng& rng) {
  std::vector<lora::Linear<double>> layers;
  layers.emplace_back(Coarse<double>(random_matrix(6, 5, rng)), lora::Vector<double>(random_matrix(6, 1, rng)));
  layers.emplace_back(lora::LinearShape{.in = 6, .out = 3}, rng);
  return Net(std::move(layers));
}

}  // namespace

TEST_CASE("open: kinds and a base of one's own are attached by name, selected, summed, counted and merged") {
  lora::Rng rng(1);
  Net net = new_net(rng);
  const auto x = random_matrix(5, 7, rng);
  const Matrix<double> base = net(x);
  CHECK(lora::attach(net, ShiftConfig{.strength = 0.5}, {}, rng, "shift") == 2);
  check(same_bits("fresh", net(x), base));
  CHECK(lora::attach(net, {.rank = 2}, rng, "factors") == 2);
  CHECK(lora::attach(net, NormsConfig{}, {.modules = {"fc1"}}, rng, "norms") == 1);
  CHECK((net(x) - base).norm() <= 1e-14 * base.norm());
  lora::testing::fill_parameters(net, rng, 0.5);
  CHECK(net.layers()[0].adapters().members().size() == 3);
  CHECK_THROWS_WITH(net.layers()[0].adapter("shift").as<lora::Lora<double>>(),
                    "as: adapter \"shift\" is a Shift<double>, expected a Lora<double>");
  CHECK_THROWS_WITH(net.layers()[0].adapter("factors").as<lora_test::Norms<double>>(),
                    "as: adapter \"factors\" is a Lora<double>, expected a Norms<double>");

  lora::select(net, "shift");
  const Matrix<double> shifted = net(x);
  for (const auto& result : lora::testing::check_gradients(net, x)) check(result);
  lora::select(net, "norms");
  const Matrix<double> normed = net(x);
  CHECK((normed - shifted).norm() > 1e-3);
  for (const auto& result : lora::testing::check_gradients(net, x)) check(result);

  CHECK(lora::select_sum(net, {{"shift", 0.5}, {"factors", -2}}) == 2);
  const Matrix<double> sum = net(x);
  for (const auto& result : lora::testing::check_gradients(net, x)) check(result);
  CHECK_THROWS_AS(lora::select_sum(net, {{"shift", 0.5}, {"norms", 1}}), lora::ConfigError);
  check(same_bits("refused", net(x), sum));

  const auto count = lora::account(lora::shapes_of(net), 7).current.parameters;
  CHECK(count.total == lora::count_parameters(net).total);
  CHECK(count.trainable == lora::count_parameters(net).trainable);
  CHECK(lora::shapes_of(net)[0].weight_bytes == 2 * 6 * 5);

  for (const char* name : {"shift", "norms"}) {
    Net merged = net;
    lora::select(merged, name);
    const Matrix<double> before = merged(x);
    CHECK(lora::merge(merged) == 2);
    CHECK(merged.layers()[0].base().as<Coarse<double>>() != nullptr);  // the kind of base stays
    CHECK((merged(x) - before).norm() <= 1e-3 * before.norm());        // in 16 bits again
  }
  lora::select_none(net);
  check(same_bits("off", net(x), base));
}

TEST_CASE("open: a pass names its adapter, whatever is selected, and ends with it", "[threads]") {
  lora::Rng rng(2);
  Net net = new_net(rng);
  const auto x = random_matrix(5, 4, rng), dy = random_matrix(3, 4, rng);
  const Matrix<double> base = net(x);
  lora::attach(net, ShiftConfig{}, {}, rng, "shift");
  lora::attach(net, NormsConfig{}, {.modules = {"fc1"}}, rng, "norms");
  lora::testing::fill_parameters(net, rng, 0.5);
  std::vector<Matrix<double>> expected;
  const std::vector<lora::AdapterHandle> handles = {lora::adapter(net, "shift"), lora::adapter(net, "norms"),
                                                    lora::base_alone};
  for (const char* name : {"shift", "norms"}) {
    lora::select(net, name);
    expected.push_back(net(x));
  }
  expected.push_back(base);
  Net::Cache cache;
  for (std::size_t k = 0; k < 3; ++k) {
    check(same_bits("by handle", Matrix<double>(net.forward(x, cache, {.adapter = handles[k]})), expected[k]));
  }
  CHECK(lora::selected(net).name() == "(selected)");
  check(same_bits("selected", Matrix<double>(net.forward(x, cache, {.adapter = lora::selected(net)})), expected[1]));

  // Several threads, each with another adapter, while others come and go.
  std::vector<int> wrong(3, 0);
  std::vector<std::thread> threads;
  for (std::size_t k = 0; k < 3; ++k) {
    threads.emplace_back([&, k] {
      Net::Cache own;
      for (int round = 0; round < 200; ++round) {
        wrong[k] += Matrix<double>(std::as_const(net).forward(x, own, {.adapter = handles[k]})) != expected[k];
      }
    });
  }
  for (int round = 0; round < 50; ++round) {
    lora::attach(net, ShiftConfig{}, {}, rng, "guest");
    lora::detach(net, "guest");
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(3, 0));

  // Whoever holds a handle goes on with what is detached; another model's layers do not know it.
  net.forward(x, cache, {.adapter = handles[0]});
  const Matrix<double> dx = net.backward(x, dy, cache);
  lora::detach(net, "shift");
  check(same_bits("backward of what is detached", Matrix<double>(net.backward(x, dy, cache)), dx));
  check(same_bits("and forward", Matrix<double>(net.forward(x, cache, {.adapter = handles[0]})), expected[0]));
  Net copy = net;
  CHECK_THROWS_AS(copy.forward(x, cache, {.adapter = handles[0]}), lora::NameError);
  CHECK_THROWS_WITH(lora::adapter(net, "carol"),
                    "adapter: no layer of the model has an adapter \"carol\", expected one of \"norms\"");
}

TEST_CASE("open: a kind whose constructor refuses one layer is attached to none, and nothing is frozen") {
  lora::Rng rng(3);
  Net net({5, 6, 4, 3}, rng);
  const auto x = random_matrix(5, 4, rng);
  const auto before = lora::tensor_names(net);
  const auto count = lora::count_parameters(net);
  const Matrix<double> y = net(x);
  for (const bool throws : {true, false}) {
    if (throws) {
      CHECK_THROWS_WITH(lora::attach(net, RefusingConfig{}, {}, rng, "second"), "Refusing: 4 columns");
    } else {
      CHECK_THROWS_WITH(lora::attach(net, RefusingConfig{.throws = false}, {}, rng, "second"),
                        "attach::fc3: v has 4 rows, expected out_features = 3");
    }
    CHECK(lora::tensor_names(net) == before);
    CHECK(lora::count_parameters(net).trainable == count.trainable);
    CHECK_FALSE(net.layers()[0].frozen());
    check(same_bits("unchanged", net(x), y));
  }
}
