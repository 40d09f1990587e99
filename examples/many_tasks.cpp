/// Can one model serve many tasks?
///
/// One network reads upright digits, and is frozen. Five cameras show them otherwise: turned left, turned right,
/// mirrored, inverted, noisy. Each gets an adapter of its own.
///
/// 1. Train five adapters on the one network, and save each as a directory of a few kilobytes.
/// 2. Serve: load network and adapters from disk, and answer a mixed stream of requests, the right adapter for each.
/// 3. Count: the bytes of five networks against those of one network and five adapters.
/// 4. Mix: weighted sums of two adapters. Is half of one and half of the other a bit of both?
///
/// Every accuracy is on pictures that no training has seen; 1 and 4 are means over several networks, each trained from
/// its own seed.

#include "plotting/heat_map.hpp"
#include "plotting/line_chart.hpp"
#include "support/files.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/statistics.hpp"
#include "support/table.hpp"
#include "support/training.hpp"

#include <lora/io.hpp>
#include <lora/model/surgery.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <functional>
#include <iostream>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace {

using Eigen::Index;
using Eigen::MatrixXf;
using examples::Digits;
using examples::Network;
using examples::percent;
using Numbers = std::vector<double>;

struct Settings {
  int seeds = 5;
  int base_epochs = 40;
  int epochs = 60;  // of every adapter
  Index rank = 4;
  Index width = 128;      // of the hidden layers
  Index pictures = 1200;  // to train on
  Index requests = 6000;
};

// The tasks

MatrixXf mirrored(const MatrixXf& pixels) {
  MatrixXf result(pixels.rows(), pixels.cols());
  for (Index i = 0; i < pixels.rows(); ++i) {
    const Index column = i % examples::picture_side;
    result.row(i) = pixels.row(i - column + examples::picture_side - 1 - column);
  }
  return result;
}

MatrixXf inverted(const MatrixXf& pixels) { return (1 - pixels.array()).matrix(); }

/// Normal noise; its standard deviation is 0.3 of what lies between paper and ink.
MatrixXf noisy(const MatrixXf& pixels, lora::Rng& rng) {
  return pixels.unaryExpr([&](float pixel) { return std::clamp(pixel + 0.3f * rng.normal<float>(), 0.0f, 1.0f); });
}

struct Task {
  std::string id, name;
  std::function<MatrixXf(const MatrixXf& pixels, lora::Rng& noise)> change;

  /// The seed is that of the noise; 0 is for held-out pictures.
  Digits of(const Digits& digits, std::uint64_t seed = 0) const {
    lora::Rng noise(seed, 2);
    return {change(digits.pixels, noise), digits.labels};
  }
};

std::vector<Task> all_tasks() {
  return {{"turned_left", "turned left", [](const auto& pixels, auto&) { return examples::turned(pixels, 1); }},
          {"turned_right", "turned right", [](const auto& pixels, auto&) { return examples::turned(pixels, -1); }},
          {"mirrored", "mirrored", [](const auto& pixels, auto&) { return mirrored(pixels); }},
          {"inverted", "inverted", [](const auto& pixels, auto&) { return inverted(pixels); }},
          {"noisy", "noisy", noisy}};
}

// 1. Train

Network trained_base(const Digits& digits, const Settings& settings, std::uint64_t seed) {
  lora::Rng rng(seed);
  Network net({examples::picture_pixels, settings.width, settings.width, examples::digit_classes}, rng);
  examples::train(net, digits,
                  {.epochs = settings.base_epochs, .learning_rate = 2e-3, .weight_decay = 0.3, .seed = seed},
                  [](int, double) {});
  return net;
}

/// attach freezes the network and selects the new adapter alone, so nothing else is trained: the adapters that are
/// there already stay as they are. The settings were chosen on 300 of the training pictures.
void add_adapter(Network& net, const Task& task, const Digits& digits, const Settings& settings, std::uint64_t seed) {
  lora::Rng rng(seed, 1);
  lora::attach(net, {.rank = settings.rank, .alpha = 16}, rng, task.id);
  examples::train(net, task.of(digits, seed),
                  {.epochs = settings.epochs, .learning_rate = 8e-3, .weight_decay = 0.1, .seed = seed},
                  [](int, double) {});
}

// 2. Serve

/// A picture and the camera that it comes from: a position in all_tasks(), or -1 for an upright picture.
struct Request {
  Index task = -1;
  Index picture = 0;
};

