#include "lora/parallel/sharded_training.hpp"

#include "lora/losses/mean_squared_error.hpp"
#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/nn/linear.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/clip.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/process_threads.hpp"

#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace {

using lora::Index;
using lora::Shard;
using lora::detail::ShardNode;
using lora::detail::ShardTree;

using lora_test::Threads;

struct Net {
  lora::Linear<float> fc1;
  lora::Linear<double> fc2;
  static void visit(auto& self, auto&& f) {
    f("fc1", self.fc1);
    f("fc2", self.fc2);
  }
};

Net make_net() {
  lora::Rng rng(3);
  Net net{lora::Linear<float>({.in = 7, .out = 5}, rng), lora::Linear<double>({.in = 5, .out = 3}, rng)};
  net.fc1.attach("a", {.rank = 2, .alpha = 4, .dropout = 0.2}, rng);
  net.fc2.attach("a", {.rank = 2, .alpha = 4, .dropout = 0.2}, rng);
  return net;
}

/// Adds some gradient that depends on the sample, in every trained parameter.
void backward(Net& net, const Shard& shard, Index first) {
  lora::visit_parameters(net, [&](const lora::Path& path, auto& parameter) {
    if (!lora::is_trained(path, parameter)) return;
    using S = typename std::remove_cvref_t<decltype(parameter.value)>::Scalar;
    auto& gradient = parameter.gradient();
    for (Index j = shard.first; j < shard.first + shard.count; ++j) {
      lora::Rng rng(path.hash(), static_cast<std::uint64_t>(first + j));
      for (Index k = 0; k < gradient.size(); ++k) gradient.data()[k] += S(rng.uniform<double>() - 0.5);
    }
  });
}

/// Some steps with batches of several sizes; the digest of the trained net, and of all losses.
std::string trained(lora::Processes& processes, Index shards, std::size_t largest = 1 << 30) {
  Net net = make_net();
  lora::ShardedTraining parallel(processes, net, {.shards = shards, .largest_message = largest});
  lora::AdamW<float> optimizer({.lr = 0.1});
  lora::AdamW<double> optimizer2({.lr = 0.1});
  lora::Digest losses;
  Index first = 0;
  for (const Index samples : {Index(16), Index(13), Index(3), Index(0), Index(1), Index(8)}) {
    for (const Shard& shard : parallel.shards(net, samples)) {
      backward(net, shard, first);
      parallel.add(net, {.loss = 1.0 / static_cast<double>(first + shard.first + 3), .count = double(shard.count)});
    }
    const lora::LossSum total = parallel.sum(net);
    if (total.count != static_cast<double>(samples))
      throw lora::Error("the count is wrong");  // CHECK is for one thread
    losses.add(total.loss);
    losses.add(lora::clip_gradient_norm(net, 0.1));
    optimizer.step(net.fc1);
    optimizer2.step(net.fc2);
    first += samples;
  }
  return losses.text() + " " + lora::Digest().add(lora::model_digest(net)).text();
}

}  // namespace

TEST_CASE("shards: each sample is in one, each shard on one process, sizes differ by one at most") {
  for (const Index shards : {1, 2, 3, 8, 13}) {
    for (const Index samples : {0, 1, 7, 8, 26, 101}) {
      Index next = 0;
      for (Index k = 0; k < shards; ++k) {
        const Shard shard = lora::shard_of(samples, shards, k);
        CHECK(shard.number == k);
        CHECK(shard.first == next);
        CHECK((shard.count == samples / shards || shard.count == (samples + shards - 1) / shards));
        next += shard.count;
      }
      CHECK(next == samples);
    }
    for (Index processes = 1; processes <= shards; ++processes) {
      Index next = 0;
      for (Index p = 0; p < processes; ++p) {
        const ShardTree tree{shards, processes, p};
        CHECK(tree.own().first == next);
        for (next = tree.own().first; next < tree.own().end; ++next) CHECK(tree.owner(next) == p);
        CHECK(tree.own().end > tree.own().first);
      }
      CHECK(next == shards);
    }
  }
}

