/// Which rank?
///
/// A 64-128-128-10 network that reads upright digits learns to read turned ones, with LoRA of rank 1, 2, 4, ..., 64 in
/// every layer, and by training all its weights. How much of the new task does each rank learn? Beside it four things
/// that tell why:
///
/// 1. What full fine-tuning changes, D = W_after - W_before: its singular values, and what the nearest matrices of rank
///    r to it (Eckart and Young) would have kept. Is trained LoRA near them?
/// 2. Whether trainings of different ranks find the same directions (Hu et al. 2021, arXiv:2106.09685, section 7.2).
/// 3. The intrinsic dimension of the task: of how few numbers, each of which moves all weights at random, training can
///    make do (Li et al. 2018, arXiv:1804.08838; Aghajanyan et al. 2020, arXiv:2012.13255).
/// 4. A suggestion of the rank from singular values alone, with its reason, and how well it is borne out.
///
/// Accuracies are on pictures that no training has seen, means and spreads over several networks. Learning rates were
/// chosen on 300 of the training pictures. No weight decay: it would shrink W as well, and D would not be what was
/// learned.

#include "plotting/heat_map.hpp"
#include "plotting/line_chart.hpp"
#include "support/files.hpp"
#include "support/in_parallel.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/random_subspace.hpp"
#include "support/statistics.hpp"
#include "support/table.hpp"
#include "support/training.hpp"
#include "support/weight_change.hpp"

#include <lora/lora.hpp>
#include <lora/model/suggest_rank.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Eigen::Index;
using examples::Change;
using examples::Digits;
using examples::Network;
using Numbers = std::vector<double>;

struct Settings {
  int seeds = 5;
  int base_epochs = 40;
  int epochs = 60;
  Index width = 128;      // of the hidden layers
  Index pictures = 1200;  // to train on
  std::vector<Index> ranks = {1, 2, 4, 8, 16, 32, 64};
  std::vector<Index> dimensions = {16, 32, 64, 128, 256, 512, 1024, 2048};
};

struct Tasks {
  examples::Split upright, turned;
};

Tasks load_tasks(Index pictures) {
  const auto [train, held_out] = examples::split(examples::load_digits(), pictures);
  const auto turned = [](const Digits& digits) { return Digits{examples::turned(digits.pixels, 1), digits.labels}; };
  return {{train, held_out}, {turned(train), turned(held_out)}};
}

// Two ways to learn; the third is in support/random_subspace.hpp

/// Trains whatever is trainable, and returns the first epoch whose mean loss was below 0.1, as a measure of speed; one
/// more than there were if none was.
double learn(Network& net, const Digits& digits, const Settings& settings, double learning_rate, std::uint64_t seed) {
  double learned = settings.epochs + 1;
  examples::train(net, digits,
                  {.epochs = settings.epochs, .learning_rate = learning_rate, .weight_decay = 0, .seed = seed},
                  [&](int epoch, double loss) { learned = loss < 0.1 ? std::min<double>(learned, epoch) : learned; });
  return learned;
}

/// The scale is 2 at rank 8 either way. A starts of the same size for every rank.
Network with_lora(const Network& base, lora::LoraConfig config, lora::Rng rng) {
  config.alpha = config.scaling == lora::Scaling::alpha_over_rank ? 16 : 2 * std::sqrt(8.0);
  config.init = lora::Init::kaiming_uniform;
  Network net = base;
  lora::attach(net, config, rng);
  return net;
}

// Everything, from every seed

/// What one training gave.
struct Run {
  double accuracy = 0, learned = 0;
  Index size = 0;  // numbers trained
  Change change = {};
};

/// A suggested rank, LoRA of that rank, and LoRA with the ranks suggested for each layer.
struct Advice {
  lora::RankSuggestion suggestion = {};
  Run one_rank = {}, own_ranks = {};
};

