#pragma once
/// How a batch is divided into shards, shards among processes, and in which order the parts of a sum are added.
///
///   samples   0 1 2 3 4 5 6 7 8 9          a batch of 10 samples
///   shards    [0] [1 2] [3 4] [5 6 ...     S of them, whatever the number of processes: shard k has the samples
///                                          10 k / S to 10 (k + 1) / S, rounded down, so some may be empty
///   processes [0, 0]    [1, 1] ...         each has neighboring shards, by the same rule
///
/// The sum is a binary tree over the shards. A node of n shards splits at the largest power of two below n: it is the
/// sum of its left part plus that of its right part. A part whose shards are all empty does not exist, and its parent
/// is the other one alone. So the order of all additions depends on the samples and S, and on nothing else.
///
///   (0,6) = (0,4) + (4,6)            6 shards on 2 processes; a node has the first shard and the one after its last.
///   (0,4) = (0,2) + (2,4)            The process of the first shard computes it. Process 1 has the shards 3, 4, 5: it
///   (0,2) = (0,1) + (1,2)   ...      sends twice, (3,4), which is a part of (2,4), and (4,6).

#include "lora/core/scalar.hpp"

#include <bit>
#include <cstdint>

namespace lora::inline LORA_ABI {

/// Neighboring columns of a batch.
struct Shard {
  Index number = 0;  ///< from 0
  Index first = 0;   ///< its first column in the whole batch: Pass::first_sample of its pass
  Index count = 0;   ///< of its columns
};

/// Shard `number` of a batch.
inline Shard shard_of(Index samples, Index shards, Index number) {
  const Index first = samples * number / shards;
  return {number, first, samples * (number + 1) / shards - first};
}

namespace detail {

/// Shards [first, end) of a tree, one or more.
struct ShardNode {
  Index first = 0, end = 0;

  bool is_leaf() const { return end - first == 1; }
  /// The first shard of the right part.
  Index middle() const {
    return first + static_cast<Index>(std::bit_floor(static_cast<std::uint64_t>(end - first - 1)));
  }
  ShardNode left() const { return {first, middle()}; }
  ShardNode right() const { return {middle(), end}; }
  bool operator==(const ShardNode&) const = default;
};

/// Who has which shard. Every process has at least one if there are at least as many shards as processes.
struct ShardTree {
  Index shards = 1, processes = 1, process = 0;

  Index first_of(Index of) const { return shards * of / processes; }
  Index owner(Index shard) const { return ((shard + 1) * processes - 1) / shards; }
  ShardNode root() const { return {0, shards}; }
  ShardNode own() const { return {first_of(process), first_of(process + 1)}; }

  /// Whether all shards of a node, or some of them, are this process's.
  bool has_all(const ShardNode& node) const { return own().first <= node.first && node.end <= own().end; }
  bool has_some(const ShardNode& node) const { return own().first < node.end && node.first < own().end; }

  /// The node that `node`, which is not the root, is a part of.
  ShardNode parent(const ShardNode& node) const {
    ShardNode at = root();
    while (at.left() != node && at.right() != node) at = node.first < at.middle() ? at.left() : at.right();
    return at;
  }

  /// The messages of one sum, broadcast left out: the nodes whose two parts are computed by different processes.
  Index messages() const { return messages(root()); }
  Index messages(const ShardNode& node) const {
    if (node.is_leaf()) return 0;
    return (owner(node.first) != owner(node.middle()) ? 1 : 0) + messages(node.left()) + messages(node.right());
  }
};

}  // namespace detail
}  // namespace lora::inline LORA_ABI
