/// What tests/mpi/run.sh runs with mpirun: 50 steps of a classifier in float, with dropout and clipping, on batches
/// of unequal sizes, down to fewer samples than shards. The flags make one of the processes differ, throw or die.

#include <lora/io.hpp>
#include <lora/lora.hpp>
#include <lora/parallel/mpi.hpp>
#include <lora/parallel/sharded_training.hpp>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "flags.hpp"

namespace {

using lora::Index;

struct Net {
  lora::Linear<float> fc1, fc2;
  static void visit(auto& self, auto&& f) {
    f("fc1", self.fc1);
    f("fc2", self.fc2);
  }
};

constexpr Index features = 48, hidden = 64, classes = 5;

Net make_net() {
  lora::Rng rng(1);
  Net net{lora::Linear<float>({.in = features, .out = hidden}, rng),
          lora::Linear<float>({.in = hidden, .out = classes}, rng)};
  lora::attach(net, {.rank = 4, .alpha = 8, .dropout = 0.1}, {.modules = {"fc1", "fc2"}}, rng);
  return net;
}

void train(lora::Processes& world, std::map<std::string, std::string> flags) {
  const auto number = [&](const char* name, int otherwise) {
    return flags.contains(name) ? std::stoi(flags[name]) : otherwise;
  };
  const bool here = number("on", world.count() - 1) == world.number();  // where something goes wrong
  const auto wrong = [&](const char* name) { return here ? number(name, -1) : -1; };

  const std::filesystem::path out = flags["out"];
  const std::filesystem::path checkpoint = out / "checkpoint.safetensors";
  lora::Rng data(7);
  Eigen::MatrixXf x(features, 120);
  std::vector<int> labels;
  for (Index j = 0; j < x.cols(); ++j) {
    labels.push_back(static_cast<int>(data.below(classes)));
    for (Index k = 0; k < features; ++k) x(k, j) = data.normal<float>() + (k % classes == labels.back() ? 1.F : 0.F);
  }

  Net net = make_net();
  if (here && flags.contains("other-model")) net.fc2.adapter("default").as<lora::Lora<float>>().A.value(0, 3) += 1e-6F;
  lora::AdamW<float> optimizer({.lr = 2e-2});
  std::uint64_t step = 0;
  if (flags.contains("resume")) step = lora::load_checkpoint(checkpoint, net, optimizer).step;
  lora::ShardedTraining parallel(
      world, net,
      {.shards = number("shards", 8),
       .settings = {{"seed", here && flags.contains("other-seed") ? "2" : "1"}, {"data", lora::Digest().add(x).text()}},
       .largest_message = static_cast<std::size_t>(number("largest", 1 << 30))});

  const std::vector<Index> sizes = {32, 29, 8, 3, 1, 17, 40};
  const auto stop = static_cast<std::uint64_t>(number("steps", 50));
  lora::Linear<float>::Cache cache1, cache2;
  Eigen::MatrixXf h, dlogits, dh;
  double loss = 0;
  for (; step < stop; ++step) {
    const Index samples = sizes[step % sizes.size()] + (wrong("other-batch") == static_cast<int>(step) ? 1 : 0);
    const Index start = static_cast<Index>(step * 11 % 80);
    const auto at = static_cast<int>(step);
    for (const lora::Shard& shard : parallel.shards(net, samples)) {
      if (wrong("throw") == at) throw lora::Error("thrown in step " + std::to_string(step));
      if (wrong("kill") == at) std::raise(SIGKILL);
      if (wrong("exit") == at) std::exit(3);
      const lora::Pass pass{.training = true, .seed = 1, .step = step, .first_sample = shard.first};
      const auto columns = x.middleCols(start + shard.first, shard.count);
      const std::span<const int> own(labels.data() + start + shard.first, static_cast<std::size_t>(shard.count));
      h = net.fc1.forward(columns, cache1, pass).cwiseMax(0.F);
      const auto logits = net.fc2.forward(h, cache2, pass);
      const float sum = lora::softmax_cross_entropy(logits, own, &dlogits, {.normalizer = 1.0});
      dh = (h.array() > 0).select(net.fc2.backward(h, dlogits, cache2), 0.F);
      net.fc1.backward(columns, dh, cache1, lora::no_gradient);
      parallel.add(net, {.loss = sum, .count = static_cast<double>(shard.count)});
    }
    loss = parallel.sum(net).mean();
    lora::clip_gradient_norm(net, 0.5);
    optimizer.step(net);
    if ((step + 1) % 10 == 0) {
      lora::once(world, [&] {
        if (flags.contains("no-disk") && step > 20) throw lora::FileError("there is no disk");
        lora::save_checkpoint(checkpoint, net, optimizer, {.step = step + 1});
      });
    }
  }
  lora::once(world, [&] { lora::save_adapter(net, out / "adapter"); });
  if (world.number() == 0) {
    const lora::ShardTraffic& cost = parallel.traffic();
    std::cout << "loss " << loss << ", " << cost.messages << " messages, " << cost.bytes << " bytes, " << cost.seconds
              << " s in sums\n";
  }
  // Every process has the same model, to the bit.
  parallel.check_same(net);
}

}  // namespace

int main(int argc, char** argv) {
  auto flags = lora_test::flags_of(argc, argv);
  const auto report = [](const std::exception& error) {
    std::cerr << "train: " + std::string(error.what()) + "\n" << std::flush;  // in one piece
    // mpirun ends all as soon as it sees one that has ended; each shall have said what it threw.
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    return 1;
  };
  try {
    if (flags.contains("no-mpi")) lora::MpiProcesses(MPI_COMM_WORLD);
    if (flags.contains("single")) {
      int given = 0;
      MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SINGLE, &given);
      lora::MpiProcesses(MPI_COMM_WORLD);
    }
    lora::Mpi mpi;
    try {
      lora::MpiProcesses world(MPI_COMM_WORLD);
      train(world, flags);
    } catch (const std::exception& error) {
      if (flags.contains("caught")) return report(error);  // with MPI still there
      throw;
    }
  } catch (const std::exception& error) {
    return report(error);
  }
}
