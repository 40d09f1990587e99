// The law of weights finds each part of an adapter that forgets its weight.

#include "lora/testing/adapter_laws.hpp"
#include "support/catch.hpp"

#include <string>
#include <vector>

namespace {

using lora::Index;
using lora::Matrix;

enum class Fault { none, gradient, dx, delta, trains_what_is_frozen };

struct ShiftConfig {
  Fault fault = Fault::none;
  template <class S>
  struct Kind;
};

/// y += w v (sum of the numbers of x)     v (out)
template <class S>
struct ShiftConfig::Kind {
  using Scalar = S;
  using Config = ShiftConfig;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  static constexpr const char* peft_type = "SHIFT";
  static constexpr bool summable = true, shared = false;

  template <int>
  struct Kept {
    S weight = 0;
    Index bytes() const { return 0; }
  };
  template <int>
  struct Scratch {
    Index bytes() const { return 0; }
  };

  Kind(const lora::FrozenBase auto& base, const ShiftConfig& config, lora::Rng&)
      : v(lora::Vector<S>::Zero(base.rows())), fault(config.fault) {}

  template <int N>
  void forward(const auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch, const lora::Pass& pass,
               S weight = S(1)) const {
    base.apply(x, y, pass.executor);
    add(x, y, kept, scratch, pass, weight);
  }
  template <int N>
  void add(const auto& x, auto&& y, Kept<N>& kept, Scratch<N>&, const lora::Pass&, S weight) const {
    kept.weight = weight;
    for (Index j = 0; j < y.cols(); ++j) y.col(j) += weight * x.col(j).sum() * v.value;
  }
  template <int N>
  void backward(const auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch,
                const lora::Pass& pass) {
    if constexpr (lora::wants_gradient<decltype(dx)>) base.apply_transposed(dy, dx, pass.executor);
    add_backward(x, dy, dx, kept, scratch, pass);
  }
  template <int N>
  void add_backward(const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>&, const lora::Pass&) {
    const S of_v = fault == Fault::gradient ? S(1) : kept.weight, of_x = fault == Fault::dx ? S(1) : kept.weight;
    for (Index j = 0; j < dy.cols(); ++j) {
      if (v.trainable || fault == Fault::trains_what_is_frozen) v.gradient() += of_v * x.col(j).sum() * dy.col(j);
      if constexpr (lora::wants_gradient<decltype(dx)>) dx.col(j).array() += of_x * v.value.dot(dy.col(j));
    }
  }
  template <class W>
  void add_delta(Matrix<W>& block, Index, const auto&, S weight = S(1)) const {
    block.colwise() += W(fault == Fault::delta ? S(1) : weight) * v.value.template cast<W>();
  }
  void check_fits(const lora::detail::Caller& who, Index out, Index) const {
    lora::detail::check_rows(who, "v", v.value.rows(), "out_features", out);
  }
  lora::AdapterCount count() const { return {.trained = v.value.size()}; }
  double max_weight() const { return 1e300; }
  static void visit(auto& self, auto&& f) { f("v", self.v); }
  static void describe(auto& self, auto&& list) { list.tensor("shift_v", self.v); }

  lora::Parameter<S, lora::Dynamic, 1> v;
  Fault fault;
};

/// The laws that are broken, by name.
std::vector<std::string> broken(Fault fault) {
  lora::Rng rng(1);
  const lora::Dense<double> base(lora::testing::random_matrix(6, 5, rng));
  lora::Adapted<lora::Dense<double>, ShiftConfig::Kind<double>> layer(base, ShiftConfig{fault}, rng);
  lora::testing::fill_parameters(layer, rng, 0.5);
  std::vector<std::string> names;
  for (const auto& result : lora::testing::check_weighted(layer, lora::testing::random_matrix(5, 7, rng))) {
    if (!result.passed) names.push_back(result.law);
  }
  return names;
}

}  // namespace

TEST_CASE("weighted: each part that forgets the weight is found, and no other") {
  using Names = std::vector<std::string>;
  CHECK(broken(Fault::none) == Names{});
  CHECK(broken(Fault::gradient) == Names{"weighted: gradient of v"});
  CHECK(broken(Fault::dx) == Names{"weighted: dx"});
  CHECK(broken(Fault::delta) == Names{"weighted: delta"});
  CHECK(broken(Fault::trains_what_is_frozen) == Names{"weighted: no gradient of what is not trained"});
}
