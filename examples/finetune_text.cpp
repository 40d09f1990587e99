/// A published language model, all-MiniLM-L6-v2, learns to sort definitions of words into kinds of things.
///
///   "any of various small furry mammals"  ->  animal
///
/// 1. Load the model from its Hugging Face directory. Its 22 million weights stay as they are.
/// 2. Train a classifier on top of it, alone.
/// 3. Train LoRA in the attention of every block, and the classifier with it.
/// 4. Save the adapter as a directory that Hugging Face PEFT loads; --text "..." sorts a definition with it.
///
/// Every accuracy is measured on definitions that no training has seen. Several processes can share the training,
/// examples/run.sh finetune_text --processes 2: they have one copy of the model, and the bits of one process.

#include "plotting/heat_map.hpp"
#include "plotting/line_chart.hpp"
#include "support/files.hpp"
#include "support/labeled_texts.hpp"
#include "support/memory.hpp"
#include "support/processes.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"

#include <lora/io.hpp>
#include <lora/lora.hpp>
#include <lora/parallel/sharded_training.hpp>
#include <lora/parallel/shared_base.hpp>
#include <lora/parallel/workers.hpp>
#include <lora/text.hpp>
#include <lora/transformers/bert.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace {

using Model = lora::BertForSequenceClassification<float>;
namespace fs = std::filesystem;

struct Options {
  fs::path model, wordnet, data, out = "finetune_text";
  std::string text;
  Eigen::Index rank = 8;
  double alpha = 16;
  int epochs = 3;
  double learning_rate = 1e-3;
  std::size_t batch = 32;
  int train_texts = 150;
  int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  Eigen::Index shards = 1;
  std::uint64_t seed = 1;
  bool everything = false;
};

constexpr Eigen::Index most_tokens = 64;

/// Texts as token ids, with their kinds.
struct Encoded {
  std::vector<std::vector<int>> ids;
  std::vector<int> kinds;

  Encoded(const lora::Tokenizer& tokenizer, const std::vector<examples::LabeledText>& texts) {
    for (const auto& [text, kind] : texts) {
      ids.push_back(tokenizer.encode(text, {.max_tokens = most_tokens}).ids);
      kinds.push_back(kind);
    }
  }
};

