/// Will the model forget what it knew?
///
/// A 64-128-128-10 network reads upright digits. Then the camera is mounted sideways, and it must learn to read turned
/// ones. Five ways to teach it, all from the same trained network:
///
/// 1. all parameters      training simply goes on, with the new pictures
/// 2. new last layer      everything else is frozen
/// 3. gradual unfreezing  the last layer first, then those below, each at half the learning rate of the one above
/// 4. rewards (PPO)       the network guesses a digit, and all that it is ever told is whether the guess was right
/// 5. LoRA                everything is frozen; small factors are trained beside it, and can be switched off
///
/// How much of the new task is learned by then, and how much of the old one is left, is measured on pictures that no
/// training has seen, along the way and at the end. Then the same once more with rehearsal: every batch brings some of
/// the few old pictures that were kept. Every figure is a mean over several networks, each trained from its own seed.

#include "plotting/plane_chart.hpp"
#include "support/files.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/proximal_policy.hpp"
#include "support/rehearsal.hpp"
#include "support/statistics.hpp"
#include "support/table.hpp"
#include "support/training.hpp"

#include <lora/lora.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

using Eigen::Index;
using Eigen::MatrixXf;
using examples::Digits;
using examples::Network;
using Numbers = std::vector<double>;

struct Settings {
  int seeds = 5;
  int base_epochs = 40;
  int epochs = 60;
  Index width = 128;      // of the hidden layers
  Index pictures = 1200;  // to train on
  Index rehearsed = 8;    // old pictures beside the 32 new ones of a batch
};

struct Tasks {
  examples::Split upright, turned;  // the old one, the new one
};

Tasks load_tasks(Index pictures) {
  const auto [train, held_out] = examples::split(examples::load_digits(), pictures);
  const auto turned = [](const Digits& digits) { return Digits{examples::turned(digits.pixels, 1), digits.labels}; };
  return {{train, held_out}, {turned(train), turned(held_out)}};
}

/// The shares of held-out pictures that are read after so many steps.
struct Course {
  Numbers steps, turned, upright;
};

/// Of this program so far: what else the machine does has no part in it.
double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

/// A network on its way from the old task to the new one. It is watched after every step at first, because forgetting
/// is quick, then more and more seldom.
struct Learner {
  Network net;
  const Network& frozen;  // as it was
  const Tasks& tasks;
  examples::RehearsalBatches batches;
  std::uint64_t steps;  // to take
  lora::Rng rng;
  std::uint64_t seed;
  Course course = {};
  double seconds = 0;  // of the processor, without the watching

  void watch(std::uint64_t step, bool last = false) {
    const auto now = static_cast<double>(step);
    if (!last && !course.steps.empty() && now < 1.15 * course.steps.back()) return;
    const double start = processor_seconds();
    course.steps.push_back(now);
    course.turned.push_back(examples::accuracy(net, tasks.turned.held_out));
    course.upright.push_back(examples::accuracy(net, tasks.upright.held_out));
    seconds -= processor_seconds() - start;
  }
};

/// The weight decay of all five ways. It and their learning rates were chosen on 300 of the training pictures; the
/// held-out ones had no say.
constexpr double weight_decay = 0.1;

lora::Schedule schedule_of(std::uint64_t steps) {
  return {.shape = lora::ScheduleShape::cosine, .warmup = steps / 20, .total = steps};
}

/// Supervised learning of whatever is trainable. before_step(share) is told how much of the way is done.
void learn(Learner& learner, const lora::AdamWConfig& config, const std::function<void(double)>& before_step = {}) {
  const lora::Schedule schedule = schedule_of(learner.steps);
  lora::AdamW<float> optimizer(config);
  Network::Cache cache;
  MatrixXf dlogits;
  const lora::DenormalsAsZero scope;
  for (std::uint64_t step = 0; step < learner.steps; ++step) {
    if (before_step) before_step(static_cast<double>(step) / static_cast<double>(learner.steps));
    const Digits batch = learner.batches.next();
    const auto logits =
        learner.net.forward(batch.pixels, cache, {.training = true, .seed = learner.seed, .step = step});
    lora::softmax_cross_entropy(logits, batch.labels, &dlogits);
    lora::zero_gradients(learner.net);
    learner.net.backward(batch.pixels, dlogits, cache, lora::no_gradient);
    optimizer.step(learner.net, schedule(step));
    learner.watch(step + 1, step + 1 == learner.steps);
  }
}

// 1. All parameters

void train_everything(Learner& learner) { learn(learner, {.lr = 2e-3, .weight_decay = weight_decay}); }

