#include "lora/nn/activations.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "lora/nn/softmax.hpp"
#include "lora/testing/dual.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"

using lora::Index;
using lora::testing::Dual;

namespace {

template <class Activation, class S>
S value_at(S x) {
  lora::Matrix<S> input(1, 1), output(1, 1);
  input(0) = x;
  Activation::forward(input, output);
  return output(0);
}

template <class Activation>
double slope_at(double x) {
  lora::Matrix<double> input(1, 1), output(1, 1), dy(1, 1), dx(1, 1);
  input(0) = x;
  dy(0) = 1;
  Activation::forward(input, output);
  Activation::backward(input, output, dy, dx);
  return dx(0);
}

/// A (3, 5) matrix of points in [-3, 3.2] away from 0, ReLU's kink.
lora::Matrix<double> points() {
  lora::Matrix<double> x(3, 5);
  for (Index k = 0; k < x.size(); ++k) x(k) = -3 + 0.44 * static_cast<double>(k);
  return x;
}

}  // namespace

TEST_CASE("Activations have their documented values") {
  CHECK(value_at<lora::Relu>(-1.0) == 0);
  CHECK(value_at<lora::Relu>(0.0) == 0);
  CHECK(value_at<lora::Relu>(2.0) == 2);
  CHECK(slope_at<lora::Relu>(-1) == 0);
  CHECK(slope_at<lora::Relu>(0) == 0);
  CHECK(slope_at<lora::Relu>(2) == 1);
  CHECK(std::abs(value_at<lora::Tanh>(1.0) - 0.761594155955765) < 1e-15);
  CHECK(slope_at<lora::Tanh>(0) == 1);
  CHECK(std::abs(slope_at<lora::Tanh>(1) - (1 - 0.761594155955765 * 0.761594155955765)) < 1e-15);
  CHECK(std::abs(value_at<lora::Gelu>(1.0) - 0.841344746068543) < 1e-15);
  CHECK(std::abs(value_at<lora::GeluTanh>(1.0) - 0.841191990608277) < 1e-15);
  CHECK(std::abs(value_at<lora::Sigmoid>(1.0) - 0.731058578630005) < 1e-15);
  CHECK(std::abs(slope_at<lora::Sigmoid>(1) - 0.731058578630005 * 0.268941421369995) < 1e-15);
  CHECK(std::abs(value_at<lora::Silu>(1.0) - 0.731058578630005) < 1e-15);
  CHECK(std::abs(value_at<lora::Silu>(-1.0) + 0.268941421369995) < 1e-15);
  CHECK(value_at<lora::Identity>(-1.5) == -1.5);
  CHECK(slope_at<lora::Identity>(-1.5) == 1);
}

TEMPLATE_TEST_CASE("field, awkward: every activation passes NaN on, forward and backward, as torch does", "",
                   lora::Relu, lora::Tanh, lora::Sigmoid, lora::Silu, lora::Gelu, lora::GeluTanh, lora::Identity) {
  for (Index size = 1; size < 19; ++size) {  // each place in a vector register
    lora::Matrix<float> x = lora::Matrix<float>::Constant(size, 1, 0.5F), y(size, 1), dx(size, 1);
    const lora::Matrix<float> dy = lora::Matrix<float>::Ones(size, 1);
    x(size - 1) = std::nanf("");
    TestType::forward(x, y);
    CHECK(std::isnan(y(size - 1)));
    TestType::backward(x, y, dy, dx);
    if (!std::is_same_v<TestType, lora::Identity> && !std::is_same_v<TestType, lora::Relu>)
      CHECK(std::isnan(dx(size - 1)));
    if (std::is_same_v<TestType, lora::Relu>) CHECK(dx(size - 1) == 1);  // dy, as torch: relu'(NaN) is 1
    if (size > 1) CHECK((std::isfinite(y(0)) && std::isfinite(dx(0))));
    // NaN that comes from above goes down
    lora::Matrix<float> broken = dy;
    broken(0) = std::nanf("");
    x.setConstant(0.5F);
    TestType::forward(x, y);
    TestType::backward(x, y, broken, dx);
    CHECK(std::isnan(dx(0)));
  }
}

TEMPLATE_TEST_CASE("field, awkward: an activation of an infinite x is the limit, and so is its derivative", "",
                   lora::Silu, lora::Gelu, lora::GeluTanh) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double x : {infinity, std::numeric_limits<double>::max()}) {
    CHECK(value_at<TestType>(x) == x);
    CHECK(slope_at<TestType>(x) == 1);
    CHECK(value_at<TestType>(-x) == 0);
    CHECK(slope_at<TestType>(-x) == 0);
  }
}

