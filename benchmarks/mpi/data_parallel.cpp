/// What more processes bring, and what their sums cost; benchmarks/run.sh data_parallel runs it with mpirun.
///
///   --step     steps of a compute-bound network: layers of d x d with LoRA of rank 8 in each, a batch of columns in 8
///              shards; one thread a process
///   --link     between process 0 and 1: the time of a small message and the bytes a second of large ones; and how fast
///              sums are added
///
/// Process 0 writes a line of JSON.

#include <lora/lora.hpp>
#include <lora/parallel/mpi.hpp>
#include <lora/parallel/sharded_training.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "examples/support/program.hpp"

namespace {

using lora::Index;
using Clock = std::chrono::steady_clock;

struct Options {
  Index d = 2048, layers = 6, batch = 256, shards = 8;
  int steps = 12;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Net {
  std::vector<lora::Linear<float>> layers;
  static void visit(auto& self, auto&& f) { f("layers", self.layers); }
};

nlohmann::json steps(lora::Processes& world, const Options& options) {
  lora::Rng rng(1);
  Net net;
  for (Index k = 0; k < options.layers; ++k) {
    net.layers.emplace_back(lora::LinearShape{.in = options.d, .out = options.d, .bias = false}, rng);
  }
  lora::attach(net, {.rank = 8, .alpha = 16}, {.modules = ".*"}, rng);
  Eigen::MatrixXf x(options.d, options.batch);
  lora::fill_uniform(x, 1.0, rng);
  const Eigen::MatrixXf target = x.colwise().reverse();
  std::vector<lora::Linear<float>::Cache> caches(net.layers.size());
  std::vector<Eigen::MatrixXf> h(net.layers.size() + 1), dh(net.layers.size() + 1);
  lora::AdamW<float> optimizer({.lr = 1e-3});
  lora::ShardedTraining parallel(world, net, {.shards = options.shards});
  const lora::DenormalsAsZero scope;
  std::vector<double> times, sums;
  for (int step = 0; step < options.steps + 2; ++step) {
    const double before = parallel.traffic().seconds;
    const auto start = Clock::now();
    for (const lora::Shard& shard : parallel.shards(net, options.batch)) {
      h[0] = x.middleCols(shard.first, shard.count);
      for (std::size_t k = 0; k < net.layers.size(); ++k) h[k + 1] = net.layers[k].forward(h[k], caches[k]);
      const float loss = lora::mean_squared_error(h.back(), target.middleCols(shard.first, shard.count), &dh.back(),
                                                  {.normalizer = 1.0});
      for (std::size_t k = net.layers.size(); k-- > 0;) dh[k] = net.layers[k].backward(h[k], dh[k + 1], caches[k]);
      parallel.add(net, {.loss = loss, .count = static_cast<double>(shard.count)});
    }
    parallel.sum(net);
    optimizer.step(net);
    if (step < 2) continue;  // the first ones allocate
    times.push_back(seconds_since(start));
    sums.push_back(parallel.traffic().seconds - before);
  }
  const auto traffic = parallel.traffic();
  const double frozen = static_cast<double>(options.layers * options.d * options.d);
  const double flop = frozen * 4 * static_cast<double>(options.batch);  // W0 forward and backward; the factors are 3 %
  return {{"processes", world.count()},
          {"step_seconds", median(times)},
          {"fastest_step_seconds", *std::min_element(times.begin(), times.end())},
          {"sum_seconds", median(sums)},
          {"fastest_sum_seconds", *std::min_element(sums.begin(), sums.end())},
          {"samples_per_second", static_cast<double>(options.batch) / median(times)},
          {"gflops", flop / median(times) / 1e9},
          {"bytes_per_step", traffic.bytes / static_cast<std::uint64_t>(options.steps + 2)},
          {"messages_per_step", traffic.messages / static_cast<std::uint64_t>(options.steps + 2)},
          {"gradient_bytes", lora::count_parameters(net).trainable * 4},
          {"model", lora::Digest().add(lora::model_digest(net)).text()}};
}

/// Half the time of there and back.
double message_seconds(lora::Processes& world, std::size_t bytes, int rounds) {
  std::vector<std::byte> buffer(bytes);
  std::vector<double> times;
  for (int k = 0; k < rounds; ++k) {
    const auto start = Clock::now();
    if (world.number() == 0) {
      world.send(1, buffer);
      world.receive(1, buffer);
    } else if (world.number() == 1) {
      world.receive(0, buffer);
      world.send(0, buffer);
    }
    times.push_back(seconds_since(start) / 2);
  }
  return median(times);
}

/// Seconds for each byte of a sum that is added to another.
double addition(Index numbers) {
  Eigen::VectorXf a = Eigen::VectorXf::Ones(numbers), b = Eigen::VectorXf::Ones(numbers);
  std::vector<double> times;
  for (int k = 0; k < 21; ++k) {
    const auto start = Clock::now();
    a += b;
    times.push_back(seconds_since(start));
  }
  return median(times) / static_cast<double>(numbers) / 4;
}

nlohmann::json link(lora::Processes& world) {
  if (world.count() < 2) throw lora::ConfigError("data_parallel: --link needs two processes");
  nlohmann::json result;
  result["message_seconds"] = message_seconds(world, 128, 2001);
  for (const std::size_t megabytes : {1, 25, 80}) {
    const std::size_t bytes = megabytes << 20;
    result["bytes_per_second"][std::to_string(megabytes) + " MB"] =
        static_cast<double>(bytes) / message_seconds(world, bytes, 15);
  }
  result["added_bytes_per_second"] = 1 / addition(Index(6) << 20);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  bool of_link = false, of_step = false;
  examples::Program program("data_parallel", "Training on many processes: what it brings and what it costs.");
  program.add_flag("--step", of_step, "time steps");
  program.add_flag("--link", of_link, "time messages");
  program.add_option("--size", options.d, "rows and columns of each layer");
  program.add_option("--layers", options.layers, "how many");
  program.add_option("--batch", options.batch, "columns of a batch");
  program.add_option("--shards", options.shards, "of a batch");
  program.add_option("--steps", options.steps, "to time");
  return program.run(argc, argv, [&] {
    lora::Mpi mpi;
    lora::MpiProcesses world(MPI_COMM_WORLD);
    const nlohmann::json result = of_link ? link(world) : steps(world, options);
    if (world.number() == 0) std::cout << result.dump() << std::endl;
  });
}