void switch_to(Network& net, Index task, const std::vector<Task>& tasks) {
  if (task < 0) {
    lora::select_none(net);
  } else {
    lora::select(net, tasks[static_cast<std::size_t>(task)].id);
  }
}

struct Stream {
  std::vector<Task> tasks;
  std::vector<MatrixXf> pictures;  // of each task, the upright ones last
  std::vector<int> labels;         // the same for all
  std::vector<Request> requests;

  auto picture(const Request& request) const { return of(request.task).col(request.picture); }
  const MatrixXf& of(Index task) const { return task < 0 ? pictures.back() : pictures[static_cast<std::size_t>(task)]; }
  double right(const std::vector<int>& answers) const {
    double right = 0;
    for (std::size_t r = 0; r < requests.size(); ++r) {
      right += answers[r] == labels[static_cast<std::size_t>(requests[r].picture)] ? 1 : 0;
    }
    return right / static_cast<double>(requests.size());
  }
};

Stream mixed_stream(const Digits& digits, Index count, lora::Rng rng) {
  Stream stream{all_tasks(), {}, digits.labels, {}};
  for (const Task& task : stream.tasks) stream.pictures.push_back(task.of(digits).pixels);
  stream.pictures.push_back(digits.pixels);
  for (Index r = 0; r < count; ++r) {
    stream.requests.push_back({.task = static_cast<Index>(rng.below(stream.pictures.size())) - 1,
                               .picture = static_cast<Index>(rng.below(digits.labels.size()))});
  }
  return stream;
}

/// Each request as it comes: switch, read.
std::vector<int> serve_one_by_one(Network& net, const Stream& stream) {
  std::vector<int> answers;
  Network::Cache cache;
  for (const Request& request : stream.requests) {
    switch_to(net, request.task, stream.tasks);
    answers.push_back(lora::predictions(net.forward(stream.picture(request), cache))[0]);
  }
  return answers;
}

/// The same with a network for each task, merged: nothing is switched, and everything is in memory six times.
std::vector<int> serve_from_many(const std::vector<Network>& networks, const Stream& stream) {
  std::vector<int> answers;
  Network::Cache cache;
  for (const Request& request : stream.requests) {
    const Network& net = networks[static_cast<std::size_t>(request.task + 1)];
    answers.push_back(lora::predictions(net.forward(stream.picture(request), cache))[0]);
  }
  return answers;
}

/// 256 requests at a time: those of one task together, one switch and one pass for all of them.
std::vector<int> serve_in_groups(Network& net, const Stream& stream) {
  std::vector<int> answers(stream.requests.size());
  Network::Cache cache;
  for (std::size_t first = 0; first < stream.requests.size(); first += 256) {
    const std::size_t last = std::min(first + 256, stream.requests.size());
    for (Index task = -1; task < std::ssize(stream.tasks); ++task) {
      std::vector<std::size_t> members;
      for (std::size_t r = first; r < last; ++r) {
        if (stream.requests[r].task == task) members.push_back(r);
      }
      if (members.empty()) continue;
      MatrixXf pixels(examples::picture_pixels, std::ssize(members));
      for (Index k = 0; k < pixels.cols(); ++k) {
        pixels.col(k) = stream.picture(stream.requests[members[static_cast<std::size_t>(k)]]);
      }
      switch_to(net, task, stream.tasks);
      const std::vector<int> read = lora::predictions(net.forward(pixels, cache));
      for (std::size_t k = 0; k < members.size(); ++k) answers[members[k]] = read[k];
    }
  }
  return answers;
}

// 4. Mix

/// The selected adapter becomes (1 - share) times the one and share times the other.
void select_mix(Network& net, const std::string& one, const std::string& other, double share) {
  for (auto& layer : net.layers()) layer.select_sum({{one, 1 - share}, {other, share}});
}

/// The same as an adapter of its own, of the sum of the ranks, that needs the two no longer.
void fold_mix(Network& net, const std::string& one, const std::string& other, double share, const std::string& name) {
  const auto factors = [](lora::Linear<float>& layer, const std::string& id) -> const lora::Lora<float>& {
    return layer.adapter(id).as<lora::Lora<float>>();
  };
  for (auto& layer : net.layers()) {
    layer.attach(name, lora::combine<float>({{factors(layer, one), 1 - share}, {factors(layer, other), share}}));
  }
}

/// Two adapters, and the pictures that their sums are tried on.
struct Mixture {
  std::string id, name, one, other;
  Digits pictures;
};

