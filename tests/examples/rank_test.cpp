#include "support/svd.hpp"

// The program itself is under test, so its main has another name here.
#define main rank_main
#include "examples/rank.cpp"
#undef main

#include "support/catch.hpp"

#include <atomic>
#include <stdexcept>

TEST_CASE("rank: the claims of examples/README.md, in small") {
  const Settings small{.seeds = 2,
                       .base_epochs = 20,
                       .epochs = 45,
                       .width = 64,
                       .pictures = 600,
                       .ranks = {1, 8, 64},
                       .dimensions = {16, 512}};
  const std::vector<OfSeed> results = run(small);
  const double all = mean_of(results, figures::all);
  const auto accuracy = [&](const auto& figure, std::size_t i) { return mean_of(results, figure, i); };

  // LoRA of rank 8 learns what training all weights does, rank 1 clearly less, and rank 64 hardly more
  CHECK(all >= 0.9);
  CHECK(accuracy(figures::by_rank, 1) >= all - 0.02);
  CHECK(accuracy(figures::by_root, 1) >= all - 0.02);
  CHECK(accuracy(figures::by_rank, 0) <= accuracy(figures::by_rank, 1) - 0.02);
  CHECK(accuracy(figures::by_rank, 2) <= accuracy(figures::by_rank, 1) + 0.02);
  CHECK(results[0].by_rank[1].size == 8 * (64 + 64 + 64 + 64 + 64 + 10));
  // trained LoRA is far better than the best part of that rank of what all weights changed, and far from it
  CHECK(accuracy(figures::nearest, 0) <= accuracy(figures::by_rank, 0) - 0.3);
  for (const OfSeed& result : results) {
    CHECK(result.nearest.back() == Approx(result.all.accuracy).margin(0.005));
    CHECK(result.nearest_error.back() <= 1e-5);
    for (std::size_t i = 0; i < small.ranks.size(); ++i) {
      CHECK(result.nearest_error[i] < result.lora_error[i]);  // the theorem of Eckart and Young
      CHECK(result.lora_error[i] >= 1);
    }
    CHECK(result.nearest_error[0] > result.nearest_error[1]);
    // trainings from other starts read the same directions of the pictures, far beyond chance
    CHECK(result.same[0][1][1] >= 3 * 8.0 / 64);
    CHECK(std::isnan(result.same[0][1][0]));
  }
  // a few hundred random dimensions are enough
  CHECK(accuracy(figures::subspace, 1) >= nine_tenths(results));
  CHECK(accuracy(figures::subspace, 0) < nine_tenths(results) - 0.2);
  const double dimension = intrinsic_dimension(results, small.dimensions);
  CHECK((dimension > 16 && dimension <= 512));
  CHECK(intrinsic_dimension(results, {16}) == 0);
  // the suggestions
  for (const auto advice : {&OfSeed::by_all, &OfSeed::by_probe}) {
    CHECK(mean_of(results, [&](const OfSeed& s, std::size_t) { return (s.*advice).one_rank.accuracy; }) >= all - 0.04);
    for (const OfSeed& result : results) {
      const Advice& given = result.*advice;
      CHECK((given.suggestion.rank >= 2 && given.suggestion.rank <= 16));
      CHECK(given.one_rank.size == given.suggestion.rank * (64 + 64 + 64 + 64 + 64 + 10));
      const auto& ranks = given.suggestion.ranks;
      CHECK(given.own_ranks.size == ranks[0] * 128 + ranks[1] * 128 + ranks[2] * 74);
    }
  }
  CHECK_NOTHROW(report_of(results, small));
}

TEST_CASE("rank: in a short training a high rank is of use with alpha / sqrt(rank) alone") {
  const Settings quick{
      .seeds = 2, .base_epochs = 20, .epochs = 6, .width = 64, .pictures = 600, .ranks = {8, 64}, .dimensions = {16}};
  const std::vector<OfSeed> results = run(quick);
  CHECK(mean_of(results, figures::by_root, 1) >= mean_of(results, figures::by_rank, 1) + 0.03);
  CHECK(mean_of(results, figures::by_root, 1) >= mean_of(results, figures::by_root, 0) + 0.03);
}

