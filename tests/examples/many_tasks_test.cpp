// The program itself is under test, so its main has another name here.
#define main many_tasks_main
#include "examples/many_tasks.cpp"
#undef main

#include "support/catch.hpp"

#include <random>
#include <sstream>

namespace {

namespace fs = std::filesystem;

struct TemporaryFolder {
  fs::path path = fs::temp_directory_path() / ("lora_many_tasks_test_" + std::to_string(std::random_device{}()));
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

double half(const Results& results, std::size_t mixture) { return mean_of(results.mixes[mixture])[shares.size() / 2]; }

}  // namespace

TEST_CASE("many tasks: the claims of examples/README.md, in small") {
  const TemporaryFolder folder;
  const Settings small{.seeds = 1, .base_epochs = 20, .epochs = 40, .requests = 600};
  const Results results = run(small, folder.path);

  // Every adapter reads its own task better than no adapter and than any other.
  const Eigen::MatrixXd accuracies = mean_of(results.accuracies);
  const Index tasks = accuracies.cols() - 1;
  REQUIRE(tasks == 5);
  for (Index task = 0; task < tasks; ++task) {
    INFO("task " << task);
    for (Index other = 0; other < accuracies.rows(); ++other) {
      if (other != task + 1) CHECK(accuracies(task + 1, task) > accuracies(other, task));
    }
    CHECK(accuracies(task + 1, task) >= (task == 4 ? 0.7 : 0.85));
  }
  CHECK(accuracies(0, tasks) >= 0.9);

  // From disk it serves what was trained; one network with five adapters is less than half of six networks.
  const Served& served = results.served;
  CHECK(served.as_trained);
  CHECK(served.right >= 0.8);
  CHECK(2 * (served.network_bytes + 5 * served.adapter_bytes) < 6 * served.network_bytes);
  CHECK(results.parameters.trainable == 4 * (64 + 128 + 128 + 128 + 128 + 10));

  // Half of the adapter for one task and half of that for another reads less than either does of its own, and does not
  // read what was changed twice. Nor is the middle between two adapters for one task always good; for noise it is.
  for (const std::size_t m : {0u, 1u, 3u}) {
    INFO(mixtures(examples::split(examples::load_digits()).held_out)[m].name);
    const Numbers read = mean_of(results.mixes[m]);
    const double best = std::max(read.front(), read.back());
    CHECK(half(results, m) <= best - (m == 3 ? 0.03 : 0.2));
  }
  CHECK(half(results, 2) <= 0.6);
  const Numbers noisy_twice = mean_of(results.mixes[4]);
  CHECK(half(results, 4) > (noisy_twice.front() + noisy_twice.back()) / 2);
  CHECK(results.folded_difference <= 1e-4);

  std::ostringstream shown;
  std::streambuf* const terminal = std::cout.rdbuf(shown.rdbuf());
  show(results, small, folder.path);
  std::cout.rdbuf(terminal);
  CHECK_THAT(shown.str(), lora_test::contains("before they were saved: yes"));
  for (const char* name : {"report.json", "tasks.svg", "mixing.svg"}) CHECK(fs::file_size(folder.path / name) > 500);
}

TEST_CASE("many tasks: switching leaves no trace, and groups answer what single requests are answered") {
  const auto [train, held_out] = examples::split(examples::load_digits(), 200);
  const std::vector<Task> tasks = all_tasks();
  const Settings small{.base_epochs = 2, .epochs = 2, .width = 16};
  const Network base = trained_base(train, small, 1);
  Network net = base;
  for (const Task& task : tasks) add_adapter(net, task, train, small, 1);

  switch_to(net, -1, tasks);
  CHECK(net(held_out.pixels) == base(held_out.pixels));
  std::vector<MatrixXf> first;
  for (int round = 0; round < 2; ++round) {
    for (Index task = 0; task < std::ssize(tasks); ++task) {
      switch_to(net, task, tasks);
      const MatrixXf logits = net(held_out.pixels);
      if (round == 0) first.push_back(logits);
      CHECK(logits == first[static_cast<std::size_t>(task)]);
    }
  }
  const Stream stream = mixed_stream(held_out, 600, lora::Rng(1));
  const std::vector<int> answers = serve_one_by_one(net, stream);
  CHECK(answers == serve_in_groups(net, stream));
  double right = 0;
  for (std::size_t r = 0; r < answers.size(); ++r) {
    switch_to(net, stream.requests[r].task, tasks);
    const MatrixXf picture = stream.picture(stream.requests[r]);
    CHECK(lora::predictions(net(picture))[0] == answers[r]);
    right += answers[r] == held_out.labels[static_cast<std::size_t>(stream.requests[r].picture)] ? 1 : 0;
  }
  CHECK(stream.right(answers) == right / 600);
}

TEST_CASE("many tasks: what the cameras do to a picture") {
  lora::Rng rng(1);
  const Digits digits{MatrixXf::NullaryExpr(64, 3, [&] { return rng.uniform<float>(); }), {1, 2, 3}};
  const std::vector<Task> tasks = all_tasks();
  const MatrixXf left = tasks[0].of(digits).pixels, mirror = tasks[2].of(digits).pixels;
  CHECK(tasks[1].of({left, digits.labels}).pixels == digits.pixels);
  CHECK(tasks[2].of({mirror, digits.labels}).pixels == digits.pixels);
  for (Index row = 0; row < 8; ++row) {
    for (Index column = 0; column < 8; ++column)
      CHECK(mirror(8 * row + column, 0) == digits.pixels(8 * row + 7 - column, 0));
  }
  CHECK(tasks[3].of(digits).pixels(5, 1) == 1 - digits.pixels(5, 1));
  CHECK(tasks[4].of(digits, 1).pixels == tasks[4].of(digits, 1).pixels);
  CHECK(tasks[4].of(digits, 1).pixels != tasks[4].of(digits, 2).pixels);
  CHECK(tasks[4].of(digits).pixels.maxCoeff() <= 1);
  CHECK(tasks[4].of(digits).pixels.minCoeff() >= 0);
}