/// Adapters that end in "_again" are for the same task as those without, from another start.
std::vector<Mixture> mixtures(const Digits& held_out) {
  const std::vector<Task> tasks = all_tasks();
  const Digits left = tasks[0].of(held_out), mirrored_left = tasks[2].of(left);
  return {{"on_left", "turned left + mirrored, on turned left", "turned_left", "mirrored", left},
          {"on_mirrored", "... on mirrored", "turned_left", "mirrored", tasks[2].of(held_out)},
          {"on_both", "... on both: turned left, then mirrored", "turned_left", "mirrored", mirrored_left},
          {"left_twice", "turned left + turned left again, on turned left", "turned_left", "turned_left_again", left},
          {"noisy_twice", "noisy + noisy again, on noisy", "noisy", "noisy_again", tasks[4].of(held_out)}};
}

const Numbers shares = {0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};

/// What a mixture reads, for every share of the second adapter.
Numbers read_by(const Mixture& mixture, Network& net) {
  Numbers read;
  for (const double share : shares) {
    select_mix(net, mixture.one, mixture.other, share);
    read.push_back(examples::accuracy(net, mixture.pictures));
  }
  return read;
}

// All of it

/// Accuracies, (1 + tasks, tasks + 1): by the network alone and with each adapter, on the pictures of each task and on
/// upright ones.
Eigen::MatrixXd table_of_accuracies(Network& net, const std::vector<Task>& tasks, const Digits& held_out) {
  const Index count = std::ssize(tasks);
  Eigen::MatrixXd shares_read(count + 1, count + 1);
  for (Index adapter = -1; adapter < count; ++adapter) {
    switch_to(net, adapter, tasks);
    for (Index task = 0; task < count; ++task) {
      shares_read(adapter + 1, task) = examples::accuracy(net, tasks[static_cast<std::size_t>(task)].of(held_out));
    }
    shares_read(adapter + 1, count) = examples::accuracy(net, held_out);
  }
  return shares_read;
}

struct Served {
  double right = 0;
  double one_by_one = 0, in_groups = 0, from_many = 0;  // microseconds of processor time a request
  bool as_trained = false;                              // every answer is that of the networks before they were saved
  std::uintmax_t network_bytes = 0, adapter_bytes = 0;  // on disk; of one adapter
};

/// Saves the network and its adapters, loads them into another network and serves from that.
Served serve(Network& trained, const Stream& stream, const Settings& settings, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  lora::save_weights(trained, folder / "base.safetensors");
  for (const Task& task : stream.tasks) lora::save_adapter(trained, folder / "adapters", {.name = task.id});

  lora::Rng rng(0);
  Network net({examples::picture_pixels, settings.width, settings.width, examples::digit_classes}, rng);
  lora::load_weights(net, lora::Safetensors::open(folder / "base.safetensors"));
  for (const Task& task : stream.tasks) lora::load_adapter(net, folder / "adapters", task.id);
  std::vector<Network> merged;
  for (Index task = -1; task < std::ssize(stream.tasks); ++task) {
    merged.push_back(net);
    switch_to(merged.back(), task, stream.tasks);
    lora::merge(merged.back());
  }

  Served served;
  std::vector<int> answers;
  const auto microseconds = [&](const auto& answer) {
    double best = std::numeric_limits<double>::infinity();
    for (int attempt = 0; attempt < 5; ++attempt) {
      const std::clock_t start = std::clock();
      answers = answer();
      best = std::min(best, 1e6 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    }
    return best / static_cast<double>(stream.requests.size());
  };
  served.from_many = microseconds([&] { return serve_from_many(merged, stream); });
  served.in_groups = microseconds([&] { return serve_in_groups(net, stream); });
  served.one_by_one = microseconds([&] { return serve_one_by_one(net, stream); });
  served.right = stream.right(answers);
  served.as_trained = answers == serve_one_by_one(trained, stream);
  served.network_bytes = std::filesystem::file_size(folder / "base.safetensors");
  served.adapter_bytes = examples::bytes_of_files(folder / "adapters" / stream.tasks[0].id);
  return served;
}

struct Results {
  std::vector<Eigen::MatrixXd> accuracies;  // for each seed
  std::vector<std::vector<Numbers>> mixes;  // for each mixture and seed
  double folded_difference = 0;             // the largest between logits of a mix and of its folded form
  Served served;                            // of the first seed
  lora::ParameterCount parameters;
};

Results run(const Settings& settings, const std::filesystem::path& folder) {
  const std::vector<Task> tasks = all_tasks();
  const auto [train, held_out] = examples::split(examples::load_digits(), settings.pictures);
  const std::vector<Mixture> mixes = mixtures(held_out);
  Results results;
  results.mixes.resize(mixes.size());
  examples::Progress progress("adapters", settings.seeds * (std::ssize(tasks) + 1));
  long long done = 0;
  for (int s = 1; s <= settings.seeds; ++s) {
    const auto seed = static_cast<std::uint64_t>(s);
    Network net = trained_base(train, settings, seed);
    for (const Task& task : tasks) {
      add_adapter(net, task, train, settings, seed);
      progress.update(++done, "seed " + std::to_string(s) + ", " + task.name);
    }
    results.accuracies.push_back(table_of_accuracies(net, tasks, held_out));
    if (s == 1) {
      switch_to(net, 0, tasks);
      results.parameters = lora::count_parameters(net);
      results.served = serve(net, mixed_stream(held_out, settings.requests, lora::Rng(seed, 3)), settings, folder);
    }
    for (const std::size_t t : {0u, 4u}) {
      add_adapter(net, {tasks[t].id + "_again", tasks[t].name, tasks[t].change}, train, settings, seed + 1000);
    }
    for (std::size_t m = 0; m < mixes.size(); ++m) results.mixes[m].push_back(read_by(mixes[m], net));
    select_mix(net, "noisy", "noisy_again", 0.5);
    const MatrixXf logits = net(held_out.pixels);
    fold_mix(net, "noisy", "noisy_again", 0.5, "noisy_folded");
    const double difference = (net(held_out.pixels) - logits).cwiseAbs().maxCoeff();
    results.folded_difference = std::max(results.folded_difference, difference);
    progress.update(++done, "seed " + std::to_string(s) + ", mixed");
  }
  progress.finish();
  return results;
}

// What is shown of it

/// The mean of tables or of rows of numbers, entry by entry.
Eigen::MatrixXd mean_of(const std::vector<Eigen::MatrixXd>& tables) {
  Eigen::MatrixXd sum = tables[0];
  for (std::size_t i = 1; i < tables.size(); ++i) sum += tables[i];
  return sum / static_cast<double>(tables.size());
}

Numbers mean_of(const std::vector<Numbers>& rows) {
  Numbers means(rows[0].size());
  for (const Numbers& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) means[i] += row[i] / static_cast<double>(rows.size());
  }
  return means;
}

