// The program itself is under test, so its main has another name here.
#define main forgetting_main
#include "examples/forgetting.cpp"
#undef main

#include "support/catch.hpp"

namespace {

double mean_of(const std::vector<Outcome>& outcomes, double (Outcome::*share)() const) {
  return examples::mean(numbers_of(outcomes, share));
}

}  // namespace

TEST_CASE("forgetting: the claims of examples/README.md, in small") {
  const Settings small{.seeds = 2, .base_epochs = 20, .epochs = 45, .width = 64, .pictures = 600};
  const Results results = run(small);
  const double before = examples::mean(results.base_upright);
  const double all = mean_of(results.alone.at("all"), &Outcome::turned);

  CHECK(before >= 0.9);
  CHECK(examples::mean(results.base_turned) <= 0.2);
  // full fine-tuning forgets at least 30 points; so does every other way that changes what answers
  for (const std::string id : {"all", "last_layer", "gradual", "ppo", "lora"}) {
    INFO(id);
    CHECK(before - mean_of(results.alone.at(id), &Outcome::upright) >= 0.3);
  }
  // LoRA switched off forgets nothing at all
  for (const auto* outcomes : {&results.alone.at("lora"), &results.with_rehearsal.at("lora")}) {
    CHECK(off_is_frozen(*outcomes));
    CHECK(numbers_of(*outcomes, &Outcome::upright_off) == results.base_upright);
    CHECK(numbers_of(*outcomes, &Outcome::turned_off) == results.base_turned);
  }
  CHECK_FALSE(off_is_frozen(results.alone.at("all")));
  // LoRA of rank 8 learns the new task within 2 points of full fine-tuning, a new last layer at least 8 points less
  CHECK(mean_of(results.alone.at("lora"), &Outcome::turned) >= all - 0.02);
  CHECK(mean_of(results.alone.at("last_layer"), &Outcome::turned) <= all - 0.08);
  // rewards alone are enough
  CHECK(mean_of(results.alone.at("ppo"), &Outcome::turned) >= 0.8);
  // rehearsal keeps most of the old task, at the price of little of the new one
  for (const std::string id : {"all", "gradual", "lora"}) {
    INFO(id);
    CHECK(before - mean_of(results.with_rehearsal.at(id), &Outcome::upright) <= 0.2);
    CHECK(mean_of(results.with_rehearsal.at(id), &Outcome::turned) >=
          mean_of(results.alone.at(id), &Outcome::turned) - 0.05);
  }
  CHECK(results.alone.at("all")[0].trained == 65 * 64 + 65 * 64 + 65 * 10);
  CHECK(results.alone.at("gradual")[0].trained == results.alone.at("all")[0].trained);
  CHECK(results.alone.at("last_layer")[0].trained == 65 * 10);
  CHECK(results.alone.at("lora")[0].trained == 8 * (64 + 64 + 64 + 64 + 64 + 10));
}

TEST_CASE("forgetting: a new last layer changes nothing below it, gradual unfreezing opens the network from the top") {
  const Tasks tasks = load_tasks(64);
  lora::Rng rng(3);
  const Network base({64, 8, 8, 10}, rng);
  const auto trained = [&](void (*way)(Learner&), std::uint64_t steps) {
    examples::RehearsalBatches batches(tasks.turned.train, tasks.upright.train, {.rehearsed = 0}, lora::Rng(1));
    Learner learner{base, base, tasks, std::move(batches), steps, lora::Rng(2), 2};
    way(learner);
    return learner;
  };
  const auto moved = [&](const Learner& learner, std::size_t l) {
    return learner.net.layers()[l].dense() != base.layers()[l].dense();
  };

  const Learner last = trained(train_new_last_layer, 20);
  CHECK_FALSE(moved(last, 0));
  CHECK_FALSE(moved(last, 1));
  CHECK(moved(last, 2));
  CHECK(last.course.steps.back() == 20);

  const Learner whole = trained(train_gradually, 24);
  for (const std::size_t l : {0u, 1u, 2u}) CHECK(moved(whole, l));
  // in one step only the last layer is open; its learning rate is not 0 because there is no warm-up of 20 steps
  const Learner first = trained(train_gradually, 1);
  CHECK_FALSE(moved(first, 0));
  CHECK_FALSE(moved(first, 1));
  CHECK(moved(first, 2));
}

