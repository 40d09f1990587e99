// One frozen network, many adapters, many threads: each request names its adapter while others come and go.

#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/generic.hpp"
#include "support/catch.hpp"

#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using lora::Index;
using lora::Matrix;
using lora::testing::random_matrix;
using Net = lora::Mlp<lora::Linear<float>>;

constexpr std::size_t adapters = 50, threads = 8;

std::string name_of(std::size_t k) { return "user" + std::to_string(k); }

Net new_net(lora::Rng& rng) {
  Net net({12, 16, 6}, rng);
  for (std::size_t k = 0; k < adapters; ++k) {
    lora::attach(net, {.rank = 1 + static_cast<Index>(k % 5)}, rng, name_of(k));
  }
  lora::testing::fill_parameters(net, rng, 0.5F);
  return net;
}

}  // namespace

TEST_CASE("server: eight threads, fifty adapters, others attached and detached meanwhile: the bits of serial passes",
          "[threads]") {
  lora::Rng rng(1);
  Net net = new_net(rng);
  const auto x = random_matrix<float>(12, 3, rng);
  std::vector<lora::AdapterHandle> handles;
  std::vector<Matrix<float>> expected;
  Net::Cache cache;
  for (std::size_t k = 0; k < adapters; ++k) {
    handles.push_back(lora::adapter(net, name_of(k)));
    expected.emplace_back(net.forward(x, cache, {.adapter = handles[k]}));
  }

  std::vector<int> wrong(threads, 0);
  std::vector<std::thread> running;
  for (std::size_t t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      Net::Cache own;
      for (std::size_t round = 0; round < 100; ++round) {
        const std::size_t k = (round * 7 + t * 13) % adapters;
        const Net& shared = net;
        wrong[t] += shared.forward(x, own, {.adapter = handles[k]}) != expected[k];
      }
    });
  }
  for (int round = 0; round < 20; ++round) {
    lora::attach(net, {.rank = 2}, rng, "guest");
    lora::select(net, name_of(static_cast<std::size_t>(round)));
    lora::detach(net, "guest");
  }
  lora::detach(net, name_of(3));  // whoever holds its handle goes on
  for (std::thread& thread : running) thread.join();
  CHECK(wrong == std::vector<int>(threads, 0));
}

TEST_CASE("server: passes of different adapters go backward at once", "[threads]") {
  lora::Rng rng(2);
  Net net = new_net(rng);
  const auto x = random_matrix<float>(12, 3, rng), dy = random_matrix<float>(6, 3, rng);
  const auto gradient_of = [&](std::size_t k) {
    return Matrix<float>(net.layers()[0].adapter(name_of(k)).as<lora::Lora<float>>().A.grad);
  };
  std::vector<Matrix<float>> expected;
  for (std::size_t k = 0; k < threads; ++k) {
    Net::Cache cache;
    net.forward(x, cache, {.adapter = lora::adapter(net, name_of(k))});
    net.backward(x, dy, cache);
    expected.push_back(gradient_of(k));
    lora::zero_gradients(net, lora::adapter(net, name_of(k)));
  }
  std::vector<std::thread> running;
  for (std::size_t k = 0; k < threads; ++k) {
    running.emplace_back([&, k, handle = lora::adapter(net, name_of(k))] {
      Net::Cache own;
      net.forward(x, own, {.adapter = handle});
      net.backward(x, dy, own);
    });
  }
  for (std::thread& thread : running) thread.join();
  for (std::size_t k = 0; k < threads; ++k) CHECK(gradient_of(k) == expected[k]);
}

TEST_CASE("server: a pass without a handle takes a selection whole, whichever it is", "[threads]") {
  lora::Rng rng(3);
  lora::Linear<float> layer(random_matrix<float>(6, 5, rng));
  layer.attach("a", {.rank = 2}, rng);
  layer.attach("b", {.rank = 3}, rng);
  lora::testing::fill_parameters(layer, rng);
  const auto x = random_matrix<float>(5, 2, rng);
  std::vector<Matrix<float>> allowed;
  const auto select = [&](int which) {
    if (which == 0) layer.select("a");
    if (which == 1) layer.select_sum({{"a", 0.5}, {"b", 2}});
    if (which == 2) layer.select_none();
  };
  for (int which = 0; which < 3; ++which) {
    select(which);
    allowed.push_back(layer(x));
  }
  std::vector<int> torn(4, 0);
  std::vector<std::thread> running;
  for (int& count : torn) {
    running.emplace_back([&] {
      lora::Linear<float>::Cache own;
      for (int round = 0; round < 300; ++round) {
        const Matrix<float> y = std::as_const(layer).forward(x, own);
        count += y != allowed[0] && y != allowed[1] && y != allowed[2];
      }
    });
  }
  for (int round = 0; round < 300; ++round) select(round % 3);
  for (std::thread& thread : running) thread.join();
  CHECK(torn == std::vector<int>(4, 0));
}
