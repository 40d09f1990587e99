#include "lora/base/plan.hpp"

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/base/packed.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/base_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

namespace {

using lora::Copies;
using lora::Delta;
using lora::Index;
using lora::Matrix;
using lora::Packed;
using lora::Plan;
using lora::Prefer;
using lora::testing::random_matrix;
using lora_test::check;

template <class S>
using Layer = lora::Adapted<Packed<S>, lora::Lora<S>>;

Delta delta(Index out, Index in, Index rank, Index samples) {
  return lora::plan_for({out, in, rank, samples}, Prefer::speed).delta;
}

/// Counts the multiply-adds of the low-rank term by walking through the products.
Index count_two_step(Index out, Index in, Index rank, Index samples) {
  Index count = 0;
  for (Index sample = 0; sample < samples; ++sample) {
    for (Index r = 0; r < rank; ++r) count += in + out;
  }
  return count;
}
Index count_materialized(Index out, Index in, Index rank) {
  Index count = 0;
  for (Index i = 0; i < out; ++i) count += in * (rank + 24);
  return count;
}

}  // namespace

TEST_CASE("plan: materialized from the sample on where it takes fewer multiply-adds") {
  for (const auto& [out, in] : std::vector<std::pair<Index, Index>>{{64, 64}, {256, 256}, {30, 200}, {200, 30}}) {
    for (const Index rank : {1, 8, 64}) {
      CAPTURE(out, in, rank);
      Index samples = 1;
      while (count_two_step(out, in, rank, samples) <= count_materialized(out, in, rank)) ++samples;
      CHECK(delta(out, in, rank, samples) == Delta::materialized);
      CHECK(delta(out, in, rank, samples - 1) == Delta::two_step);
    }
  }
  // d = 256: 88 ranks' worth of forming against 128 per 64 ranks and sample
  CHECK(delta(256, 256, 64, 176) == Delta::two_step);
  CHECK(delta(256, 256, 64, 177) == Delta::materialized);
}

TEST_CASE("plan: those who prefer memory hold W0 once, whatever the shape") {
  for (const Index samples : {1, 8, 100000}) {
    const Plan plan = lora::plan_for({64, 64, 64, samples}, Prefer::memory);
    CHECK(plan.copies == Copies::one);
    CHECK(plan.delta == Delta::two_step);
  }
}

TEST_CASE("plan: a second copy where it is faster") {
  const auto copies = [](Index d, Index samples) { return lora::plan_for({d, d, 8, samples}, Prefer::speed).copies; };
  CHECK(copies(64, 40) == Copies::two);  // small
  CHECK(copies(97, 40) == Copies::one);
  CHECK(copies(384, 12) == Copies::two);  // few samples
  CHECK(copies(384, 13) == Copies::one);
  CHECK(copies(256, 1) == Copies::two);
  CHECK(copies(385, 12) == Copies::one);   // two do not stay in the caches
  CHECK(copies(64, 4096) == Copies::one);  // materialized: it would not be read
}

TEST_CASE("plan: says why") {
  CHECK(lora::explain({64, 64, 8, 8}) == "one copy, two-step: W0 is in memory once");
  CHECK(lora::explain({64, 64, 8, 8}, Prefer::speed) ==
        "two copies are faster; two-step: 8192 multiply-adds for the adapter's term, against 131072");
  CHECK(lora::explain({64, 64, 64, 512}, Prefer::speed) ==
        "one copy is as fast; materialized: 360448 multiply-adds for the adapter's term, against 4194304");
}

TEST_CASE("plan: no adapter, nothing to form") { CHECK(delta(64, 64, 0, 100000) == Delta::two_step); }

TEST_CASE("plan: can be read from the base, and what is given is done") {
  lora::Rng rng(1);
  const auto W0 = random_matrix<float>(40, 24, rng);
  const Packed<float> lean(W0), fast(W0, Plan{Copies::two, Delta::whichever_is_faster});
  const Packed<float> forced(W0, Plan{Copies::one, Delta::materialized});
  CHECK(lean.plan(64, 10000).delta == Delta::two_step);
  CHECK(fast.plan(64, 10000).delta == Delta::materialized);
  CHECK(fast.plan(64, 1).delta == Delta::two_step);
  CHECK(fast.plan(64, 1).copies == Copies::two);
  CHECK(forced.plan(1, 1).delta == Delta::materialized);

  const auto x = random_matrix<float>(24, 3, rng), U = random_matrix<float>(40, 2, rng);
  const lora::RowMajorMatrix<float> V = random_matrix<float>(2, 24, rng);
  const Matrix<float> Z = 0.5F * V * x;
  Matrix<float> y(40, 3), expected(40, 3);
  lora::MergedWeight<float> merged;
  for (const Packed<float>* base : {&lean, &fast}) {  // to the bit, and nothing was formed
    base->apply(x, expected, U, Z);
    base->apply(x, y, U, Z, V, 0.5F, merged);
    CHECK(y == expected);
    CHECK_FALSE(merged.formed);
    CHECK(merged.bytes() == 0);
  }
  forced.apply(x, y, U, Z, V, 0.5F, merged);
  CHECK(merged.formed);
  CHECK(merged.bytes() == forced.bytes());
  CHECK((y - expected).norm() < 1e-6F * expected.norm());
  lean.apply(x, y, U, Z, V, 0.5F, merged);  // the next pass is two-step: the way back must not use what was formed
  CHECK_FALSE(merged.formed);
}

