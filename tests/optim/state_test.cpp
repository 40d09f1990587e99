#include "lora/optim/optimizer_state.hpp"

#include "lora/optim/adam.hpp"
#include "optim/models.hpp"
#include "support/heap.hpp"

#include <optional>
#include <string>
#include <vector>

namespace {

using lora::Adam;
using lora::Index;
using lora::Path;
using Weight = lora::Parameter<double>;

Weight weight(Index size, double value) { return Weight(Eigen::MatrixXd::Constant(size, 1, value)); }

/// A model whose listing changes: named parts that can be absent, present but not selected, or in another order.
struct Changing {
  struct Part {
    std::string name;
    Weight weight;
    bool listed = true;
    bool active = true;
  };
  std::vector<Part> parts;

  static void visit(auto& self, auto&& f) {
    for (auto& part : self.parts) {
      if (part.listed) f(lora::Name(part.name), part.weight, part.active);
    }
  }

  Part& operator[](const std::string& name) {
    for (auto& part : parts) {
      if (part.name == name) return part;
    }
    throw lora::NameError(name);
  }
};

Changing three_parts() {
  Changing model;
  model.parts.push_back({"a", weight(3, 1.0)});
  model.parts.push_back({"b", weight(3, 2.0)});
  model.parts.push_back({"c", weight(3, 3.0)});
  return model;
}

/// One step in which each part's gradient depends on its own past alone.
void step(Adam<double>& optimizer, Changing& model) {
  for (auto& part : model.parts) part.weight.gradient() = (part.weight.value.array().square() - 0.5).matrix();
  optimizer.step(model);
}

/// The value of a part after that many steps with nothing else in the model.
Eigen::MatrixXd alone(const std::string& name, int steps) {
  Changing model = three_parts();
  const Changing::Part kept = model[name];
  model.parts = {kept};
  Adam<double> optimizer({.lr = 0.1});
  for (int k = 0; k < steps; ++k) step(optimizer, model);
  return model[name].weight.value;
}

std::vector<Index> steps_of(const Adam<double>& optimizer) {
  std::vector<Index> steps;
  for (const auto& slot : optimizer.state().slots()) steps.push_back(static_cast<Index>(slot.steps));
  return steps;
}

}  // namespace

TEST_CASE("optimizer state: parameters of one model do what each does alone") {
  Changing model = three_parts();
  Adam<double> optimizer({.lr = 0.1});
  for (int k = 0; k < 5; ++k) step(optimizer, model);
  for (const char* name : {"a", "b", "c"}) CHECK(model[name].weight.value == alone(name, 5));
  CHECK(steps_of(optimizer) == std::vector<Index>{5, 5, 5});
}

TEST_CASE("optimizer state: whatever hides a parameter, its state waits for it and the others go on") {
  Changing model = three_parts();
  Adam<double> optimizer({.lr = 0.1});
  for (int k = 0; k < 3; ++k) step(optimizer, model);
  auto& hidden = model[GENERATE(std::string("a"), std::string("b"), std::string("c"))];
  const int how = GENERATE(0, 1, 2, 3);
  CAPTURE(hidden.name, how);
  const auto set_hidden = [&](bool hide) {
    if (how == 0) hidden.listed = !hide;            // detached
    if (how == 1) hidden.active = !hide;            // another adapter selected
    if (how == 2) hidden.weight.trainable = !hide;  // frozen
  };
  set_hidden(true);
  for (int k = 0; k < 4; ++k) {
    for (auto& part : model.parts) part.weight.gradient() = (part.weight.value.array().square() - 0.5).matrix();
    if (how == 3) hidden.weight.grad.resize(0, 0);  // not reached by backward
    optimizer.step(model);
  }
  CHECK(hidden.weight.value == alone(hidden.name, 3));
  set_hidden(false);
  for (int k = 0; k < 2; ++k) step(optimizer, model);
  for (const char* name : {"a", "b", "c"}) CHECK(model[name].weight.value == alone(name, name == hidden.name ? 5 : 9));
  CHECK(optimizer.state().slots().size() == 3);
}

