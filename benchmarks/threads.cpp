/// What a second thread brings: a training step of a packed layer on two threads, beside the same on one.
///
///   threads [--out DIR] [--quick] [--size D]
///
/// A step sets the gradients to zero and runs forward, backward and AdamW on a batch whose dy is given; W0 is d x d,
/// the rank 8. Both ways take turns; times are medians of the clock on the wall. Before a case is timed, the results of
/// both must be equal to the bit. The last table repeats some cases while another thread takes one of the processors.
/// --size: another d, without that last table.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/roof.hpp"
#include "benchmarks/support/trainer.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/parallel/workers.hpp"

namespace {

using lora::Index;
using lora::Matrix;

constexpr Index rank = 8;

double seconds_of(const auto& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Of some steps, everything that they have made.
std::vector<Matrix<float>> results(auto& trainer) {
  for (int k = 0; k < 3; ++k) trainer.step();
  return {trainer.y(), trainer.dx(), trainer.adapter().A.value, trainer.adapter().B.value};
}

bool same_bits(const Matrix<float>& a, const Matrix<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

struct Row {
  Index d = 0, samples = 0;
  double one = 0, two = 0;  ///< seconds of a step
};

struct Effort {
  int repetitions = 15;
  double seconds = 4e-3;  ///< of each
};

/// One case, timed in turns.
class Case {
 public:
  Case(const lora::Packed<float>& W0, lora::Workers& workers, Index samples, lora::Rng& rng)
      : x_(benchmarks::random(W0.cols(), samples, rng)),
        dy_(benchmarks::random(W0.rows(), samples, rng)),
        one_(W0, rank, x_, dy_, rng),
        two_(W0, rank, x_, dy_, rng, &workers) {
    const auto expected = results(one_), given = results(two_);
    for (std::size_t k = 0; k < given.size(); ++k) {
      if (!same_bits(given[k], expected[k])) throw std::runtime_error("two threads give other bits than one");
    }
  }

  Row measure(const Effort& effort) {
    const auto repeat = [&](auto& trainer) {
      trainer.step();
      const int count = std::max(1, static_cast<int>(effort.seconds / seconds_of([&] { trainer.step(); })));
      return [&trainer, count] {
        return seconds_of([&] {
                 for (int k = 0; k < count; ++k) trainer.step();
               }) /
               count;
      };
    };
    const auto one = repeat(one_);
    const auto two = repeat(two_);
    std::vector<double> ones, twos;
    for (int k = 0; k < effort.repetitions; ++k) {
      ones.push_back(one());
      twos.push_back(two());
    }
    return {.d = dy_.rows(), .samples = x_.cols(), .one = median(std::move(ones)), .two = median(std::move(twos))};
  }

 private:
  Matrix<float> x_, dy_;
  benchmarks::Trainer<lora::Packed<float>> one_, two_;
};

/// How many times faster two threads read so many numbers, each its half again and again, than one reads all of them.
double bandwidth_ratio(lora::Workers& workers, Index numbers) {
  const lora::Vector<float> buffer = lora::Vector<float>::Constant(numbers, 1e-3F);
  const auto rounds = std::max<Index>(1, (Index(1) << 24) / numbers);
  const auto read = [&](Index part, Index parts) {
    volatile float sink = 0;
    const Index count = numbers / parts;
    for (Index k = 0; k < rounds; ++k) sink = buffer.segment(part * count, count).sum();
    static_cast<void>(sink);
  };
  const double one = benchmarks::fastest(15, [&] { read(0, 1); });
  return one / benchmarks::fastest(15, [&] { workers.for_each(2, [&](Index k) { read(k, 2); }); });
}

/// While it lives, a thread does nothing useful as fast as it can.
class Occupied {
 public:
  Occupied()
      : thread_([this] {
          while (!over_.load(std::memory_order_relaxed)) ++rounds_;
        }) {}
  Occupied(const Occupied&) = delete;
  Occupied& operator=(const Occupied&) = delete;
  ~Occupied() {
    over_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> over_ = false;
  std::atomic<long> rounds_ = 0;
  std::thread thread_;
};

void run(const std::filesystem::path& out, bool quick, Index size) {
  const Effort effort = quick ? Effort{.repetitions = 3, .seconds = 1e-3} : Effort{};
  lora::Workers workers(2);
  lora::Rng rng(1);
  nlohmann::ordered_json json;
  examples::Table steps(
      {"d", "samples", "one thread, us", "two, us", "ratio", "of two cores' peak", "two cores' bandwidth / one's"});
  json["rank"] = rank;
  json["repetitions"] = effort.repetitions;
  std::vector<Index> sizes = quick ? std::vector<Index>{64, 256} : std::vector<Index>{64, 256, 1024, 2048, 4096};
  if (size > 0) sizes = {size};
  const auto weight = [&](Index d) { return lora::Packed<float>(benchmarks::random(d, d, rng, 0.02F)); };
  for (const Index d : sizes) {
    const lora::Packed<float> W0 = weight(d);
    const double bandwidth = bandwidth_ratio(workers, d * d);
    const double peak = benchmarks::multiply_add_peak();
    for (const Index samples : quick ? std::vector<Index>{1, 32} : std::vector<Index>{1, 8, 32, 128, 512}) {
      const Row row = Case(W0, workers, samples, rng).measure(effort);
      const double share = benchmarks::step_operations(d, d, rank, samples) / row.two / (2 * peak);
      steps.add({std::to_string(d), std::to_string(samples), examples::significant(1e6 * row.one, 3),
                 examples::significant(1e6 * row.two, 3), examples::fixed(row.one / row.two, 2),
                 examples::percent(share, 0), examples::fixed(bandwidth, 2)});
      const std::string key = "d" + std::to_string(d) + "_n" + std::to_string(samples) + "_";
      json[key + "one_us"] = 1e6 * row.one;
      json[key + "two_us"] = 1e6 * row.two;
      json[key + "ratio"] = row.one / row.two;
      json[key + "share_of_peak"] = share;
      json[key + "bandwidth_ratio"] = bandwidth;
    }
  }
  std::cout << "A training step on two threads, float, rank " << rank << "\n\n" << steps.text();

  examples::Table held({"d", "samples", "one thread, us", "two, us", "two / one"});
  const Effort longer = quick ? effort : Effort{.repetitions = 9, .seconds = 0.3};
  sizes = size > 0 ? std::vector<Index>{} : quick ? std::vector<Index>{256} : std::vector<Index>{256, 1024};
  for (const Index d : sizes) {
    const lora::Packed<float> W0 = weight(d);
    for (const Index samples : {8, 128}) {
      Case both(W0, workers, samples, rng);
      const Occupied occupied;
      const Row row = both.measure(longer);
      held.add({std::to_string(d), std::to_string(samples), examples::significant(1e6 * row.one, 3),
                examples::significant(1e6 * row.two, 3), examples::fixed(row.two / row.one, 2)});
      const std::string key = "occupied_d" + std::to_string(d) + "_n" + std::to_string(samples) + "_";
      json[key + "one_us"] = 1e6 * row.one;
      json[key + "two_us"] = 1e6 * row.two;
    }
  }
  std::cout << "\nThe same while another thread takes a processor; this machine has "
            << std::thread::hardware_concurrency() << "\n\n"
            << held.text();
  if (out.empty()) return;
  examples::write_file(out / "threads.json", json.dump(2) + "\n");
  std::cout << "\nWrote threads.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  Index size = 0;
  examples::Program program("threads", "Training steps on two threads, beside the same on one.");
  program.add_option("--out", out, "folder for threads.json; without it none is written");
  program.add_flag("--quick", quick, "few cases and repetitions, to see that everything runs");
  program.add_option("--size", size, "d, if not those of the table")->check(examples::not_negative);
  return program.run(argc, argv, [&] { run(out, quick, size); });
}