TEST_CASE("proximal policy: the derivative is that of the loss") {
  lora::Rng rng(5);
  const auto random = [&](Eigen::Index rows, Eigen::Index cols) {
    return MatrixXf(MatrixXf::NullaryExpr(rows, cols, [&] { return rng.normal<float>(); }));
  };
  const Eigen::Index n = 12, first = 4;
  const MatrixXf reference = random(10, n);
  MatrixXf logits = random(10, n);
  examples::Guesses guesses =
      examples::make_guesses(logits, reference, rng, [](Eigen::Index, int guess) { return guess < 5 ? 1.0f : 0.0f; });
  // the policy has moved on since it guessed: for some pictures so far that the clip takes hold
  logits += 0.5f * random(10, n);
  const MatrixXf part = logits.rightCols(n - first);
  const examples::ProximalPolicy settings{.clip = 0.2f, .kl = 0.3f};
  MatrixXf derivative, unused;
  examples::proximal_policy_loss(part, guesses, first, settings, derivative);
  for (Eigen::Index j = 0; j < part.cols(); ++j) {
    for (Eigen::Index k = 0; k < part.rows(); ++k) {
      const float h = 1e-2f;
      MatrixXf moved = part;
      moved(k, j) += h;
      const float above = examples::proximal_policy_loss(moved, guesses, first, settings, unused);
      moved(k, j) -= 2 * h;
      const float below = examples::proximal_policy_loss(moved, guesses, first, settings, unused);
      INFO(k << " of picture " << j);
      CHECK(std::abs((above - below) / (2 * h) - derivative(k, j)) <= 5e-5f);
    }
  }
}

TEST_CASE("proximal policy: what is clipped pulls no further, what went wrong does") {
  // two classes, probability 1/2 each at the time of the guess, no reference
  examples::Guesses guesses{{0, 0, 0, 0},
                            Eigen::VectorXf::Constant(4, std::log(0.5f)),
                            (Eigen::VectorXf(4) << 1, 1, -1, -1).finished(),
                            MatrixXf::Constant(2, 4, std::log(0.5f))};
  const examples::ProximalPolicy no_reference{.clip = 0.2f, .kl = 0};
  MatrixXf logits(2, 4), derivative;
  logits << 1, -1, 1, -1, 0, 0, 0, 0;  // the guess has become likelier, less likely, likelier, less likely
  const float loss = examples::proximal_policy_loss(logits, guesses, 0, no_reference, derivative);
  CHECK(derivative.col(0).isZero(0));
  CHECK(derivative(0, 1) < 0);
  CHECK(derivative(0, 2) > 0);
  CHECK(derivative.col(3).isZero(0));
  const float likely = 2 / (1 + std::exp(-1.0f)), unlikely = 2 - likely;  // the ratios
  CHECK(loss == Approx((-1.2f - unlikely + likely + 0.8f) / 4));
  // the derivative of -ratio A by the logit of the guess is -ratio A (1 - pi(guess))
  CHECK(derivative(0, 1) == Approx(-unlikely * (1 - unlikely / 2) / 4));
}

TEST_CASE("proximal policy: guesses follow the policy, advantages have mean 0 and deviation 1") {
  const Eigen::Index n = 4000;
  MatrixXf logits(3, n);
  logits.colwise() = Eigen::Vector3f(std::log(0.5f), std::log(0.3f), std::log(0.2f));
  lora::Rng rng(7);
  const examples::Guesses guesses =
      examples::make_guesses(logits, logits, rng, [](Eigen::Index, int guess) { return guess == 1 ? 1.0f : 0.0f; });
  for (const auto& [guess, probability] : {std::pair{0, 0.5}, std::pair{1, 0.3}, std::pair{2, 0.2}}) {
    const auto count = std::count(guesses.classes.begin(), guesses.classes.end(), guess);
    // five standard deviations of a binomial share
    CHECK(std::abs(static_cast<double>(count) / n - probability) <= 5 * std::sqrt(probability * (1 - probability) / n));
  }
  CHECK(std::abs(guesses.advantage.mean()) <= 1e-4f);
  CHECK(guesses.advantage.squaredNorm() / static_cast<float>(n) == Approx(1).epsilon(1e-3));
  for (std::size_t j = 0; j < guesses.classes.size(); ++j) {
    const auto picture = static_cast<Eigen::Index>(j);
    CHECK((guesses.advantage(picture) > 0) == (guesses.classes[j] == 1));
    CHECK(guesses.log_likelihood(picture) == guesses.log_reference(guesses.classes[j], picture));
  }
}