// 2. A new last layer

void train_new_last_layer(Learner& learner) {
  lora::freeze(learner.net);
  auto& last = learner.net.layers().back();
  last = lora::Linear<float>({.in = last.in_features(), .out = last.out_features()}, learner.rng);
  learn(learner, {.lr = 2e-2, .weight_decay = weight_decay});
}

// 3. Gradual unfreezing (Howard and Ruder 2018, arXiv:1801.06146): one more layer after each sixth of the way, and half
//    the learning rate for each layer further down. AdamW divides by the size of the gradients, so it would not notice
//    if these were halved instead.

void train_gradually(Learner& learner) {
  constexpr double rate = 4e-3, sixth = 1.0 / 6;
  const auto of_layer = [](const char* name) {
    return [name](const lora::Path& path) { return path.str().starts_with(name); };
  };
  auto& layers = learner.net.layers();
  lora::freeze(learner.net);
  learn(learner,
        {.lr = rate,
         .weight_decay = weight_decay,
         .groups = {{.select = of_layer("fc2"), .lr = rate / 2}, {.select = of_layer("fc1"), .lr = rate / 4}}},
        [&](double share) {
          for (std::size_t above = 0; above < layers.size(); ++above) {
            if (share >= static_cast<double>(above) * sixth) lora::unfreeze(layers[layers.size() - 1 - above]);
          }
        });
}

// 4. Rewards alone: proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347, eq. 7). The classifier is the
//    policy: pi(a | x) = softmax(z)_a is the probability with which it guesses the digit a.

void train_by_rewards(Learner& learner) {
  constexpr Index batches = 5;  // in a rollout
  constexpr int passes = 4;     // over a rollout
  constexpr examples::ProximalPolicy settings{.clip = 0.2f, .kl = 0.01f};
  const std::uint64_t rollouts = learner.steps / batches;
  const lora::Schedule schedule = schedule_of(rollouts * batches * passes);
  lora::AdamW<float> optimizer({.lr = 2e-3, .weight_decay = weight_decay});
  Network::Cache cache;
  MatrixXf dlogits;
  std::uint64_t step = 0;
  const lora::DenormalsAsZero scope;
  for (std::uint64_t rollout = 0; rollout < rollouts; ++rollout) {
    const Digits digits = learner.batches.next(batches);
    const auto reward = [&](Index picture, int guess) {
      return guess == digits.labels[static_cast<std::size_t>(picture)] ? 1.0f : 0.0f;
    };
    const examples::Guesses guesses =
        examples::make_guesses(learner.net(digits.pixels), learner.frozen(digits.pixels), learner.rng, reward);
    for (int pass = 0; pass < passes; ++pass) {
      for (Index first = 0; first < digits.count(); first += learner.batches.size()) {
        const auto pixels = digits.pixels.middleCols(first, learner.batches.size());
        const auto logits = learner.net.forward(pixels, cache);
        examples::proximal_policy_loss(logits, guesses, first, settings, dlogits);
        lora::zero_gradients(learner.net);
        learner.net.backward(pixels, dlogits, cache, lora::no_gradient);
        optimizer.step(learner.net, schedule(step++));
        learner.watch(step, step == schedule.total);
      }
    }
  }
}

// 5. LoRA

void train_lora(Learner& learner) {
  lora::attach(learner.net, {.rank = 8, .alpha = 16}, learner.rng);
  learn(learner, {.lr = 1.6e-2, .weight_decay = weight_decay});
}

// All of them

struct Way {
  std::string id, name, color;
  void (*train)(Learner&);
};

std::vector<Way> all_ways() {
  return {{"all", "all parameters", "#b5485d", train_everything},
          {"last_layer", "new last layer", "#8a8d91", train_new_last_layer},
          {"gradual", "gradual unfreezing", "#d98032", train_gradually},
          {"ppo", "rewards (PPO)", "#7d5ba6", train_by_rewards},
          {"lora", "LoRA, rank 8", "#2a6fb0", train_lora}};
}

/// One way from one trained network.
struct Outcome {
  Course course;
  Index trained = 0;  // parameters
  double seconds = 0;
  double turned_off = 0, upright_off = 0;  // read with every adapter switched off
  bool off_is_frozen = false;              // whether that is the network before, in every logit

  double turned() const { return course.turned.back(); }
  double upright() const { return course.upright.back(); }
};

