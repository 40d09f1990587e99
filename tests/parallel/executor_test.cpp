#include "lora/core/executor.hpp"

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/base/packed.hpp"
#include "lora/parallel/workers.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

using lora::Executor;
using FunctionRef = lora::detail::FunctionRef<void(lora::Index)>;
using lora::Index;
using lora::Matrix;
using lora::Packed;
using lora::Workers;
using lora::testing::random_matrix;
using lora_test::check;

template <class S>
using Layer = lora::Adapted<Packed<S>, lora::Lora<S>>;

bool same_bits(const auto& a, const auto& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) == 0;
}

/// Runs all rounds on this thread, in another order: 1, 3, 5, ..., then backwards from the last even one.
class OddOrder : public Executor {
 public:
  int threads() const override { return 1; }
  bool share(Index count, FunctionRef f, double) override {
    ++shared_;
    for (Index k = 1; k < count; k += 2) f(k);
    for (Index k = (count - 1) / 2 * 2; k >= 0; k -= 2) f(k);
    return true;
  }
  int shared() const { return shared_; }

 private:
  int shared_ = 0;
};

/// Gives each round to a thread of its own, and refuses every other call.
class OwnThreads : public Executor {
 public:
  int threads() const override { return 2; }
  bool share(Index count, FunctionRef f, double) override {
    if (++calls_ % 2 == 0) return false;
    std::vector<std::thread> all;
    for (Index k = 0; k < count; ++k) all.emplace_back([f, k] { f(k); });
    for (std::thread& thread : all) thread.join();
    return true;
  }

 private:
  int calls_ = 0;
};

using Pools = std::vector<std::shared_ptr<Executor>>;

Pools pools(const std::vector<int>& threads) {
  Pools all = {std::make_shared<OddOrder>()};
  for (const int count : threads) all.push_back(std::make_shared<Workers>(count));
  return all;
}

/// Everything that a step of a layer computes, by a base.
template <class S>
struct Products {
  Matrix<S> z, g, y, dx, plain_y, plain_dx, added, db;
  lora::RowMajorMatrix<S> da;
};

/// All of them, beside what no executor gives. That they agree is no accident: the elements are random, the sums long.
template <class S>
void check_bits(const Packed<S>& packed, const Pools& all, Index samples, Index rank, lora::Rng& rng) {
  const Index out = packed.rows(), in = packed.cols();
  const auto x = random_matrix<S>(in, samples, rng), dy = random_matrix<S>(out, samples, rng);
  const auto U = random_matrix<S>(out, rank, rng), V = random_matrix<S>(in, rank, rng);
  const lora::RowMajorMatrix<S> A = V.transpose();
  const Matrix<S> W = packed.dense();
  const auto products = [&](Executor* executor) {
    Products<S> made{Matrix<S>(rank, samples),
                     Matrix<S>(rank, samples),
                     Matrix<S>(out, samples),
                     Matrix<S>(in, samples),
                     Matrix<S>(out, samples),
                     Matrix<S>(in, samples),
                     x,
                     U,
                     A};
    lora::detail::thin_product(A.transpose(), x, made.z, executor);
    lora::detail::thin_product(U, dy, made.g, executor);
    packed.apply(x, made.y, U, made.z, executor);
    packed.apply_transposed(dy, made.dx, V, made.g, executor);
    packed.apply(x, made.plain_y, executor);
    packed.apply_transposed(dy, made.plain_dx, executor);
    lora::detail::add_low_rank(A.transpose(), made.g, made.added, executor);
    lora::detail::add_thin_outer(dy, made.z, made.db, executor);
    lora::detail::add_thin_outer(x, made.g, made.da.transpose(), executor);
    Matrix<S> unpacked(out, samples);
    Packed<S>::multiply(W, x, unpacked, executor);
    CHECK(same_bits(unpacked, made.plain_y));
    return made;
  };
  const Products<S> expected = products(nullptr);
  for (const auto& executor : all) {
    CAPTURE(executor->threads(), packed.copies() == lora::Copies::two, out, in, samples, rank);
    const Products<S> made = products(executor.get());
    CHECK(same_bits(made.z, expected.z));
    CHECK(same_bits(made.g, expected.g));
    CHECK(same_bits(made.y, expected.y));
    CHECK(same_bits(made.dx, expected.dx));
    CHECK(same_bits(made.plain_y, expected.plain_y));
    CHECK(same_bits(made.plain_dx, expected.plain_dx));
    CHECK(same_bits(made.added, expected.added));
    CHECK(same_bits(made.db, expected.db));
    CHECK(same_bits(made.da, expected.da));
  }
}

// Around the places where products are cut: panels of 32 rows at most, tiles of 8, blocks of 264 columns, passes of 32
// samples. The smallest stay whole, the largest are cut in both directions;
// the last has columns of dx that are collected first, in two passes.
const std::vector<std::pair<Index, Index>> shapes = {{1, 1}, {300, 500}, {257, 531}, {1500, 200}, {900, 1024}};

