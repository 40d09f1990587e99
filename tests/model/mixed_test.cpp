// Mixed batches: each column of one pass is its user's, with his adapter, and equals his own pass.

#include "lora/adapters/full_weight.hpp"
#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

#include <string>
#include <vector>

namespace {

using lora::AdapterHandle;
using lora::Index;
using lora::Matrix;
using lora::Pass;
using lora::Segment;
using lora::testing::random_matrix;

template <class S>
using Net = lora::Mlp<lora::Linear<S>, lora::Tanh>;

/// Four users: ranks 1 and 3 with dropout, a trained bias, a trained copy of the last layer; the first layer has a bias.
template <class S>
Net<S> new_net(lora::Rng& rng) {
  Net<S> net({9, 12, 5}, rng);
  lora::attach(net, {.rank = 1, .alpha = 2, .dropout = 0.4}, rng, "a");
  lora::attach(net, {.rank = 3, .alpha = 4, .dropout = 0.2, .bias = lora::Bias::all}, rng, "b");
  lora::attach(net, {.rank = 2, .alpha = 1}, {.modules = {"fc1"}, .modules_to_save = {"fc2"}}, rng, "c");
  lora::testing::fill_parameters(net, rng, 0.5);
  return net;
}

template <class S>
std::vector<Matrix<S>> gradients(Net<S>& net) {
  std::vector<Matrix<S>> all;
  lora::visit_parameters(net, [&](const lora::Path& path, auto& parameter) {
    if (path.in_adapter()) all.emplace_back(parameter.gradient());
  });
  return all;
}

/// A batch of seven segments, out of order, of four kinds of users; three columns of one come from the midst of his batch.
template <class S>
std::vector<Segment> segments_of(const Net<S>& net) {
  const auto a = lora::adapter(net, "a"), b = lora::adapter(net, "b"), c = lora::adapter(net, "c");
  return {{.adapter = b, .first = 4, .count = 3, .seed = 7, .step = 2, .first_sample = 20},
          {.adapter = a, .first = 0, .count = 4},
          {.adapter = lora::base_alone, .first = 7, .count = 2},
          {.adapter = c, .first = 9, .count = 3},
          {.adapter = a, .first = 12, .count = 1, .first_sample = 100},
          {.adapter = c, .first = 14, .count = 2},
          {.adapter = {}, .first = 13, .count = 1}};
}

}  // namespace

TEMPLATE_TEST_CASE("mixed: outputs and gradients are those of separate passes", "", float, double) {
  using S = TestType;
  lora::Rng rng(1);
  Net<S> net = new_net<S>(rng);
  const auto x = random_matrix<S>(9, 16, rng), dy = random_matrix<S>(5, 16, rng);
  const auto segments = segments_of(net);
  const Pass mixed{.training = true, .seed = 3, .step = 5, .first_sample = 40, .segments = segments};

  Matrix<S> expected(5, 16), expected_dx(9, 16);
  typename Net<S>::Cache cache;
  lora::zero_gradients(net);
  for (const Segment& segment : segments) {
    Pass own{.training = true, .seed = segment.seed.value_or(3), .step = segment.step.value_or(5)};
    own.first_sample = segment.first_sample.value_or(40 + segment.first);
    own.adapter = segment.adapter;
    const auto some = [&](auto&& matrix) { return matrix.middleCols(segment.first, segment.count); };
    some(expected) = net.forward(some(x), cache, own);
    some(expected_dx) = net.backward(some(x), some(dy), cache);
  }
  const auto expected_gradients = gradients(net);

  // The base's product and the adapter's term are rounded apart here, together there: a few epsilon.
  const double bound = 32 * static_cast<double>(std::numeric_limits<S>::epsilon());
  const auto close = [&](const auto& given, const auto& wanted) {
    return static_cast<double>((given - wanted).norm()) <= bound * static_cast<double>(1 + wanted.norm());
  };
  lora::zero_gradients(net);
  CHECK(close(net.forward(x, cache, mixed), expected));
  CHECK(close(net.backward(x, dy, cache), expected_dx));
  const auto found = gradients(net);
  REQUIRE(found.size() == expected_gradients.size());
  for (std::size_t k = 0; k < found.size(); ++k) CHECK(close(found[k], expected_gradients[k]));
  CHECK(expected_gradients[0].norm() > 0);

  if (lora_test::heap_is_counted) {
    const auto step = [&] {
      net.forward(x, cache, mixed);
      net.backward(x, dy, cache);
    };
    step();
    CHECK(lora_test::heap_allocations_in(step) == 0);
  }
}

TEST_CASE("mixed: segments that do not cover each column once are refused, and nothing is computed") {
  lora::Rng rng(2);
  Net<double> net = new_net<double>(rng);
  const auto a = lora::adapter(net, "a");
  const auto x = random_matrix(9, 6, rng);
  Net<double>::Cache cache;
  const auto refused = [&](std::vector<Segment> segments) -> std::string {
    try {
      net.forward(x, cache, {.segments = segments});
    } catch (const lora::ShapeError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(refused({{.adapter = a, .first = 0, .count = 6}}).empty());
  const std::string rule = ": segments cover each column once";
  CHECK(refused({{.adapter = a, .first = 0, .count = 4}, {.adapter = a, .first = 3, .count = 3}}) ==
        "Linear::forward: a segment has the columns 3 to 5, expected one that begins at 4" + rule);
  CHECK(refused({{.adapter = a, .first = 0, .count = 4}, {.adapter = a, .first = 5, .count = 1}}) ==
        "Linear::forward: a segment has the columns 5 to 5, expected one that begins at 4" + rule);
  CHECK(refused({{.adapter = a, .first = 1, .count = 5}}) ==
        "Linear::forward: a segment has the columns 1 to 5, expected one that begins at 0" + rule);
  CHECK(refused({{.adapter = a, .first = 0, .count = 7}}) ==
        "Linear::forward: the pass has 7 columns in its segments, expected the columns of x = 6");
  CHECK(refused({{.adapter = a, .first = 0, .count = 6}, {.adapter = a, .first = 6, .count = 0}}) != "");
  const std::vector<Segment> all{{.adapter = a, .first = 0, .count = 6}};
  CHECK_THROWS_AS(net.forward(x, cache, {.adapter = a, .segments = all}), lora::ConfigError);
  CHECK_THROWS_AS(net.backward(x, random_matrix(5, 6, rng), cache), lora::StateError);
}