/// What one network gave. Vectors are over the ranks, or over the dimensions.
struct OfSeed {
  double before = 0;
  Run all = {};                            // all weights trained
  std::vector<Eigen::VectorXd> start;      // singular values of W0, layer by layer
  std::vector<Run> by_rank, by_root;       // LoRA with the scale alpha / rank and alpha / sqrt(rank)
  Numbers nearest, nearest_error;          // the nearest change to that of all weights: accuracy, relative distance
  Numbers lora_size, lora_error;           // LoRA's change relative to that of all weights: size, distance
  Numbers subspace;                        // accuracies
  std::vector<std::vector<Numbers>> same;  // overlap of layer, rank, and other rank or all weights
  Advice by_all, by_probe;                 // from the change of all weights, and from LoRA of the largest rank
};

Run run_lora(const Network& base, const lora::LoraConfig& config, const Tasks& tasks, const Settings& settings,
             std::uint64_t seed, std::uint64_t start) {
  Network net = with_lora(base, config, lora::Rng(seed, start));
  const double learned = learn(net, tasks.turned.train, settings, 8e-3, seed);
  return {examples::accuracy(net, tasks.turned.held_out), learned, lora::count_parameters(net).trainable,
          examples::change_by_lora(net)};
}

Advice follow(const Change& change, const Network& base, const Tasks& tasks, const Settings& settings,
              std::uint64_t seed) {
  std::vector<Eigen::VectorXd> spectra;
  for (const auto& layer : change) spectra.push_back(examples::spectrum_of(layer));
  Advice advice{.suggestion = lora::suggest_rank(spectra)};
  lora::LoraConfig config{.rank = advice.suggestion.rank};
  advice.one_rank = run_lora(base, config, tasks, settings, seed, 0);
  for (std::size_t l = 0; l < change.size(); ++l) {
    config.rank_pattern.emplace_back("fc" + std::to_string(l + 1), advice.suggestion.ranks[l]);
  }
  advice.own_ranks = run_lora(base, config, tasks, settings, seed, 0);
  return advice;
}

/// What needs no training any more, but for the advice.
void compare(OfSeed& result, const Network& base, const Network& all, const Tasks& tasks, const Settings& settings) {
  const Change& change = result.all.change;
  for (const auto& layer : base.layers()) result.start.push_back(lora::singular_values(layer.dense()));
  result.same.resize(change.size());
  for (std::size_t i = 0; i < settings.ranks.size(); ++i) {
    const Change cut = examples::nearest(change, settings.ranks[i]);
    result.nearest.push_back(examples::accuracy(examples::changed(base, cut, all), tasks.turned.held_out));
    result.nearest_error.push_back(examples::distance(cut, change) / examples::norm(change));
    result.lora_size.push_back(examples::norm(result.by_rank[i].change) / examples::norm(change));
    result.lora_error.push_back(examples::distance(result.by_rank[i].change, change) / examples::norm(change));
    for (std::size_t l = 0; l < change.size(); ++l) {
      const auto& own = result.by_rank[i].change[l];
      Numbers row(settings.ranks.size() + 1, std::nan(""));  // a lower half would repeat the upper one
      row[i] = examples::overlap(own, result.by_root[i].change[l]);
      for (std::size_t j = i + 1; j < settings.ranks.size(); ++j)
        row[j] = examples::overlap(own, result.by_rank[j].change[l]);
      row.back() = examples::overlap(own, change[l]);
      result.same[l].push_back(row);
    }
  }
}

