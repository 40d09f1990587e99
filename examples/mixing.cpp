/// May LoRA be mixed with ordinary training, and where is a budget best spent?
///
/// A 64-128-128-10 network that reads upright digits learns to read turned ones. Each of its three layers is frozen, or
/// has LoRA factors beside it, or is trained as usual, weights and bias. All such plans that fit a budget of trained
/// numbers are tried, twice: with a small budget and with a larger one. Those with LoRA give it the largest rank, the
/// same in all of these layers, that the budget allows.
///
/// Mixing needs nothing special: a plan is three lines of `prepare`, and one optimizer trains what is left trainable,
/// with a learning rate of its own for the factors, by a parameter group.
///
/// Then LoRA+ (Hayou et al. 2024, arXiv:2402.12354), which trains B faster than A: another parameter group. Is it
/// better than the best single rate when time is short?
///
/// Accuracies are on pictures that no training has seen, means and spreads over several networks. The two learning
/// rates were chosen on 300 of the training pictures, with all layers alike, and are the same for every plan.

#include "plotting/choice_chart.hpp"
#include "plotting/line_chart.hpp"
#include "support/files.hpp"
#include "support/in_parallel.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/statistics.hpp"
#include "support/table.hpp"
#include "support/training.hpp"

#include <lora/lora.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