std::vector<int> predictions(const Model& model, const Encoded& texts, lora::Executor* executor) {
  std::vector<int> all;
  lora::Scratch scratch;
  for (std::size_t first = 0; first < texts.ids.size(); first += 64) {
    lora::Tokens batch;
    for (std::size_t k = first; k < std::min(first + 64, texts.ids.size()); ++k) batch.add(texts.ids[k]);
    Eigen::MatrixXf logits(model.out_features(), batch.count());
    model.forward(batch, logits, nullptr, scratch, {.executor = executor});
    const std::vector<int> some = lora::predictions(logits);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

double accuracy(const Model& model, const Encoded& texts, lora::Executor* executor) {
  const std::vector<int> found = predictions(model, texts, executor);
  std::size_t right = 0;
  for (std::size_t k = 0; k < found.size(); ++k) right += found[k] == texts.kinds[k] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(found.size());
}

struct Curve {
  std::vector<double> steps, loss;       // the mean loss of every tenth of an epoch
  std::vector<double> epochs, held_out;  // accuracy
  double seconds = 0;                    // without the accuracies on the way
  long long tokens = 0;
};

/// AdamW on batches in random order, with the dropout of the model's config.
Curve train(Model& model, const std::string& label, const Encoded& texts, const Encoded& held_out,
            const Options& options, double learning_rate, lora::Processes& processes, lora::Executor* executor) {
  const std::size_t count = texts.ids.size(), steps_of_epoch = (count + options.batch - 1) / options.batch;
  examples::Progress progress(label, static_cast<long long>(steps_of_epoch) * options.epochs);
  lora::AdamW<float> optimizer({.lr = learning_rate});
  lora::ShardedTraining parallel(processes, model,
                                 {.shards = options.shards, .settings = {{"seed", std::to_string(options.seed)}}});
  lora::Rng rng(options.seed);
  Model::Cache cache;
  lora::Tokens batch;
  std::vector<int> kinds;
  std::vector<Eigen::Index> tokens;  // of the texts of a batch before each
  Eigen::MatrixXf dlogits;
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  Curve curve;
  std::uint64_t step = 0;
  double sum = 0, evaluation = 0;
  int summed = 0;
  for (int epoch = 1; epoch <= options.epochs; ++epoch) {
    rng.shuffle(order);
    for (std::size_t first = 0; first < count; first += options.batch) {
      const std::size_t end = std::min(first + options.batch, count);
      tokens.assign(1, 0);
      for (std::size_t k = first; k < end; ++k) tokens.push_back(tokens.back() + std::ssize(texts.ids[order[k]]));
      for (const lora::Shard& shard : parallel.shards(model, static_cast<Eigen::Index>(end - first))) {
        const auto begin = static_cast<std::size_t>(shard.first), size = static_cast<std::size_t>(shard.count);
        batch.clear();
        kinds.clear();
        for (std::size_t k = first + begin; k < first + begin + size; ++k) {
          batch.add(texts.ids[order[k]]);
          kinds.push_back(texts.kinds[order[k]]);
        }
        const auto logits = model.forward(batch, cache,
                                          {.training = true,
                                           .seed = options.seed,
                                           .step = step,
                                           .first_sample = tokens[begin],  // a column is a token
                                           .executor = executor});
        const float losses = lora::softmax_cross_entropy(logits, kinds, &dlogits, {.normalizer = 1.0});
        model.backward(batch, dlogits, cache);
        parallel.add(model, {.loss = losses, .count = static_cast<double>(size)});
      }
      const double loss = parallel.sum(model).mean();
      optimizer.step(model);
      ++step;
      curve.tokens += tokens.back();
      sum += loss;
      if (++summed == static_cast<int>(std::max<std::size_t>(1, steps_of_epoch / 10))) {
        curve.steps.push_back(static_cast<double>(step) / static_cast<double>(steps_of_epoch));
        curve.loss.push_back(sum / summed);
        sum = summed = 0;
      }
      progress.update(static_cast<long long>(step), "loss " + examples::fixed(loss, 2));
    }
    const double before = progress.seconds();
    curve.epochs.push_back(epoch);
    curve.held_out.push_back(accuracy(model, held_out, executor));
    evaluation += progress.seconds() - before;
  }
  curve.seconds = progress.seconds() - evaluation;
  progress.finish(examples::percent(curve.held_out.back()) + " of held-out definitions sorted");
  return curve;
}

/// Whether both have the same bits in every frozen weight, and with adapters off the same outputs.
bool base_is_intact(Model adapted, const Model& base, const Encoded& texts) {
  const auto same = [](const auto& a, const auto& b) {
    return a.size() == b.size() &&
           std::memcmp(a.data(), b.data(), sizeof(float) * static_cast<std::size_t>(a.size())) == 0;
  };
  std::vector<Eigen::MatrixXf> weights;
  std::vector<Eigen::VectorXf> biases;
  lora::visit_adaptable(base, [&](const lora::Path& path, const auto& layer) {
    if (path.str() == "classifier") return;  // new: the adapter has it
    weights.push_back(layer.dense());
    biases.push_back(*layer.bias());
  });
  bool intact = true;
  std::size_t next = 0;
  lora::visit_adaptable(adapted, [&](const lora::Path& path, const auto& layer) {
    if (path.str() == "classifier") return;
    intact = intact && same(weights[next], layer.dense()) && same(biases[next], *layer.bias());
    ++next;
  });
  lora::select_none(adapted);
  const auto hidden = [&](const Model& model) {
    lora::Tokens batch;
    for (std::size_t k = 0; k < 32; ++k) batch.add(texts.ids[k]);
    Eigen::MatrixXf y(model.encoder.features(), batch.sequences().total());
    lora::Scratch scratch;
    model.encoder.forward(batch, y, nullptr, scratch, {});
    return y;
  };
  return intact && same(hidden(adapted), hidden(base));
}

/// Rows: the kinds of the definitions; columns: what the model takes them for.
std::string confusion(const std::vector<int>& found, const std::vector<int>& kinds,
                      const std::vector<std::string>& names) {
  std::vector<std::vector<double>> shares(names.size(), std::vector<double>(names.size(), 0));
  std::vector<double> totals(names.size(), 0);
  for (std::size_t k = 0; k < found.size(); ++k) {
    const auto row = static_cast<std::size_t>(kinds[k]);
    shares[row][static_cast<std::size_t>(found[k])] += 1;
    totals[row] += 1;
  }
  for (std::size_t row = 0; row < shares.size(); ++row) {
    for (double& share : shares[row]) share = share == 0 ? std::nan("") : share / totals[row];
  }
  return examples::heat_map({.title = "What the adapted model takes a definition for, in percent",
                             .x_label = "taken for",
                             .y_label = "kind of the word",
                             .rows = names,
                             .columns = names,
                             .panels = {{.title = "held-out definitions", .values = std::move(shares)}}});
}

Model load(const Options& options, std::size_t kinds, bool trainable = false) {
  return lora::load_pretrained<Model>(
      options.model, {.num_labels = static_cast<Eigen::Index>(kinds), .seed = options.seed, .trainable = trainable});
}

/// With the adapter in --out.
void classify(const Options& options) {
  std::vector<std::string> kinds;
  std::ifstream file(options.out / "kinds.txt");
  for (std::string kind; std::getline(file, kind);) kinds.push_back(kind);
  if (kinds.empty()) {
    throw std::runtime_error("there is no " + (options.out / "kinds.txt").string() + "; train first, without --text");
  }
  Model model = load(options, kinds.size());
  lora::load_adapter(model, options.out / "adapter");
  const auto tokenizer = lora::Tokenizer::open(options.model / "tokenizer.json");
  Eigen::MatrixXf probabilities = model({tokenizer.encode(options.text, {.max_tokens = most_tokens}).ids});
  lora::Softmax::forward(probabilities, probabilities);
  Eigen::Index best = 0;
  const float share = probabilities.col(0).maxCoeff(&best);
  std::cout << kinds[static_cast<std::size_t>(best)] << " (" << examples::percent(static_cast<double>(share), 0)
            << ")\n";
}

void run(const Options& options, examples::World& world) {
  lora::Processes& processes = world.processes();
  const auto tokenizer = lora::Tokenizer::open(options.model / "tokenizer.json");
  const examples::LabeledTexts texts =
      options.data.empty() ? examples::read_wordnet(options.wordnet, static_cast<std::size_t>(options.train_texts))
                           : examples::read_labeled_texts(options.data);
  std::string kinds;
  for (const std::string& kind : texts.kinds) kinds += kind + '\n';
  lora::once(processes, [&] {
    examples::write_file(options.out / "texts.tsv", examples::labeled_table(texts));
    examples::write_file(options.out / "kinds.txt", kinds);
  });
  const Encoded to_train(tokenizer, texts.train), held_out(tokenizer, texts.held_out);
  std::cout << "Texts: " << to_train.ids.size() << " to train, " << held_out.ids.size() << " held out, "
            << texts.kinds.size() << " kinds; every accuracy below is on the held-out ones.\n\n";
  lora::Workers workers(options.threads);

  // The classifier alone, at the better of two learning rates.
  lora::Rng rng(options.seed);
  Curve head;
  double head_rate = 0;
  for (const double rate : {1e-3, 1e-2}) {
    Model model = lora::share_base(processes, [&] { return load(options, texts.kinds.size()); });
    lora::visit_adaptable(model, [](const lora::Path& path, auto& layer) {
      if (path.str() == "classifier") layer.attach_full("head");
    });
    Curve curve = train(model, "classifier alone ", to_train, held_out, options, rate, processes, &workers);
    if (head.held_out.empty() || curve.held_out.back() > head.held_out.back()) {
      head = std::move(curve);
      head_rate = rate;
    }
  }

  const Model base = lora::share_base(processes, [&] { return load(options, texts.kinds.size(), options.everything); });
  Model model = base;
  if (!options.everything) {
    lora::attach(model, {.rank = options.rank, .alpha = options.alpha}, Model::default_targets(), rng);
  }
  const auto count = lora::count_parameters(model);
  const double rate = options.everything ? 5e-5 : options.learning_rate;
  const Curve curve = train(model, options.everything ? "all parameters   " : "LoRA             ", to_train, held_out,
                            options, rate, processes, &workers);
  if (!world.is_first()) return;  // what follows is the report
  const std::vector<int> found = predictions(model, held_out, &workers);
  const bool intact = !options.everything && base_is_intact(model, base, held_out);

  using examples::percent;
  const double speed = static_cast<double>(curve.tokens) / curve.seconds;
  const char* name = options.everything ? "all parameters" : "LoRA in query and value, and the classifier";
  examples::Table table({"", "definitions sorted", "trained", "seconds"});
  table.add({"the classifier alone", percent(head.held_out.back()),
             std::to_string((model.encoder.features() + 1) * model.out_features()), examples::fixed(head.seconds, 1)});
  table.add({name, percent(curve.held_out.back()), std::to_string(count.trainable), examples::fixed(curve.seconds, 1)});
  std::cout << '\n'
            << table.text() << '\n'
            << examples::with_commas(static_cast<long long>(speed)) << " tokens a second on " << options.threads
            << " threads of " << processes.count() << (processes.count() == 1 ? " process" : " processes")
            << ", peak memory " << examples::peak_bytes() / 1000000 << " MB.\n";

  nlohmann::ordered_json report;
  report["accuracy_head"] = head.held_out.back();
  report["accuracy_lora"] = curve.held_out.back();
  report["lora_parameters"] = count.trainable;
  report["total_parameters"] = count.total;
  report["seconds_head"] = head.seconds;
  report["seconds_lora"] = curve.seconds;
  report["tokens_per_second"] = speed;
  report["tokens"] = curve.tokens;
  report["samples_per_second"] = static_cast<double>(to_train.ids.size()) * options.epochs / curve.seconds;
  report["processes"] = processes.count();
  report["shards"] = options.shards;
  report["threads"] = options.threads;
  report["peak_bytes"] = examples::peak_bytes();
  report["base_bit_identical"] = intact;
  report["everything"] = options.everything;
  report["rank"] = options.rank;
  report["alpha"] = options.alpha;
  report["epochs"] = options.epochs;
  report["learning_rate_lora"] = rate;
  report["learning_rate_head"] = head_rate;
  report["seed"] = options.seed;
  report["train_texts"] = to_train.ids.size();
  report["held_out_texts"] = held_out.ids.size();
  if (options.everything) {
    lora::save_weights(model, options.out / "model.safetensors");
  } else {
    lora::save_adapter(model, options.out / "adapter");
    std::cout << "Adapter off equals the base model bit for bit: " << (intact ? "yes" : "NO")
              << "\nOn disk: the adapter " << examples::bytes_of_files(options.out / "adapter") << " bytes, the model "
              << fs::file_size(options.model / "model.safetensors") << ".\n";
    report["adapter_bytes"] = examples::bytes_of_files(options.out / "adapter");
  }
  examples::write_file(options.out / "report.json", report.dump(2) + "\n");
  examples::write_file(options.out / "confusion.svg", confusion(found, held_out.kinds, texts.kinds));
  examples::write_file(
      options.out / "loss.svg",
      examples::line_chart(
          {.title = "Learning to sort definitions",
           .x_label = "epoch",
           .y_label = "training loss",
           .series = {{.name = options.everything ? "all parameters" : "LoRA", .x = curve.steps, .y = curve.loss},
                      {.name = "classifier alone", .x = head.steps, .y = head.loss}},
           .y_low = 0.0}));
  examples::write_file(
      options.out / "accuracy.svg",
      examples::line_chart(
          {.title = "Held-out definitions sorted",
           .x_label = "epoch",
           .y_label = "accuracy",
           .series = {{.name = options.everything ? "all parameters" : "LoRA", .x = curve.epochs, .y = curve.held_out},
                      {.name = "classifier alone", .x = head.epochs, .y = head.held_out}},
           .percent_y = true,
           .y_low = 0.0,
           .y_high = 1.0}));
  std::cout << "Wrote report.json, texts.tsv, confusion.svg, loss.svg, accuracy.svg and "
            << (options.everything ? "model.safetensors" : "adapter/") << " to " << fs::absolute(options.out).string()
            << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  examples::Program program("finetune_text", "A published BERT learns to sort definitions of words, with LoRA.");
  program.add_option("--model", options.model, "folder of the model: config.json, model.safetensors, tokenizer.json")
      ->required();
  program.add_option("--wordnet", options.wordnet, "WordNet's data.noun");
  program.add_option("--data", options.data, "your own texts instead: lines \"train|test<TAB>kind<TAB>text\"");
  program.add_option("--text", options.text, "sort this text with the adapter in --out, and do nothing else");
  program.add_option("--rank", options.rank, "rank of the factors")->check(examples::positive);
  program.add_option("--alpha", options.alpha, "the factors are scaled by alpha / rank");
  program.add_option("--epochs", options.epochs, "passes over the texts")->check(examples::positive);
  program.add_option("--learning-rate", options.learning_rate, "of LoRA");
  program.add_option("--batch", options.batch, "texts of a step")->check(examples::positive);
  program.add_option("--train-texts", options.train_texts, "of each of WordNet's kinds")->check(examples::positive);
  program.add_option("--threads", options.threads, "that share the work; they change no bit")
      ->check(examples::positive);
  program.add_option("--shards", options.shards, "of each batch: as many processes at most can share the work")
      ->check(examples::positive);
  program.add_option("--seed", options.seed, "of the factors, the order of the texts and dropout");
  program.add_option("--out", options.out, "folder for report.json, the pictures and the adapter");
  program.add_flag("--everything", options.everything, "train all weights instead of an adapter");
  return program.run(argc, argv, [&] {
    if (!options.text.empty()) return classify(options);
    if (options.wordnet.empty() && options.data.empty()) {
      throw std::runtime_error("there are no texts: give --wordnet FILE or --data FILE");
    }
    examples::World world;
    run(options, world);
  });
}
