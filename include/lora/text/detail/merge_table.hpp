#pragma once
/// Which pairs of tokens become one, and in which order.

#include "lora/abi.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct Merge {
  int left, right, product;
};

/// A list of rights for each left, sorted: there is no hash that a file could make slow. Memory: 16 bytes a merge and 4
/// a token.
class MergeTable {
 public:
  /// The place of a merge in the file; the least is done first.
  using Rank = std::uint32_t;
  static constexpr Rank none = std::numeric_limits<Rank>::max();

  MergeTable() = default;
  /// Merges in the order of the file, of ids below `tokens`; of equal pairs the last counts. Cost: sorting.
  MergeTable(const std::vector<Merge>& merges, std::size_t tokens) : begins_(tokens + 1) {
    products_.reserve(merges.size());
    std::vector<Rank> order;
    for (const Merge& merge : merges) {
      order.push_back(static_cast<Rank>(products_.size()));
      products_.push_back(merge.product);
    }
    const auto pair = [&](Rank rank) { return std::tie(merges[rank].left, merges[rank].right); };
    std::sort(order.begin(), order.end(), [&](Rank a, Rank b) {
      return pair(a) != pair(b) ? pair(a) < pair(b) : a > b;  // the last first, which unique keeps
    });
    order.erase(std::unique(order.begin(), order.end(), [&](Rank a, Rank b) { return pair(a) == pair(b); }),
                order.end());
    for (const Rank rank : order) {
      rights_.push_back({merges[rank].right, rank});
      ++begins_[static_cast<std::size_t>(merges[rank].left) + 1];
    }
    for (std::size_t id = 0; id < tokens; ++id) begins_[id + 1] += begins_[id];
  }

  /// The rank of a pair, or none. Cost: O(log rights of the left).
  Rank rank(int left, int right) const {
    const auto* const first = rights_.data() + begins_[static_cast<std::size_t>(left)];
    const auto* const last = rights_.data() + begins_[static_cast<std::size_t>(left) + 1];
    const auto* const found =
        std::lower_bound(first, last, right, [](const Right& one, int value) { return one.id < value; });
    return found != last && found->id == right ? found->rank : none;
  }
  int product(Rank rank) const { return products_[rank]; }

 private:
  struct Right {
    int id;
    Rank rank;
  };
  std::vector<Rank> begins_{0};  // of the rights of each left
  std::vector<Right> rights_;
  std::vector<int> products_;  // by rank
};

}  // namespace lora::inline LORA_ABI::detail
