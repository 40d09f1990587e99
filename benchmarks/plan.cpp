/// What the planner's choice is worth: a training step of a packed layer in every way that there is, on a grid.
///
///   plan [--out DIR] [--quick]
///
/// The ways are one copy of W0 or two, the adapter's term in two steps or added to W0. They take turns; times are
/// medians of this thread's processor time. `regret` is how much longer the planner's way takes than the fastest one.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "benchmarks/support/interleaved.hpp"
#include "benchmarks/support/trainer.hpp"
#include "files.hpp"
#include "json.hpp"
#include "table.hpp"
#include "text.hpp"

namespace {

using lora::Copies;
using lora::Delta;
using lora::Index;
using lora::Matrix;
using lora::Plan;

const std::vector<Plan> ways = {{Copies::one, Delta::two_step},
                                {Copies::two, Delta::two_step},
                                {Copies::one, Delta::materialized},
                                {Copies::two, Delta::materialized}};

std::string name(const Plan& plan) {
  return std::string(plan.copies == Copies::two ? "two copies" : "one copy") +
         (plan.delta == Delta::materialized ? ", materialized" : "");
}

std::size_t position_of(const Plan& plan) {
  const auto same = [&](const Plan& other) { return other.copies == plan.copies && other.delta == plan.delta; };
  return static_cast<std::size_t>(std::find_if(ways.begin(), ways.end(), same) - ways.begin());
}

/// Seconds of a step in every way. Throws std::runtime_error if their results differ by more than rounding.
std::vector<double> measure(const lora::PassShape& shape, const benchmarks::Effort& effort) {
  using Trainer = benchmarks::Trainer<lora::Packed<float>>;
  lora::Rng rng(1);
  const Matrix<float> W0 = benchmarks::random(shape.out, shape.in, rng);
  const Matrix<float> x = benchmarks::random(shape.in, shape.samples, rng);
  const Matrix<float> dy = benchmarks::random(shape.out, shape.samples, rng);
  std::vector<std::unique_ptr<Trainer>> trainers;
  std::vector<std::function<void()>> steps;
  Matrix<float> expected;
  for (const Plan& way : ways) {
    lora::Packed<float> packed(W0, way);
    Trainer& trainer =
        *trainers.emplace_back(std::make_unique<Trainer>(std::move(packed), shape.rank, x, dy, lora::Rng(2)));
    for (int k = 0; k < 3; ++k) trainer.step();
    if (expected.size() == 0) expected = trainer.dx();
    if (!((trainer.dx() - expected).norm() <= 1e-4F * expected.norm())) {
      throw std::runtime_error("the result of " + name(way) + " is another one");
    }
    steps.emplace_back([&trainer] { trainer.step(); });
  }
  std::vector<double> seconds;
  for (const auto& timing : benchmarks::measure(steps, effort)) seconds.push_back(timing.median);
  return seconds;
}

void run(const std::filesystem::path& out, bool quick) {
  const benchmarks::Effort effort = {.repetitions = quick ? 3 : 7, .seconds = quick ? 1e-3 : 5e-3};
  examples::Table table(
      {"d", "rank", "samples", "one copy, us", "two copies", "materialized", "fastest", "planned", "regret"});
  examples::JsonObject json;
  double worst = 0, sum = 0, lean = 0;
  int count = 0;
  for (const Index d : quick ? std::vector<Index>{64} : std::vector<Index>{64, 256, 512, 1024, 2048}) {
    for (const Index rank : {8, 64}) {
      for (const Index samples :
           quick ? std::vector<Index>{8, 512} : std::vector<Index>{1, 8, 16, 32, 128, 512, 2048}) {
        if (d * d * samples > Index(1) << 30) continue;  // a step would take half a second
        const lora::PassShape shape{d, d, rank, samples};
        const std::vector<double> seconds = measure(shape, effort);
        const auto best = static_cast<std::size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
        const std::size_t planned = position_of(lora::plan_for(shape, lora::Prefer::speed));
        const double regret = seconds[planned] / seconds[best] - 1;
        table.add({std::to_string(d), std::to_string(rank), std::to_string(samples),
                   examples::significant(1e6 * seconds[0], 3), examples::fixed(seconds[1] / seconds[0], 2),
                   examples::fixed(seconds[2] / seconds[0], 2), name(ways[best]), name(ways[planned]),
                   examples::percent(regret, 0)});
        json.set("d" + std::to_string(d) + "_r" + std::to_string(rank) + "_n" + std::to_string(samples) + "_regret",
                 regret);
        worst = std::max(worst, regret);
        sum += regret;
        lean += seconds[0] / seconds[best] - 1;
        ++count;
      }
    }
  }
  json.set("mean_regret", sum / count).set("worst_regret", worst).set("mean_regret_of_one_copy", lean / count);
  std::cout << "A training step, float; two copies and materialized as parts of the time with one copy\n\n"
            << table.text() << "\nRegret of the planner that prefers speed: " << examples::percent(sum / count)
            << " on average, " << examples::percent(worst) << " at worst; of one copy in two steps, "
            << examples::percent(lean / count) << " on average\n";
  if (out.empty()) return;
  examples::write_file(out / "plan.json", json.text());
  std::cout << "\nWrote plan.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::string out;
  bool quick = false;
  examples::Arguments arguments("plan", "A training step in every way that the planner can choose.");
  arguments.add("out", out, "folder for plan.json; without it none is written")
      .add("quick", quick, "few cases and repetitions, to see that everything runs");
  benchmarks::initialize(argc, argv);
  if (const auto status = arguments.parse(argc, argv)) return *status;
  try {
    run(out, quick);
  } catch (const std::exception& error) {
    std::cerr << "plan: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