std::vector<OfSeed> run(const Settings& settings) {
  const Tasks tasks = load_tasks(settings.pictures);
  const auto& held_out = tasks.turned.held_out;
  const int seeds = settings.seeds, ranks = static_cast<int>(settings.ranks.size());
  const int each = 2 * ranks + static_cast<int>(settings.dimensions.size());
  lora::Rng unused(0);
  std::vector<Network> bases(static_cast<std::size_t>(seeds), Network({1, 1}, unused)), all = bases;
  std::vector<OfSeed> results(bases.size());
  examples::Progress progress("training networks", seeds * (each + 2));
  int before = 0;
  const auto in_parallel = [&](int count, const auto& job) {
    examples::in_parallel(count, job, [&](int done) { progress.update(before + done); });
    before += count;
  };

  in_parallel(seeds, [&](int s) {
    const auto k = static_cast<std::size_t>(s);
    const auto seed = static_cast<std::uint64_t>(s + 1);
    lora::Rng rng(seed);
    bases[k] = Network({examples::picture_pixels, settings.width, settings.width, examples::digit_classes}, rng);
    examples::train(bases[k], tasks.upright.train,
                    {.epochs = settings.base_epochs, .learning_rate = 2e-3, .weight_decay = 0.3, .seed = seed},
                    [](int, double) {});
    all[k] = bases[k];
    const double learned = learn(all[k], tasks.turned.train, settings, 2e-3, seed);
    results[k].before = examples::accuracy(bases[k], held_out);
    results[k].all = {examples::accuracy(all[k], held_out), learned, lora::count_parameters(all[k]).trainable,
                      examples::change_by_training(bases[k], all[k])};
    results[k].by_rank.resize(settings.ranks.size());
    results[k].by_root.resize(settings.ranks.size());
    results[k].subspace.resize(settings.dimensions.size());
  });
  in_parallel(seeds * each, [&](int job) {
    const auto k = static_cast<std::size_t>(job / each);
    const auto i = static_cast<std::size_t>(job % each), r = i % static_cast<std::size_t>(ranks);
    const auto seed = static_cast<std::uint64_t>(k + 1);
    if (i < static_cast<std::size_t>(2 * ranks)) {
      const bool root = i >= static_cast<std::size_t>(ranks);
      const lora::LoraConfig config{
          .rank = settings.ranks[r],
          .scaling = root ? lora::Scaling::alpha_over_sqrt_rank : lora::Scaling::alpha_over_rank};
      (root ? results[k].by_root : results[k].by_rank)[r] = run_lora(bases[k], config, tasks, settings, seed, i + 1);
    } else {
      const std::size_t d = i - static_cast<std::size_t>(2 * ranks);
      Network net = bases[k];
      examples::train_in_subspace(net, settings.dimensions[d], tasks.turned.train, settings.epochs, 1.2, seed);
      results[k].subspace[d] = examples::accuracy(net, held_out);
    }
  });
  in_parallel(seeds, [&](int s) {
    const auto k = static_cast<std::size_t>(s);
    compare(results[k], bases[k], all[k], tasks, settings);
    results[k].by_all = follow(results[k].all.change, bases[k], tasks, settings, k + 1);
    results[k].by_probe = follow(results[k].by_rank.back().change, bases[k], tasks, settings, k + 1);
  });
  progress.finish();
  return results;
}

// What is shown of it

/// What one seed gave for rank, or dimension, number i.
namespace figures {
double by_rank(const OfSeed& s, std::size_t i) { return s.by_rank[i].accuracy; }
double by_root(const OfSeed& s, std::size_t i) { return s.by_root[i].accuracy; }
double rank_epochs(const OfSeed& s, std::size_t i) { return s.by_rank[i].learned; }
double root_epochs(const OfSeed& s, std::size_t i) { return s.by_root[i].learned; }
double nearest(const OfSeed& s, std::size_t i) { return s.nearest[i]; }
double nearest_error(const OfSeed& s, std::size_t i) { return s.nearest_error[i]; }
double lora_error(const OfSeed& s, std::size_t i) { return s.lora_error[i]; }
double lora_size(const OfSeed& s, std::size_t i) { return s.lora_size[i]; }
double subspace(const OfSeed& s, std::size_t i) { return s.subspace[i]; }
double before(const OfSeed& s, std::size_t = 0) { return s.before; }
double all(const OfSeed& s, std::size_t = 0) { return s.all.accuracy; }
double all_epochs(const OfSeed& s, std::size_t = 0) { return s.all.learned; }
}  // namespace figures

