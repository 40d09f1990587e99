/// A small network that reads handwritten digits is adapted, with LoRA, to a camera that was mounted sideways.
///
/// 1. Train a 64-128-128-10 network on upright digits.
/// 2. Turn every picture by 90 degrees: the network fails.
/// 3. Adapt it with LoRA: the weights stay frozen, three small pairs of factors are trained beside them.
/// 4. For comparison, adapt a copy by training all its weights: it reads turned digits too, and forgets upright ones.
///
/// Every accuracy is measured on pictures that no training has seen. What comes out can be used elsewhere:
/// base.safetensors, and the adapter as a directory that Hugging Face PEFT loads. A training that was stopped goes on
/// with --resume as if it had not been; --adapter DIR evaluates an adapter that exists. Several processes can share the
/// trainings, examples/run.sh finetune_mlp --processes 2: the bits are those of one process with as many --shards.

#include "plotting/line_chart.hpp"
#include "plotting/picture_grid.hpp"
#include "support/files.hpp"
#include "support/processes.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"
#include "support/training.hpp"

#include <lora/io.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>

namespace {

using examples::Digits;
using examples::Network;

/// The learning rates, the decay and the epochs were chosen on 300 of the training pictures; the held-out ones had no
/// say.
struct Options {
  Eigen::Index rank = 8;
  double alpha = 16;
  int base_epochs = 40;
  int epochs = 60;
  double learning_rate = 8e-3;
  double full_learning_rate = 2e-3;
  double base_learning_rate = 2e-3;
  double weight_decay = 0.3;
  std::uint64_t seed = 1;
  std::filesystem::path out = "finetune_mlp", adapter;
  bool resume = false;
  int stop_after = 0;
  Eigen::Index shards = 1;
};

/// How loss and accuracies developed, epoch by epoch; source_off is with every adapter switched off.
struct Curve {
  std::vector<double> epochs, loss, source, source_off, target;
};

Network switched_off(Network net) {
  lora::select_none(net);
  return net;
}

Curve adapt(Network& net, examples::Training& training, const std::string& label, const Digits& train,
            const Digits& source, const Digits& target, const examples::TrainingSettings& settings, double& seconds,
            const std::function<void(int)>& after_epoch = {}) {
  Curve curve;
  examples::Progress progress(label, settings.epochs);
  double evaluation = 0;  // the accuracies along the way are for the picture and do not count as training time
  examples::train(net, training, train, settings, [&](int epoch, double loss) {
    const double before = progress.seconds();
    curve.epochs.push_back(epoch);
    curve.loss.push_back(loss);
    curve.source.push_back(examples::accuracy(net, source));
    curve.source_off.push_back(examples::accuracy(switched_off(net), source));
    curve.target.push_back(examples::accuracy(net, target));
    progress.update(epoch, "loss " + examples::fixed(loss, 4));
    if (after_epoch) after_epoch(epoch);
    evaluation += progress.seconds() - before;
  });
  seconds = progress.seconds() - evaluation;
  progress.finish(examples::percent(examples::accuracy(net, target)) + " of turned digits read");
  return curve;
}

/// Whether two matrices hold the same bits.
bool identical(const Eigen::MatrixXf& a, const Eigen::MatrixXf& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// Whether `adapted`, its adapter switched off, is `base` to the last bit: every weight, every bias, every output.
bool base_is_intact(const Network& adapted, const Network& base, const Digits& digits) {
  for (std::size_t l = 0; l < base.layers().size(); ++l) {
    if (!identical(adapted.layers()[l].dense(), base.layers()[l].dense())) return false;
    if (!identical(*adapted.layers()[l].bias(), *base.layers()[l].bias())) return false;
  }
  return identical(switched_off(adapted)(digits.pixels), base(digits.pixels));
}

/// The adapted network as ordinary weights, for inference without any overhead.
Network merged(Network net) {
  lora::merge(net);
  return net;
}

examples::PictureGrid pictures(const Network& base, const Network& adapted, const Digits& source,
                               const Digits& target) {
  examples::PictureGrid grid{.title = "Held-out digits before and after LoRA; below each what the network reads"};
  const auto add = [&](const std::string& label, const Network& net, const Digits& digits) {
    const std::vector<int> read = lora::predictions(net(digits.pixels));
    examples::PictureRow row{.label = label};
    for (int digit = 0; digit < examples::digit_classes; ++digit) {
      const auto first = std::find(digits.labels.begin(), digits.labels.end(), digit) - digits.labels.begin();
      const auto pixels = digits.pixels.col(first);
      const int answer = read[static_cast<std::size_t>(first)];
      row.pictures.push_back({.pixels = std::vector<float>(pixels.data(), pixels.data() + pixels.size()),
                              .caption = std::to_string(answer),
                              .frame = answer == digit ? examples::Frame::right : examples::Frame::wrong});
    }
    grid.rows.push_back(std::move(row));
  };
  add("upright, base", base, source);
  add("turned, base", base, target);
  add("turned, base + LoRA", adapted, target);
  return grid;
}

/// Thrown by --stop-after.
struct Stopped {};

/// An adapter on its base, which lies beside it as base.safetensors.
void evaluate(const std::filesystem::path& adapter) {
  const Digits upright = examples::split(examples::load_digits()).held_out;
  const Digits turned{examples::turned(upright.pixels, 1), upright.labels};
  lora::Rng rng(0);
  Network net({64, 128, 128, 10}, rng);
  const auto folder = std::filesystem::weakly_canonical(adapter);
  lora::load_weights(net, lora::Safetensors::open(folder.parent_path() / "base.safetensors"));
  lora::load_adapter(net, folder);
  examples::Table table({"", "turned digits", "upright digits"});
  const auto add = [&](const char* name, const Network& network) {
    table.add({name, examples::percent(examples::accuracy(network, turned)),
               examples::percent(examples::accuracy(network, upright))});
  };
  add("LoRA, adapter on", net);
  add("LoRA, adapter off", switched_off(net));
  std::cout << table.text();
}

void run(const Options& options, examples::World& world) {
  const auto [source_train, source_test] = examples::split(examples::load_digits());
  const auto turned = [](const Digits& digits) { return Digits{examples::turned(digits.pixels, 1), digits.labels}; };
  const Digits target_train = turned(source_train), target_test = turned(source_test);

  std::cout << "Digits: " << source_train.count() << " pictures to train, " << source_test.count()
            << " held out; every accuracy below is on the held-out ones.\n\n";
  const std::filesystem::path& out = options.out;
  lora::Processes& processes = world.processes();
  lora::once(processes, [&] { std::filesystem::create_directories(out); });

  lora::Rng rng(options.seed);
  Network base({64, 128, 128, 10}, rng);
  double seconds_base = 0, seconds_lora = 0, seconds_full = 0;
  examples::TrainingSettings settings{.epochs = options.base_epochs,
                                      .learning_rate = options.base_learning_rate,
                                      .weight_decay = options.weight_decay,
                                      .seed = options.seed,
                                      .shards = options.shards};
  if (options.resume) {
    lora::load_weights(base, lora::Safetensors::open(out / "base.safetensors"));
  } else {
    examples::Training training(settings, processes);
    adapt(base, training, "upright digits ", source_train, source_test, target_test, settings, seconds_base);
    lora::once(processes, [&] { lora::save_weights(base, out / "base.safetensors"); });
  }

  // LoRA: the copy shares nothing that is trained; attach freezes its weights and adds the factors
  Network with_lora = base;
  lora::attach(with_lora, {.rank = options.rank, .alpha = options.alpha}, rng);
  settings.epochs = options.epochs;
  settings.learning_rate = options.learning_rate;
  examples::Training training(settings, processes);
  const std::filesystem::path checkpoint = out / "checkpoint.safetensors";
  if (options.resume && std::filesystem::exists(checkpoint)) {
    training.step = lora::load_checkpoint(checkpoint, with_lora, training.optimizer).step;
  }
  const auto remember = [&](int epoch) {
    const bool stop = epoch == options.stop_after;
    if (!stop && epoch % 10 != 0) return;
    lora::once(processes,
               [&] { lora::save_checkpoint(checkpoint, with_lora, training.optimizer, {.step = training.step}); });
    if (stop) throw Stopped();
  };
  const Curve lora_curve = adapt(with_lora, training, "LoRA           ", target_train, source_test, target_test,
                                 settings, seconds_lora, remember);
  lora::once(processes, [&] { lora::save_adapter(with_lora, out / "adapter"); });

  // full fine-tuning from the same start
  Network full = base;
  settings.learning_rate = options.full_learning_rate;
  examples::Training training_full(settings, processes);
  const Curve full_curve =
      adapt(full, training_full, "all parameters ", target_train, source_test, target_test, settings, seconds_full);

  if (!world.is_first()) return;  // what follows is the report
  const double samples_per_second = static_cast<double>(source_train.count()) * options.epochs / seconds_lora;
  const auto count = lora::count_parameters(with_lora);
  const Eigen::Index total = lora::count_parameters(base).total;
  const Network off = switched_off(with_lora);
  const bool intact = base_is_intact(with_lora, base, source_test);
  const float merged_difference =
      (merged(with_lora)(target_test.pixels) - with_lora(target_test.pixels)).cwiseAbs().maxCoeff();

  const double target_lora = examples::accuracy(with_lora, target_test);
  const double source_lora = examples::accuracy(with_lora, source_test);
  const auto base_bytes = std::filesystem::file_size(out / "base.safetensors");
  const auto adapter_bytes = examples::bytes_of_files(out / "adapter");

  using examples::percent;
  examples::Table table({"", "turned digits", "upright digits", "trained", "seconds"});
  table.add({"base network", percent(examples::accuracy(base, target_test)),
             percent(examples::accuracy(base, source_test)), "", ""});
  table.add({"LoRA, adapter on", percent(target_lora), percent(source_lora), std::to_string(count.trainable),
             examples::fixed(seconds_lora, 2)});
  table.add({"LoRA, adapter off", percent(examples::accuracy(off, target_test)),
             percent(examples::accuracy(off, source_test)), "", ""});
  table.add({"all parameters", percent(full_curve.target.back()), percent(full_curve.source.back()),
             std::to_string(total), examples::fixed(seconds_full, 2)});
  std::cout << '\n' << table.text() << '\n' << lora::report(with_lora, settings.batch) << '\n';
  std::cout << "Adapter off equals the base network bit for bit: " << (intact ? "yes" : "NO") << '\n'
            << "Merged weights differ from base + adapter by at most " << merged_difference << " in any logit.\n"
            << "LoRA was trained on " << processes.count() << (processes.count() == 1 ? " process" : " processes")
            << ": " << std::llround(samples_per_second) << " pictures per second, "
            << training.traffic.bytes / std::max<std::uint64_t>(training.step, 1)
            << " bytes that process 0 sent or received in a step.\n"
            << "On disk: base.safetensors " << base_bytes << " bytes, adapter/ " << adapter_bytes << " bytes.\n";

  nlohmann::ordered_json report;
  report["source_accuracy_base"] = examples::accuracy(base, source_test);
  report["target_accuracy_base"] = examples::accuracy(base, target_test);
  report["target_accuracy_lora"] = target_lora;
  report["source_accuracy_lora_on"] = source_lora;
  report["source_accuracy_lora_off"] = examples::accuracy(off, source_test);
  report["target_accuracy_full"] = full_curve.target.back();
  report["source_accuracy_full"] = full_curve.source.back();
  report["base_bit_identical"] = intact;
  report["merged_max_abs_difference"] = merged_difference;
  report["rank"] = options.rank;
  report["alpha"] = options.alpha;
  report["epochs"] = options.epochs;
  report["base_epochs"] = options.base_epochs;
  report["learning_rate_base"] = options.base_learning_rate;
  report["weight_decay"] = options.weight_decay;
  report["learning_rate_lora"] = options.learning_rate;
  report["learning_rate_full"] = options.full_learning_rate;
  report["seed"] = options.seed;
  report["lora_parameters"] = count.trainable;
  report["total_parameters"] = total;
  report["base_bytes"] = base_bytes;
  report["adapter_bytes"] = adapter_bytes;
  report["seconds_base"] = seconds_base;
  report["seconds_lora"] = seconds_lora;
  report["seconds_full"] = seconds_full;
  report["processes"] = processes.count();
  report["shards"] = options.shards;
  report["samples_per_second"] = samples_per_second;
  report["traffic_bytes"] = training.traffic.bytes;
  report["traffic_seconds"] = training.traffic.seconds;
  report["train_pictures"] = source_train.count();
  report["held_out_pictures"] = source_test.count();
  report["split_seed"] = examples::split_seed;

  examples::write_file(out / "report.json", report.dump(2) + "\n");
  examples::write_file(
      out / "loss.svg",
      examples::line_chart({.title = "Learning to read turned digits",
                            .x_label = "epoch",
                            .y_label = "training loss",
                            .series = {{.name = "LoRA", .x = lora_curve.epochs, .y = lora_curve.loss},
                                       {.name = "all parameters", .x = full_curve.epochs, .y = full_curve.loss}},
                            .log_y = true}));
  examples::write_file(
      out / "accuracy.svg",
      examples::line_chart(
          {.title = "Accuracy on held-out digits",
           .x_label = "epoch",
           .y_label = "accuracy",
           .series =
               {{.name = "LoRA on, turned", .x = lora_curve.epochs, .y = lora_curve.target},
                {.name = "all parameters, turned", .x = full_curve.epochs, .y = full_curve.target},
                {.name = "LoRA off, upright", .x = lora_curve.epochs, .y = lora_curve.source_off, .dashed = true},
                {.name = "all parameters, upright", .x = full_curve.epochs, .y = full_curve.source, .dashed = true}},
           .percent_y = true,
           .y_low = 0.0,
           .y_high = 1.0}));
  examples::write_file(out / "pictures.svg",
                       examples::picture_grid(pictures(base, with_lora, source_test, target_test)));
  std::cout << "Wrote report.json, loss.svg, accuracy.svg, pictures.svg, base.safetensors and adapter/ to "
            << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  examples::Program program("finetune_mlp", "Adapts a network that reads upright digits to turned ones, with LoRA.");
  program.add_option("--rank", options.rank, "rank of the factors in every layer")->check(examples::positive);
  program.add_option("--alpha", options.alpha, "the factors are scaled by alpha / rank");
  program.add_option("--base-epochs", options.base_epochs, "passes over the upright digits")->check(examples::positive);
  program.add_option("--epochs", options.epochs, "passes over the turned digits")->check(examples::positive);
  program.add_option("--learning-rate", options.learning_rate, "of LoRA");
  program.add_option("--full-learning-rate", options.full_learning_rate, "of full fine-tuning");
  program.add_option("--base-learning-rate", options.base_learning_rate, "of the base network");
  program.add_option("--weight-decay", options.weight_decay, "AdamW's, everywhere");
  program.add_option("--seed", options.seed, "of the weights and the order of the pictures");
  program.add_option("--out", options.out, "folder for report.json, the pictures and the weights");
  program.add_option("--adapter", options.adapter,
                     "folder of an adapter to evaluate, with its base.safetensors beside it");
  program.add_flag("--resume", options.resume, "go on with the training of LoRA that --out has a checkpoint of");
  program.add_option("--stop-after", options.stop_after, "stop LoRA after this epoch, to be resumed; 0: do not stop")
      ->check(examples::not_negative);
  program.add_option("--shards", options.shards, "of each batch: as many processes at most can share the work")
      ->check(examples::positive);
  return program.run(argc, argv, [&] {
    examples::World world;
    try {
      options.adapter.empty() ? run(options, world) : evaluate(options.adapter);
    } catch (const Stopped&) {
      std::cout << "Stopped after epoch " << options.stop_after << "; --resume goes on.\n";
    }
  });
}
