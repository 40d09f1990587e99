// The laws of layers, for those of the library and for one that breaks some.

#include "lora/testing/layer_laws.hpp"

#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/nn/lora_linear.hpp"
#include "lora/nn/mlp.hpp"
#include "support/catch.hpp"
#include "support/laws.hpp"

#include <string>
#include <vector>

namespace {

using lora::Matrix;
using lora::Pass;
using lora::testing::random_matrix;
using lora_test::check;

const Pass training{.training = true, .seed = 3, .step = 2};

template <class L>
void check_laws(const L& layer, lora::Index samples, const Pass& pass) {
  lora::Rng rng(7);
  using S = typename L::Scalar;
  const auto x = random_matrix<S>(layer.in_features(), samples, rng);
  const auto dy = random_matrix<S>(layer.out_features(), samples, rng);
  for (const auto& result : lora::testing::layer_laws(layer, x, dy, pass)) check(result);
}

/// Breaks "scratch": what backward needs lies in the memory that is shared.
struct Careless : lora::detail::CachedPass<Careless, double> {
  using Scalar = double;
  using Columns = Eigen::Ref<const Matrix<double>>;
  using Out_ = Eigen::Ref<Matrix<double>, 0, Eigen::OuterStride<>>;
  struct Kept {
    lora::Index samples = -1;
    lora::Index bytes() const { return 0; }
  };
  struct Memory {
    Matrix<double> x;
    lora::Index bytes() const { return 0; }
  };
  lora::Parameter<double> w;

  explicit Careless(lora::Rng& rng) : w(random_matrix(3, 3, rng)) {}
  void forward(const Columns& x, Out_ y, Kept* kept, lora::Scratch& scratch, const Pass&) const {
    scratch.get<Memory>().x = x;
    y = w.value * x;
    if (kept != nullptr) kept->samples = x.cols();
  }
  void backward(const Columns& x, const Columns& dy, auto&& dx, Kept& kept, lora::Scratch& scratch) {
    check_backward("Careless", x, dy, kept);
    const Matrix<double>& old = scratch.get<Memory>().x;
    w.gradient() += dy.leftCols(old.cols()) * old.transpose();
    if constexpr (lora::wants_gradient<decltype(dx)>) dx = w.value.transpose() * dy;
  }
  void check_backward(const lora::detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    lora::detail::check_pass_gradient(who, x, dy, 3, 3, kept.samples);
  }
  bool trains(const Kept&) const { return true; }
  lora::Index in_features() const { return 3; }
  lora::Index out_features() const { return 3; }
  static void visit(auto& self, auto&& f) { f("w", self.w); }
};

}  // namespace

TEST_CASE("layer laws: Linear, trained, frozen, adapted and in a mixed batch") {
  lora::Rng rng(1);
  lora::Linear<double> layer({.in = 7, .out = 5}, rng);
  check_laws(layer, 6, {});
  layer.attach("a", {.rank = 2, .dropout = 0.3, .bias = lora::Bias::all}, rng);
  layer.attach("b", {.rank = 3, .dropout = 0.5}, rng);
  layer.attach_full("c");
  lora::testing::fill_parameters(layer, rng);
  for (const char* name : {"a", "b", "c"}) {
    layer.select(name);
    check_laws(layer, 6, training);
  }
  layer.select_sum({{"a", 0.5}, {"b", -2}});
  check_laws(layer, 70, training);
  layer.select_none();
  check_laws(layer, 1, training);
}

TEST_CASE("layer laws: the static form, and networks") {
  lora::Rng rng(2);
  lora::Adapted<lora::Dense<float>, lora::Lora<float>> adapted(Matrix<float>(random_matrix<float>(5, 4, rng)),
                                                               {.rank = 2, .dropout = 0.25}, rng);
  lora::testing::fill_parameters(adapted, rng);
  check_laws(adapted, 9, training);
  lora::Mlp<lora::Linear<float>, lora::Gelu> net({6, 8, 7, 3}, rng);
  check_laws(net, 5, {});
  lora::attach(net, {.rank = 2, .dropout = 0.2}, rng);
  lora::testing::fill_parameters(net, rng, 0.5F);
  check_laws(net, 5, training);
}

TEST_CASE("layer laws: a layer that keeps in the shared memory what backward needs breaks the laws of it") {
  lora::Rng rng(3);
  const Careless layer(rng);
  std::vector<std::string> broken;
  for (const auto& result : lora::testing::layer_laws(layer, random_matrix(3, 4, rng), random_matrix(3, 4, rng))) {
    if (!result.passed) broken.push_back(result.law);
  }
  CHECK(broken == std::vector<std::string>{"scratch: gradient 0", "copy: refuses its original's pass"});
}