TEST_CASE("shards: the tree splits at the largest power of two below") {
  CHECK(ShardNode{0, 8}.middle() == 4);
  CHECK(ShardNode{0, 6}.middle() == 4);
  CHECK(ShardNode{4, 6}.middle() == 5);
  CHECK(ShardNode{0, 5}.middle() == 4);
  const ShardTree tree{6, 2, 1};
  CHECK(tree.parent({3, 4}) == ShardNode{2, 4});
  CHECK(tree.parent({4, 5}) == ShardNode{4, 6});
  CHECK(tree.parent({0, 4}) == tree.root());
  CHECK(tree.messages() == 2);
  CHECK(ShardTree{8, 1, 0}.messages() == 0);
  CHECK(ShardTree{8, 8, 0}.messages() == 7);
  CHECK(ShardTree{8, 3, 0}.messages() == 4);
}

namespace {

/// The tree written down again: a node is left + right, a part without samples does not exist.
std::optional<float> expected(const std::vector<float>& of, Index samples, ShardNode node) {
  if (node.is_leaf()) {
    if (lora::shard_of(samples, std::ssize(of), node.first).count == 0) return std::nullopt;
    return of[static_cast<std::size_t>(node.first)];
  }
  const auto left = expected(of, samples, node.left()), right = expected(of, samples, node.right());
  if (!left || !right) return left ? left : right;
  return *left + *right;
}

}  // namespace

TEST_CASE("sharded training: gradients are added in the order of the tree, for any number of processes") {
  for (const Index shards : {Index(1), Index(6), Index(8), Index(13)}) {
    std::vector<float> gradients;
    lora::Rng rng(9);
    for (Index k = 0; k < shards; ++k) gradients.push_back(std::exp(8 * rng.uniform<float>()));
    for (int processes = 1; processes <= shards; ++processes) {
      for (const Index samples : {Index(0), Index(1), Index(5), shards, 3 * shards + 1}) {
        const auto sum = expected(gradients, samples, {0, shards});
        Threads threads(processes);
        std::mutex mutex;
        const auto errors = threads.run([&](lora::Processes& own) {
          lora::Parameter<float> p(Eigen::MatrixXf::Ones(1, 1));
          lora::ShardedTraining parallel(own, p, {.shards = shards});
          for (const Shard& shard : parallel.shards(p, samples)) {
            p.gradient()(0, 0) += gradients[static_cast<std::size_t>(shard.number)];
            parallel.add(p, {.loss = 1, .count = 1});
          }
          const lora::LossSum total = parallel.sum(p);
          const std::lock_guard lock(mutex);
          CHECK(total.count == static_cast<double>(std::min(samples, shards)));
          if (!sum) {
            CHECK((p.grad.size() == 0 || p.grad(0, 0) == 0));
            return;
          }
          CHECK(p.grad(0, 0) == static_cast<float>(*sum / total.count));
        });
        for (const std::string& error : errors) CHECK(error.empty());
        CHECK(threads.messages == ShardTree{shards, processes, 0}.messages());
      }
    }
  }
}

TEST_CASE("sharded training: the same bits for any number of processes and any size of messages", "[threads]") {
  lora::OneProcess alone;
  for (const Index shards : {8, 5}) {
    const std::string expected = trained(alone, shards);
    CHECK(expected == trained(alone, shards));
    CHECK(expected != trained(alone, shards - 1));
    for (int processes = 2; processes <= shards; ++processes) {
      for (const std::size_t largest : {std::size_t(1) << 30, std::size_t(200)}) {
        std::mutex mutex;
        Threads threads(processes);
        const auto errors = threads.run([&](lora::Processes& own) {
          const std::string text = trained(own, shards, largest);
          const std::lock_guard lock(mutex);
          CHECK(text == expected);
        });
        for (const std::string& error : errors) CHECK(error.empty());
        CHECK(threads.largest <= largest);
      }
    }
  }
}