TEST_CASE("random subspace: columns of length 1, orthogonal but for what was cut off, and P^T is that of P") {
  Eigen::VectorXf impulse = Eigen::VectorXf::Zero(4);
  impulse(3) = 1;
  examples::walsh_hadamard(impulse);
  CHECK(impulse == Eigen::Vector4f(1, -1, -1, 1));

  examples::RandomSubspace subspace(1000, 30, lora::Rng(3));
  const auto column = [&](Index k) { return subspace.expand(Eigen::VectorXf::Unit(30, k)); };
  for (const Index k : {0, 7, 29}) {
    CHECK(column(k).norm() == Approx(1));
    CHECK(column(k).cwiseAbs().maxCoeff() == column(k).cwiseAbs().minCoeff());
    for (Index j = 0; j < k; ++j) CHECK(std::abs(column(k).dot(column(j))) <= 24.0f / 1000 + 1e-6f);
  }
  lora::Rng rng(4);
  const Eigen::VectorXf z = Eigen::VectorXf::NullaryExpr(30, [&] { return rng.normal<float>(); });
  const Eigen::VectorXf g = Eigen::VectorXf::NullaryExpr(1000, [&] { return rng.normal<float>(); });
  CHECK(subspace.expand(z).dot(g) == Approx(z.dot(subspace.project(g))).epsilon(1e-4));
  CHECK_THROWS_AS(examples::RandomSubspace(10, 11, lora::Rng(1)), std::invalid_argument);
}

TEST_CASE("in parallel: everything once, and a failure comes back") {
  std::vector<std::atomic<int>> calls(50);
  int last = 0;
  examples::in_parallel(
      50, [&](int i) { ++calls[static_cast<std::size_t>(i)]; },
      [&](int done) {
        CHECK(done == last + 1);
        last = done;
      },
      4);
  CHECK(last == 50);
  for (const auto& count : calls) CHECK(count == 1);
  examples::in_parallel(0, [](int) { FAIL("nothing was to be done"); });

  std::atomic<int> begun = 0;
  const auto third_fails = [&](int i) {
    ++begun;
    if (i == 2) throw std::runtime_error("third");
  };
  CHECK_THROWS_WITH(examples::in_parallel(1000, third_fails, [](int) {}, 1), "third");
  CHECK(begun == 3);
}

TEST_CASE("heat map: a square for every value, none for what is missing") {
  examples::HeatMap map{.title = "T",
                        .x_label = "x",
                        .y_label = "y",
                        .rows = {"a"},
                        .columns = {"b", "c", "d"},
                        .panels = {{"first", "note", {{0, std::nan(""), 1}}}}};
  const std::string svg = examples::heat_map(map);
  CHECK_THAT(svg, lora_test::contains("fill=\"rgb(248,250,252)\""));
  CHECK_THAT(svg, lora_test::contains("fill=\"rgb(23,52,94)\""));
  CHECK_THAT(svg, lora_test::contains(">100</text>"));
  CHECK_THAT(svg, !lora_test::contains("nan"));
  map.digits = 1;
  map.columns[1] = "a wide one";
  CHECK_THAT(examples::heat_map(map), lora_test::contains(">100.0</text>"));
  CHECK_THAT(examples::heat_map(map),
             lora_test::contains("width=\"82.00\""));  // 10 characters, 12 between, less a gap of 2
  map.panels[0].values[0].pop_back();
  CHECK_THROWS_AS(examples::heat_map(map), std::invalid_argument);
  map.panels[0].values.clear();
  CHECK_THROWS_AS(examples::heat_map(map), std::invalid_argument);
}

TEST_CASE("line chart: arms, own ticks and colors") {
  examples::LineChart chart{
      .title = "T",
      .x_label = "x",
      .y_label = "y",
      .series = {{.name = "s", .x = {1, 2}, .y = {0.5, 0.5}, .spread = {0.5, 0}, .color = "#abcdef"}},
      .y_low = 0.0,
      .y_high = 1.0,
      .x_ticks = {1, 1.5}};
  const std::string svg = examples::line_chart(chart);
  // top 84, bottom 364, left 72: the arm of the first point is the whole height
  CHECK_THAT(svg, lora_test::contains("x1=\"72.00\" y1=\"364.00\" x2=\"72.00\" y2=\"84.00\" stroke=\"#abcdef\""));
  CHECK_THAT(svg, lora_test::contains(">1.5</text>"));
  CHECK_THAT(svg, !lora_test::contains(">2</text>"));
  chart.series[0].spread.pop_back();
  CHECK_THROWS_AS(examples::line_chart(chart), std::invalid_argument);
}
