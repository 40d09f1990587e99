// A pass restricted to some columns: segments shrink, every column keeps its number.

#include "lora/core/pass.hpp"
#include "support/catch.hpp"

#include <array>
#include <vector>

using lora::Index;
using lora::KeptPass;
using lora::Pass;
using lora::Segment;

namespace {

/// The seed, step and sample of every column, as a layer computes them.
std::vector<std::array<std::uint64_t, 3>> samples_of(const Pass& pass, Index count) {
  std::vector<std::array<std::uint64_t, 3>> all(static_cast<std::size_t>(count));
  const auto run = [&](const Pass& own, Index first, Index some) {
    for (Index j = 0; j < some; ++j) {
      const Index column = own.columns.empty() ? j : own.columns[static_cast<std::size_t>(j)];
      all[static_cast<std::size_t>(first + j)] = {own.seed, own.step,
                                                  static_cast<std::uint64_t>(own.first_sample + column)};
    }
  };
  if (pass.segments.empty()) run(pass, 0, count);
  for (const Segment& segment : pass.segments) run(lora::detail::pass_of(pass, segment), segment.first, segment.count);
  return all;
}

}  // namespace

TEST_CASE("KeptPass: some columns have the seeds, steps and samples that they have in the whole pass") {
  const std::vector<Segment> segments = {{.first = 6, .count = 4, .seed = 9, .first_sample = 100},
                                         {.first = 0, .count = 3},
                                         {.first = 3, .count = 3, .step = 8}};
  const std::vector<Index> columns = {0, 2, 3, 7, 9}, again = {1, 3, 4};
  for (const bool mixed : {false, true}) {
    Pass whole{.training = true, .seed = 5, .step = 6, .first_sample = 40};
    if (mixed) whole.segments = segments;
    const auto expected = samples_of(whole, 10);
    KeptPass some;
    some.assign(whole, columns);
    const auto found = samples_of(some.pass(), 5);
    for (std::size_t j = 0; j < columns.size(); ++j) CHECK(found[j] == expected[std::size_t(columns[j])]);
    CHECK((some.pass().training && some.pass().segments.size() == (mixed ? 3U : 0U)));

    KeptPass fewer;  // of the restricted pass, once more
    fewer.assign(some.pass(), again);
    const auto twice = samples_of(fewer.pass(), 3);
    for (std::size_t j = 0; j < again.size(); ++j) CHECK(twice[j] == found[std::size_t(again[j])]);

    KeptPass all;
    all.assign(whole);
    CHECK(samples_of(all.pass(), 10) == expected);
  }
}

TEST_CASE("KeptPass: segments without columns are dropped, a column without segment is refused") {
  const std::vector<Segment> segments = {{.first = 0, .count = 3}, {.first = 3, .count = 3}};
  const Pass whole{.segments = segments};
  KeptPass some;
  some.assign(whole, std::vector<Index>{4, 5});
  const Pass pass = some.pass();
  REQUIRE(pass.segments.size() == 1);
  CHECK((pass.segments[0].first == 0 && pass.segments[0].count == 2));
  CHECK_THROWS_WITH(some.assign(whole, std::vector<Index>{4, 6}),
                    "KeptPass: 1 of 2 columns lie in a segment of the pass, expected all of them");
}

TEST_CASE("KeptPass: a copy shows its own memory") {
  const std::vector<Segment> segments = {{.first = 0, .count = 2}};
  KeptPass first;
  first.assign({.segments = segments}, std::vector<Index>{0, 1});
  const KeptPass second = first;
  CHECK(second.pass().segments.data() != first.pass().segments.data());
  CHECK(second.pass().columns.data() != first.pass().columns.data());
}