TEST_CASE("sharded training: the gradient is that of the whole batch") {
  lora::Rng rng(1);
  const Eigen::MatrixXd x = Eigen::MatrixXd::Random(12, 30), target = Eigen::MatrixXd::Random(4, 30);
  lora::Linear<double> net(lora::AnyBase<double>(Eigen::MatrixXd::Random(4, 12)), lora::LoraConfig{.rank = 2}, rng);
  lora::visit_parameters(net, [](const lora::Path&, auto& parameter) { parameter.value.setRandom(); });
  lora::Linear<double>::Cache cache;
  Eigen::MatrixXd dy;
  const double whole = lora::mean_squared_error(net.forward(x, cache), target, &dy);
  net.backward(x, dy, cache, lora::no_gradient);
  const auto& factors = net.adapter("default").as<lora::Lora<double>>();
  const Eigen::MatrixXd expected = factors.A.grad;

  lora::OneProcess alone;
  lora::ShardedTraining parallel(alone, net, {.shards = 7});
  for (const Shard& shard : parallel.shards(net, 30)) {
    CHECK(factors.A.grad.isZero(0));
    const auto columns = x.middleCols(shard.first, shard.count);
    const auto y = net.forward(columns, cache);
    const double sum =
        lora::mean_squared_error(y, target.middleCols(shard.first, shard.count), &dy, {.normalizer = 1.0});
    net.backward(columns, dy, cache, lora::no_gradient);
    parallel.add(net, {.loss = sum, .count = double(shard.count)});
  }
  CHECK(parallel.sum(net).mean() == Approx(whole));
  CHECK((factors.A.grad - expected).norm() <= 1e-12 * expected.norm());
}

TEST_CASE("sharded training: one adapter's step leaves the gradients of another alone") {
  Net net = make_net();
  lora::Rng rng(5);
  net.fc1.attach("b", lora::LoraConfig{.rank = 1}, rng);
  net.fc2.attach("b", lora::LoraConfig{.rank = 1}, rng);
  const lora::AdapterHandle a = lora::adapter(net, "a");
  auto& own = net.fc1.adapter("a").as<lora::Lora<float>>();
  auto& other = net.fc1.adapter("b").as<lora::Lora<float>>();
  other.A.gradient().setConstant(5);
  lora::OneProcess alone;
  lora::ShardedTraining parallel(alone, net, {.shards = 2});
  for (int step = 0; step < 2; ++step) {
    for ([[maybe_unused]] const Shard& shard : parallel.shards(net, 4, a)) {
      own.A.gradient().array() += 3;
      parallel.add(net, {.loss = 0, .count = 2});
    }
    parallel.sum(net);
    CHECK(own.A.grad.isConstant(1.5F));
    CHECK(own.B.grad.size() == 0);  // no pass has reached it, so an optimizer leaves it alone
    CHECK(other.A.grad.isConstant(5.0F));
  }
  CHECK_THROWS_AS(parallel.shards(net, 4, lora::base_alone), lora::NameError);
}

TEST_CASE("sharded training: nothing allocates after the first step") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Net net = make_net();
  lora::OneProcess alone;
  lora::ShardedTraining parallel(alone, net, {.shards = 8});
  const auto step = [&](Index samples) {
    for ([[maybe_unused]] const Shard& shard : parallel.shards(net, samples)) {
      lora::visit_parameters(net, [](const lora::Path&, auto& parameter) {
        if (parameter.trainable) parameter.gradient().array() += 1;
      });
      parallel.add(net, {.loss = 1, .count = 1});
    }
    parallel.sum(net);
  };
  step(16);
  const std::size_t allocations = lora_test::heap_allocations_in([&] {
    step(16);
    step(3);
  });
  CHECK(allocations == 0);
}

TEST_CASE("sharded training: calls out of order are refused") {
  Net net = make_net();
  lora::OneProcess alone;
  CHECK_THROWS_AS(lora::ShardedTraining(alone, net, {.shards = 0}), lora::ConfigError);
  CHECK_THROWS_AS(lora::ShardedTraining(alone, net, {.shards = 1, .largest_message = 8}), lora::ConfigError);
  lora::ShardedTraining parallel(alone, net, {.shards = 2});
  CHECK_THROWS_AS(parallel.add(net, {}), lora::StateError);
  CHECK_THROWS_AS(parallel.sum(net), lora::StateError);
  CHECK_THROWS_AS(parallel.shards(net, -1), lora::ValueError);
  CHECK(parallel.shards(net, 2).size() == 2);
  CHECK_THROWS_AS(parallel.shards(net, 2), lora::StateError);
  parallel.add(net, {.loss = 1, .count = 1});
  CHECK_THROWS_AS(parallel.sum(net), lora::StateError);
  CHECK_THROWS_AS(parallel.add(net, {.loss = 1, .count = -1}), lora::ValueError);
  CHECK_THROWS_AS(parallel.add(net, {.loss = 1, .count = std::numeric_limits<double>::infinity()}), lora::ValueError);
  net.fc1.adapter("a").as<lora::Lora<float>>().A.trainable = false;
  CHECK_THROWS_AS(parallel.add(net, {.loss = 1, .count = 1}), lora::StateError);
  net.fc1.adapter("a").as<lora::Lora<float>>().A.trainable = true;
  parallel.add(net, {.loss = 1, .count = 1});
  CHECK_THROWS_AS(parallel.add(net, {.loss = 1, .count = 1}), lora::StateError);
  CHECK(parallel.sum(net).mean() == 1);
  lora::freeze(net);
  CHECK_THROWS_AS(parallel.shards(net, 2), lora::StateError);
}

