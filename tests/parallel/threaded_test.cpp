#include "lora/parallel/threaded.hpp"

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/base_laws.hpp"
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

using lora::Index;
using lora::Matrix;
using lora::Packed;
using lora::Threaded;
using lora::Workers;
using lora::testing::random_matrix;
using lora_test::check;

template <class S>
using Layer = lora::Adapted<Threaded<S>, lora::Lora<S>>;

bool same_bits(const auto& a, const auto& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) == 0;
}

using Pools = std::vector<std::shared_ptr<Workers>>;

Pools pools(const std::vector<int>& threads) {
  Pools all;
  for (const int count : threads) all.push_back(std::make_shared<Workers>(count));
  return all;
}

/// Everything that a step of a layer computes, by a base.
template <class S>
struct Products {
  Matrix<S> z, g, y, dx, plain_y, plain_dx, db;
  lora::RowMajorMatrix<S> da;
};

/// All of them, beside what Packed computes. That they agree is no accident: the numbers are random and the sums long.
template <class S>
void check_bits(const Packed<S>& packed, const Pools& all, Index samples, Index rank, lora::Rng& rng) {
  const Index out = packed.rows(), in = packed.cols();
  const auto x = random_matrix<S>(in, samples, rng), dy = random_matrix<S>(out, samples, rng);
  const auto U = random_matrix<S>(out, rank, rng), V = random_matrix<S>(in, rank, rng);
  const lora::RowMajorMatrix<S> A = V.transpose();
  const auto products = [&](const auto& base) {
    Products<S> made{Matrix<S>(rank, samples),
                     Matrix<S>(rank, samples),
                     Matrix<S>(out, samples),
                     Matrix<S>(in, samples),
                     Matrix<S>(out, samples),
                     Matrix<S>(in, samples),
                     U,
                     A};
    base.thin_product(A, x, made.z);
    base.thin_product(U.transpose(), dy, made.g);
    base.apply(x, made.y, U, made.z);
    base.apply_transposed(dy, made.dx, V, made.g);
    base.apply(x, made.plain_y);
    base.apply_transposed(dy, made.plain_dx);
    base.add_outer(dy, made.z, made.db);
    base.add_outer(made.g, x, made.da);
    return made;
  };
  const Products<S> expected = products(packed);
  for (const auto& workers : all) {
    CAPTURE(workers->threads(), packed.copies() == lora::Copies::two, out, in, samples, rank);
    const Products<S> made = products(Threaded<S>(packed, workers));
    CHECK(same_bits(made.z, expected.z));
    CHECK(same_bits(made.g, expected.g));
    CHECK(same_bits(made.y, expected.y));
    CHECK(same_bits(made.dx, expected.dx));
    CHECK(same_bits(made.plain_y, expected.plain_y));
    CHECK(same_bits(made.plain_dx, expected.plain_dx));
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

  Step(auto& layer, const Matrix<float>& x, const Matrix<float>& dy, auto& cache) {
    lora::zero_gradients(layer);
    y = layer.forward(x, cache, {.training = true, .seed = 3, .step = 1});
    dx = layer.backward(x, dy, cache);
    da = layer.adapter().A.grad;
    db = layer.adapter().B.grad;
  }
  bool operator==(const Step& other) const {
    return same_bits(y, other.y) && same_bits(dx, other.dx) && same_bits(da, other.da) && same_bits(db, other.db);
  }
};

}  // namespace

TEST_CASE("threaded: the same bits as Packed for any number of threads, in float") {
  check_all_bits<float>({1, 2, 3, 4});
}
TEST_CASE("threaded: the same bits as Packed for any number of threads, in double") { check_all_bits<double>({2}); }

TEST_CASE("threaded: a few shapes, watched for races", "[threads]") {
  lora::Rng rng(2);
  const Packed<float> packed(random_matrix<float>(300, 530, rng));
  for (const Index samples : {8, 130}) check_bits(packed, pools({3}), samples, 9, rng);
}

TEST_CASE("threaded: a product is cut when it is worth it, by its shape alone") {
  using Parts = lora::detail::Parts;
  const auto parts = [](Index depth, Index rows, Index samples) {
    const Parts chosen = Parts::choose<float>(static_cast<double>(depth * rows * samples), 1e6, rows, 32, samples, 128);
    return std::pair(chosen.of_rows, chosen.of_samples);
  };
  CHECK(parts(64, 64, 128) == std::pair<Index, Index>(1, 1));
  CHECK(parts(512, 512, 64) == std::pair<Index, Index>(16, 1));
  CHECK(parts(512, 512, 512) == std::pair<Index, Index>(8, 4));
  CHECK(parts(512, 32, 512) == std::pair<Index, Index>(1, 4));
  CHECK(Parts::choose<float>(6e5, 1e6, 512, 32, 512, 128).count() == 1);
  CHECK(Parts::choose<double>(6e5, 1e6, 512, 32, 512, 128).count() > 1);  // takes twice the time
}

