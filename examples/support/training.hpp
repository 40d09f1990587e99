#pragma once
/// Training a classifier on pictures with the library's own parts: mini-batches, loss, backward, AdamW, schedule; on
/// one process, or on several that share the work.

#include "digits.hpp"
#include "progress.hpp"
#include "text.hpp"

#include <lora/lora.hpp>
#include <lora/parallel/sharded_training.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace examples {

using Network = lora::Mlp<lora::Linear<float>>;

struct TrainingSettings {
  int epochs = 60;
  Eigen::Index batch = 32;
  double learning_rate = 1e-3;
  double weight_decay = 0.01;
  std::uint64_t seed = 1;   ///< of the order of the pictures
  Eigen::Index shards = 1;  ///< of a batch: as many processes at most can share it
};

/// Accuracy of the network as it stands, with whatever adapter is selected.
inline double accuracy(const Network& net, const Digits& digits) {
  return lora::accuracy(net(digits.pixels), digits.labels);
}

inline lora::OneProcess this_process_alone;

/// What a training has besides the network: with both, and the same settings, it goes on where it stopped, on however
/// many processes.
struct Training {
  lora::AdamW<float> optimizer;
  std::uint64_t step = 0;
  lora::Processes* processes;
  lora::ShardTraffic traffic = {};  ///< of the last call of train

  explicit Training(const TrainingSettings& settings, lora::Processes& all = this_process_alone)
      : optimizer({.lr = settings.learning_rate, .weight_decay = settings.weight_decay}), processes(&all) {}
};

/// Trains whatever the network lists as trainable: everything, or the selected adapter. After each epoch
/// on_epoch(epoch, mean loss) is called, epochs counted from 1. A training that has done steps before continues with
/// the next epoch.
inline void train(Network& net, Training& training, const Digits& digits, const TrainingSettings& settings,
                  const std::function<void(int, double)>& on_epoch) {
  const auto batches = static_cast<std::uint64_t>((digits.count() + settings.batch - 1) / settings.batch);
  const std::uint64_t steps = batches * static_cast<std::uint64_t>(settings.epochs);
  const lora::Schedule schedule{.shape = lora::ScheduleShape::cosine, .warmup = steps / 20, .total = steps};
  lora::Rng rng(settings.seed);

  std::vector<Eigen::Index> order(digits.labels.size());
  std::iota(order.begin(), order.end(), 0);
  Network::Cache cache;
  Eigen::MatrixXf x(digits.pixels.rows(), settings.batch), dlogits;
  std::vector<int> labels;
  lora::ShardedTraining parallel(*training.processes, net,
                                 {.shards = settings.shards, .settings = {{"seed", std::to_string(settings.seed)}}});
  const lora::DenormalsAsZero scope;
  for (int epoch = 1; epoch <= settings.epochs; ++epoch) {
    rng.shuffle(order);
    if (training.step >= static_cast<std::uint64_t>(epoch) * batches) continue;  // done before
    double loss = 0;
    for (Eigen::Index first = 0; first < digits.count(); first += settings.batch) {
      const Eigen::Index count = std::min(settings.batch, digits.count() - first);
      for (const lora::Shard& shard : parallel.shards(net, count)) {
        labels.resize(static_cast<std::size_t>(shard.count));
        for (Eigen::Index j = 0; j < shard.count; ++j) {
          const Eigen::Index picture = order[static_cast<std::size_t>(first + shard.first + j)];
          x.col(j) = digits.pixels.col(picture);
          labels[static_cast<std::size_t>(j)] = digits.labels[static_cast<std::size_t>(picture)];
        }
        const auto input = x.leftCols(shard.count);
        const lora::Pass pass{
            .training = true, .seed = settings.seed, .step = training.step, .first_sample = shard.first};
        const auto logits = net.forward(input, cache, pass);
        const float sum = lora::softmax_cross_entropy(logits, labels, &dlogits, {.normalizer = 1.0});
        net.backward(input, dlogits, cache, lora::no_gradient);
        parallel.add(net, {.loss = sum, .count = static_cast<double>(shard.count)});
      }
      loss += parallel.sum(net).loss;
      training.optimizer.step(net, schedule(training.step++));
    }
    on_epoch(epoch, loss / static_cast<double>(digits.count()));
  }
  training.traffic = parallel.traffic();
}

inline void train(Network& net, const Digits& digits, const TrainingSettings& settings,
                  const std::function<void(int, double)>& on_epoch) {
  Training training(settings);
  train(net, training, digits, settings, on_epoch);
}

/// A 64-128-128-10 network that reads upright digits, trained as finetune_mlp trains its own.
inline Network digits_network(const Digits& digits, std::uint64_t seed) {
  const TrainingSettings settings{.epochs = 40, .learning_rate = 2e-3, .weight_decay = 0.3, .seed = seed};
  lora::Rng rng(seed);
  Network net({picture_pixels, 128, 128, digit_classes}, rng);
  Progress progress("training", settings.epochs);
  train(net, digits, settings, [&](int epoch, double loss) { progress.update(epoch, "loss " + fixed(loss, 4)); });
  progress.finish();
  return net;
}

}  // namespace examples
