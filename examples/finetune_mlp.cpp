/// A small network that reads handwritten digits is adapted, with LoRA, to a camera that was mounted sideways.
///
/// 1. Train a 64-128-128-10 network on upright digits.
/// 2. Turn every picture by 90 degrees: the network fails.
/// 3. Adapt it with LoRA: the weights stay frozen, three small pairs of factors are trained beside them.
/// 4. For comparison, adapt a copy by training all its weights: it reads turned digits too, and forgets upright ones.
///
/// Every accuracy is measured on pictures that no training has seen.

#include "support/arguments.hpp"
#include "support/files.hpp"
#include "support/json.hpp"
#include "support/line_chart.hpp"
#include "support/picture_grid.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"
#include "support/training.hpp"

#include <cstring>
#include <exception>
#include <filesystem>
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
  std::string out = "finetune_mlp";
};

/// How loss and accuracies developed, epoch by epoch; source_off is with every adapter switched off.
struct Curve {
  std::vector<double> epochs, loss, source, source_off, target;
};

Network switched_off(Network net) {
  lora::select_none(net);
  return net;
}

Curve adapt(Network& net, const std::string& label, const Digits& train, const Digits& source, const Digits& target,
            const examples::TrainingSettings& settings, double& seconds) {
  Curve curve;
  examples::Progress progress(label, settings.epochs);
  double evaluation = 0;  // the accuracies along the way are for the picture and do not count as training time
  examples::train(net, train, settings, [&](int epoch, double loss) {
    const double before = progress.seconds();
    curve.epochs.push_back(epoch);
    curve.loss.push_back(loss);
    curve.source.push_back(examples::accuracy(net, source));
    curve.source_off.push_back(examples::accuracy(switched_off(net), source));
    curve.target.push_back(examples::accuracy(net, target));
    progress.update(epoch, "loss " + examples::fixed(loss, 4));
    evaluation += progress.seconds() - before;
  });
  seconds = progress.seconds() - evaluation;
  progress.finish(examples::percent(curve.target.back()) + " of turned digits read");
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
Network merged(const Network& net) {
  std::vector<lora::Linear<float>> layers;
  for (const auto& layer : net.layers()) layers.emplace_back(layer.merged(), layer.merged_bias());
  return Network(std::move(layers));
}

examples::PictureGrid pictures(const Network& base, const Network& adapted, const Digits& source,
                               const Digits& target) {
  examples::PictureGrid grid{.title = "What the network reads: held-out digits, before and after LoRA", .rows = {}};
  const auto add = [&](const std::string& label, const Network& net, const Digits& digits) {
    const std::vector<int> read = lora::predictions(net(digits.pixels));
    examples::PictureRow row{.label = label, .pictures = {}};
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

void run(const Options& options) {
  const auto [source_train, source_test] = examples::split(examples::load_digits());
  const auto turned = [](const Digits& digits) { return Digits{examples::turned(digits.pixels, 1), digits.labels}; };
  const Digits target_train = turned(source_train), target_test = turned(source_test);

  std::cout << "Digits: " << source_train.count() << " pictures to train, " << source_test.count()
            << " held out; every accuracy below is on the held-out ones.\n\n";

  lora::Rng rng(options.seed);
  Network base({64, 128, 128, 10}, rng);
  double seconds_base = 0, seconds_lora = 0, seconds_full = 0;
  examples::TrainingSettings settings{.epochs = options.base_epochs,
                                      .learning_rate = options.base_learning_rate,
                                      .weight_decay = options.weight_decay,
                                      .seed = options.seed};
  adapt(base, "upright digits ", source_train, source_test, target_test, settings, seconds_base);

  // LoRA: the copy shares nothing that is trained; attach freezes its weights and adds the factors
  Network with_lora = base;
  lora::attach(with_lora, {.rank = options.rank, .alpha = options.alpha}, rng);
  settings.epochs = options.epochs;
  settings.learning_rate = options.learning_rate;
  const Curve lora_curve =
      adapt(with_lora, "LoRA           ", target_train, source_test, target_test, settings, seconds_lora);

  // full fine-tuning from the same start
  Network full = base;
  settings.learning_rate = options.full_learning_rate;
  const Curve full_curve =
      adapt(full, "all parameters ", target_train, source_test, target_test, settings, seconds_full);

  const auto count = lora::count_parameters(with_lora);
  const Eigen::Index total = lora::count_parameters(base).total;
  const Network off = switched_off(with_lora);
  const bool intact = base_is_intact(with_lora, base, source_test);
  const float merged_difference =
      (merged(with_lora)(target_test.pixels) - with_lora(target_test.pixels)).cwiseAbs().maxCoeff();

  using examples::percent;
  examples::Table table({"", "turned digits", "upright digits", "trained", "seconds"});
  table.add({"base network", percent(examples::accuracy(base, target_test)),
             percent(examples::accuracy(base, source_test)), "", ""});
  table.add({"LoRA, adapter on", percent(lora_curve.target.back()), percent(lora_curve.source.back()),
             std::to_string(count.trainable), examples::fixed(seconds_lora, 2)});
  table.add({"LoRA, adapter off", percent(examples::accuracy(off, target_test)),
             percent(examples::accuracy(off, source_test)), "", ""});
  table.add({"all parameters", percent(full_curve.target.back()), percent(full_curve.source.back()),
             std::to_string(total), examples::fixed(seconds_full, 2)});
  std::cout << '\n' << table.text() << '\n' << lora::report(with_lora, settings.batch) << '\n';
  std::cout << "Adapter off equals the base network bit for bit: " << (intact ? "yes" : "NO") << '\n'
            << "Merged weights differ from base + adapter by at most " << merged_difference << " in any logit.\n";

  examples::JsonObject report;
  report.set("source_accuracy_base", examples::accuracy(base, source_test))
      .set("target_accuracy_base", examples::accuracy(base, target_test))
      .set("target_accuracy_lora", lora_curve.target.back())
      .set("source_accuracy_lora_on", lora_curve.source.back())
      .set("source_accuracy_lora_off", examples::accuracy(off, source_test))
      .set("target_accuracy_full", full_curve.target.back())
      .set("source_accuracy_full", full_curve.source.back())
      .set("base_bit_identical", intact)
      .set("merged_max_abs_difference", merged_difference)
      .set("rank", options.rank)
      .set("alpha", options.alpha)
      .set("epochs", options.epochs)
      .set("base_epochs", options.base_epochs)
      .set("learning_rate_base", options.base_learning_rate)
      .set("weight_decay", options.weight_decay)
      .set("learning_rate_lora", options.learning_rate)
      .set("learning_rate_full", options.full_learning_rate)
      .set("seed", options.seed)
      .set("lora_parameters", count.trainable)
      .set("total_parameters", total)
      .set("seconds_base", seconds_base)
      .set("seconds_lora", seconds_lora)
      .set("seconds_full", seconds_full)
      .set("train_pictures", source_train.count())
      .set("held_out_pictures", source_test.count())
      .set("split_seed", examples::split_seed);

  const std::filesystem::path out = options.out;
  examples::write_file(out / "report.json", report.text());
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
  std::cout << "Wrote report.json, loss.svg, accuracy.svg and pictures.svg to "
            << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  examples::Arguments arguments("finetune_mlp",
                                "Adapts a network that reads upright digits to turned ones, with LoRA.");
  arguments.add("rank", options.rank, "rank of the factors in every layer")
      .add("alpha", options.alpha, "the factors are scaled by alpha / rank")
      .add("base-epochs", options.base_epochs, "passes over the upright digits")
      .add("epochs", options.epochs, "passes over the turned digits")
      .add("learning-rate", options.learning_rate, "of LoRA")
      .add("full-learning-rate", options.full_learning_rate, "of full fine-tuning")
      .add("base-learning-rate", options.base_learning_rate, "of the base network")
      .add("weight-decay", options.weight_decay, "AdamW's, everywhere")
      .add("seed", options.seed, "of the weights and the order of the pictures")
      .add("out", options.out, "folder for report.json and the pictures");
  if (const auto status = arguments.parse(argc, argv)) return *status;
  try {
    if (options.base_epochs < 1 || options.epochs < 1) throw examples::ArgumentError("epochs must be at least 1");
    run(options);
  } catch (const std::exception& error) {
    std::cerr << "finetune_mlp: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
