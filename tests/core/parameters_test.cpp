#include "lora/core/parameters.hpp"

#include "support/catch.hpp"

namespace {

/// 6 numbers in a weight, 2 in a fixed-size bias, 20 frozen, and 3 + 3 in two adapters, of which the second is
/// selected.
struct Model {
  lora::RowMajorParameter<double> weight{lora::RowMajorMatrix<double>::Ones(2, 3)};
  lora::Parameter<double, 2, 1> bias{Eigen::Vector2d::Ones()};
  Eigen::MatrixXd frozen = Eigen::MatrixXd::Ones(4, 5);
  lora::Parameter<double> idle{Eigen::MatrixXd::Ones(3, 1)};
  lora::Parameter<double> selected{Eigen::MatrixXd::Ones(1, 3)};
  static void visit(auto& self, auto&& f) {
    f("weight", self.weight);
    f("bias", self.bias);
    f("frozen", self.frozen);
    f("idle", self.idle, false);
    f("selected", self.selected, true);
  }
};

}  // namespace

TEST_CASE("parameters: counted as trainable, and in total") {
  Model model;
  const auto count = lora::count_parameters(model);
  CHECK(count.trainable == 6 + 2 + 3);
  CHECK(count.total == 6 + 2 + 20 + 3 + 3);
  CHECK(count.percent() == 100.0 * 11 / 34);
  model.weight.trainable = false;
  CHECK(lora::count_parameters(std::as_const(model)).trainable == 5);
  CHECK(lora::ParameterCount{}.percent() == 0);
}

TEST_CASE("parameters: freeze stops training and gives the gradients' memory back") {
  Model model;
  model.weight.gradient().setOnes();
  model.bias.gradient().setOnes();
  lora::freeze(model);
  CHECK(lora::count_parameters(model).trainable == 0);
  CHECK(lora::count_parameters(model).total == 34);
  CHECK(model.weight.grad.size() == 0);
  CHECK(model.weight.value == Eigen::MatrixXd::Ones(2, 3));
  lora::unfreeze(model);
  CHECK(lora::count_parameters(model).trainable == 11);  // idle stays idle
  CHECK(model.idle.trainable);
}

TEST_CASE("parameters: freeze_base leaves adapters trainable, selected or not") {
  Model model;
  lora::freeze_base(model);
  CHECK_FALSE(model.weight.trainable);
  CHECK_FALSE(model.bias.trainable);
  CHECK(model.idle.trainable);
  CHECK(model.selected.trainable);
  CHECK(lora::count_parameters(model).trainable == 3);
}

TEST_CASE("parameters: zero_gradients clears what is there and creates nothing") {
  Model model;
  model.weight.gradient().setOnes();
  model.bias.gradient().setOnes();
  model.idle.gradient().setOnes();
  lora::zero_gradients(model);
  CHECK(model.weight.grad == Eigen::MatrixXd::Zero(2, 3));
  CHECK(model.bias.grad == Eigen::Vector2d::Zero());
  CHECK(model.idle.grad == Eigen::Vector3d::Zero());
  CHECK(model.selected.grad.size() == 0);
}

TEST_CASE("parameters: gather gives the trained ones as flat memory in their own storage order") {
  Model model;
  model.weight.value << 1, 2, 3, 4, 5, 6;
  model.weight.gradient()(0, 1) = 7;
  const auto views = lora::gather<double>(model);
  REQUIRE(views.size() == 3);
  CHECK(views[0].name == "weight");
  CHECK(views[1].name == "bias");
  CHECK(views[2].name == "selected");
  CHECK(views[0].value == (Eigen::VectorXd(6) << 1, 2, 3, 4, 5, 6).finished());  // row-major
  CHECK(views[0].grad(1) == 7);
  CHECK(views[1].grad.size() == 2);
  CHECK(views[2].grad.size() == 0);  // no backward pass has reached it
  auto value = views[0].value;
  value(5) = 60;
  CHECK(model.weight.value(1, 2) == 60);
}