template <class S>
void check_all_bits(const std::vector<int>& threads) {
  lora::Rng rng(1);
  const Pools all = pools(threads);
  for (const auto& [out, in] : shapes) {
    const auto W0 = random_matrix<S>(out, in, rng);
    const Packed<S> one(W0), two(W0, lora::Copies::two);
    for (const Index samples : {1, 5, 13, 44, 97}) check_bits(one, all, samples, 1 + samples % 9, rng);
    check_bits(two, all, 270, 8, rng);
  }
  // Thin products that are large enough to be cut, by each of their kernels.
  const Packed<S> wide(random_matrix<S>(8, 8000, rng));
  for (const Index rank : {1, 2, 9, 33}) check_bits(wide, all, 145, rank, rng);
  check_bits(Packed<S>(random_matrix<S>(70, 90, rng)), all, 530, 7, rng);  // and gradients
}

/// One step with a gradient of its own.
struct Step {
  Matrix<float> y, dx, db;
  lora::RowMajorMatrix<float> da;

  Step(auto& layer, const Matrix<float>& x, const Matrix<float>& dy, auto& cache, Executor* executor = nullptr) {
    lora::zero_gradients(layer);
    y = layer.forward(x, cache, {.training = true, .seed = 3, .step = 1, .executor = executor});
    dx = layer.backward(x, dy, cache);
    da = layer.adapter().A.grad;
    db = layer.adapter().B.grad;
  }
  bool operator==(const Step& other) const {
    return same_bits(y, other.y) && same_bits(dx, other.dx) && same_bits(da, other.da) && same_bits(db, other.db);
  }
};

}  // namespace

TEST_CASE("executor: the same bits for any number of threads, in float") { check_all_bits<float>({1, 2, 3, 8}); }
TEST_CASE("executor: the same bits for any number of threads, in double") { check_all_bits<double>({2}); }

TEST_CASE("executor: a few shapes, watched for races", "[threads]") {
  lora::Rng rng(2);
  const Packed<float> packed(random_matrix<float>(300, 530, rng));
  for (const Index samples : {8, 130}) check_bits(packed, pools({3}), samples, 9, rng);
}

TEST_CASE("executor: a product is cut when it is worth it, by its shape alone") {
  using Split = lora::detail::Split;
  const auto parts = [](Index depth, Index rows, Index samples) {
    const Split chosen = Split::choose<float>(static_cast<double>(depth * rows * samples), 1e6, rows, 32, samples, 128);
    return std::pair(chosen.row_parts, chosen.sample_parts);
  };
  CHECK(parts(64, 64, 128) == std::pair<Index, Index>(1, 1));
  CHECK(parts(512, 512, 64) == std::pair<Index, Index>(16, 1));
  CHECK(parts(512, 512, 512) == std::pair<Index, Index>(8, 4));
  CHECK(parts(512, 32, 512) == std::pair<Index, Index>(1, 4));
  CHECK(Split::choose<float>(6e5, 1e6, 512, 32, 512, 128).count() == 1);
  CHECK(Split::choose<double>(6e5, 1e6, 512, 32, 512, 128).count() > 1);  // takes twice the time
}

TEST_CASE("executor: every product of a large weight is split, that of a small one is not") {
  const auto shared = [](Index size, auto&& product) {
    lora::Rng rng(3);
    const Packed<float> base(random_matrix<float>(size, size, rng));
    const Matrix<float> x = random_matrix<float>(size, 530, rng), U = random_matrix<float>(size, 9, rng);
    Matrix<float> y(size, 530), Z = random_matrix<float>(9, 530, rng), D = U;
    OddOrder executor;
    product(base, x, U, Z, y, D, executor);
    return executor.shared();
  };
  const auto count = [&](auto&& product) { return std::pair(shared(600, product), shared(10, product)); };
  using Counts = std::pair<int, int>;
  using lora::detail::add_low_rank, lora::detail::add_thin_outer, lora::detail::thin_product;
  CHECK(count([](auto& base, auto& x, auto&, auto&, auto& y, auto&, auto& e) { base.apply(x, y, &e); }) ==
        Counts(1, 0));
  CHECK(count([](auto& base, auto& x, auto& U, auto& Z, auto& y, auto&, auto& e) { base.apply(x, y, U, Z, &e); }) ==
        Counts(1, 0));
  CHECK(count([](auto& base, auto& x, auto&, auto&, auto& y, auto&, auto& e) { base.apply_transposed(x, y, &e); }) ==
        Counts(1, 0));
  CHECK(count([](auto& base, auto& x, auto&, auto&, auto& y, auto&, auto& e) {
          base.multiply(base.dense(), x, y, &e);
        }) == Counts(1, 0));
  CHECK(count([](auto&, auto& x, auto& U, auto& Z, auto&, auto&, auto& e) { thin_product(U, x, Z, &e); }) ==
        Counts(1, 0));
  CHECK(count([](auto&, auto&, auto& U, auto& Z, auto& y, auto&, auto& e) { add_low_rank(U, Z, y, &e); }) ==
        Counts(1, 0));
  CHECK(count([](auto&, auto& x, auto&, auto& Z, auto&, auto& D, auto& e) { add_thin_outer(x, Z, D, &e); }) ==
        Counts(1, 0));
}