namespace {

using Eigen::Index;
using examples::Digits;
using examples::Network;
using Numbers = std::vector<double>;

struct Settings {
  int seeds = 5;
  int base_epochs = 40;
  int epochs = 60;
  int short_epochs = 10;  // for LoRA+
  Index width = 128;      // of the hidden layers
  Index pictures = 1200;  // to train on
  std::vector<Index> budgets = {2400, 9610};
  Numbers b_rates = {2e-3, 4e-3, 8e-3, 16e-3, 32e-3, 64e-3, 128e-3};  // learning rates of B
  Numbers ratios = {1, 4, 16};                                        // B's rate over A's
};

constexpr double ordinary_rate = 2e-3, lora_rate = 8e-3;

// A plan for the layers

enum class Choice { frozen, factors, ordinary };

struct Plan {
  std::vector<Choice> choices;  // layer by layer
  std::vector<Index> ranks;     // of the factors; 0 without
  Index size = 0;               // numbers trained
};

/// With ranks at most `rank`, and not above what a layer can use.
Plan plan_of(const Network& net, const std::vector<Choice>& choices, Index rank) {
  Plan plan{choices, std::vector<Index>(choices.size(), 0), 0};
  for (std::size_t l = 0; l < choices.size(); ++l) {
    const Index in = net.layers()[l].in_features(), out = net.layers()[l].out_features();
    if (choices[l] == Choice::factors) plan.ranks[l] = std::min({rank, in, out});
    plan.size += choices[l] == Choice::ordinary ? out * in + out : plan.ranks[l] * (in + out);
  }
  return plan;
}

/// Every way to choose that trains something, each with the largest rank that the budget allows.
std::vector<Plan> plans_within(Index budget, const Network& net) {
  std::vector<std::vector<Choice>> all = {{}};
  for (std::size_t l = 0; l < net.layers().size(); ++l) {
    std::vector<std::vector<Choice>> longer;
    for (const auto& choices : all) {
      for (const Choice choice : {Choice::frozen, Choice::factors, Choice::ordinary}) {
        longer.push_back(choices);
        longer.back().push_back(choice);
      }
    }
    all = std::move(longer);
  }
  std::vector<Plan> plans;
  for (const auto& choices : all) {
    Plan plan = plan_of(net, choices, 1);
    if (plan.size == 0 || plan.size > budget) continue;
    for (Index rank = 2;; ++rank) {
      const Plan larger = plan_of(net, choices, rank);
      if (larger.size == plan.size || larger.size > budget) break;
      plan = larger;
    }
    plans.push_back(std::move(plan));
  }
  return plans;
}

lora::LoraConfig factors_of(Index rank) { return {.rank = rank, .alpha = 16, .init = lora::Init::kaiming_uniform}; }

void prepare(Network& net, const Plan& plan, lora::Rng& rng) {
  for (std::size_t l = 0; l < plan.choices.size(); ++l) {
    auto& layer = net.layers()[l];
    switch (plan.choices[l]) {
      case Choice::frozen: lora::freeze(layer); break;
      case Choice::factors: layer.attach("default", factors_of(plan.ranks[l]), rng); break;
      case Choice::ordinary: break;  // a layer is trainable unless told otherwise
    }
  }
}

// Training

/// Trains whatever is trainable and returns the mean loss of the last epoch.
double learn(Network& net, const Digits& digits, int epochs, const lora::AdamWConfig& config, std::uint64_t seed) {
  const examples::TrainingSettings settings{.epochs = epochs, .seed = seed};
  examples::Training training(settings);
  training.optimizer = lora::AdamW<float>(config);
  double last = 0;
  examples::train(net, training, digits, settings, [&](int, double loss) { last = loss; });
  return last;
}

/// One learning rate for weights and biases, another for factors.
lora::AdamWConfig mixed_rates() {
  const auto is_factor = [](const lora::Path& path) { return path.in_adapter(); };
  return {.lr = ordinary_rate, .weight_decay = 0, .groups = {{.select = is_factor, .lr = lora_rate}}};
}

/// LoRA+: B learns `ratio` times as fast as A.
lora::AdamWConfig lora_plus(double b_rate, double ratio) {
  const auto is_b = [](const lora::Path& path) { return path.ends_with("B"); };
  return {.lr = b_rate / ratio, .weight_decay = 0, .groups = {{.select = is_b, .lr = b_rate}}};
}

struct Results {
  Numbers before;                                     // accuracy of each seed's network
  std::vector<std::vector<Plan>> plans;               // for each budget
  std::vector<std::vector<Numbers>> accuracies;       // of budget, plan, seed
  std::vector<std::vector<Numbers>> plus, plus_loss;  // of ratio, rate, seed: accuracy, training loss
};

Results run(const Settings& settings) {
  const examples::Split upright = examples::split(examples::load_digits(), settings.pictures);
  const auto by_a_quarter = [](const Digits& digits) {
    return Digits{examples::turned(digits.pixels, 1), digits.labels};
  };
  const Digits turned = by_a_quarter(upright.train), held_out = by_a_quarter(upright.held_out);
  const auto seeds = static_cast<std::size_t>(settings.seeds);
  lora::Rng unused(0);
  const Network shape({examples::picture_pixels, settings.width, settings.width, examples::digit_classes}, unused);
  std::vector<Network> bases(seeds, shape);

  Results results;
  results.before.resize(seeds);
  std::vector<std::function<void()>> jobs;
  for (const Index budget : settings.budgets) results.plans.push_back(plans_within(budget, shape));
  for (const auto& plans : results.plans) results.accuracies.emplace_back(plans.size(), Numbers(seeds));
  for (std::size_t b = 0; b < results.plans.size(); ++b) {
    for (std::size_t p = 0; p < results.plans[b].size(); ++p) {
      for (std::size_t s = 0; s < seeds; ++s) {
        jobs.push_back([&, b, p, s] {
          Network net = bases[s];
          lora::Rng rng(s + 1, 1);
          prepare(net, results.plans[b][p], rng);
          learn(net, turned, settings.epochs, mixed_rates(), s + 1);
          results.accuracies[b][p][s] = examples::accuracy(net, held_out);
        });
      }
    }
  }
  results.plus.assign(settings.ratios.size(), std::vector<Numbers>(settings.b_rates.size(), Numbers(seeds)));
  results.plus_loss = results.plus;
  for (std::size_t i = 0; i < settings.ratios.size(); ++i) {
    for (std::size_t r = 0; r < settings.b_rates.size(); ++r) {
      for (std::size_t s = 0; s < seeds; ++s) {
        jobs.push_back([&, i, r, s] {
          Network net = bases[s];
          lora::Rng rng(s + 1, 1);
          lora::attach(net, factors_of(8), rng);
          const lora::AdamWConfig config = lora_plus(settings.b_rates[r], settings.ratios[i]);
          results.plus_loss[i][r][s] = learn(net, turned, settings.short_epochs, config, s + 1);
          results.plus[i][r][s] = examples::accuracy(net, held_out);
        });
      }
    }
  }

  examples::Progress progress("training networks", settings.seeds + std::ssize(jobs));
  examples::in_parallel(
      settings.seeds,
      [&](int seed) {
        const auto s = static_cast<std::size_t>(seed);
        lora::Rng rng(s + 1);
        bases[s] = Network({examples::picture_pixels, settings.width, settings.width, examples::digit_classes}, rng);
        learn(bases[s], upright.train, settings.base_epochs, {.lr = ordinary_rate, .weight_decay = 0.3}, s + 1);
        results.before[s] = examples::accuracy(bases[s], held_out);
      },
      [&](int done) { progress.update(done); });
  examples::in_parallel(
      static_cast<int>(jobs.size()), [&](int job) { jobs[static_cast<std::size_t>(job)](); },
      [&](int done) { progress.update(settings.seeds + done); });
  progress.finish();
  return results;
}

// What is shown of it

std::string text_of(const Plan& plan, std::size_t layer) {
  switch (plan.choices[layer]) {
    case Choice::frozen: return "frozen";
    case Choice::factors: return "rank " + std::to_string(plan.ranks[layer]);
    case Choice::ordinary: return "all";
  }
  return "";
}

/// The numbers of a budget's plans, the best one first.
std::vector<std::size_t> best_first(const std::vector<Numbers>& accuracies) {
  std::vector<std::size_t> order(accuracies.size());
  for (std::size_t p = 0; p < order.size(); ++p) order[p] = p;
  const auto mean = [&](std::size_t p) { return examples::mean(accuracies[p]); };
  std::sort(order.begin(), order.end(), [&](std::size_t one, std::size_t other) {
    return mean(one) == mean(other) ? one < other : mean(one) > mean(other);
  });
  return order;
}

std::string plan_table(const Results& results, const Settings& settings, std::size_t budget) {
  examples::Table table({"fc1", "fc2", "fc3", "trained", "turned digits read"});
  for (const std::size_t p : best_first(results.accuracies[budget])) {
    const Plan& plan = results.plans[budget][p];
    table.add({text_of(plan, 0), text_of(plan, 1), text_of(plan, 2), examples::with_commas(plan.size),
               examples::percent_with_spread(results.accuracies[budget][p])});
  }
  return "At most " + examples::with_commas(settings.budgets[budget]) + " numbers:\n\n" + table.text();
}

std::string plus_table(const Results& results, const Settings& settings) {
  std::vector<std::string> header = {"learning rate of B"};
  for (const double ratio : settings.ratios) {
    header.push_back(ratio == 1 ? "A as fast" : "A " + examples::significant(ratio, 3) + " times slower");
  }
  examples::Table table(header);
  for (std::size_t r = 0; r < settings.b_rates.size(); ++r) {
    std::vector<std::string> cells = {examples::significant(settings.b_rates[r], 3)};
    for (const auto& of_ratio : results.plus) cells.push_back(examples::percent_with_spread(of_ratio[r]));
    table.add(cells);
  }
  return table.text();
}

std::string plan_chart(const Results& results, const Settings& settings) {
  const auto [blue, orange, green, red, violet, grey] = examples::palette;
  const auto color = [&, b = blue, o = orange](Choice choice) {
    return choice == Choice::frozen ? "#9aa1ac" : choice == Choice::factors ? b : o;
  };
  examples::ChoiceChart chart{.title = "Where is the budget best spent?",
                              .x_label = "held-out turned digits read",
                              .columns = {"fc1", "fc2", "fc3"},
                              .legend = {{"frozen", color(Choice::frozen)},
                                         {"LoRA", color(Choice::factors)},
                                         {"all weights trained", color(Choice::ordinary)}}};
  for (std::size_t b = 0; b < settings.budgets.size(); ++b) {
    examples::ChoicePanel panel{.title = "At most " + examples::with_commas(settings.budgets[b]) + " trained numbers"};
    for (const std::size_t p : best_first(results.accuracies[b])) {
      const Plan& plan = results.plans[b][p];
      examples::ChoiceRow row{.share = examples::mean(results.accuracies[b][p]),
                              .spread = examples::spread(results.accuracies[b][p])};
      for (std::size_t l = 0; l < plan.choices.size(); ++l) {
        row.tiles.push_back({text_of(plan, l), color(plan.choices[l])});
      }
      panel.rows.push_back(std::move(row));
    }
    chart.panels.push_back(std::move(panel));
  }
  return examples::choice_chart(chart);
}

std::string plus_chart(const Results& results, const Settings& settings) {
  examples::LineChart chart{
      .title = "LoRA+: B learns faster than A. After " + std::to_string(settings.short_epochs) + " epochs",
      .x_label = "learning rate of B",
      .y_label = "held-out turned digits read",
      .log_x = true,
      .percent_y = true,
      .y_low = 0.0,
      .y_high = 1.0,
      .x_ticks = settings.b_rates};
  for (std::size_t i = 0; i < settings.ratios.size(); ++i) {
    const std::string ratio = examples::significant(settings.ratios[i], 3);
    examples::Series series{.name = settings.ratios[i] == 1 ? "A as fast as B" : "A " + ratio + " times slower",
                            .x = settings.b_rates};
    for (const Numbers& accuracies : results.plus[i]) {
      series.y.push_back(examples::mean(accuracies));
      series.spread.push_back(examples::spread(accuracies));
    }
    chart.series.push_back(std::move(series));
  }
  return examples::line_chart(chart);
}

std::string report_of(const Results& results, const Settings& settings) {
  nlohmann::ordered_json json;
  json["seeds"] = settings.seeds;
  json["epochs"] = settings.epochs;
  json["short_epochs"] = settings.short_epochs;
  json["before"] = results.before;
  json["budgets"] = settings.budgets;
  for (std::size_t b = 0; b < settings.budgets.size(); ++b) {
    const std::string name = "budget_" + std::to_string(settings.budgets[b]);
    std::vector<std::vector<std::string>> plans;
    std::vector<Index> sizes;
    for (const Plan& plan : results.plans[b]) {
      plans.push_back({text_of(plan, 0), text_of(plan, 1), text_of(plan, 2)});
      sizes.push_back(plan.size);
    }
    json[name + "_plans"] = plans;
    json[name + "_trained"] = sizes;
    json[name + "_accuracy"] = results.accuracies[b];
  }
  json["lora_plus_rates_of_b"] = settings.b_rates;
  json["lora_plus_ratios"] = settings.ratios;
  json["lora_plus_accuracy"] = results.plus;
  json["lora_plus_loss"] = results.plus_loss;
  return json.dump(2) + "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::filesystem::path out = "mixing";
  examples::Program program("mixing", "LoRA, ordinary training or nothing for each layer: where is it best spent?");
  program.add_option("--seeds", settings.seeds, "networks, each trained from a seed of its own")
      ->check(examples::positive);
  program.add_option("--base-epochs", settings.base_epochs, "passes over the upright digits")
      ->check(examples::positive);
  program.add_option("--epochs", settings.epochs, "passes over the turned digits")->check(examples::positive);
  program.add_option("--short-epochs", settings.short_epochs, "the same for LoRA+")->check(examples::positive);
  program.add_option("--small-budget", settings.budgets[0], "numbers that may be trained")->check(examples::positive);
  program.add_option("--large-budget", settings.budgets[1], "the same once more")->check(examples::positive);
  program.add_option("--out", out, "folder for report.json and the pictures");
  return program.run(argc, argv, [&] {
    const Results results = run(settings);
    std::cout << "\nHeld-out turned digits read, before " << examples::percent_with_spread(results.before)
              << ". What each layer trains:\n\n";
    for (std::size_t b = 0; b < settings.budgets.size(); ++b) std::cout << plan_table(results, settings, b) << '\n';
    std::cout << "LoRA+, rank 8 in every layer, after " << settings.short_epochs << " epochs:\n\n"
              << plus_table(results, settings);
    examples::write_file(out / "budget.svg", plan_chart(results, settings));
    examples::write_file(out / "lora_plus.svg", plus_chart(results, settings));
    examples::write_file(out / "report.json", report_of(results, settings));
    std::cout << "\nWrote report.json, budget.svg and lora_plus.svg to " << std::filesystem::absolute(out).string()
              << "\n";
  });
}