Numbers each(const std::vector<OfSeed>& results, const auto& figure, std::size_t i = 0) {
  Numbers numbers;
  for (const OfSeed& result : results) numbers.push_back(static_cast<double>(figure(result, i)));
  return numbers;
}

double mean_of(const std::vector<OfSeed>& results, const auto& figure, std::size_t i = 0) {
  return examples::mean(each(results, figure, i));
}

/// The accuracy that is nine tenths of the way from no training to the training of all weights.
double nine_tenths(const std::vector<OfSeed>& results) {
  const double before = mean_of(results, figures::before);
  return before + 0.9 * (mean_of(results, figures::all) - before);
}

/// The dimension at which the mean accuracy reaches nine tenths, between those that were tried along a line in log d; 0
/// if none does.
double intrinsic_dimension(const std::vector<OfSeed>& results, const std::vector<Index>& dimensions) {
  const double goal = nine_tenths(results);
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    const auto dimension = static_cast<double>(dimensions[i]);
    const double above = mean_of(results, figures::subspace, i) - goal;
    if (above < 0) continue;
    if (i == 0) return dimension;
    const double below = goal - mean_of(results, figures::subspace, i - 1);
    return dimension * std::pow(static_cast<double>(dimensions[i - 1]) / dimension, above / (above + below));
  }
  return 0;
}

std::string rank_table(const std::vector<OfSeed>& results, const Settings& settings) {
  examples::Table table(
      {"rank", "trained", "α/r", "epochs", "α/√r", "epochs", "nearest to D", "‖D − it‖", "‖D − LoRA‖"});
  const auto accuracy = [&](const auto& figure, std::size_t i) {
    return examples::percent_with_spread(each(results, figure, i));
  };
  const auto epochs = [&](const auto& figure, std::size_t i) {
    const Numbers learned = each(results, figure, i);
    const bool never = *std::max_element(learned.begin(), learned.end()) > settings.epochs;
    return never ? "> " + std::to_string(settings.epochs) : examples::fixed(examples::mean(learned), 0);
  };
  for (std::size_t i = 0; i < settings.ranks.size(); ++i) {
    table.add({std::to_string(settings.ranks[i]), examples::with_commas(results[0].by_rank[i].size),
               accuracy(figures::by_rank, i), epochs(figures::rank_epochs, i), accuracy(figures::by_root, i),
               epochs(figures::root_epochs, i), accuracy(figures::nearest, i),
               examples::percent(mean_of(results, figures::nearest_error, i), 0),
               examples::percent(mean_of(results, figures::lora_error, i), 0)});
  }
  table.add({"all weights", examples::with_commas(results[0].all.size), accuracy(figures::all, 0),
             epochs(figures::all_epochs, 0), "", "", "", "", ""});
  return table.text();
}

std::string layer_table(const std::vector<OfSeed>& results, const Settings& settings) {
  examples::Table table({"effective rank (rank of 90 %)", "W before", "its change D",
                         "LoRA of rank " + std::to_string(settings.ranks.back())});
  for (std::size_t l = 0; l < results[0].start.size(); ++l) {
    const auto cell = [&](const auto& spectrum) {
      const auto effective = [&](const OfSeed& s, std::size_t) { return lora::effective_rank(spectrum(s)); };
      const auto most = [&](const OfSeed& s, std::size_t) { return lora::rank_for_energy(spectrum(s), 0.9); };
      return examples::fixed(mean_of(results, effective), 1) + " (" + examples::fixed(mean_of(results, most), 0) + ")";
    };
    const auto& layer = results[0].all.change[l];
    table.add({"fc" + std::to_string(l + 1) + ", " + std::to_string(layer.B.value.rows()) + " x " +
                   std::to_string(layer.A.value.cols()),
               cell([&](const OfSeed& s) { return s.start[l]; }),
               cell([&](const OfSeed& s) { return examples::spectrum_of(s.all.change[l]); }),
               cell([&](const OfSeed& s) { return examples::spectrum_of(s.by_rank.back().change[l]); })});
  }
  return table.text();
}