TEST_CASE("threaded: a product of no samples is empty") {
  lora::Rng rng(1);
  const Threaded<float> base(random_matrix<float>(500, 500, rng), std::make_shared<Workers>(2));
  const Matrix<float> none(500, 0);
  Matrix<float> result(500, 0);
  CHECK_NOTHROW(base.apply(none, result));
  CHECK_NOTHROW(base.apply_transposed(none, result));
}

TEST_CASE("threaded: keeps the laws of a base") {
  const auto workers = std::make_shared<Workers>(2);
  for (const auto& [out, in] : shapes) {
    for (const Index samples : {1, 7, 64}) {
      CAPTURE(out, in, samples);
      lora::Rng rng(4);
      const Packed<double> packed(random_matrix(out, in, rng));
      check(lora::testing::base_laws(Threaded<double>(packed, workers), samples, packed.bytes()));
    }
  }
}

TEST_CASE("threaded: a layer has the laws and gradients of any layer") {
  lora::Rng rng(5);
  const auto workers = std::make_shared<Workers>(2);
  Layer<double> layer({random_matrix(290, 270, rng), workers}, lora::Vector<double>(random_matrix(290, 1, rng)),
                      {.rank = 5, .alpha = 3, .dropout = 0.2, .bias = lora::Bias::lora_only}, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix(270, 7, rng);
  check(lora::testing::adapter_laws(layer, x));
  check(lora::testing::check_gradients(layer, x));
}

TEST_CASE("threaded: a step of a layer has the same bits for any number of threads, with dropout and without") {
  lora::Rng rng(6);
  const auto W0 = random_matrix<float>(300, 400, rng), x = random_matrix<float>(400, 150, rng);
  const auto dy = random_matrix<float>(300, 150, rng);
  const std::vector<std::pair<double, lora::Delta>> kinds = {
      {0.0, lora::Delta::two_step}, {0.0, lora::Delta::materialized}, {0.3, lora::Delta::two_step}};
  for (const auto& [dropout, delta] : kinds) {
    lora::Rng seed(7);
    const Packed<float> base(W0, lora::Plan{lora::Copies::one, delta});
    lora::Adapted<Packed<float>, lora::Lora<float>> packed(base, {.rank = 16, .dropout = dropout}, seed);
    lora::testing::fill_parameters(packed, rng);
    typename decltype(packed)::template Cache<> packed_cache;
    const Step expected(packed, x, dy, packed_cache);
    for (const int threads : {1, 2, 3, 4}) {
      CAPTURE(dropout, delta == lora::Delta::materialized, threads);
      Layer<float> layer(Threaded<float>(base, std::make_shared<Workers>(threads)), packed.adapter());
      Layer<float>::Cache<> cache;
      CHECK((Step(layer, x, dy, cache) == expected));
    }
  }
}

TEST_CASE("threaded: two threads, each with a layer, on one pool and one W0", "[threads]") {
  lora::Rng rng(8);
  const auto W0 = random_matrix<float>(300, 400, rng), x = random_matrix<float>(400, 50, rng);
  const auto dy = random_matrix<float>(300, 50, rng);
  const Threaded<float> base(W0, std::make_shared<Workers>(2));
  std::vector<Layer<float>> layers(2, Layer<float>(base, {.rank = 8}, rng));
  Layer<float>::Cache<> cache;
  const Step expected(layers[0], x, dy, cache);
  std::vector<char> good(2, 0);
  std::vector<std::thread> callers;
  for (std::size_t k = 0; k < 2; ++k) {
    callers.emplace_back([&, k] {
      Layer<float>::Cache<> own;
      good[k] = true;
      for (int step = 0; step < 5; ++step) good[k] = Step(layers[k], x, dy, own) == expected && good[k];
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(good == std::vector<char>(2, 1));
}

TEST_CASE("threaded: a step takes no heap after the first") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(9);
  Layer<float> layer({random_matrix<float>(300, 400, rng), std::make_shared<Workers>(2)}, {.rank = 8}, rng);
  Layer<float>::Cache<> cache;
  const auto x = random_matrix<float>(400, 130, rng), dy = random_matrix<float>(300, 130, rng);
  const auto step = [&] {
    return lora_test::heap_allocations_in([&] {
      layer.forward(x, cache);
      layer.backward(x, dy, cache);
    });
  };
  CHECK(step() > 0);
  CHECK(step() == 0);
}

TEST_CASE("threaded: is the packed weight, and refuses to be without workers") {
  lora::Rng rng(10);
  const auto W0 = random_matrix<float>(30, 50, rng);
  const auto workers = std::make_shared<Workers>(2);
  const Packed<float> packed(W0, lora::Copies::two);
  const Threaded<float> threaded(packed, workers);
  CHECK(threaded.rows() == 30);
  CHECK(threaded.cols() == 50);
  CHECK(threaded.bytes() == packed.bytes());
  CHECK(threaded.copies() == lora::Copies::two);
  CHECK(threaded.dense() == W0);
  CHECK(threaded.packed().dense() == W0);
  CHECK(threaded.columns(7, 3) == W0.middleCols(7, 3));
  CHECK(&threaded.workers() == workers.get());
  CHECK_THROWS_WITH(Threaded<float>(W0, nullptr),
                    "Threaded: the workers are a null pointer, expected threads to share");
}