TEST_CASE("rehearsal: every new picture once an epoch, old ones only from those that were kept") {
  Digits fresh{MatrixXf::Zero(64, 10), {}}, old{MatrixXf::Zero(64, 50), {}};
  for (int i = 0; i < 10; ++i) fresh.labels.push_back(i);
  for (int i = 0; i < 50; ++i) old.labels.push_back(100 + i);
  for (Eigen::Index i = 0; i < 50; ++i) old.pixels(0, i) = static_cast<float>(100 + i);
  for (Eigen::Index i = 0; i < 10; ++i) fresh.pixels(0, i) = static_cast<float>(i);
  examples::RehearsalBatches batches(fresh, old, {.fresh = 5, .rehearsed = 2, .kept = 3}, lora::Rng(1));
  CHECK(batches.size() == 7);
  CHECK(batches.per_epoch() == 2);
  std::vector<int> seen, rehearsed;
  const Digits epoch = batches.next(2);
  REQUIRE(epoch.count() == 14);
  for (std::size_t j = 0; j < epoch.labels.size(); ++j) {
    CHECK(epoch.pixels(0, static_cast<Eigen::Index>(j)) == static_cast<float>(epoch.labels[j]));
    (j % 7 < 5 ? seen : rehearsed).push_back(epoch.labels[j]);
  }
  std::sort(seen.begin(), seen.end());
  CHECK(seen == fresh.labels);
  for (const int label : rehearsed) CHECK((label >= 100 && label < 103));

  examples::RehearsalBatches alone(fresh, old, {.fresh = 5, .rehearsed = 0}, lora::Rng(1));
  CHECK(alone.next().count() == 5);
}

TEST_CASE("statistics: mean and spread") {
  CHECK(examples::mean({}) == 0);
  CHECK(examples::mean({1, 2, 6}) == 3);
  CHECK(examples::spread({5}) == 0);
  CHECK(examples::spread({1, 2, 6}) == Approx(std::sqrt(7.0)));
  CHECK(examples::percent_with_spread({0.5, 0.5}) == "50.0 ± 0.0 %");
}

TEST_CASE("plane chart: paths end where their shares say") {
  examples::PlanePath path{.name = "path <1>", .color = "#123456", .x = {0, 0.5}, .y = {1, 0.5}};
  path.goal = {0.5, 1};
  examples::PlaneChart chart{.title = "T",
                             .x_label = "x",
                             .y_label = "y",
                             .start_label = "start",
                             .goal_label = "goal",
                             .panels = {{"first", {path}}, {"second", {path}}}};
  const std::string svg = examples::plane_chart(chart);
  CHECK_THAT(svg, lora_test::contains("points=\"84.00,120.00 266.00,302.00\""));
  CHECK_THAT(svg, lora_test::contains("points=\"504.00,120.00 686.00,302.00\""));
  CHECK_THAT(svg, lora_test::contains("<circle cx=\"266.00\" cy=\"120.00\""));  // the goal
  CHECK_THAT(svg, lora_test::contains("<text x=\"96.00\" y=\"120.00\""));       // "start", beside it
  CHECK_THAT(svg, lora_test::contains(">path &lt;1&gt;</text>"));
  chart.panels[0].paths[0].y.pop_back();
  CHECK_THROWS_AS(examples::plane_chart(chart), std::invalid_argument);
  CHECK_NOTHROW(examples::plane_chart({}));
}