TEST_CASE("Gelu keeps x where it is large and drops it where it is small") {
  CHECK(value_at<lora::Gelu>(0.0) == 0);
  CHECK(value_at<lora::Gelu>(10.0) == 10);
  CHECK(std::abs(value_at<lora::Gelu>(-10.0)) < 1e-15);
  CHECK(slope_at<lora::Gelu>(0) == 0.5);
  CHECK(slope_at<lora::GeluTanh>(0) == 0.5);
  CHECK(slope_at<lora::Gelu>(10) == 1);
  // GELU - x/2 is even: x Phi(x) - x/2 at x and -x.
  CHECK(std::abs(value_at<lora::Gelu>(0.7) - value_at<lora::Gelu>(-0.7) - 0.7) < 1e-15);
  CHECK(std::abs(value_at<lora::GeluTanh>(0.7) - value_at<lora::GeluTanh>(-0.7) - 0.7) < 1e-15);
}

TEMPLATE_TEST_CASE("An activation's backward is the derivative of its forward", "", lora::Relu, lora::Tanh,
                   lora::Sigmoid, lora::Silu, lora::Gelu, lora::GeluTanh, lora::Identity) {
  const auto x = points();
  lora::Matrix<double> y(3, 5), dy(3, 5), dx(3, 5);
  for (Index k = 0; k < dy.size(); ++k) dy(k) = 1.5 - 0.3 * static_cast<double>(k);
  TestType::forward(x, y);
  TestType::backward(x, y, dy, dx);

  for (Index k = 0; k < x.size(); ++k) {
    CAPTURE(x(k));
    const double h = 1e-5;
    const double numeric = (value_at<TestType>(x(k) + h) - value_at<TestType>(x(k) - h)) / (2 * h);
    CHECK(std::abs(dx(k) - dy(k) * numeric) <= 1e-7 * dx.cwiseAbs().maxCoeff());
    CHECK(y(k) == value_at<TestType>(x(k)));
  }

  SECTION("dual numbers agree to rounding") {
    for (Index k = 0; k < x.size(); ++k) {
      const double exact = value_at<TestType>(Dual(x(k), 1.0)).derivative;
      CHECK(std::abs(dx(k) - dy(k) * exact) <= 1e-14 * dx.cwiseAbs().maxCoeff());
    }
  }
  SECTION("dx may be the memory of dy") {
    lora::Matrix<double> both = dy;
    TestType::backward(x, y, both, both);
    CHECK((both.array() == dx.array()).all());
  }
  SECTION("float is the same function") {
    const lora::Matrix<float> narrow = x.cast<float>();
    lora::Matrix<float> narrow_y(3, 5);
    TestType::forward(narrow, narrow_y);
    CHECK((narrow_y.cast<double>() - y).cwiseAbs().maxCoeff() < 1e-6);
  }
}

namespace {

/// Compares y and dx with what PyTorch computes; x and dy are those of reference.py.
template <class Activation, class S>
void check_against_torch(const std::array<double, 20>& y_expected, const std::array<double, 20>& dx_expected) {
  using M = lora::Matrix<S>;
  const M x =
      M::NullaryExpr(4, 5, [](Index i, Index j) { return S(static_cast<double>((9 * i + 5 * j) % 19 - 9) / 2); });
  const M dy =
      M::NullaryExpr(4, 5, [](Index i, Index j) { return S(static_cast<double>((4 * i + 7 * j) % 9 - 4) / 3); });
  M y, dx;
  Activation::forward(x, y);
  Activation::backward(x, y, dy, dx);
  const Eigen::Map<const Eigen::MatrixXd> y_theirs(y_expected.data(), 4, 5), dx_theirs(dx_expected.data(), 4, 5);
  const double bound = 4 * static_cast<double>(Eigen::NumTraits<S>::epsilon());
  CHECK((y.template cast<double>() - y_theirs).cwiseAbs().maxCoeff() <= bound * y_theirs.cwiseAbs().maxCoeff());
  // f' may be the difference of 1 and a rounded y
  CHECK((dx.template cast<double>() - dx_theirs).cwiseAbs().maxCoeff() <= bound * static_cast<double>(dy.maxCoeff()));
}

}  // namespace

TEMPLATE_TEST_CASE("Activations and softmax are PyTorch's, forward and backward", "", float, double) {
  check_against_torch<lora::Relu, TestType>(reference::relu, reference::relu_gradient);
  check_against_torch<lora::Tanh, TestType>(reference::tanh, reference::tanh_gradient);
  check_against_torch<lora::Sigmoid, TestType>(reference::sigmoid, reference::sigmoid_gradient);
  check_against_torch<lora::Silu, TestType>(reference::silu, reference::silu_gradient);
  check_against_torch<lora::Gelu, TestType>(reference::gelu, reference::gelu_gradient);
  check_against_torch<lora::GeluTanh, TestType>(reference::gelu_tanh, reference::gelu_tanh_gradient);
  check_against_torch<lora::Softmax, TestType>(reference::softmax, reference::softmax_gradient);
}