std::string advice_table(const std::vector<OfSeed>& results, const Settings& settings) {
  examples::Table table({"LoRA with the suggested ranks", "rank", "trained", "turned digits read"});
  const auto add = [&](const std::string& name, Advice OfSeed::* advice) {
    const auto mean = [&](const auto& figure) {
      return mean_of(results, [&](const OfSeed& s, std::size_t) { return figure(s.*advice); });
    };
    const auto row = [&](const std::string& ranks, Run Advice::* run) {
      table.add({name, ranks, examples::with_commas(std::lround(mean([&](const Advice& a) { return (a.*run).size; }))),
                 examples::percent_with_spread(
                     each(results, [&](const OfSeed& s, std::size_t) { return (s.*advice.*run).accuracy; }))});
    };
    row(examples::fixed(mean([](const Advice& a) { return a.suggestion.rank; }), 1), &Advice::one_rank);
    std::string own;
    for (std::size_t l = 0; l < results[0].start.size(); ++l) {
      own += (l == 0 ? "" : ", ") + examples::fixed(mean([&](const Advice& a) { return a.suggestion.ranks[l]; }), 1);
    }
    row(own, &Advice::own_ranks);
  };
  add("by what all weights changed", &OfSeed::by_all);
  add("by LoRA of rank " + std::to_string(settings.ranks.back()), &OfSeed::by_probe);
  return table.text();
}

/// A figure over the ranks, their sizes, or the dimensions.
examples::Series curve(const std::vector<OfSeed>& results, const std::string& name, const Numbers& x,
                       const std::string& color, const auto& figure) {
  examples::Series series{.name = name, .x = x, .color = color};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const Numbers values = each(results, figure, i);
    series.y.push_back(examples::mean(values));
    series.spread.push_back(examples::spread(values));
  }
  return series;
}

std::string accuracy_chart(const std::string& title, const std::string& x_label, const Numbers& x_ticks,
                           const std::vector<examples::Series>& series, double lowest = 0) {
  return examples::line_chart({.title = title,
                               .x_label = x_label,
                               .y_label = "held-out turned digits read",
                               .series = series,
                               .log_x = true,
                               .percent_y = true,
                               .y_low = lowest,
                               .y_high = 1.0,
                               .x_ticks = x_ticks});
}

std::string rank_chart(const std::vector<OfSeed>& results, const Settings& settings) {
  const Numbers ranks(settings.ranks.begin(), settings.ranks.end());
  const double all = mean_of(results, figures::all);
  return accuracy_chart(
      "Turned digits learned with LoRA, by rank", "rank r", ranks,
      {curve(results, "LoRA, scale α / r", ranks, examples::palette[0], figures::by_rank),
       curve(results, "LoRA, scale α / √r", ranks, examples::palette[1], figures::by_root),
       curve(results, "what all weights changed, cut down to rank r", ranks, examples::palette[3], figures::nearest),
       {.name = "all weights", .x = {1, ranks.back()}, .y = {all, all}, .dashed = true, .color = examples::ink}},
      0.8);  // above which the ways differ
}

std::string dimension_chart(const std::vector<OfSeed>& results, const Settings& settings) {
  const Numbers dimensions(settings.dimensions.begin(), settings.dimensions.end());
  Numbers sizes;
  for (const Run& run : results[0].by_rank) sizes.push_back(static_cast<double>(run.size));
  const double goal = nine_tenths(results), all = static_cast<double>(results[0].all.size);
  return accuracy_chart(
      "How few numbers can the task be learned with?", "numbers trained", {16, 64, 256, 1024, 4096, 16384},
      {curve(results, "random subspace of all weights", dimensions, examples::palette[2], figures::subspace),
       curve(results, "LoRA of every rank", sizes, examples::palette[0], figures::by_rank),
       {.name = "all weights", .x = {all}, .y = {mean_of(results, figures::all)}, .dots = true, .color = examples::ink},
       {.name = "nine tenths of their gain",
        .x = {dimensions[0], std::max(all, sizes.back())},
        .y = {goal, goal},
        .dashed = true,
        .color = examples::palette[5]}});
}