TEST_CASE("optimizer state: parts may change their order, and new ones come in anywhere") {
  Changing model = three_parts();
  Adam<double> optimizer({.lr = 0.1});
  step(optimizer, model);
  step(optimizer, model);
  std::swap(model.parts[0], model.parts[2]);
  step(optimizer, model);
  model.parts.insert(model.parts.begin() + 1, {"d", weight(2, 4.0)});
  step(optimizer, model);
  std::rotate(model.parts.begin(), model.parts.begin() + 1, model.parts.end());
  step(optimizer, model);
  for (const char* name : {"a", "b", "c"}) CHECK(model[name].weight.value == alone(name, 5));
  CHECK(steps_of(optimizer) == std::vector<Index>{2, 5, 5, 5});  // in listing order: d first
}

TEST_CASE("optimizer state: a parameter of the same name and another size starts anew") {
  Changing model = three_parts();
  Adam<double> optimizer({.lr = 0.1});
  step(optimizer, model);
  model["b"].weight = weight(7, 2.0);
  step(optimizer, model);
  CHECK(optimizer.state().slots().size() == 4);
  CHECK(steps_of(optimizer) == std::vector<Index>{2, 1, 2, 1});  // the old b is kept at the end
  optimizer.state().clear();
  CHECK(optimizer.state().slots().empty());
  CHECK(optimizer.state().bytes() == 0);
}

TEST_CASE("optimizer state: the first group that selects a parameter wins") {
  Changing model = three_parts();
  const auto named = [](std::string name) { return [name](const Path& p) { return p.ends_with(name); }; };
  Adam<double> optimizer({.lr = 0.0,
                          .groups = {{.select = named("b"), .lr = 0.5},
                                     {.select = [](const Path& p) { return !p.ends_with("c"); }, .lr = 0.25}}});
  for (auto& part : model.parts) part.weight.gradient().setConstant(1e6);
  optimizer.step(model);
  CHECK(std::abs(model["a"].weight.value(0) - 0.75) <= 1e-12);
  CHECK(std::abs(model["b"].weight.value(0) - 1.5) <= 1e-12);
  CHECK(model["c"].weight.value(0) == 3.0);
}

TEST_CASE("optimizer state: steps and moments, written into a new optimizer, continue to the bit") {
  Changing model = three_parts();
  const lora::AdamConfig config{.lr = 0.1,
                                .groups = {{.select = [](const Path& p) { return p.ends_with("b"); }, .lr = 0.2}}};
  Adam<double> first(config);
  for (int k = 0; k < 3; ++k) step(first, model);

  Adam<double> second(config);
  lora::visit_parameters(model, [&](const Path& path, const auto& parameter) {
    const auto* saved = std::as_const(first).state().find(path, parameter.value.size());
    REQUIRE(saved != nullptr);
    auto& slot = second.state().slot(path, parameter.value.size());
    slot.steps = saved->steps;
    slot.moments = saved->moments;
  });
  Changing resumed = model;
  for (int k = 0; k < 3; ++k) {
    step(first, model);
    step(second, resumed);
  }
  for (const char* name : {"a", "b", "c"}) CHECK(resumed[name].weight.value == model[name].weight.value);
  const Path root;
  CHECK(first.state().find(Path(&root, "a"), 3) != nullptr);
  CHECK(first.state().find(Path(&root, "d"), 3) == nullptr);
  CHECK(first.state().find(Path(&root, "a"), 4) == nullptr);
}

TEST_CASE("optimizer state: a parameter that comes back costs no allocation") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Changing model = three_parts();
  Adam<double> optimizer({.lr = 0.1});
  step(optimizer, model);
  for (const bool active : {false, true, false, true}) {
    model["a"].active = active;
    CHECK(lora_test::heap_allocations_in([&] { optimizer.step(model); }) == 0);
  }
}

TEST_CASE("optimizer state: bytes are those of the moments") {
  Changing model = three_parts();
  Adam<double> optimizer;
  CHECK(optimizer.state().bytes() == 0);
  step(optimizer, model);
  CHECK(optimizer.state().bytes() == 2 * 9 * sizeof(double));
}
