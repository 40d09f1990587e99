#include "lora/optim/adam.hpp"
#include "lora/optim/sgd.hpp"
#include "lora/testing/optimizer_laws.hpp"

#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <string>

namespace {

using lora::Adam;
using lora::AdamW;
using lora::Path;
using lora::Sgd;
using lora::testing::LawResult;
using lora::testing::LawResults;
using lora::testing::optimizer_laws;

void check(const LawResults& results) {
  CHECK(results.size() == 21);
  for (const LawResult& result : results) {
    CAPTURE(result);
    CHECK(result.passed);
  }
}

const lora::ParameterGroup second_faster = {
    .select = [](const Path& p) { return p.ends_with("second"); }, .lr = 0.08, .weight_decay = 0.3};

}  // namespace

TEMPLATE_TEST_CASE("optimizer laws: every optimizer keeps them, with every setting", "", float, double) {
  using S = TestType;
  check(optimizer_laws<S>([] { return Sgd<S>({.lr = 0.05}); }));
  check(optimizer_laws<S>([] { return Sgd<S>({.lr = 0.05, .momentum = 0.9, .dampening = 0.1, .weight_decay = 0.1}); }));
  check(optimizer_laws<S>([] { return Sgd<S>({.lr = 0.05, .momentum = 0.9, .nesterov = true}); }));
  check(optimizer_laws<S>([] { return Adam<S>({.lr = 0.05, .weight_decay = 0.1}); }));
  check(optimizer_laws<S>([] { return AdamW<S>({.lr = 0.05, .weight_decay = 0.1}); }));
  check(optimizer_laws<S>([] { return AdamW<S>({.lr = 0.05, .groups = {second_faster}}); }));
}

TEMPLATE_TEST_CASE("optimizer laws: each optimizer finds the optimum of a quadratic", "", float, double) {
  using S = TestType;
  const double epsilons = 8 * static_cast<double>(std::numeric_limits<S>::epsilon());
  const auto check_optimum = [&](auto make, int steps, double bound) {
    const LawResult result = lora::testing::check_optimum<S>(make, steps, bound);
    CAPTURE(result);
    CHECK(result.passed);
  };
  check_optimum([] { return Sgd<S>({.lr = 0.1}); }, 1000, epsilons);
  check_optimum([] { return Sgd<S>({.lr = 0.02, .momentum = 0.9}); }, 1000, epsilons);
  check_optimum([] { return Sgd<S>({.lr = 0.02, .momentum = 0.9, .nesterov = true}); }, 1000, epsilons);
  check_optimum([] { return Adam<S>({.lr = 0.05}); }, 1000, 1e-4);
  check_optimum([] { return AdamW<S>({.lr = 0.05, .weight_decay = 0}); }, 1000, 1e-4);
}

// The laws can fail: optimizers with the bugs that they are there for.
namespace {

using lora::Index;
using Array = Eigen::ArrayXd;

/// Adam with the faults that real implementations have had, switched on one at a time.
enum class Fault {
  none,
  counts_per_tensor,
  keeps_pointers,
  ignores_frozen,
  forgets,
  shares_state,
  ignores_factor,
  eats_gradient
};

class Faulty {
  struct Moments {
    double* value = nullptr;
    Array m, v;
    int steps = 0;
  };
  struct State {
    std::map<std::string, Moments> moments;
    int steps = 0;
  };

 public:
  explicit Faulty(Fault fault) : fault_(fault), state_(std::make_shared<State>()) {}
  Faulty(const Faulty& other) : fault_(other.fault_), state_(other.state_) {
    if (fault_ != Fault::shares_state) state_ = std::make_shared<State>(*other.state_);
  }
  Faulty& operator=(const Faulty&) = delete;

  template <class T>
  void step(T& model, double factor = 1) {
    if (fault_ == Fault::ignores_factor) factor = 1;
    State& state = *state_;
    lora::visit_parameters(model, [&](const Path& path, auto& parameter) {
      const bool left_out = !lora::is_trained(path, parameter) || parameter.grad.size() == 0;
      if (left_out && fault_ == Fault::forgets) state.moments.erase(path.str());
      if (left_out && (fault_ != Fault::ignores_frozen || parameter.grad.size() == 0)) return;
      Moments& moments = state.moments[path.str()];
      if (moments.steps == 0) {
        moments.m = moments.v = Array::Zero(parameter.value.size());
        moments.value = parameter.value.data();
      }
      ++moments.steps;
      ++state.steps;
      const int t = fault_ == Fault::counts_per_tensor ? state.steps : moments.steps;
      double* const data = fault_ == Fault::keeps_pointers ? moments.value : parameter.value.data();
      Eigen::Map<Array> p(data, parameter.value.size());
      Eigen::Map<Array> g(parameter.grad.data(), parameter.grad.size());
      moments.m = 0.9 * moments.m + 0.1 * g;
      moments.v = 0.999 * moments.v + 0.001 * g.square();
      p -= factor * 0.05 / (1 - std::pow(0.9, t)) * moments.m / ((moments.v / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
      if (fault_ == Fault::eats_gradient) g.setZero();
    });
  }

 private:
  Fault fault_;
  std::shared_ptr<State> state_;
};

/// The first words of the laws that are broken.
std::string broken(Fault fault) {
  std::string names;
  for (const LawResult& result : optimizer_laws([&] { return Faulty(fault); })) {
    const std::string name = result.law.substr(0, result.law.find(':'));
    if (!result.passed && names.find(name) == std::string::npos) names += name + " ";
  }
  return names;
}

}  // namespace

TEST_CASE("optimizer laws: each catches the mistake that it is there for") {
  CHECK(broken(Fault::none).empty());
  CHECK(broken(Fault::counts_per_tensor) == "separate untouched return ");
  CHECK(broken(Fault::keeps_pointers) == "move copy ");
  CHECK(broken(Fault::ignores_frozen) == "untouched return ");
  CHECK(broken(Fault::forgets) == "return ");
  CHECK(broken(Fault::shares_state) == "copy ");
  CHECK(broken(Fault::ignores_factor) == "factor 0 ");
  CHECK(broken(Fault::eats_gradient) == "untouched ");
}
