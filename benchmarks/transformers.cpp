/// A training step of a published encoder with LoRA, and inference: milliseconds, memory, and the share of the peak.
///
///   transformers [--out DIR] [--quick]
///   benchmarks/run.sh transformers --peer        against PyTorch with PEFT
///
/// LoRA of rank 8 in query and value, the classifier in full, AdamW, no dropout. Weights are random here; the
/// comparison with the peer uses published ones. Useful multiply-adds only: what the loss needs, so of the last block's
/// queries and feed-forward those of the first token of each text. One thread; medians of wall time, the peak of the
/// same run.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/roof.hpp"
#include "examples/support/files.hpp"
#include "examples/support/memory.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/io/pretrained.hpp"
#include "lora/lora.hpp"
#include "lora/parallel/workers.hpp"
#include "lora/transformers/bert.hpp"

namespace {

using lora::Index;
using Model = lora::BertForSequenceClassification<float>;

/// Multiply-adds that the loss of these texts needs.
double operations(const lora::EncoderConfig& config, const std::vector<lora::Tokens>& batches, bool backward) {
  const auto d = static_cast<double>(config.hidden_size), ff = static_cast<double>(config.intermediate_size);
  const Index blocks = config.num_hidden_layers;
  double sum = 0;
  for (const lora::Tokens& batch : batches) {
    const auto tokens = static_cast<double>(batch.sequences().total()), texts = static_cast<double>(batch.count());
    double pairs = 0;
    for (Index s = 0; s < batch.count(); ++s) pairs += std::pow(static_cast<double>(batch.sequences()[s].count), 2);
    for (Index l = 0; l < blocks; ++l) {
      const bool last = l + 1 == blocks;
      const double rows = last ? texts : tokens;               // of queries, outputs and feed-forward
      const double seen = last ? tokens : pairs;               // pairs of a query and a key
      const double below = 2 * d * d * tokens + d * d * rows;  // keys, values, queries
      const double above = d * d * rows + 2 * d * ff * rows;
      sum += below + above + 2 * d * seen;
      if (backward) sum += above + (l > 0 ? below : 0) + 5 * d * seen;
    }
  }
  return sum;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// A model with its adapter, and batches that are trained on or looked at in turn.
class Run {
 public:
  Run(Model model, std::vector<lora::Tokens> batches, std::vector<std::vector<int>> labels, bool trains, int threads)
      : model_(std::move(model)), batches_(std::move(batches)), labels_(std::move(labels)), trains_(trains) {
    lora::Rng rng(1);
    lora::attach(model_, {.rank = 8, .alpha = 16}, Model::default_targets(), rng);
    if (threads > 1) workers_ = std::make_unique<lora::Workers>(threads);
  }

  /// Once through all batches. Returns the loss of the first.
  double step() {
    double first = 0;
    for (std::size_t k = 0; k < batches_.size(); ++k) {
      const lora::Tokens& batch = batches_[k];
      if (!trains_) {
        logits_.resize(model_.out_features(), batch.count());
        model_.forward(batch, logits_, nullptr, cache_.scratch, {.executor = workers_.get()});
        if (k == 0) first = lora::softmax_cross_entropy(logits_, labels_[k]);
        continue;
      }
      const auto logits = model_.forward(batch, cache_, {.executor = workers_.get()});
      const double loss = lora::softmax_cross_entropy(logits, labels_[k], &dlogits_);
      lora::zero_gradients(model_);
      model_.backward(batch, dlogits_, cache_);
      optimizer_.step(model_);
      if (k == 0) first = loss;
    }
    return first;
  }
  double operations() const { return ::operations(model_.config(), batches_, trains_); }

 private:
  Model model_;
  std::vector<lora::Tokens> batches_;
  std::vector<std::vector<int>> labels_;
  bool trains_;
  std::unique_ptr<lora::Workers> workers_;
  Model::Cache cache_;
  lora::AdamW<float> optimizer_{{.lr = 1e-3}};
  Eigen::MatrixXf logits_, dlogits_;
};

/// The peer's texts: {"batches": [{"ids": [[101, ...], ...], "labels": [3, ...]}, ...]}. Answers each line of standard
/// input, a number of rounds, with their seconds; the first line it writes is the loss and what it counts.
void serve(const std::filesystem::path& folder, const std::filesystem::path& file, bool trains, int threads) {
  std::ifstream stream(file);
  const auto given = nlohmann::json::parse(stream);
  std::vector<lora::Tokens> batches;
  std::vector<std::vector<int>> kinds;
  for (const auto& one : given.at("batches")) {
    lora::Tokens& batch = batches.emplace_back();
    for (const auto& ids : one.at("ids")) batch.add(ids.get<std::vector<int>>());
    kinds.push_back(one.at("labels").get<std::vector<int>>());
  }
  Run run(lora::load_pretrained<Model>(folder), std::move(batches), std::move(kinds), trains, threads);
  const double loss = run.step();
  std::cout << nlohmann::json{{"loss", loss},
                              {"operations", run.operations()},
                              {"bytes", examples::peak_bytes()},
                              {"peak", benchmarks::multiply_add_peak(10)}}
                   .dump()
            << std::endl;
  for (int rounds = 0; std::cin >> rounds;) {
    const double start = now();
    for (int k = 0; k < rounds; ++k) run.step();
    const double seconds = now() - start;
    std::cout << nlohmann::json{{"seconds", seconds},
                                {"bytes", examples::peak_bytes()},
                                {"peak", benchmarks::multiply_add_peak(3)}}
                     .dump()
              << std::endl;
  }
}

struct Case {
  const char* name;
  lora::EncoderConfig config;
  Index texts, tokens;
};

void measure(const std::filesystem::path& out, bool quick) {
  const lora::EncoderConfig mini{.hidden_size = 384,
                                 .num_hidden_layers = 6,
                                 .num_attention_heads = 12,
                                 .intermediate_size = 1536,
                                 .num_labels = 20};
  std::vector<Case> cases = {{"MiniLM, 16 x 64", mini, 16, 64},
                             {"MiniLM, 2 x 512", mini, 2, 512},
                             {"BERT of base size, 8 x 128", {.num_labels = 20}, 8, 128}};
  if (quick)
    cases = {{"one block, 2 x 8",
              {.vocab_size = 50,
               .hidden_size = 32,
               .num_hidden_layers = 1,
               .num_attention_heads = 2,
               .intermediate_size = 64},
              2,
              8}};
  examples::Table table({"", "", "ms", "tokens a second", "share of the peak"});
  nlohmann::ordered_json rows;
  for (const Case& one : cases) {
    for (const bool trains : {true, false}) {
      lora::Rng rng(1);
      lora::Tokens batch;
      std::vector<int> labels, text(static_cast<std::size_t>(one.tokens));
      for (Index s = 0; s < one.texts; ++s) {
        for (int& id : text) id = static_cast<int>(rng.below(static_cast<std::uint64_t>(one.config.vocab_size)));
        batch.add(text);
        labels.push_back(static_cast<int>(rng.below(static_cast<std::uint64_t>(one.config.num_labels))));
      }
      Run run(Model(one.config, rng), {batch}, {labels}, trains, 1);
      run.step();
      std::vector<double> times;
      double peak = 0;
      for (int k = 0; k < (quick ? 3 : 9); ++k) {
        const double start = now();
        run.step();
        times.push_back(now() - start);
        peak = std::max(peak, benchmarks::multiply_add_peak(3));
      }
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      const double seconds = times[times.size() / 2], share = 2 * run.operations() / seconds / peak;
      if (!(seconds > 0) || !std::isfinite(share)) throw std::runtime_error("the clock stands still");
      const char* what = trains ? "step" : "forward";
      table.add({one.name, what, examples::fixed(1e3 * seconds, 1),
                 examples::with_commas(static_cast<long long>(static_cast<double>(one.texts * one.tokens) / seconds)),
                 examples::percent(share, 0)});
      rows.push_back({{"case", one.name},
                      {"what", what},
                      {"threads", 1},
                      {"ours_ms", 1e3 * seconds},
                      {"share_of_peak", share},
                      {"gflops_peak", peak / 1e9}});
    }
  }
  std::cout << table.text();
  examples::write_file(out / "transformers.json", rows.dump(2) + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out = "transformers", model, batches;
  bool quick = false, forward = false;
  int threads = 1;
  examples::Program program("transformers", "Times of an encoder with LoRA.");
  program.add_option("--out", out, "folder for transformers.json");
  program.add_flag("--quick", quick, "a tiny model, to see that everything runs");
  program.add_option("--model", model, "serve a peer: folder of the model");
  program.add_option("--batches", batches, "serve a peer: its texts");
  program.add_option("--threads", threads, "serve a peer: threads")->check(examples::positive);
  program.add_flag("--forward", forward, "serve a peer: no training");
  return program.run(argc, argv, [&] {
    if (model.empty()) return measure(out, quick);
    serve(model, batches, !forward, threads);
  });
}
