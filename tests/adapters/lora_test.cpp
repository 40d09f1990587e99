#include "lora/adapters/lora.hpp"
#include "support/adapted_lora.hpp"

#include "adapters/oracle.hpp"
#include "lora/testing/generic.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <limits>

namespace {

using lora::Bias;
using lora::Dynamic;
using lora::Index;
using lora::LoraConfig;
using lora::Pass;
using lora::Scaling;
using lora::testing::random_matrix;
using lora_test::AdaptedLora;

struct Case {
  Index out, in, rank, samples;
  double dropout;
  Scaling scaling;
};

/// The largest error against the reference, in units of sqrt(length of the sums) epsilon of the positive sums.
class Worst {
 public:
  template <class Given>
  void add(const Given& given, const lora_test::Exact& expected, const lora_test::Exact& size, Index terms) {
    REQUIRE((given.rows() == expected.rows() && given.cols() == expected.cols()));
    const long double difference = (given.template cast<long double>() - expected).norm();
    const auto epsilon = static_cast<long double>(std::numeric_limits<typename Given::Scalar>::epsilon());
    const long double unit = std::sqrt(static_cast<long double>(terms)) * epsilon * size.norm();
    error_ = std::max(error_, static_cast<double>(difference / unit));
  }
  double error() const { return error_; }

 private:
  double error_ = 0;
};

template <class Layer, int Samples = Dynamic>
void check(const Case& c, Worst& worst) {
  using S = typename Layer::Scalar;
  CAPTURE(c.out, c.in, c.rank, c.samples, c.dropout);
  lora::Rng rng(static_cast<std::uint64_t>(c.out * 10000 + c.in * 100 + c.rank * 10 + c.samples));
  const LoraConfig config{
      .rank = c.rank, .alpha = 3, .dropout = c.dropout, .scaling = c.scaling, .bias = Bias::lora_only};
  Layer layer(random_matrix<S>(c.out, c.in, rng), lora::Vector<S>(random_matrix<S>(c.out, 1, rng)), config, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix<S>(c.in, c.samples, rng), dy = random_matrix<S>(c.out, c.samples, rng);
  const Pass pass{.training = true, .seed = 11, .step = 3};

  typename Layer::template CacheFor<Samples> cache;
  const lora::Matrix<S> y = layer.forward(x, cache, pass);
  const lora::Matrix<S> dx = layer.backward(x, dy, cache);
  const auto operands = lora_test::operands_of(layer, x, dy, pass);
  const auto expected = operands.reference(), size = operands.sizes();
  Layer& mutable_layer = layer;
  worst.add(y, expected.y, size.y, c.in + c.rank);
  worst.add(dx, expected.dx, size.dx, c.out + c.rank);
  worst.add(layer.adapter().A.grad, expected.dA, size.dA, c.out + c.samples);
  worst.add(layer.adapter().B.grad, expected.dB, size.dB, c.in + c.samples);
  lora::visit_parameters(mutable_layer, [&](const lora::Path& path, auto& parameter) {
    if (path.str() == "adapter_bias") worst.add(parameter.grad, expected.db, size.db, c.samples);
  });
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& [out, in] :
       std::vector<std::pair<Index, Index>>{{1, 1}, {1, 9}, {9, 1}, {3, 5}, {16, 17}, {64, 48}, {130, 70}}) {
    const Index small = std::min(out, in);
    for (const Index rank : {Index(1), Index(2), Index(8), small, small + 3}) {
      for (const Index samples : {1, 7, 64, 130}) {
        for (const double dropout : {0.0, 0.3}) {
          cases.push_back({out, in, rank, samples, dropout,
                           (rank + samples) % 2 == 0 ? Scaling::alpha_over_rank : Scaling::alpha_over_sqrt_rank});
        }
      }
    }
  }
  return cases;
}

}  // namespace

// The bound is in units of sqrt(length of the sums) epsilon; the largest seen is 0.6.

TEST_CASE("lora: agrees with the dense equation and its gradients, in double") {
  Worst worst;
  for (const Case& c : all_cases()) check<AdaptedLora<double>>(c, worst);
  CHECK(worst.error() < 1);
}

TEST_CASE("lora: agrees with the dense equation and its gradients, in float") {
  Worst worst;
  for (const Case& c : all_cases()) check<AdaptedLora<float>>(c, worst);
  CHECK(worst.error() < 1);
}

TEST_CASE("lora: agrees with the dense equation and its gradients, with compile-time sizes") {
  Worst worst;
  for (const double dropout : {0.0, 0.3}) {
    check<AdaptedLora<float, 1, 9, 2>, 1>({1, 9, 2, 1, dropout, Scaling::alpha_over_sqrt_rank}, worst);
    check<AdaptedLora<float, 16, 17, 8>, 64>({16, 17, 8, 64, dropout, Scaling::alpha_over_sqrt_rank}, worst);
    check<AdaptedLora<double, Dynamic, 5, Dynamic>>({4, 5, 9, 70, dropout, Scaling::alpha_over_rank}, worst);
  }
  CHECK(worst.error() < 1);
}