std::vector<Numbers> rows_of(const Eigen::MatrixXd& table) {
  std::vector<Numbers> rows;
  for (const auto& row : table.rowwise()) rows.emplace_back(row.begin(), row.end());
  return rows;
}

/// The names of the tasks between a first and a last one, where these are not empty.
std::vector<std::string> names_of(const std::string& first, const std::vector<Task>& tasks, const std::string& last) {
  std::vector<std::string> names;
  if (!first.empty()) names.push_back(first);
  for (const Task& task : tasks) names.push_back(task.name);
  if (!last.empty()) names.push_back(last);
  return names;
}

std::string accuracy_table(const Eigen::MatrixXd& accuracies, const std::vector<Task>& tasks) {
  examples::Table table(names_of("read with", tasks, "upright"));
  const std::vector<std::string> rows = names_of("no adapter", tasks, "");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::vector<std::string> cells = {rows[i]};
    for (const double share : accuracies.row(static_cast<Index>(i))) cells.push_back(percent(share));
    table.add(std::move(cells));
  }
  return table.text();
}

std::string serving_table(const Served& served) {
  examples::Table table({"requests of all tasks, mixed", "microseconds each", "networks in memory"});
  table.add({"one by one, the adapter switched for each", examples::fixed(served.one_by_one, 2), "1"})
      .add({"one by one, a merged network for each task", examples::fixed(served.from_many, 2), "6"})
      .add({"256 at a time, those of one task together", examples::fixed(served.in_groups, 2), "1"});
  return table.text();
}

std::string mixing_table(const Results& results, const std::vector<Mixture>& mixes) {
  examples::Table table({"adapters for, pictures", "the first alone", "half and half", "the second alone"});
  for (std::size_t m = 0; m < mixes.size(); ++m) {
    const Numbers read = mean_of(results.mixes[m]);
    table.add({mixes[m].name, percent(read.front()), percent(read[read.size() / 2]), percent(read.back())});
  }
  return table.text();
}