std::string spectra_chart(const std::vector<OfSeed>& results) {
  examples::LineChart chart{.title = "Singular values of the weights, and of what training changed",
                            .x_label = "number of the singular value",
                            .y_label = "its share of the largest one",
                            .log_y = true,
                            .y_low = 1e-3,
                            .y_high = 1.0};
  for (const bool changed : {true, false}) {
    for (std::size_t l = 0; l < results[0].start.size(); ++l) {
      const Eigen::VectorXd sigma = changed ? examples::spectrum_of(results[0].all.change[l]) : results[0].start[l];
      examples::Series series{.name = (changed ? "change of fc" : "fc") + std::to_string(l + 1),
                              .dashed = !changed,
                              .color = examples::palette[l % examples::palette.size()]};
      for (Index i = 0; i < sigma.size(); ++i) {
        series.x.push_back(static_cast<double>(i + 1));
        series.y.push_back(sigma(i) / sigma(0));
      }
      chart.series.push_back(std::move(series));
    }
  }
  return examples::line_chart(chart);
}

std::vector<Numbers> mean_overlaps(const std::vector<OfSeed>& results, std::size_t layer) {
  std::vector<Numbers> rows = results[0].same[layer];
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows[i].size(); ++j) {
      rows[i][j] = mean_of(results, [&](const OfSeed& s, std::size_t) { return s.same[layer][i][j]; });
    }
  }
  return rows;
}

std::string direction_chart(const std::vector<OfSeed>& results, const Settings& settings) {
  examples::HeatMap map{.title = "Do trainings of different ranks find the same directions? Overlap in per cent",
                        .x_label = "rank of another",
                        .y_label = "rank of one"};
  for (const Index rank : settings.ranks) map.rows.push_back(std::to_string(rank));
  map.columns = map.rows;
  map.columns.push_back("all");
  for (std::size_t l = 0; l < results[0].same.size(); ++l) {
    const auto inputs = static_cast<double>(results[0].all.change[l].A.value.cols());
    map.panels.push_back({.title = "fc" + std::to_string(l + 1),
                          .note = "by chance at most " + examples::percent(8 / inputs, 0),
                          .values = mean_overlaps(results, l)});
  }
  return examples::heat_map(map);
}

