// How often a training step asks for memory: never, apart from the blocking buffers that Eigen's own products take.

#include "support/heap.hpp"
#include "lora/adapters/adapted.hpp"
#include "lora/core/parameters.hpp"
#include "lora/testing/generic.hpp"
#include "support/adapted_lora.hpp"
#include "support/catch.hpp"

namespace {

using lora::Index;
using lora::Matrix;
using lora::RowMajorMatrix;
using lora::testing::random_matrix;
using lora_test::AdaptedLora;

/// The products of one training step, on memory that is there already.
struct Products {
  Matrix<float> W0, x, dy, y, dx;

  Products(Index out, Index in, Index samples, lora::Rng& rng)
      : W0(random_matrix<float>(out, in, rng)),
        x(random_matrix<float>(in, samples, rng)),
        dy(random_matrix<float>(out, samples, rng)),
        y(out, samples),
        dx(in, samples) {}

  std::size_t allocations() {
    return lora_test::heap_allocations_in([&] {
      y.noalias() = W0 * x;
      dx.noalias() = W0.transpose() * dy;
    });
  }
};

}  // namespace

TEST_CASE("heap: a training step takes none, and over a dense weight what its two products with it take") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  for (const Index size : {1, 3, 16, 64, 100, 128, 200, 320, 512}) {
    for (const Index samples : {1, 7, 64, 128}) {
      CAPTURE(size, samples);
      lora::Rng rng(1);
      Products products(size, size + 5, samples, rng);
      const auto second_step = [&]<class Layer>(Layer layer) {
        typename Layer::Cache cache;
        const auto step = [&] {
          layer.forward(products.x, cache);
          layer.backward(products.x, products.dy, cache);
        };
        step();
        return lora_test::heap_allocations_in(step);
      };
      products.allocations();
      const auto expected = products.allocations();
      const lora::LoraConfig config{.rank = 8};
      CHECK(second_step(AdaptedLora<float>(products.W0, config, rng)) == 0);
      CHECK(second_step(lora::Adapted<lora::Dense<float>, lora::Lora<float>>(products.W0, config, rng)) == expected);
      if (size <= 64) CHECK(expected == 0);
    }
  }
}

TEST_CASE("heap: batches of changing size allocate nothing after the largest") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  for (const double dropout : {0.0, 0.5}) {
    lora::Rng rng(2);
    AdaptedLora<float> layer(random_matrix<float>(48, 32, rng), {.rank = 4, .dropout = dropout}, rng);
    const auto x = random_matrix<float>(32, 64, rng), dy = random_matrix<float>(48, 64, rng);
    AdaptedLora<float>::Cache cache;
    const auto step = [&](Index samples) {
      return lora_test::heap_allocations_in([&] {
        layer.forward(x.leftCols(samples), cache, {.training = true});
        layer.backward(x.leftCols(samples), dy.leftCols(samples), cache);
        lora::zero_gradients(layer);
      });
    };
    CHECK(step(64) > 0);
    CHECK(step(48) == 0);
    CHECK(step(64) == 0);
    CHECK(step(1) == 0);
    CHECK(step(64) == 0);
  }
}

TEST_CASE("heap: compile-time sizes and samples need none from the first step, the layer's making included") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  using Layer = AdaptedLora<float, 12, 10, 4>;
  for (const double dropout : {0.0, 0.5}) {
    float sum = 0;
    const auto made = lora_test::heap_allocations_in([&] {
      lora::Rng rng(3);
      Eigen::Matrix<float, 12, 10> W0;
      lora::fill_normal(W0, 1, rng);
      Layer layer(W0, lora::Vector<float, 12>(W0.col(0)), {.rank = 4, .dropout = dropout, .bias = lora::Bias::all},
                  rng);
      Layer::CacheFor<8> cache;
      const Eigen::Matrix<float, 10, 8> x = W0.transpose().leftCols<8>();
      for (std::uint64_t step = 0; step < 3; ++step) {
        const auto y = layer.forward(x, cache, {.training = true, .step = step});
        sum += layer.backward(x, y, cache).sum();
      }
    });
    CHECK(made == 0);
    CHECK(sum != 0);
  }
}