TEST_CASE("executor: other threads take parts, and an executor may refuse", "[threads]") {
  lora::Rng rng(11);
  const Packed<float> base(random_matrix<float>(500, 300, rng));
  const auto x = random_matrix<float>(300, 40, rng);
  Matrix<float> expected(500, 40), y(500, 40);
  base.apply(x, expected);
  OwnThreads executor;
  for (int k = 0; k < 2; ++k) {  // on other threads only, then refused
    y.setZero();
    base.apply(x, y, &executor);
    CHECK(same_bits(y, expected));
  }
}

TEST_CASE("executor: a product of no samples is empty") {
  lora::Rng rng(1);
  const Packed<float> base(random_matrix<float>(500, 500, rng));
  Workers workers(2);
  const Matrix<float> none(500, 0);
  Matrix<float> result(500, 0);
  CHECK_NOTHROW(base.apply(none, result, &workers));
  CHECK_NOTHROW(base.apply_transposed(none, result, &workers));
}

TEST_CASE("executor: a layer on threads has the gradients of any layer") {
  lora::Rng rng(5);
  Workers workers(2);
  Layer<double> layer(random_matrix(290, 270, rng), lora::Vector<double>(random_matrix(290, 1, rng)),
                      {.rank = 5, .alpha = 3, .dropout = 0.2, .bias = lora::Bias::lora_only}, rng);
  lora::testing::fill_parameters(layer, rng);
  check(lora::testing::check_gradients(layer, random_matrix(270, 7, rng), {.pass = {.executor = &workers}}));
}

TEST_CASE("executor: a step of a layer has the same bits for any number of threads, with dropout and without") {
  lora::Rng rng(6);
  const auto W0 = random_matrix<float>(300, 400, rng), x = random_matrix<float>(400, 150, rng);
  const auto dy = random_matrix<float>(300, 150, rng);
  for (const double dropout : {0.0, 0.3}) {
    lora::Rng seed(7);
    Layer<float> layer(W0, {.rank = 16, .dropout = dropout}, seed);
    lora::testing::fill_parameters(layer, rng);
    Layer<float>::Cache cache;
    const Step expected(layer, x, dy, cache);
    for (const auto& executor : pools({1, 2, 3, 8})) {
      CAPTURE(dropout, executor->threads());
      CHECK((Step(layer, x, dy, cache, executor.get()) == expected));
    }
  }
}

TEST_CASE("executor: backward is shared too, also with the adapter off") {
  lora::Rng rng(12);
  Layer<float> layer(random_matrix<float>(300, 400, rng), {.rank = 8}, rng);
  const auto x = random_matrix<float>(400, 50, rng), dy = random_matrix<float>(300, 50, rng);
  for (const bool on : {true, false}) {
    CAPTURE(on);
    layer.enable(on);
    OddOrder executor;
    Layer<float>::Cache cache;
    layer.forward(x, cache, {.executor = &executor});
    const int forward = executor.shared();
    CHECK(forward > 0);
    layer.backward(x, dy, cache);
    CHECK(executor.shared() > forward);
  }
}

TEST_CASE("executor: two threads, each with a layer, on one pool and one W0", "[threads]") {
  lora::Rng rng(8);
  const auto W0 = random_matrix<float>(300, 400, rng), x = random_matrix<float>(400, 50, rng);
  const auto dy = random_matrix<float>(300, 50, rng);
  Workers workers(2);
  std::vector<Layer<float>> layers(2, Layer<float>(W0, {.rank = 8}, rng));
  Layer<float>::Cache cache;
  const Step expected(layers[0], x, dy, cache);
  std::vector<char> good(2, 0);
  std::vector<std::thread> callers;
  for (std::size_t k = 0; k < 2; ++k) {
    callers.emplace_back([&, k] {
      Layer<float>::Cache own;
      good[k] = true;
      for (int step = 0; step < 5; ++step) good[k] = Step(layers[k], x, dy, own, &workers) == expected && good[k];
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(good == std::vector<char>(2, 1));
}

TEST_CASE("executor: a step takes no heap after the first") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(9);
  Workers workers(2);
  Layer<float> layer(random_matrix<float>(300, 400, rng), {.rank = 8}, rng);
  Layer<float>::Cache cache;
  const auto x = random_matrix<float>(400, 130, rng), dy = random_matrix<float>(300, 130, rng);
  const auto step = [&] {
    return lora_test::heap_allocations_in([&] {
      layer.forward(x, cache, {.executor = &workers});
      layer.backward(x, dy, cache);
    });
  };
  CHECK(step() > 0);
  CHECK(step() == 0);
}
