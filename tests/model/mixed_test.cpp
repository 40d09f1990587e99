// Mixed batches: each column of one pass is its user's, with his adapter, and equals his own pass.

#include "lora/adapters/full_weight.hpp"
#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/clip.hpp"
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

/// Three users: ranks 1 and 3 with dropout, trained biases, a trained copy of the last layer.
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

/// Seven segments, out of order, of four kinds of users; those of one come from the midst of his own batch.
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

namespace {

constexpr Index users = 8;

std::string user(Index k) { return "user" + std::to_string(k); }

/// Two layers, the same start for everybody's factors, ranks 1 to 4, with dropout.
Net<double> with_users(lora::Rng rng, Index first, Index last) {
  Net<double> net({6, 8, 3}, rng);
  for (Index k = first; k < last; ++k) {
    lora::Rng own(100 + static_cast<std::uint64_t>(k));
    lora::attach(net, {.rank = 1 + k % 4, .alpha = 3, .dropout = 0.25}, own, user(k));
  }
  return net;
}

/// The gradient of the mean squared error of some columns.
Matrix<double> error_of(const Matrix<double>& y, const Matrix<double>& target) {
  return 2 * (y - target) / static_cast<double>(y.size());
}

}  // namespace

TEST_CASE("mixed: many users train in one batch as each would alone: clipped by their own norms, with dropout") {
  const lora::Rng start(5);
  Net<double> together = with_users(start, 0, users);
  std::vector<Net<double>> alone;
  for (Index k = 0; k < users; ++k) alone.push_back(with_users(start, k, k + 1));
  lora::AdamW<double> optimizer({.lr = 1e-2});
  std::vector<lora::AdamW<double>> optimizers(users, lora::AdamW<double>({.lr = 1e-2}));
  std::vector<AdapterHandle> handles;
  for (Index k = 0; k < users; ++k) handles.push_back(lora::adapter(together, user(k)));
  lora::select_none(together);

  lora::Rng data(9);
  Net<double>::Cache mixed, single;
  double largest_norm = 0;
  for (std::uint64_t step = 0; step < 20; ++step) {
    // user k has 1 + (k + step) % 3 columns, which are the first ones of his own batch
    std::vector<Segment> segments;
    Index columns = 0;
    for (Index k = 0; k < users; ++k) {
      const Index count = 1 + (k + static_cast<Index>(step)) % 3;
      segments.push_back({.adapter = handles[static_cast<std::size_t>(k)],
                          .first = columns,
                          .count = count,
                          .seed = static_cast<std::uint64_t>(k),
                          .step = step,
                          .first_sample = 0});
      columns += count;
    }
    const auto x = random_matrix(6, columns, data), target = random_matrix(3, columns, data);
    const Matrix<double> y = together.forward(x, mixed, {.training = true, .segments = segments});
    Matrix<double> dy(3, columns);
    const auto of = [&](auto& matrix, Index k) {
      const Segment& segment = segments[static_cast<std::size_t>(k)];
      return matrix.middleCols(segment.first, segment.count);
    };
    for (Index k = 0; k < users; ++k) of(dy, k) = error_of(of(y, k), of(target, k));
    for (Index k = 0; k < users; ++k) lora::zero_gradients(together, handles[static_cast<std::size_t>(k)]);
    together.backward(x, dy, mixed, lora::no_gradient);
    for (Index k = 0; k < users; ++k) {
      const AdapterHandle& handle = handles[static_cast<std::size_t>(k)];
      largest_norm = std::max(largest_norm, lora::clip_gradient_norm(together, 0.5, handle));
      optimizer.step(together, handle);
    }
    for (Index k = 0; k < users; ++k) {
      Net<double>& net = alone[static_cast<std::size_t>(k)];
      const Matrix<double> own =
          net.forward(of(x, k), single, {.training = true, .seed = static_cast<std::uint64_t>(k), .step = step});
      lora::zero_gradients(net);
      net.backward(of(x, k), error_of(own, of(target, k)), single, lora::no_gradient);
      lora::clip_gradient_norm(net, 0.5);
      optimizers[static_cast<std::size_t>(k)].step(net);
    }
  }
  CHECK(largest_norm > 0.5);  // some were clipped

  // Only the rounding of base and term apart differs, and Adam divides by what it has seen: 1e-11 after 20 steps.
  for (Index k = 0; k < users; ++k) {
    Net<double>& net = alone[static_cast<std::size_t>(k)];
    for (std::size_t l = 0; l < 2; ++l) {
      const auto& given = together.layers()[l].adapter(user(k)).as<lora::Lora<double>>();
      const auto& wanted = net.layers()[l].adapter(user(k)).as<lora::Lora<double>>();
      CHECK((given.A.value - wanted.A.value).norm() <= 1e-11 * wanted.A.value.norm());
      CHECK((given.B.value - wanted.B.value).norm() <= 1e-11 * wanted.B.value.norm());
      CHECK(wanted.B.value.norm() > 0.01);
    }
  }
  lora::detach(together, user(0));
  CHECK_THROWS_AS(optimizer.step(together, handles[0]), lora::NameError);
  CHECK_THROWS_WITH(
      lora::zero_gradients(together, handles[0]),
      "zero_gradients: the model has no part of adapter \"user0\": it was detached, or the handle belongs to "
      "another model");
  CHECK_THROWS_AS(optimizer.step(together, lora::base_alone), lora::NameError);
}
