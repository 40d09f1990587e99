#include "lora/core/visit.hpp"

#include "lora/core/parameters.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <array>
#include <memory>
#include <optional>

namespace {

using lora::Parameter;

struct Block {
  Parameter<double> weight{Eigen::MatrixXd::Ones(2, 3)};
  Eigen::MatrixXd frozen = Eigen::MatrixXd::Ones(4, 1);
  static void visit(auto& self, auto&& f) {
    f("weight", self.weight);
    f("frozen", self.frozen);
  }
};

/// Everything a part may be.
struct Model {
  Block first;
  std::vector<Block> blocks = std::vector<Block>(2);
  std::array<Parameter<double, 1, 1>, 2> scalars;
  std::optional<Block> maybe;
  std::unique_ptr<Block> owned;
  Block* borrowed = nullptr;
  Block german;
  static void visit(auto& self, auto&& f) {
    f("first", self.first);
    f("blocks", self.blocks);
    f(lora::Name("scalar", 7), self.scalars);
    f("maybe", self.maybe);
    f("owned", self.owned);
    f("borrowed", self.borrowed);
    f("german", self.german, false);
  }
};

static_assert(lora::Visitable<Model> && lora::Visitable<const Model> && !lora::Visitable<Eigen::MatrixXd>);
static_assert(lora::Constant<Eigen::MatrixXd> && !lora::Constant<Parameter<double>> && !lora::Constant<Block>);

using Names = std::vector<std::string>;

const Names without_optionals = {"first.weight",    "first.frozen",    "blocks.0.weight", "blocks.0.frozen",
                                 "blocks.1.weight", "blocks.1.frozen", "scalar7.0",       "scalar7.1",
                                 "german.weight",   "german.frozen"};

}  // namespace

TEST_CASE("visit: every tensor is listed once, in listing order, by its full name") {
  Model model;
  CHECK(lora::tensor_names(model) == without_optionals);
  CHECK(lora::tensor_names(std::as_const(model)) == without_optionals);

  Block elsewhere;
  model.maybe.emplace();
  model.owned = std::make_unique<Block>();
  model.borrowed = &elsewhere;
  Names all = without_optionals;
  all.insert(all.end() - 2,
             {"maybe.weight", "maybe.frozen", "owned.weight", "owned.frozen", "borrowed.weight", "borrowed.frozen"});
  CHECK(lora::tensor_names(model) == all);
}

TEST_CASE("visit: parameters leave out constants, and what is idle is not trained") {
  Model model;
  model.first.weight.trainable = false;
  Names all, trained;
  lora::visit_parameters(model, [&](const lora::Path& path, auto& parameter) {
    all.push_back(path.str());
    if (lora::is_trained(path, parameter)) trained.push_back(path.str());
  });
  CHECK(all == Names{"first.weight", "blocks.0.weight", "blocks.1.weight", "scalar7.0", "scalar7.1", "german.weight"});
  CHECK(trained == Names{"blocks.0.weight", "blocks.1.weight", "scalar7.0", "scalar7.1"});
}

TEST_CASE("visit: modules come outermost first") {
  const Model model;
  Names names;
  lora::visit_modules(model, [&](const lora::Path& path, const auto&) { names.push_back(path.str()); });
  CHECK(names == Names{"", "first", "blocks.0", "blocks.1", "german"});
}

TEST_CASE("visit: a mutable model is handed out mutable, a const one const") {
  Model model;
  lora::visit_parameters(model, [](const lora::Path&, auto& parameter) {
    static_assert(!std::is_const_v<std::remove_reference_t<decltype(parameter)>>);
    parameter.value.setConstant(5);
  });
  CHECK(model.blocks[1].weight.value == Eigen::MatrixXd::Constant(2, 3, 5));
  lora::visit_tensors(std::as_const(model), [](const lora::Path&, auto& tensor) {
    static_assert(std::is_const_v<std::remove_reference_t<decltype(tensor)>>);
  });
}

TEST_CASE("visit: a single parameter, a matrix or a range is a model too") {
  Parameter<float> parameter(Eigen::MatrixXf::Ones(2, 2));
  CHECK(lora::count_parameters(parameter).total == 4);
  CHECK(lora::count_parameters(Eigen::MatrixXf(3, 3)).total == 9);
  std::vector<Parameter<float>> many(3, parameter);
  CHECK(lora::tensor_names(many) == Names{"0", "1", "2"});
}

TEST_CASE("visit: walking a model needs no heap") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Model model;
  std::uint64_t mixed = 0;
  const auto made = lora_test::heap_allocations_in(
      [&] { lora::visit_parameters(model, [&](const lora::Path& path, auto&) { mixed ^= path.hash(); }); });
  CHECK(made == 0);
  CHECK(mixed != 0);
}
