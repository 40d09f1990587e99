// The program itself is under test, so its main has another name here.
#define main mixing_main
#include "examples/mixing.cpp"
#undef main

#include "support/catch.hpp"

namespace {

Network untrained(Index width) {
  lora::Rng rng(1);
  return Network({64, width, width, 10}, rng);
}

std::string name_of(const Plan& plan) {
  std::string name;
  for (std::size_t l = 0; l < plan.choices.size(); ++l) name += (l == 0 ? "" : ", ") + text_of(plan, l);
  return name;
}

}  // namespace

TEST_CASE("mixing: every plan within the budget, each with the largest rank that fits") {
  const Network net = untrained(128);
  const std::vector<Plan> plans = plans_within(2400, net);
  CHECK(plans.size() == 11);  // of 26, those without ordinary training of fc1 or fc2
  std::vector<std::string> names;
  for (const Plan& plan : plans) names.push_back(name_of(plan));
  for (const std::string name : {"rank 12, frozen, frozen", "rank 4, rank 4, rank 4", "rank 2, rank 2, all",
                                 "frozen, frozen, rank 10", "frozen, frozen, all"}) {
    INFO(name);
    CHECK(std::count(names.begin(), names.end(), name) == 1);
  }
  CHECK(plans_within(9610, net).size() == 16);  // fc1 and fc3 in full are 9,610 numbers, which leaves none for fc2
  CHECK(plans_within(64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10, net).size() == 26);
  CHECK(plans_within(137, net).empty());
  CHECK(plans_within(138, net).size() == 1);

  for (const Plan& plan : plans) {
    Network mixed = net;
    lora::Rng rng(2);
    prepare(mixed, plan, rng);
    INFO(name_of(plan));
    CHECK(lora::count_parameters(mixed).trainable == plan.size);
    CHECK(plan.size <= 2400);
  }
}

TEST_CASE("mixing: a plan trains what it says, each part with its learning rate") {
  const Network net = untrained(16);
  Plan plan = plan_of(net, {Choice::ordinary, Choice::frozen, Choice::factors}, 3);
  lora::Rng rng(2);
  Network mixed = net;
  prepare(mixed, plan, rng);
  const Network before = mixed;
  const Digits digits = examples::split(examples::load_digits(), 64).train;
  learn(mixed, digits, 2, mixed_rates(), 1);
  CHECK(mixed.layers()[0].dense() != net.layers()[0].dense());
  CHECK(*mixed.layers()[0].bias() != *net.layers()[0].bias());
  for (const std::size_t l : {1u, 2u}) {
    CHECK(mixed.layers()[l].dense() == net.layers()[l].dense());
    CHECK(*mixed.layers()[l].bias() == *net.layers()[l].bias());
  }
  CHECK_FALSE(mixed.layers()[2].delta().isZero(0));

  // Adam's first step moves every number by about its learning rate
  const auto moved = [&](const lora::AdamWConfig& config) {
    Network one = before;
    Network::Cache cache;
    Eigen::MatrixXf dlogits;
    lora::softmax_cross_entropy(one.forward(digits.pixels, cache), digits.labels, &dlogits);
    one.backward(digits.pixels, dlogits, cache, lora::no_gradient);
    auto& factors = one.layers()[2].adapter("default").as<lora::Lora<float>>();
    factors.A.gradient().setOnes();  // B is zero at first, and so is A's own gradient
    lora::AdamW<float>(config).step(one);
    const auto& old = before.layers()[2].adapters().at("default").as<lora::Lora<float>>();
    return std::array<double, 3>{
        static_cast<double>((one.layers()[0].dense() - net.layers()[0].dense()).cwiseAbs().maxCoeff()),
        static_cast<double>((factors.A.value - old.A.value).cwiseAbs().maxCoeff()),
        static_cast<double>((factors.B.value - old.B.value).cwiseAbs().maxCoeff())};
  };
  const auto mixed_steps = moved(mixed_rates());
  CHECK(mixed_steps[0] == Approx(ordinary_rate).epsilon(1e-3));
  CHECK(mixed_steps[1] == Approx(lora_rate).epsilon(1e-3));
  CHECK(mixed_steps[2] == Approx(lora_rate).epsilon(1e-3));
  const auto plus_steps = moved(lora_plus(16e-3, 4));
  CHECK(plus_steps[1] == Approx(4e-3).epsilon(1e-3));
  CHECK(plus_steps[2] == Approx(16e-3).epsilon(1e-3));
}

TEST_CASE("mixing: the claims of examples/README.md, in small") {
  const Settings small{.seeds = 2,
                       .base_epochs = 20,
                       .epochs = 40,
                       .short_epochs = 12,
                       .width = 64,
                       .pictures = 600,
                       .budgets = {1400},
                       .b_rates = {4e-3, 16e-3, 64e-3},
                       .ratios = {1, 16}};
  const Results results = run(small);
  const auto accuracy = [&](const std::string& name) {
    for (std::size_t p = 0; p < results.plans[0].size(); ++p) {
      if (name_of(results.plans[0][p]) == name) return examples::mean(results.accuracies[0][p]);
    }
    FAIL("no plan " + name);
    return 0.0;
  };
  // the budget is best spent on the first layer, and worst on the last one alone
  CHECK(accuracy("rank 10, frozen, frozen") >= accuracy("frozen, rank 10, frozen"));
  CHECK(accuracy("rank 10, frozen, frozen") >= accuracy("frozen, frozen, rank 10") + 0.08);
  CHECK(accuracy("rank 10, frozen, frozen") >= accuracy("frozen, frozen, all") + 0.08);
  CHECK(examples::mean(results.accuracies[0][best_first(results.accuracies[0])[0]]) >=
        accuracy("rank 10, frozen, frozen"));
  // in a short training B that learns faster than A beats the best rate of both
  const auto best = [](const std::vector<Numbers>& of_rates) {
    double largest = 0;
    for (const Numbers& shares : of_rates) largest = std::max(largest, examples::mean(shares));
    return largest;
  };
  CHECK(best(results.plus[1]) > best(results.plus[0]));
  CHECK(examples::mean(results.plus[1].back()) >= examples::mean(results.plus[0].back()) + 0.3);
  CHECK_NOTHROW(report_of(results, small));
  CHECK_NOTHROW(plus_chart(results, small));
}

TEST_CASE("choice chart: tiles and dots") {
  examples::ChoiceChart chart{.title = "T",
                              .x_label = "x",
                              .columns = {"a", "b"},
                              .legend = {{"kind", "#123456"}},
                              .panels = {{"first", {{{{"one", "#111111"}, {"two", "#222222"}}, 0.75, 0.05}}}}};
  const std::string svg = examples::choice_chart(chart);
  CHECK_THAT(svg, lora_test::contains(">75.0 %</text>"));
  // the axis goes from 70 % at x = 160 to 100 % at x = 370
  CHECK_THAT(svg, lora_test::contains("<circle cx=\"195.00\""));
  CHECK_THAT(svg, lora_test::contains("fill=\"#222222\""));
  chart.panels[0].rows[0].tiles.pop_back();
  CHECK_THROWS_AS(examples::choice_chart(chart), std::invalid_argument);
}