std::string report_of(const Results& results, const Settings& settings, const std::vector<Task>& tasks,
                      const std::vector<Mixture>& mixes) {
  const Served& served = results.served;
  nlohmann::ordered_json json;
  json["seeds"] = settings.seeds;
  json["rank"] = settings.rank;
  json["tasks"] = names_of("", tasks, "upright");
  json["adapter_parameters"] = results.parameters.trainable;
  json["network_bytes"] = served.network_bytes;
  json["adapter_bytes"] = served.adapter_bytes;
  json["requests"] = settings.requests;
  json["served_right"] = served.right;
  json["served_as_trained"] = served.as_trained;
  json["microseconds_one_by_one"] = served.one_by_one;
  json["microseconds_from_many_networks"] = served.from_many;
  json["microseconds_in_groups"] = served.in_groups;
  json["folded_difference"] = results.folded_difference;
  json["mix_shares"] = shares;
  for (std::size_t m = 0; m < mixes.size(); ++m) json["mix_" + mixes[m].id] = mean_of(results.mixes[m]);
  const std::vector<Numbers> rows = rows_of(mean_of(results.accuracies));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    json["read_with_" + (i == 0 ? "no_adapter" : tasks[i - 1].id)] = rows[i];
  }
  return json.dump(2) + "\n";
}

void show(const Results& results, const Settings& settings, const std::filesystem::path& folder) {
  const std::vector<Task> tasks = all_tasks();
  const std::vector<Mixture> mixes = mixtures(examples::split(examples::load_digits()).held_out);
  const Served& served = results.served;
  const Eigen::MatrixXd accuracies = mean_of(results.accuracies);
  const auto count = tasks.size();
  std::cout << '\n'
            << accuracy_table(accuracies, tasks) << "\nHeld-out digits read, means over " << settings.seeds
            << " networks. An adapter has " << examples::with_commas(results.parameters.trainable) << " parameters.\n\n"
            << serving_table(served) << "\nOf " << settings.requests << " requests " << percent(served.right)
            << " were read; every answer is that of the networks before they were saved: "
            << (served.as_trained ? "yes" : "NO") << ".\nOn disk: a network " << served.network_bytes
            << " bytes, an adapter " << served.adapter_bytes << ". " << count + 1 << " networks "
            << (count + 1) * served.network_bytes << ", one network and " << count << " adapters "
            << served.network_bytes + count * served.adapter_bytes << ".\n\n"
            << mixing_table(results, mixes) << "\nA mix folded into one adapter differs by at most "
            << results.folded_difference << " in any logit.\n";

  examples::write_file(
      folder / "tasks.svg",
      examples::heat_map({.title = "One network, five adapters",
                          .x_label = "pictures",
                          .y_label = "read with",
                          .rows = names_of("no adapter", tasks, ""),
                          .columns = names_of("", tasks, "upright"),
                          .panels = {{.title = "Held-out digits read, in per cent",
                                      .note = "means over " + std::to_string(settings.seeds) + " networks",
                                      .values = rows_of(accuracies)}},
                          .digits = 1}));
  examples::LineChart chart{.title = "A weighted sum of two adapters: what does it read?",
                            .x_label = "share of the second adapter: 0 is the first alone, 1 the second",
                            .y_label = "held-out digits read",
                            .percent_y = true,
                            .y_low = 0.0,
                            .y_high = 1.0};
  for (std::size_t m = 0; m < mixes.size(); ++m) {
    chart.series.push_back(
        {.name = mixes[m].name, .x = shares, .y = mean_of(results.mixes[m]), .dashed = mixes[m].id.ends_with("twice")});
  }
  examples::write_file(folder / "mixing.svg", examples::line_chart(chart));
  examples::write_file(folder / "report.json", report_of(results, settings, tasks, mixes));
  std::cout << "\nWrote report.json, tasks.svg, mixing.svg, base.safetensors and adapters/ to "
            << std::filesystem::absolute(folder).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::filesystem::path out = "many_tasks";
  examples::Program program("many_tasks", "Serves five tasks from one frozen network and five adapters.");
  program.add_option("--seeds", settings.seeds, "networks, each trained from a seed of its own")
      ->check(examples::positive);
  program.add_option("--base-epochs", settings.base_epochs, "passes over the upright digits")
      ->check(examples::positive);
  program.add_option("--epochs", settings.epochs, "passes over the digits of each task")->check(examples::positive);
  program.add_option("--rank", settings.rank, "of the adapters")->check(examples::positive);
  program.add_option("--requests", settings.requests, "to be served")->check(examples::positive);
  program.add_option("--out", out, "folder for report.json, the pictures, the network and the adapters");
  return program.run(argc, argv, [&] { show(run(settings, out), settings, out); });
}
