// The proof that the run-time layer is open: two kinds of adapter and a base of the tests go by name through attach,
// select, sums, reports, merging, handles and threads, without a word about them in the library.

#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/model/merge.hpp"
#include "lora/model/report.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace {

using lora::Index;
using lora::Matrix;
using lora::Pass;
using lora::testing::random_matrix;
using lora::testing::same_bits;
using lora_test::check;

template <class S>
struct Shift;

/// Additive: y = W0 x + weight strength v (sum of x), v (out) trained.
struct ShiftConfig {
  double strength = 1;
  template <class S>
  using Kind = Shift<S>;
};

template <class S>
struct Shift {
  using Scalar = S;
  using Config = ShiftConfig;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  static constexpr const char* peft_type = "SHIFT";
  static constexpr bool summable = true, shared = false;

  lora::Parameter<S, lora::Dynamic, 1> v;
  double strength;

  Shift(const lora::FrozenBase auto& base, const ShiftConfig& config, lora::Rng&)
      : v(lora::Vector<S>::Zero(base.rows())), strength(config.strength) {}

  template <int>
  struct Kept {
    S s{};
    Index bytes() const { return 0; }
  };
  template <int>
  struct Scratch {
    Index bytes() const { return 0; }
  };
  template <int N>
  void forward(const auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass,
               S weight = S(1)) const {
    base.apply(x, y, pass.executor);
    add(x, y, kept, scratch, pass, weight);
  }
  template <int N>
  void add(const auto& x, auto&& y, Kept<N>& kept, Scratch<N>&, const Pass&, S weight) const {
    kept.s = weight * S(strength);
    for (Index j = 0; j < y.cols(); ++j) y.col(j) += kept.s * x.col(j).sum() * v.value;
  }
  template <int N>
  void backward(const auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch,
                const Pass& pass) {
    if constexpr (lora::wants_gradient<decltype(dx)>) base.apply_transposed(dy, dx, pass.executor);
    add_backward(x, dy, dx, kept, scratch, pass);
  }
  template <int N>
  void add_backward(const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>&, const Pass&) {
    for (Index j = 0; j < dy.cols(); ++j) {
      v.gradient() += kept.s * x.col(j).sum() * dy.col(j);
      if constexpr (lora::wants_gradient<decltype(dx)>) dx.col(j).array() += kept.s * v.value.dot(dy.col(j));
    }
  }
  template <class W>
  void add_delta(Matrix<W>& block, Index, const auto&, S weight = S(1)) const {
    block.colwise() += W(weight * S(strength)) * v.value.template cast<W>();
  }
  static void visit(auto& self, auto&& f) { f("v", self.v); }
  void check_fits(const lora::detail::Caller& who, Index out, Index) const {
    lora::detail::check_rows(who, "v", v.value.rows(), "out_features", out);
  }
  lora::AdapterCount count() const { return {.trained = v.trainable ? v.value.size() : 0}; }
  double max_weight() const { return lora::detail::largest_finite<S>() / std::max(1.0, std::abs(strength)); }
  static void describe(auto& self, auto&& table) {
    table.setting("strength", self.strength);
    table.tensor("shift_v", self.v);
  }
};

template <class S>
struct Norms;

/// Like DoRA: y = diag(m / |rows of W0|) W0 x with m (out) trained, which starts as those norms: not summable, reads
/// W0.
struct NormsConfig {
  template <class S>
  using Kind = Norms<S>;
};

template <class S>
struct Norms {
  using Scalar = S;
  using Config = NormsConfig;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  static constexpr const char* peft_type = "NORMS";
  static constexpr bool summable = false, shared = false;

  lora::Parameter<S, lora::Dynamic, 1> m;
  lora::Vector<S> inverse;

  Norms(const lora::FrozenBase auto& base, const NormsConfig&, lora::Rng&) {
    m.value = base.columns(0, base.cols()).rowwise().norm();
    inverse = m.value.cwiseInverse();
  }
  template <int>
  struct Kept {
    Matrix<S> unscaled;
    Index bytes() const { return unscaled.size() * static_cast<Index>(sizeof(S)); }
  };
  template <int>
  struct Scratch {
    Matrix<S> g;
    Index bytes() const { return g.size() * static_cast<Index>(sizeof(S)); }
  };
  template <int N>
  void forward(const auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>&, const Pass& pass) const {
    base.apply(x, y, pass.executor);
    kept.unscaled = y;
    y = (m.value.cwiseProduct(inverse)).asDiagonal() * kept.unscaled;
  }
  template <int N>
  void backward(const auto& base, const auto&, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch,
                const Pass& pass) {
    m.gradient() += inverse.cwiseProduct(dy.cwiseProduct(kept.unscaled).rowwise().sum());
    if constexpr (lora::wants_gradient<decltype(dx)>) {
      scratch.g = (m.value.cwiseProduct(inverse)).asDiagonal() * dy;
      base.apply_transposed(scratch.g, dx, pass.executor);
    }
  }
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto& base) const {
    block += (m.value.cwiseProduct(inverse) - lora::Vector<S>::Ones(m.value.size())).template cast<W>().asDiagonal() *
             base.columns(first, block.cols()).template cast<W>();
  }
  static void visit(auto& self, auto&& f) {
    f("m", self.m);
    f("inverse", std::as_const(self.inverse));
  }
  void check_fits(const lora::detail::Caller& who, Index out, Index) const {
    lora::detail::check_rows(who, "m", m.value.rows(), "out_features", out);
  }
  lora::AdapterCount count() const { return {.trained = m.value.size(), .constant = inverse.size()}; }
  double max_weight() const { return 1; }
  static void describe(auto& self, auto&& table) { table.tensor("norms_m", self.m); }
};

/// W0 in 16-bit integers and one scale: neither fuses nor holds S.
template <class S>
struct Coarse {
  using Scalar = S;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  std::shared_ptr<const Eigen::Matrix<std::int16_t, Eigen::Dynamic, Eigen::Dynamic>> held;
  S scale;

  explicit Coarse(const Matrix<S>& W0) : scale(W0.cwiseAbs().maxCoeff() / S(32767)) {
    held = std::make_shared<const Eigen::Matrix<std::int16_t, Eigen::Dynamic, Eigen::Dynamic>>(
        (W0 / scale).array().round().matrix().template cast<std::int16_t>());
  }
  Index rows() const { return held->rows(); }
  Index cols() const { return held->cols(); }
  Index bytes() const { return 2 * held->size(); }
  Matrix<S> columns(Index first, Index count) const {
    return scale * held->middleCols(first, count).template cast<S>();
  }
  void apply(const auto& x, auto& y, lora::Executor* = nullptr) const { y.noalias() = columns(0, cols()) * x; }
  void apply_transposed(const auto& dy, auto& dx, lora::Executor* = nullptr) const {
    dx.noalias() = columns(0, cols()).transpose() * dy;
  }
  Coarse like(Matrix<S> W) const { return Coarse(W); }
};

static_assert(lora::AdapterKind<Shift<float>> && lora::AdapterKind<Norms<double>> && lora::RunTimeBase<Coarse<float>>);

using Net = lora::Mlp<lora::Linear<double>, lora::Tanh>;

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

TEST_CASE("open: a pass names its adapter, whatever is selected, and ends with it") {
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
