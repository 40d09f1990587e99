/// Mixed batches: one pass over columns of many users, each with an adapter of his own, beside one adapter of the mean
/// rank for all of them, and beside a pass for each user.

#include <array>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/interleaved.hpp"
#include "benchmarks/support/trainer.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/lora.hpp"

namespace {

using benchmarks::Timing;
using lora::Index;
using lora::Matrix;
using lora::Segment;

/// One layer with an adapter for each user, ranks from 4 to 32 in turn, and one of the mean rank.
class Case {
 public:
  Case(Index d, Index users, Index columns_each, lora::Rng& rng)
      : layer_(lora::AnyBase<float>(benchmarks::random(d, d, rng, 0.02F))),
        each_(columns_each),
        x_(benchmarks::random(d, users * columns_each, rng)),
        dy_(benchmarks::random(d, users * columns_each, rng)) {
    Index sum = 0;
    for (Index k = 0; k < users; ++k) {
      const Index rank = ranks[static_cast<std::size_t>(k) % ranks.size()];
      layer_.attach("user" + std::to_string(k), lora::LoraConfig{.rank = rank}, rng);
      sum += rank;
    }
    layer_.attach("mean", lora::LoraConfig{.rank = sum / users}, rng);
    mean_ = lora::adapter(layer_, "mean");
    for (Index k = 0; k < users; ++k) {
      segments_.push_back(
          {.adapter = lora::adapter(layer_, "user" + std::to_string(k)), .first = k * each_, .count = each_});
    }
    check();
  }

  void mixed(bool backward) { pass({.segments = segments_}, backward); }
  void one(bool backward) { pass({.adapter = mean_}, backward); }
  void separate(bool backward) {
    for (std::size_t k = 0; k < segments_.size(); ++k) {
      const Segment& segment = segments_[k];
      layer_.forward(x_.middleCols(segment.first, each_), cache_, {.adapter = segment.adapter});
      if (backward) layer_.backward(x_.middleCols(segment.first, each_), dy_.middleCols(segment.first, each_), cache_);
    }
  }
  void zero(bool all) {
    if (!all) return lora::zero_gradients(layer_, mean_);
    for (const Segment& segment : segments_) lora::zero_gradients(layer_, segment.adapter);
  }
  void step(bool all) {
    if (!all) return optimizer_.step(layer_, mean_);
    for (const Segment& segment : segments_) optimizer_.step(layer_, segment.adapter);
  }

 private:
  static constexpr std::array<Index, 4> ranks{4, 8, 16, 32};

  void pass(const lora::Pass& pass, bool backward) {
    layer_.forward(x_, cache_, pass);
    if (backward) layer_.backward(x_, dy_, cache_);
  }

  /// A benchmark of wrong numbers would be worth nothing.
  void check() {
    const Matrix<float> together = layer_.forward(x_, cache_, {.segments = segments_});
    for (const Segment& segment : segments_) {
      const Matrix<float> own =
          layer_.forward(x_.middleCols(segment.first, each_), cache_, {.adapter = segment.adapter});
      if ((own - together.middleCols(segment.first, each_)).norm() > 1e-5F * own.norm()) {
        throw std::runtime_error("a mixed batch gives other outputs than separate passes");
      }
    }
  }

  lora::Linear<float> layer_;
  Index each_;
  Matrix<float> x_, dy_;
  lora::AdapterHandle mean_;
  std::vector<Segment> segments_;
  lora::Linear<float>::Cache cache_;
  lora::AdamW<float> optimizer_{{.lr = 1e-3}};
};

void run(const std::filesystem::path& out, bool quick) {
  struct Size {
    Index d, users, each;
  };
  const auto sizes = quick
                         ? std::vector<Size>{{256, 4, 2}}
                         : std::vector<Size>{{256, 16, 4}, {1024, 16, 4}, {1024, 64, 1}, {4096, 64, 1}, {4096, 16, 4}};
  const benchmarks::Effort effort =
      quick ? benchmarks::Effort{.repetitions = 3, .seconds = 1e-3} : benchmarks::Effort{};
  lora::Rng rng(1);
  examples::Table table({"d", "adapters x columns", "pass", "mixed, us", "/ one adapter", "separate / mixed"});
  examples::Table rest({"d", "adapters", "zeroing all, us", "one, us", "AdamW for all, us", "one, us"});
  nlohmann::ordered_json json;
  for (const auto& [d, users, each] : sizes) {
    Case batch(d, users, each, rng);
    const std::string key = "d" + std::to_string(d) + "_a" + std::to_string(users) + "_n" + std::to_string(each) + "_";
    const auto us = [](const Timing& timing) { return examples::significant(1e6 * timing.median, 3); };
    for (const bool backward : {false, true}) {
      const auto timings = benchmarks::measure(
          {[&] { batch.mixed(backward); }, [&] { batch.one(backward); }, [&] { batch.separate(backward); }}, effort);
      const double to_one = timings[0].median / timings[1].median, to_separate = timings[2].median / timings[0].median;
      table.add({std::to_string(d), std::to_string(users) + " x " + std::to_string(each),
                 backward ? "forward and backward" : "forward", us(timings[0]), examples::fixed(to_one, 2),
                 examples::fixed(to_separate, 2)});
      const std::string name = key + (backward ? "step_" : "forward_");
      json[name + "us"] = 1e6 * timings[0].median;
      json[name + "to_one"] = to_one;
      json[name + "separate"] = to_separate;
    }
    const auto timings = benchmarks::measure(
        {[&] { batch.zero(true); }, [&] { batch.zero(false); }, [&] { batch.step(true); }, [&] { batch.step(false); }},
        effort);
    rest.add(
        {std::to_string(d), std::to_string(users), us(timings[0]), us(timings[1]), us(timings[2]), us(timings[3])});
  }
  std::cout << "One frozen layer d x d, float, one thread, adapters of ranks 4 to 32; one adapter: of the mean rank\n\n"
            << table.text() << "\nWhat grows with the number of adapters\n\n"
            << rest.text();
  if (out.empty()) return;
  examples::write_file(out / "mixed.json", json.dump(2) + "\n");
  std::cout << "\nWrote mixed.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  benchmarks::initialize(argc, argv);
  examples::Program program("mixed", "Columns of many users in one pass, beside one adapter and separate passes.");
  program.add_option("--out", out, "folder for mixed.json; without it none is written");
  program.add_flag("--quick", quick, "few cases and repetitions, to see that everything runs");
  return program.run(argc, argv, [&] { run(out, quick); });
}
