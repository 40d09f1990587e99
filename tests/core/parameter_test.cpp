#include "lora/core/parameter.hpp"

#include "lora/core/buffer.hpp"
#include "support/catch.hpp"

namespace {

static_assert(lora::ParameterLike<lora::Parameter<float>> && lora::ParameterLike<const lora::Parameter<double, 2, 3>>);
static_assert(!lora::ParameterLike<Eigen::MatrixXf> && !lora::ParameterLike<lora::Buffer<float>>);
static_assert(lora::RowMajorParameter<float>::Scalar(1) == 1.0f);

}  // namespace

TEST_CASE("parameter: the gradient is absent until it is asked for, and then zero") {
  lora::Parameter<double> weight(Eigen::MatrixXd::Ones(2, 3));
  CHECK(weight.trainable);
  CHECK(weight.grad.size() == 0);
  CHECK(weight.gradient() == Eigen::MatrixXd::Zero(2, 3));
  weight.gradient()(1, 2) += 5;
  weight.gradient()(1, 2) += 5;
  CHECK(weight.grad(1, 2) == 10);  // asking again does not start anew
  CHECK(weight.value == Eigen::MatrixXd::Ones(2, 3));
}

TEST_CASE("parameter: a fixed-size gradient starts at zero") {
  // Over memory that is not zero.
  alignas(lora::Parameter<float, 2, 2>) unsigned char memory[sizeof(lora::Parameter<float, 2, 2>)];
  std::fill(std::begin(memory), std::end(memory), static_cast<unsigned char>(0x7f));
  auto* made = new (memory) lora::Parameter<float, 2, 2>();
  CHECK(made->grad == Eigen::Matrix2f::Zero());
  auto* filled = new (memory) lora::Parameter<float, 2, 2>(Eigen::Matrix2f::Ones());
  CHECK(filled->grad == Eigen::Matrix2f::Zero());
  CHECK(filled->value == Eigen::Matrix2f::Ones());
}

TEST_CASE("parameter: a gradient of another shape is replaced") {
  lora::RowMajorParameter<double> weight(lora::RowMajorMatrix<double>::Ones(2, 3));
  weight.gradient().setOnes();
  weight.value.setOnes(4, 3);
  CHECK(weight.gradient() == Eigen::MatrixXd::Zero(4, 3));
}
