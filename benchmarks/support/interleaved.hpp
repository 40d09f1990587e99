#pragma once
/// Timing several functions against each other with Google Benchmark, in turns.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace benchmarks {

/// Seconds of this thread's processor time per call, over all repetitions. What other programs take does not count.
struct Timing {
  double median = 0;
  double spread = 0;  ///< interquartile range / median: what the machine's noise does to one repetition
};

struct Effort {
  int repetitions = 15;
  double seconds = 0.02;  ///< at least, for each repetition
};

namespace detail {

class Collector : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      seconds[run.run_name.function_name].push_back(run.cpu_accumulated_time / static_cast<double>(run.iterations));
    }
  }

  std::map<std::string, std::vector<double>> seconds;
};

inline Timing summary(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const auto quantile = [&](double part) {
    const double place = part * static_cast<double>(seconds.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, seconds.size() - 1);
    return seconds[below] + (place - static_cast<double>(below)) * (seconds[above] - seconds[below]);
  };
  const double median = quantile(0.5);
  return {median, (quantile(0.75) - quantile(0.25)) / median};
}

}  // namespace detail

/// Before the first measure(): hands the flags --benchmark_... over to Google Benchmark and takes them out of argv.
inline void initialize(int& argc, char** argv) {
  // Repetitions of all functions in random order, so that a slow minute of the machine hits them alike.
  static std::string interleaving = "--benchmark_enable_random_interleaving=true";
  std::vector<char*> own = {argv[0]}, theirs = {argv[0], interleaving.data()};
  for (int k = 1; k < argc; ++k) {
    (std::string_view(argv[k]).starts_with("--benchmark_") ? theirs : own).push_back(argv[k]);
  }
  argc = static_cast<int>(own.size());
  std::copy(own.begin(), own.end(), argv);
  int count = static_cast<int>(theirs.size());
  theirs.push_back(nullptr);
  benchmark::Initialize(&count, theirs.data());
}

/// One Timing for each function, in the order given.
inline std::vector<Timing> measure(const std::vector<std::function<void()>>& functions, const Effort& effort) {
  benchmark::ClearRegisteredBenchmarks();
  for (std::size_t k = 0; k < functions.size(); ++k) {
    const auto body = [&function = functions[k]](benchmark::State& state) {
      for (auto _ : state) {
        function();
        benchmark::ClobberMemory();
      }
    };
    benchmark::RegisterBenchmark(std::to_string(k).c_str(), body)
        ->Repetitions(effort.repetitions)
        ->MinTime(effort.seconds);
  }
  detail::Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  std::vector<Timing> timings;
  for (std::size_t k = 0; k < functions.size(); ++k) {
    timings.push_back(detail::summary(collector.seconds.at(std::to_string(k))));
  }
  return timings;
}

}  // namespace benchmarks