TEST_CASE("sharded training: what differs between processes is named on every one", "[threads]") {
  const auto refused = [](int processes, const auto& f, const std::string& expected) {
    Threads threads(processes);
    for (const std::string& error : threads.run(f)) CHECK(error == expected);
  };
  refused(
      3,
      [](lora::Processes& own) {
        Net net = make_net();
        lora::ShardedTraining(own, net, {.shards = 2});
      },
      "ShardedTraining: there are 3 processes for 2 shards, expected at most one for each");
  refused(
      3,
      [](lora::Processes& own) {
        Net net = make_net();
        lora::ShardedTraining(own, net, {.shards = 8, .settings = {{"seed", own.number() == 1 ? "2" : "1"}}});
      },
      "ShardedTraining: the setting seed differs between processes: processes 0, 2 (alpha, beta) have \"1\"; "
      "process 1 (alpha) has \"2\"");
  refused(
      4,
      [](lora::Processes& own) {
        Net net = make_net();
        lora::ShardedTraining(own, net, {.shards = own.number() > 1 ? 4 : 8});
      },
      "ShardedTraining: the number of shards differs between processes: processes 0, 1 (alpha) have \"8\"; "
      "processes 2, 3 (beta) have \"4\"");

  const auto one_error = [](const auto& f) {
    Threads threads(3);
    const auto errors = threads.run(f);
    CHECK(errors[0] == errors[1]);
    CHECK(errors[0] == errors[2]);
    return errors[0];
  };
  using lora_test::contains;
  CHECK_THAT(
      one_error([](lora::Processes& own) {
        Net net = make_net();
        if (own.number() == 2) net.fc2.adapter("a").as<lora::Lora<double>>().A.value(1, 2) += 1e-12;
        lora::ShardedTraining(own, net, {.shards = 8});
      }),
      contains("of the model differs between processes") && contains("process 2 (beta) has fc2.adapters.a.A (2 x 5)"));
  CHECK_THAT(one_error([](lora::Processes& own) {
               Net net = make_net();
               lora::Rng rng(1);
               if (own.number() == 1) net.fc2.attach("b", lora::LoraConfig{.rank = 2}, rng);
               lora::ShardedTraining(own, net, {.shards = 8});
             }),
             contains("process 1 (alpha) has fc2.adapters"));
  CHECK_THAT(one_error([](lora::Processes& own) {
               Net net = make_net();
               lora::ShardedTraining parallel(own, net, {.shards = 8});
               for (const Shard& shard : parallel.shards(net, own.number() == 1 ? 16 : 17)) {
                 parallel.add(net, {.loss = 0, .count = double(shard.count)});
               }
               parallel.sum(net);
             }),
             contains("was given a batch of 17 samples") && contains("process 1 one of 16"));
}

TEST_CASE("sharded training: what runs once fails everywhere") {
  Threads threads(3);
  int runs = 0;
  const auto errors = threads.run([&](lora::Processes& own) {
    lora::once(own, [&] { ++runs; });
    lora::once(own, [] { throw lora::ValueError("the disk is full"); });
  });
  CHECK(runs == 1);
  CHECK(errors == std::vector<std::string>{"the disk is full", "once: process 0 threw: the disk is full",
                                           "once: process 0 threw: the disk is full"});
}

TEST_CASE("digest: every word, size and order counts") {
  const auto of = [](std::string_view text) { return lora::Digest().add(text).value(); };
  const std::string text = "a text of more than thirty-two bytes, and some";
  for (std::size_t k = 0; k < text.size(); ++k) {
    std::string other = text;
    other[k] = 'X';
    CHECK(of(other) != of(text));
    CHECK(of(text.substr(0, k)) != of(text));
  }
  CHECK(of("ab") != lora::Digest().add("a").add("b").value());
  CHECK(of(std::string(1, '\0')) != of(""));
  CHECK(lora::Digest().add(std::uint64_t(1)).text().size() == 16);
}
