// The law of what a kind describes finds each way in which a file would hold too little of an adapter.

#include "lora/testing/adapter_laws.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"

#include <string>
#include <vector>

namespace {

using lora::Index;
using lora::Matrix;

/// What describe and settings leave out.
enum class Fault { none, tensor, setting, config_setting, both_settings, drawn };

template <class S, Fault fault>
struct Turned;

/// y = W0 x + strength v (sum of x) + d u,   v, u (out) trained, d a constant.
template <Fault fault>
struct TurnedConfig {
  double strength = 1;
  template <class S>
  using Kind = Turned<S, fault>;
  static void settings(auto& self, auto&& f) {
    if constexpr (fault != Fault::config_setting && fault != Fault::both_settings) f("strength", self.strength);
  }
};

template <class S, Fault fault>
struct Turned : lora_test::Shift<S> {
  using Config = TurnedConfig<fault>;
  using Shift = lora_test::Shift<S>;
  static constexpr const char* peft_type = "TURNED";
  static constexpr bool summable = false;

  lora::Parameter<S, lora::Dynamic, 1> u;
  S drawn;

  Turned(const lora::FrozenBase auto& base, const Config& config, lora::Rng& rng)
      : Shift(base, {config.strength}, rng), u(lora::Vector<S>::Zero(base.rows())) {
    drawn = fault == Fault::drawn ? rng.normal<S>() : S(2);
  }
  template <int N>
  using Kept = typename Shift::template Kept<N>;
  template <int N>
  using Scratch = typename Shift::template Scratch<N>;
  template <int N>
  void forward(const auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch,
               const lora::Pass& pass) const {
    Shift::forward(base, x, y, kept, scratch, pass);
    for (Index j = 0; j < y.cols(); ++j) y.col(j) += drawn * x.col(j).sum() * u.value;
  }
  template <int N>
  void backward(const auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch,
                const lora::Pass& pass) {
    Shift::backward(base, x, dy, dx, kept, scratch, pass);
    for (Index j = 0; j < dy.cols(); ++j) {
      u.gradient() += drawn * x.col(j).sum() * dy.col(j);
      if constexpr (lora::wants_gradient<decltype(dx)>) dx.col(j).array() += drawn * u.value.dot(dy.col(j));
    }
  }
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto& base) const {
    Shift::add_delta(block, first, base);
    block.colwise() += W(drawn) * u.value.template cast<W>();
  }
  void add() const = delete;
  void add_backward() const = delete;
  static void visit(auto& self, auto&& f) {
    Shift::visit(self, f);
    f("u", self.u);
  }
  static void describe(auto& self, auto&& table) {
    if constexpr (fault != Fault::setting && fault != Fault::both_settings) table.setting("strength", self.strength);
    table.tensor("turned_v", self.v);
    if constexpr (fault != Fault::tensor) table.tensor("turned_u", self.u);
  }
};

/// The laws that are broken, by name, and what they say.
template <Fault fault>
std::vector<std::string> broken(double strength = 0.5) {
  lora::Rng rng(1);
  const lora::Dense<double> base(lora::testing::random_matrix(6, 5, rng));
  lora::Adapted<lora::Dense<double>, Turned<double, fault>> layer(base, TurnedConfig<fault>{strength}, rng);
  lora::testing::fill_parameters(layer, rng, 0.5);
  std::vector<std::string> names;
  for (const auto& result : lora::testing::adapter_laws(layer, lora::testing::random_matrix(5, 7, rng))) {
    if (result.passed) continue;
    names.push_back(result.law + (result.bound == 0 && result.error < 2 ? ": " + result.detail : ""));
  }
  return names;
}

}  // namespace

TEST_CASE("described: what a kind leaves out of its files is found, and named") {
  using Names = std::vector<std::string>;
  const std::string output = "described: output", weight = "described: merged weight";
  CHECK(broken<Fault::none>() == Names{});
  CHECK(broken<Fault::tensor>() == Names{"described: parameters: in visit, but not in describe: u", output, weight});
  const std::string unmatched = "described: settings: not in both describe and Config::settings: strength";
  CHECK(broken<Fault::setting>() == Names{unmatched, output, weight});
  CHECK(broken<Fault::config_setting>() == Names{unmatched, output, weight});
  CHECK(broken<Fault::both_settings>() == Names{output, weight});
  CHECK(broken<Fault::both_settings>(1).empty());  // the default shows nothing
  CHECK(broken<Fault::drawn>() == Names{output, weight});
}