std::string report_of(const std::vector<OfSeed>& results, const Settings& settings) {
  nlohmann::ordered_json json;
  const auto rows = [&](const std::string& name, const auto& figure, std::size_t count) {
    std::vector<Numbers> numbers;
    for (std::size_t i = 0; i < count; ++i) numbers.push_back(each(results, figure, i));
    json[name] = numbers;
  };
  const std::size_t ranks = settings.ranks.size();
  json["seeds"] = settings.seeds;
  json["epochs"] = settings.epochs;
  json["ranks"] = settings.ranks;
  json["dimensions"] = settings.dimensions;
  json["before"] = each(results, figures::before);
  json["all"] = each(results, figures::all);
  json["all_epochs"] = each(results, figures::all_epochs);
  json["all_parameters"] = results[0].all.size;
  rows("lora_parameters", [](const OfSeed& s, std::size_t i) { return s.by_rank[i].size; }, ranks);
  rows("alpha_over_rank", figures::by_rank, ranks);
  rows("alpha_over_rank_epochs", figures::rank_epochs, ranks);
  rows("alpha_over_root_rank", figures::by_root, ranks);
  rows("alpha_over_root_rank_epochs", figures::root_epochs, ranks);
  rows("nearest", figures::nearest, ranks);
  rows("nearest_distance", figures::nearest_error, ranks);
  rows("lora_distance", figures::lora_error, ranks);
  rows("lora_size", figures::lora_size, ranks);
  rows("subspace", figures::subspace, settings.dimensions.size());
  json["nine_tenths"] = nine_tenths(results);
  json["intrinsic_dimension"] = intrinsic_dimension(results, settings.dimensions);
  for (std::size_t l = 0; l < results[0].start.size(); ++l) {
    const std::string layer = "fc" + std::to_string(l + 1);
    const auto spectrum = [](const Eigen::VectorXd& sigma) { return Numbers(sigma.begin(), sigma.end()); };
    json[layer + "_overlaps"] = mean_overlaps(results, l);
    json[layer + "_spectrum"] = spectrum(results[0].start[l]);
    json[layer + "_change_spectrum"] = spectrum(examples::spectrum_of(results[0].all.change[l]));
    json[layer + "_lora_spectrum"] = spectrum(examples::spectrum_of(results[0].by_rank.back().change[l]));
  }
  for (const bool probe : {false, true}) {
    const auto advice = probe ? &OfSeed::by_probe : &OfSeed::by_all;
    const std::string name = probe ? "suggested_by_lora" : "suggested_by_all";
    const auto set = [&](const std::string& end, const auto& figure) {
      json[name + end] = each(results, [&](const OfSeed& s, std::size_t) { return figure(s.*advice); });
    };
    set("", [](const Advice& a) { return a.suggestion.rank; });
    set("_accuracy", [](const Advice& a) { return a.one_rank.accuracy; });
    set("_per_layer_accuracy", [](const Advice& a) { return a.own_ranks.accuracy; });
  }
  return json.dump(2) + "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::filesystem::path out = "rank";
  examples::Program program("rank", "Teaches a network turned digits with LoRA of many ranks: which one is enough?");
  program.add_option("--seeds", settings.seeds, "networks, each trained from a seed of its own")
      ->check(examples::positive);
  program.add_option("--base-epochs", settings.base_epochs, "passes over the upright digits")
      ->check(examples::positive);
  program.add_option("--epochs", settings.epochs, "passes over the turned digits")->check(examples::positive);
  program.add_option("--out", out, "folder for report.json and the pictures");
  return program.run(argc, argv, [&] {
    const std::vector<OfSeed> results = run(settings);
    const double dimension = intrinsic_dimension(results, settings.dimensions);
    std::cout
        << "\nHeld-out turned digits read; epochs until the loss was below 0.1; distances relative to the size of "
           "D, which is what training all weights changed.\n\n"
        << rank_table(results, settings) << '\n'
        << layer_table(results, settings) << "\nTrained in a random subspace of its "
        << examples::with_commas(results[0].all.size) << " numbers, the network reaches "
        << examples::percent(nine_tenths(results)) << ", nine tenths of what training all of them gains, "
        << (dimension > 0 ? "with about " + examples::fixed(dimension, 0) + " dimensions" : "not at all") << ".\n\n"
        << advice_table(results, settings)
        << "\nSuggested with seed 1, by what all weights changed: " << results[0].by_all.suggestion.reason
        << ".\nBy LoRA of rank " << settings.ranks.back() << ": " << results[0].by_probe.suggestion.reason << ".\n";
    examples::write_file(out / "rank.svg", rank_chart(results, settings));
    examples::write_file(out / "spectra.svg", spectra_chart(results));
    examples::write_file(out / "directions.svg", direction_chart(results, settings));
    examples::write_file(out / "dimension.svg", dimension_chart(results, settings));
    examples::write_file(out / "report.json", report_of(results, settings));
    std::cout << "Wrote report.json, rank.svg, spectra.svg, directions.svg and dimension.svg to "
              << std::filesystem::absolute(out).string() << "\n";
  });
}
