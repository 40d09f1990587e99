#include "lora/optim/schedule.hpp"

#include "optim/reference.hpp"
#include "support/catch.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

namespace {

using lora::Schedule;
using lora::ScheduleShape;

template <std::size_t N>
double largest_difference(const Schedule& schedule, const std::array<double, N>& expected) {
  double largest = 0;
  for (std::size_t step = 0; step < N; ++step) largest = std::max(largest, std::abs(schedule(step) - expected[step]));
  return largest;
}

}  // namespace

TEST_CASE("schedule: the factors are those of Transformers") {
  CHECK(largest_difference({.warmup = 4}, reference::constant_factors) == 0);
  CHECK(largest_difference({.shape = ScheduleShape::linear, .warmup = 4, .total = 20}, reference::linear_factors) == 0);
  CHECK(largest_difference({.shape = ScheduleShape::cosine, .warmup = 4, .total = 20}, reference::cosine_factors) <=
        1e-16);
}

TEST_CASE("schedule: the exact values where the parts meet") {
  const auto shape = GENERATE(ScheduleShape::linear, ScheduleShape::cosine);
  const double last = GENERATE(0.0, 0.125);
  const Schedule schedule{.shape = shape, .warmup = 8, .total = 24, .final_factor = last};
  CHECK(schedule(0) == 0);
  CHECK(schedule(1) == 0.125);
  CHECK(schedule(8) == 1);
  CHECK(std::abs(schedule(16) - (1 + last) / 2) <= 1e-16);
  CHECK(schedule(24) == last);
  CHECK(schedule(25) == last);
  CHECK(schedule(std::numeric_limits<std::uint64_t>::max()) == last);
}

TEST_CASE("schedule: without warm-up the first factor is 1; by default every factor is") {
  CHECK(Schedule{.shape = ScheduleShape::linear, .total = 10}(0) == 1);
  CHECK(Schedule{.shape = ScheduleShape::cosine, .total = 10}(0) == 1);
  CHECK(Schedule{}(0) == 1);
  CHECK(Schedule{}(1000000) == 1);
}

TEST_CASE("schedule: a descent only descends") {
  for (const auto shape : {ScheduleShape::linear, ScheduleShape::cosine}) {
    const Schedule schedule{.shape = shape, .warmup = 100, .total = 1000, .final_factor = 0.1};
    for (std::uint64_t step = 100; step < 1100; ++step) CHECK(schedule(step + 1) <= schedule(step));
  }
}

TEST_CASE("schedule: settings that contradict each other are named") {
  CHECK_THROWS_AS(validate(Schedule{.shape = ScheduleShape::linear, .warmup = 10, .total = 10}), lora::ConfigError);
  CHECK_THROWS_WITH((Schedule{.shape = ScheduleShape::cosine, .warmup = 10}(3)),
                    "Schedule: total is 0, expected more than warmup = 10");
  CHECK_THROWS_WITH(validate(Schedule{.final_factor = -1}),
                    "Schedule: final_factor is -1, expected a finite number, 0 or more");
  CHECK_THROWS_AS(validate(Schedule{.final_factor = std::numeric_limits<double>::quiet_NaN()}), lora::ConfigError);
}