Outcome adapt(const Way& way, const Network& base, const Tasks& tasks, const Settings& settings, bool rehearsal,
              std::uint64_t seed) {
  examples::RehearsalBatches batches(tasks.turned.train, tasks.upright.train,
                                     {.rehearsed = rehearsal ? settings.rehearsed : 0}, lora::Rng(seed));
  const std::uint64_t steps = batches.per_epoch() * static_cast<std::uint64_t>(settings.epochs);
  Learner learner{base, base, tasks, std::move(batches), steps, lora::Rng(seed, 1), seed};
  learner.watch(0);
  const double start = processor_seconds();
  way.train(learner);
  learner.seconds += processor_seconds() - start;

  Outcome outcome{learner.course, lora::count_parameters(learner.net).trainable, learner.seconds};
  lora::select_none(learner.net);
  const MatrixXf turned = learner.net(tasks.turned.held_out.pixels);
  const MatrixXf upright = learner.net(tasks.upright.held_out.pixels);
  outcome.turned_off = lora::accuracy(turned, tasks.turned.held_out.labels);
  outcome.upright_off = lora::accuracy(upright, tasks.upright.held_out.labels);
  outcome.off_is_frozen =
      turned == base(tasks.turned.held_out.pixels) && upright == base(tasks.upright.held_out.pixels);
  return outcome;
}

/// Every way from every seed, without and with rehearsal.
struct Results {
  Numbers base_turned, base_upright;                                  // before
  std::map<std::string, std::vector<Outcome>> alone, with_rehearsal;  // by the id of the way; one for each seed
};

Results run(const Settings& settings) {
  const Tasks tasks = load_tasks(settings.pictures);
  Results results;
  const std::vector<Way> ways = all_ways();
  examples::Progress progress("networks", settings.seeds * (2 * std::ssize(ways) + 1));
  long long done = 0;
  for (int s = 1; s <= settings.seeds; ++s) {
    const auto seed = static_cast<std::uint64_t>(s);
    const auto note = [&](const std::string& name) {
      progress.update(++done, "seed " + std::to_string(s) + ", " + name);
    };
    lora::Rng rng(seed);
    Network base({examples::picture_pixels, settings.width, settings.width, examples::digit_classes}, rng);
    examples::train(base, tasks.upright.train,
                    {.epochs = settings.base_epochs, .learning_rate = 2e-3, .weight_decay = 0.3, .seed = seed},
                    [](int, double) {});
    results.base_turned.push_back(examples::accuracy(base, tasks.turned.held_out));
    results.base_upright.push_back(examples::accuracy(base, tasks.upright.held_out));
    note("before");
    for (const bool rehearsal : {false, true}) {
      for (const Way& way : ways) {
        auto& outcomes = (rehearsal ? results.with_rehearsal : results.alone)[way.id];
        outcomes.push_back(adapt(way, base, tasks, settings, rehearsal, seed));
        note(way.name);
      }
    }
  }
  progress.finish();
  return results;
}

// What is shown of it

/// One figure of every seed: numbers_of(outcomes, &Outcome::turned).
template <class Member>
Numbers numbers_of(const std::vector<Outcome>& outcomes, Member member) {
  Numbers numbers;
  for (const Outcome& outcome : outcomes) numbers.push_back(static_cast<double>(std::invoke(member, outcome)));
  return numbers;
}

bool off_is_frozen(const std::vector<Outcome>& outcomes) {
  return std::all_of(outcomes.begin(), outcomes.end(), [](const Outcome& outcome) { return outcome.off_is_frozen; });
}

std::string table_of(const Results& results, bool rehearsal) {
  using examples::percent_with_spread;
  examples::Table table({rehearsal ? "with rehearsal" : "new pictures only", "turned: the new task",
                         "upright: the old one", "trained", "seconds"});
  table.add({"before", percent_with_spread(results.base_turned), percent_with_spread(results.base_upright), "", ""});
  for (const Way& way : all_ways()) {
    const auto& outcomes = (rehearsal ? results.with_rehearsal : results.alone).at(way.id);
    const bool is_lora = way.id == "lora";
    table.add({way.name + (is_lora ? ", adapter on" : ""), percent_with_spread(numbers_of(outcomes, &Outcome::turned)),
               percent_with_spread(numbers_of(outcomes, &Outcome::upright)), examples::with_commas(outcomes[0].trained),
               examples::fixed(examples::mean(numbers_of(outcomes, &Outcome::seconds)), 2)});
    if (!is_lora) continue;
    table.add({way.name + ", adapter off", percent_with_spread(numbers_of(outcomes, &Outcome::turned_off)),
               percent_with_spread(numbers_of(outcomes, &Outcome::upright_off)), "", ""});
  }
  return table.text();
}

