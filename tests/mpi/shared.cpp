/// What tests/mpi/run.sh runs with mpirun: a model of about 100 MB of frozen weights, or with --model a BERT, whose
/// processes share them. Prints the memory of all processes together, at its peak and afterwards.

#include <lora/io.hpp>
#include <lora/lora.hpp>
#include <lora/parallel/mpi.hpp>
#include <lora/parallel/sharded_training.hpp>
#include <lora/parallel/shared_base.hpp>
#include <lora/transformers/bert.hpp>

#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "flags.hpp"

namespace {

struct Net {
  lora::Embedding<float> words;
  std::vector<lora::Linear<float>> layers;
  static void visit(auto& self, auto&& f) {
    f("words", self.words);
    f("layers", self.layers);
  }
};

Net make_net(bool other) {
  lora::Rng rng(1);
  Net net{lora::Embedding<float>({.vocabulary = 5000, .features = 1000}, rng), {}};
  for (int k = 0; k < 20; ++k) net.layers.emplace_back(lora::LinearShape{.in = 1000, .out = 1000}, rng);
  if (other) net.words.weight().value(4321, 7) += 1e-6F;
  lora::attach(net, {.rank = 8, .alpha = 16}, {.modules = ".*"}, rng);
  return net;
}

double kilobytes(int process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/smaps_rollup");
  for (std::string word; file >> word;) {
    if (word == "Pss:" && file >> word) return std::stod(word);
  }
  return 0;
}

std::uint64_t outputs(const Net& net) {
  lora::Linear<float>::Cache cache;
  const std::vector<int> ids = {1, 4321, 7, 7};
  Eigen::MatrixXf h = net.words(ids);
  for (const auto& layer : net.layers) h = Eigen::MatrixXf(layer.forward(h, cache));
  return lora::Digest().add(h).value();
}

using Bert = lora::BertForSequenceClassification<float>;

Bert load_bert(const std::string& folder) {
  Bert net = lora::load_pretrained<Bert>(folder, {.num_labels = 3, .seed = 1});
  lora::Rng rng(1);
  lora::attach(net, {.rank = 8, .alpha = 16}, Bert::default_targets(), rng);
  return net;
}

std::uint64_t outputs(const Bert& net) {
  lora::Tokens batch;
  batch.add(std::vector<int>{101, 1037, 16105, 2951, 102});
  return lora::Digest().add(Eigen::MatrixXf(net(batch))).value();
}

/// make(other): the model, or another one.
template <class Net>
void run(std::map<std::string, std::string>& flags, const auto& make) {
  lora::MpiProcesses world(MPI_COMM_WORLD);
  std::vector<int> all;
  for (const std::string& text : world.gather(std::to_string(::getpid()))) all.push_back(std::stoi(text));
  const auto sum = [&] {
    double megabytes = 0;
    for (const int process : all) megabytes += kilobytes(process) / 1000;
    return megabytes;
  };
  std::atomic<bool> over = false;
  double peak = 0;
  std::thread watch([&] {
    while (world.number() == 0 && !over) {
      peak = std::max(peak, sum());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  struct Joins {
    std::atomic<bool>& over;
    std::thread& thread;
    ~Joins() {
      over = true;
      thread.join();
    }
  };
  std::optional<Net> net;
  {
    const Joins joins{over, watch};
    const bool other = flags.contains("other") && world.number() == world.count() - 1;
    const lora::SharedBaseConfig config = {.directory = flags.contains("directory") ? flags["directory"] : "/dev/shm"};
    net = lora::share_base(world, [&] { return make(other); }, config);
  }
  lora::ShardedTraining(world, *net, {.shards = world.count()});
  const std::uint64_t before = outputs(*net);
  world.gather("");
  const double after = sum();
  world.gather("");
  // One that frees its model asks nobody.
  if (world.number() == 1) net.reset();
  world.gather("");
  const std::uint64_t later = net ? outputs(*net) : before;
  const auto digests = world.gather(std::to_string(before) + (before == later ? "" : " changed"));
  for (const std::string& other : digests) {
    if (other != digests.front()) throw lora::Error("outputs differ");
  }
  if (world.number() == 0) std::cout << "outputs " << before << "\npeak " << peak << "\nafter " << after << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  auto flags = lora_test::flags_of(argc, argv);
  try {
    lora::Mpi mpi;
    if (flags.contains("model")) {
      run<Bert>(flags, [&](bool) { return load_bert(flags["model"]); });
    } else {
      run<Net>(flags, make_net);
    }
  } catch (const std::exception& error) {
    std::cerr << "shared: " + std::string(error.what()) + "\n" << std::flush;
    std::this_thread::sleep_for(std::chrono::milliseconds(500));  // as in train.cpp
    return 1;
  }
}
