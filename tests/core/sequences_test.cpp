#include "lora/core/sequences.hpp"

#include <limits>
#include <vector>

#include "lora/core/random.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

using lora::batches;
using lora::Index;
using lora::SequenceBatch;
using lora::Sequences;

TEST_CASE("Sequences: where each begins, and where a column is") {
  const Sequences sequences({3, 1, 2});
  CHECK((sequences.count() == 3 && sequences.total() == 6 && sequences.longest() == 3));
  CHECK(sequences[0] == Sequences::Columns{0, 3});
  CHECK(sequences[1] == Sequences::Columns{3, 1});
  CHECK(sequences[2] == Sequences::Columns{4, 2});
  const auto starts = sequences.starts();
  CHECK(std::vector<Index>(starts.begin(), starts.end()) == std::vector<Index>{0, 3, 4, 6});
  std::vector<Sequences::Place> places;
  for (Index column = 0; column < 6; ++column) places.push_back(sequences.place(column));
  CHECK(places == std::vector<Sequences::Place>{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {2, 0}, {2, 1}});

  const Sequences none;
  CHECK((none.count() == 0 && none.total() == 0 && none.longest() == 0));
}

TEST_CASE("Sequences: all of one length") {
  CHECK(Sequences::of_one_length(3, 4) == Sequences({4, 4, 4}));
  CHECK(Sequences::of_one_length(3, 4).longest() == 4);
  CHECK(!(Sequences::of_one_length(2, 4) == Sequences({4, 4, 4})));
  CHECK_THROWS_WITH(Sequences::of_one_length(0, 4), "Sequences: 0 sequences given, expected at least 1");
  CHECK_THROWS_WITH(Sequences::of_one_length(2, 0), "Sequences: length 0 is 0, expected at least 1");
  CHECK_THROWS_AS(Sequences::of_one_length(3, std::numeric_limits<Index>::max() / 2), lora::ValueError);
}

TEST_CASE("Sequences: lengths that are none are refused, and nothing changes") {
  Sequences sequences({5, 2});
  const std::vector<Index> none, empty = {1, 0, 2}, negative = {-3}, huge = {std::numeric_limits<Index>::max(), 1};
  CHECK_THROWS_AS(sequences.assign(none), lora::ValueError);
  CHECK_THROWS_WITH(sequences.assign(none), "Sequences: no lengths given, expected at least one");
  CHECK_THROWS_AS(sequences.assign(empty), lora::ValueError);
  CHECK_THROWS_WITH(sequences.assign(empty), "Sequences: length 1 is 0, expected at least 1");
  CHECK_THROWS_WITH(Sequences(negative), "Sequences: length 0 is -3, expected at least 1");
  CHECK_THROWS_AS(sequences.assign(huge), lora::ValueError);
  CHECK_THROWS_WITH(sequences.assign(huge), lora_test::contains("more than an Index can hold"));
  CHECK(sequences == Sequences({5, 2}));
}

TEST_CASE("Sequences: new lengths allocate only for more of them") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Sequences sequences({5, 2, 7});
  const std::vector<Index> fewer = {9, 1}, as_many = {1, 2, 3};
  CHECK(lora_test::heap_allocations_in([&] {
          sequences.assign(fewer);
          sequences.assign(as_many);
        }) == 0);
  CHECK(sequences == Sequences({1, 2, 3}));
  CHECK(sequences.longest() == 3);
}

TEST_CASE("batches: consecutive sequences, as many as fit") {
  CHECK(batches({3, 4, 2, 5}, 7) == std::vector<SequenceBatch>{{0, 2, 7}, {2, 2, 7}});
  CHECK(batches({7, 1, 7}, 7) == std::vector<SequenceBatch>{{0, 1, 7}, {1, 1, 1}, {2, 1, 7}});
  CHECK(batches(std::vector<Index>(), 7).empty());
  CHECK(batches({1, 1}, std::numeric_limits<Index>::max()) == std::vector<SequenceBatch>{{0, 2, 2}});
  CHECK_THROWS_AS(batches({3, 8}, 7), lora::ValueError);
  CHECK_THROWS_WITH(batches({3, 8}, 7), "batches: sequence 1 has 8 tokens, expected at most max_tokens = 7");
  CHECK_THROWS_WITH(batches({3, 0}, 7), "batches: length 1 is 0, expected at least 1");
}

TEST_CASE("batches: each sequence once, in order, within the budget, and no batch could have taken one more") {
  lora::Rng rng(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<Index> lengths;
    for (int k = 0; k < 40; ++k) lengths.push_back(1 + static_cast<Index>(rng.below(30)));
    constexpr Index budget = 40;
    const auto made = batches(lengths, budget);
    Index next = 0;
    for (std::size_t b = 0; b < made.size(); ++b) {
      CHECK(made[b].first == next);
      Index tokens = 0;
      for (Index k = 0; k < made[b].count; ++k) tokens += lengths[static_cast<std::size_t>(next + k)];
      CHECK((tokens == made[b].tokens && tokens <= budget));
      next += made[b].count;
      if (b + 1 < made.size()) CHECK(tokens + lengths[static_cast<std::size_t>(next)] > budget);
    }
    CHECK(next == static_cast<Index>(lengths.size()));
  }
}