/// The mean over the seeds, point by point.
Numbers mean_course(const std::vector<Outcome>& outcomes, Numbers Course::* part) {
  Numbers sum((outcomes[0].course.*part).size());
  for (const Outcome& outcome : outcomes) {
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += (outcome.course.*part)[i] / static_cast<double>(outcomes.size());
    }
  }
  return sum;
}

std::string chart_of(const Results& results) {
  const auto panel = [&](const std::string& title, const std::map<std::string, std::vector<Outcome>>& of_ways) {
    examples::PlanePanel drawn{.title = title};
    for (const Way& way : all_ways()) {
      const auto& outcomes = of_ways.at(way.id);
      examples::PlanePath path{.name = way.name,
                               .color = way.color,
                               .x = mean_course(outcomes, &Course::turned),
                               .y = mean_course(outcomes, &Course::upright),
                               .x_spread = examples::spread(numbers_of(outcomes, &Outcome::turned)),
                               .y_spread = examples::spread(numbers_of(outcomes, &Outcome::upright))};
      if (way.id == "lora") {
        path.strong = true;
        path.goal = {path.x.back(), examples::mean(numbers_of(outcomes, &Outcome::upright_off))};
      }
      drawn.paths.push_back(std::move(path));
    }
    return drawn;
  };
  return examples::plane_chart({.title = "Learning turned digits: what is left of the upright ones?",
                                .x_label = "turned digits read: the new task",
                                .y_label = "upright digits read: the old task",
                                .start_label = "before",
                                .goal_label = "LoRA, on for turned digits and off for upright ones",
                                .panels = {panel("New pictures only", results.alone),
                                           panel("With rehearsal of a few old ones", results.with_rehearsal)}});
}

std::string report_of(const Results& results, const Settings& settings) {
  nlohmann::ordered_json json;
  json["seeds"] = settings.seeds;
  json["epochs"] = settings.epochs;
  json["rehearsed_in_a_batch"] = settings.rehearsed;
  json["before_turned"] = results.base_turned;
  json["before_upright"] = results.base_upright;
  for (const bool rehearsal : {false, true}) {
    for (const auto& [id, outcomes] : rehearsal ? results.with_rehearsal : results.alone) {
      const std::string name = (rehearsal ? "rehearsal_" : "") + id;
      json[name + "_turned"] = numbers_of(outcomes, &Outcome::turned);
      json[name + "_upright"] = numbers_of(outcomes, &Outcome::upright);
      json[name + "_parameters"] = outcomes[0].trained;
      json[name + "_seconds"] = numbers_of(outcomes, &Outcome::seconds);
      json[name + "_course_steps"] = outcomes[0].course.steps;
      json[name + "_course_turned"] = mean_course(outcomes, &Course::turned);
      json[name + "_course_upright"] = mean_course(outcomes, &Course::upright);
      if (id != "lora") continue;
      json[name + "_off_turned"] = numbers_of(outcomes, &Outcome::turned_off);
      json[name + "_off_upright"] = numbers_of(outcomes, &Outcome::upright_off);
      json[name + "_off_is_the_network_before"] = off_is_frozen(outcomes);
    }
  }
  return json.dump(2) + "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  std::filesystem::path out = "forgetting";
  examples::Program program("forgetting", "Teaches a network turned digits in five ways: what does it forget?");
  program.add_option("--seeds", settings.seeds, "networks, each trained from a seed of its own")
      ->check(examples::positive);
  program.add_option("--base-epochs", settings.base_epochs, "passes over the upright digits")
      ->check(examples::positive);
  program.add_option("--epochs", settings.epochs, "passes over the turned digits")->check(examples::positive);
  program.add_option("--rehearsed", settings.rehearsed, "upright digits beside the 32 turned ones of a batch")
      ->check(examples::positive);
  program.add_option("--out", out, "folder for report.json and the picture");
  return program.run(argc, argv, [&] {
    const Results results = run(settings);
    std::cout << '\n'
              << table_of(results, false) << '\n'
              << table_of(results, true) << "\nHeld-out digits read, mean and standard deviation over "
              << settings.seeds << " networks. LoRA switched off is the network before, in every logit: "
              << (off_is_frozen(results.alone.at("lora")) && off_is_frozen(results.with_rehearsal.at("lora")) ? "yes"
                                                                                                              : "NO")
              << ".\n";
    examples::write_file(out / "forgetting.svg", chart_of(results));
    examples::write_file(out / "report.json", report_of(results, settings));
    std::cout << "Wrote report.json and forgetting.svg to " << std::filesystem::absolute(out).string() << "\n";
  });
}
