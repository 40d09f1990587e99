#pragma once
/// Which columns of a batch belong together. A sequence's columns, its tokens, are next to each other, and sequence
/// follows sequence without padding:
///
///   lengths 3, 1, 2        columns   0 1 2 | 3 | 4 5        starts 0, 3, 4, 6
///
/// Only what mixes the tokens of a sequence looks at it, such as attention; to everything else the batch is one matrix.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// The lengths of the sequences, summed up. A default one has no sequences and no columns.
///
/// ```cpp
/// #include <lora/core/sequences.hpp>
///
/// int main() {
///   const lora::Sequences sequences({3, 1, 2});
///   const auto place = sequences.place(5);  // the second token of the last sequence
///   return sequences.total() == 6 && sequences[1].first == 3 && place.sequence == 2 && place.position == 1 ? 0 : 1;
/// }
/// ```
class Sequences {
 public:
  /// The columns of one sequence.
  struct Columns {
    Index first = 0;
    Index count = 0;
    bool operator==(const Columns&) const = default;
  };
  /// Where a column is.
  struct Place {
    Index sequence = 0;
    Index position = 0;  ///< in its sequence
    bool operator==(const Place&) const = default;
  };

  Sequences() = default;
  /// Throws ValueError if there is no length, one is below 1, or their sum is too large for an Index.
  explicit Sequences(std::span<const Index> lengths) { assign(lengths); }
  explicit Sequences(std::initializer_list<Index> lengths) : Sequences(std::span(lengths.begin(), lengths.size())) {}

  /// `count` sequences of one length. Throws as above.
  static Sequences of_one_length(Index count, Index length) {
    Sequences made;
    made.assign(count, length);
    return made;
  }
  /// The same in place of the old; allocates only for more sequences than ever before.
  void assign(Index count, Index length) {
    if (count < 1) detail::fail<ValueError>(name, std::to_string(count) + " sequences given, expected at least 1");
    check_length(name, 0, length);
    if (length > std::numeric_limits<Index>::max() / count) fail_too_long();
    starts_.resize(static_cast<std::size_t>(count) + 1);
    for (Index k = 0; k <= count; ++k) starts_[static_cast<std::size_t>(k)] = k * length;
    longest_ = length;
  }

  /// Takes new lengths in place of the old; allocates only for more sequences than ever before. Throws as the
  /// constructor does, and changes nothing then.
  void assign(std::span<const Index> lengths) {
    if (lengths.empty()) detail::fail<ValueError>(name, "no lengths given, expected at least one");
    Index sum = 0, longest = 0;
    for (std::size_t k = 0; k < lengths.size(); ++k) {
      check_length(name, k, lengths[k]);
      if (lengths[k] > std::numeric_limits<Index>::max() - sum) fail_too_long();
      sum += lengths[k];
      longest = std::max(longest, lengths[k]);
    }
    starts_.resize(lengths.size() + 1);
    for (std::size_t k = 0; k < lengths.size(); ++k) starts_[k + 1] = starts_[k] + lengths[k];
    longest_ = longest;
  }

  /// No sequences; the memory stays.
  void clear() {
    starts_.resize(1);
    longest_ = 0;
  }
  /// One more sequence, behind the others. Throws ValueError as above, and changes nothing then.
  void add(Index length) {
    check_length(name, starts_.size() - 1, length);
    if (length > std::numeric_limits<Index>::max() - total()) fail_too_long();
    starts_.push_back(total() + length);
    longest_ = std::max(longest_, length);
  }

  /// The number of sequences.
  Index count() const { return static_cast<Index>(starts_.size()) - 1; }
  /// The number of columns.
  Index total() const { return starts_.back(); }
  /// The length of the longest sequence; 0 if there is none.
  Index longest() const { return longest_; }
  /// The columns of sequence k < count().
  Columns operator[](Index k) const {
    const auto at = static_cast<std::size_t>(k);
    return {starts_[at], starts_[at + 1] - starts_[at]};
  }
  /// The sequence of a column < total(), and the position in it. Cost: O(log count()).
  Place place(Index column) const {
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), column);
    return {after - starts_.begin() - 1, column - *(after - 1)};
  }
  /// 0, n_1, n_1 + n_2, ..., total(): the cu_seqlens of others.
  std::span<const Index> starts() const& { return starts_; }
  std::span<const Index> starts() const&& = delete;

  bool operator==(const Sequences& other) const { return starts_ == other.starts_; }

  /// Throws ValueError `who: length 3 is 0, expected at least 1`.
  static void check_length(const detail::Caller& who, std::size_t k, Index length) {
    if (length >= 1) return;
    detail::fail<ValueError>(who,
                             "length " + std::to_string(k) + " is " + std::to_string(length) + ", expected at least 1");
  }

 private:
  static constexpr const char* name = "Sequences";

  [[noreturn]] static void fail_too_long() {
    detail::fail<ValueError>(name, "the lengths add up to more than an Index can hold, expected at most " +
                                       std::to_string(std::numeric_limits<Index>::max()));
  }

  std::vector<Index> starts_ = {0};
  Index longest_ = 0;
};

/// Sequences `first`, ..., first + count - 1 of a list.
struct SequenceBatch {
  Index first = 0;
  Index count = 0;
  Index tokens = 0;  ///< the sum of their lengths
  bool operator==(const SequenceBatch&) const = default;
};

/// Divides a list of sequences into batches of at most max_tokens tokens: each takes the next sequences, in order, as
/// long as they fit. A budget of tokens, rather than of sequences, bounds memory and time of a step.
///
///   batches({3, 4, 2, 5}, 7)        {3, 4}, {2, 5}
///
/// Throws ValueError for a length below 1, and for one above max_tokens, whose batch would break the bound: truncate or
/// divide that sequence first. No lengths are no batches.
inline std::vector<SequenceBatch> batches(std::span<const Index> lengths, Index max_tokens) {
  constexpr const char* who = "batches";
  std::vector<SequenceBatch> made;
  for (std::size_t k = 0; k < lengths.size(); ++k) {
    Sequences::check_length(who, k, lengths[k]);
    if (lengths[k] > max_tokens) {
      detail::fail<ValueError>(who, "sequence " + std::to_string(k) + " has " + std::to_string(lengths[k]) +
                                        " tokens, expected at most max_tokens = " + std::to_string(max_tokens));
    }
    if (made.empty() || lengths[k] > max_tokens - made.back().tokens) made.push_back({static_cast<Index>(k), 0, 0});
    ++made.back().count;
    made.back().tokens += lengths[k];
  }
  return made;
}
inline std::vector<SequenceBatch> batches(std::initializer_list<Index> lengths, Index max_tokens) {
  return batches(std::span(lengths.begin(), lengths.size()), max_tokens);
}

}  // namespace lora::inline LORA_ABI
