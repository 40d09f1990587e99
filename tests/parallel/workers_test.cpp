#include "lora/parallel/workers.hpp"

#include "support/catch.hpp"
#include "support/heap.hpp"

#include <atomic>
#include <cfenv>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using lora::Index;
using lora::Workers;

/// How often each round of one region ran.
std::vector<int> runs(Workers& workers, Index count) {
  std::vector<int> times(static_cast<std::size_t>(count), 0);
  workers.for_each(count, [&](Index k) { ++times[static_cast<std::size_t>(k)]; });
  return times;
}

bool each_once(const std::vector<int>& times) {
  return std::all_of(times.begin(), times.end(), [](int n) { return n == 1; });
}

/// A round that ends only when as many others as there are threads have begun, each on a thread of its own.
class Meeting {
 public:
  explicit Meeting(int threads) : missing_(threads) {}
  void arrive() {
    --missing_;
    while (missing_.load() > 0) std::this_thread::yield();
  }

 private:
  std::atomic<int> missing_;
};

}  // namespace

TEST_CASE("workers: every round runs once, for any number of threads and rounds", "[threads]") {
  for (const int threads : {1, 2, 3, 4}) {
    Workers workers(threads);
    CHECK(workers.threads() == threads);
    for (const Index count : {0, 1, 2, 3, 7, 64, 1000, 70000}) {
      CAPTURE(threads, count);
      CHECK(each_once(runs(workers, count)));
    }
  }
}

TEST_CASE("workers: all threads take part, the caller too", "[threads]") {
  for (const int threads : {1, 2, 4}) {
    Workers workers(threads);
    Meeting meeting(threads);  // would wait for ever if one thread took two rounds
    std::vector<std::thread::id> ids(static_cast<std::size_t>(threads));
    workers.for_each(threads, [&](Index k) {
      ids[static_cast<std::size_t>(k)] = std::this_thread::get_id();
      meeting.arrive();
    });
    CHECK(std::count(ids.begin(), ids.end(), std::this_thread::get_id()) == 1);
  }
}

TEST_CASE("workers: regions follow each other, at once and after the threads have gone to sleep", "[threads]") {
  Workers workers(3);
  Index sum = 0;
  for (int region = 0; region < 3000; ++region) {
    std::atomic<Index> all = 0;
    const Index count = 2 + region % 5;
    workers.for_each(count, [&](Index k) { all += k + region; });
    sum += all - count * (count - 1) / 2 - count * region;
    if (region % 1000 == 999) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(sum == 0);
}

TEST_CASE("workers: what a region wrote is there when it ends, and what it reads was written before it", "[threads]") {
  Workers workers(2);
  std::vector<int> numbers(64, 0);
  for (int region = 1; region <= 500; ++region) {
    workers.for_each(64, [&](Index k) { ++numbers[static_cast<std::size_t>(63 - k)]; });
    if (std::accumulate(numbers.begin(), numbers.end(), 0) != 64 * region) FAIL("region " << region);
  }
}

TEST_CASE("workers: an exception of any thread arrives, and the pool goes on", "[threads]") {
  for (const int threads : {1, 2, 4}) {
    Workers workers(threads);
    for (const Index thrower : {0, 1, 7}) {
      CAPTURE(threads, thrower);
      CHECK_THROWS_WITH(workers.for_each(8,
                                         [&](Index k) {
                                           if (k == thrower) throw std::runtime_error("round " + std::to_string(k));
                                         }),
                        "round " + std::to_string(thrower));
      CHECK(each_once(runs(workers, 8)));
    }
  }
  Workers workers(2);
  Meeting meeting(2);
  CHECK_THROWS_AS(workers.for_each(2,
                                   [&](Index) {
                                     meeting.arrive();
                                     throw std::length_error("of both");
                                   }),
                  std::length_error);
}

TEST_CASE("workers: no round begins after one has failed", "[threads]") {
  Workers workers(1);
  int begun = 0;
  CHECK_THROWS_AS(workers.for_each(5,
                                   [&](Index k) {
                                     ++begun;
                                     if (k == 2) throw std::runtime_error("third");
                                   }),
                  std::runtime_error);
  CHECK(begun == 3);
  Workers two(2);
  std::atomic<int> after = 0;
  CHECK_THROWS_AS(two.for_each(60000,
                               [&](Index) {
                                 ++after;
                                 throw std::runtime_error("each");
                               }),
                  std::runtime_error);
  CHECK(after <= 2);
}

TEST_CASE("workers: a region within a region, and callers at the same time", "[threads]") {
  Workers workers(2);
  std::atomic<int> inner = 0;
  workers.for_each(4, [&](Index) { workers.for_each(5, [&](Index) { ++inner; }); });
  CHECK(inner == 20);

  std::vector<char> good(3, 0);
  std::vector<std::thread> callers;
  for (char& mine : good) {
    callers.emplace_back([&] {
      bool all = true;
      for (int region = 0; region < 300; ++region) all = each_once(runs(workers, 9)) && all;
      mine = all;
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(good == std::vector<char>(3, 1));
}

TEST_CASE("workers: made and destroyed, used or not", "[threads]") {
  for (int k = 0; k < 20; ++k) {
    auto workers = std::make_unique<Workers>(3);
    if (k % 2 == 0) CHECK(each_once(runs(*workers, 10)));
    if (k % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
    workers.reset();
  }
  CHECK_THROWS_WITH(Workers(0), "Workers: threads is 0, expected at least 1");
  CHECK(Workers().threads() >= 1);
}

TEST_CASE("workers: every thread computes under the caller's rounding", "[threads]") {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TONEAREST}) {
    Workers workers(2);  // a new one, which cannot be in a pause
    Meeting meeting(2);
    int found[2] = {-1, -1};
    std::fesetround(mode);
    workers.for_each(2, [&](Index k) {
      found[k] = std::fegetround();
      meeting.arrive();
    });
    std::fesetround(FE_TONEAREST);
    CHECK(found[0] == mode);
    CHECK(found[1] == mode);
  }
}

TEST_CASE("workers: a region takes no heap", "[threads]") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Workers workers(2);
  std::atomic<std::size_t> allocations = 0;
  allocations += lora_test::heap_allocations_in([&] {
    workers.for_each(64, [&](Index) {
      const std::size_t before = lora_test::heap_allocations();
      workers.for_each(3, [](Index) {});
      allocations += lora_test::heap_allocations() - before;
    });
  });
  CHECK(allocations == 0);
}