TEMPLATE_TEST_CASE("plan: what is formed is W0 + s U V, exactly for integers, at every edge", "", float, double) {
  using S = TestType;
  lora::Rng rng(2);
  const auto integers = [&](Index rows, Index cols) {
    return random_matrix<S>(rows, cols, rng).unaryExpr([](S value) { return std::round(value * S(8)); }).eval();
  };
  for (const auto& [out, in] : std::vector<std::pair<Index, Index>>{
           {1, 1}, {7, 8}, {16, 17}, {32, 264}, {33, 265}, {97, 101}, {10, 531}, {131, 5}}) {
    for (const Index rank : {1, 5, 32, 33, 70}) {
      CAPTURE(out, in, rank);
      const Matrix<S> W0 = integers(out, in), U = integers(out, rank), x = integers(in, 3), dy = integers(out, 5);
      const lora::RowMajorMatrix<S> V = integers(rank, in);
      const Packed<S> base(W0, Plan{Copies::one, Delta::materialized});
      const Matrix<S> W = W0 + S(2) * U.lazyProduct(V);
      lora::MergedWeight<S> merged;
      Matrix<S> y(out, 3), dx(in, 5);
      base.apply(x, y, U, Matrix<S>::Zero(rank, 3).eval(), V, S(2), merged);
      CHECK(y == W.lazyProduct(x));
      base.apply_transposed(dy, dx, V.transpose(), Matrix<S>::Zero(rank, 5).eval(), merged);
      CHECK(dx == W.transpose().lazyProduct(dy));
    }
  }
}

TEST_CASE("plan: a materialized layer keeps the laws and gradients of any layer") {
  lora::Rng rng(3);
  for (const double dropout : {0.0, 0.4}) {
    CAPTURE(dropout);
    Layer<double> layer(Packed<double>(random_matrix(37, 29, rng), Plan{Copies::one, Delta::materialized}),
                        {.rank = 5, .alpha = 3, .dropout = dropout}, rng);
    lora::testing::fill_parameters(layer, rng);
    const auto x = random_matrix(29, 6, rng);
    check(lora::testing::adapter_laws(layer, x));
    check(lora::testing::check_gradients(layer, x, {.pass = {.training = true, .seed = 3, .step = 1}}));
    check(lora::testing::check_gradients(layer, x));
  }
}

TEST_CASE("plan: a cache goes from a materialized pass to one with dropout and back") {
  lora::Rng rng(4);
  Layer<double> layer(Packed<double>(random_matrix(20, 31, rng), Plan{Copies::one, Delta::materialized}),
                      {.rank = 3, .alpha = 2, .dropout = 0.5}, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix(31, 4, rng), dy = random_matrix(20, 4, rng);
  const lora::Pass training{.training = true, .seed = 1, .step = 2};
  Layer<double>::Cache<> fresh, used;
  layer.forward(x, fresh, training);
  const Matrix<double> expected = layer.backward(x, dy, fresh);
  layer.forward(x, used);
  layer.backward(x, dy, used);
  layer.forward(x, used, training);
  CHECK(layer.backward(x, dy, used) == expected);
}

TEST_CASE("plan: what is formed is counted in the cache, and formed again without the heap") {
  lora::Rng rng(5);
  Layer<float> layer(Packed<float>(random_matrix<float>(64, 48, rng), Plan{Copies::one, Delta::materialized}),
                     {.rank = 4, .alpha = 8}, rng);
  const auto x = random_matrix<float>(48, 9, rng);
  Layer<float>::Cache<> cache;
  layer.forward(x, cache);
  CHECK(cache.adapter.merged.bytes() == layer.base().bytes());
  CHECK(cache.bytes() > layer.base().bytes());
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  CHECK(lora_test::heap_allocations_in([&] { layer.forward(x, cache); }) == 0);
}
