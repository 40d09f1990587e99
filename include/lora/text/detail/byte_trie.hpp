#pragma once
/// Texts as paths of bytes from a root, to find the longest that a text begins with in one walk.

#include "lora/abi.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The children of a node are next to each other, with rising bytes; nodes are in the order of their depth. Memory: 9
/// bytes a node, of which there are at most as many as bytes in all texts, plus one. There is no hash that a file could
/// make slow.
class ByteTrie {
 public:
  using Node = std::uint32_t;
  static constexpr Node root = 0, nowhere = std::numeric_limits<Node>::max();
  static constexpr int nothing = -1;

  ByteTrie() : ByteTrie(std::vector<std::pair<std::string_view, int>>{}) {}
  /// Texts with their values, which are not negative; of equal texts the first in the list counts. Cost: sorting, and
  /// all bytes once.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int>> texts) {
    std::stable_sort(texts.begin(), texts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    struct Range {
      std::size_t first, last;  // of the sorted texts that go through the node
    };
    std::vector<Range> level{{0, texts.size()}}, below;
    labels_.push_back(0);
    for (std::size_t depth = 0; !level.empty(); ++depth, level.swap(below), below.clear()) {
      for (auto [at, last] : level) {
        values_.push_back(nothing);
        children_.push_back(static_cast<Node>(labels_.size()));
        if (at < last && texts[at].first.size() == depth) values_.back() = texts[at].second;
        while (at < last && texts[at].first.size() == depth) ++at;
        while (at < last) {
          const char label = texts[at].first[depth];
          const std::size_t first = at;
          while (at < last && texts[at].first[depth] == label) ++at;
          labels_.push_back(label);
          below.push_back({first, at});
        }
      }
    }
    children_.push_back(static_cast<Node>(labels_.size()));
  }

  /// Whether no text begins with this byte.
  bool empty() const { return values_.size() == 1; }
  Node child(Node node, char byte) const {
    const Node first = children_[node], count = children_[node + 1] - first;
    if (count == 0) return nowhere;
    const char* const labels = labels_.data() + first;
    if (count == 1) return *labels == byte ? first : nowhere;
    const void* const found = std::memchr(labels, byte, count);
    return found == nullptr ? nowhere : first + static_cast<Node>(static_cast<const char*>(found) - labels);
  }
  Node walk(std::string_view text, Node start = root) const {
    Node node = start;
    for (std::size_t at = 0; at < text.size() && node != nowhere; ++at) node = child(node, text[at]);
    return node;
  }
  /// The value at the end of a text's path from `start`, which may be nowhere; or nothing.
  int find(std::string_view text, Node start = root) const {
    const Node node = walk(text, start);
    return node == nowhere ? nothing : values_[node];
  }

  struct Match {
    int value = nothing;
    std::size_t size = 0;
  };
  /// The longest path from `start` along the text that ends at a value and has at least one byte.
  Match longest(std::string_view text, Node start = root) const {
    Match best;
    Node node = start;
    for (std::size_t at = 0; at < text.size(); ++at) {
      node = child(node, text[at]);
      if (node == nowhere) break;
      if (values_[node] != nothing) best = {values_[node], at + 1};
    }
    return best;
  }

 private:
  std::vector<Node> children_;  // the first child of each node, and one more
  std::vector<char> labels_;    // the byte that leads to each node
  std::vector<int> values_;
};

}  // namespace lora::inline LORA_ABI::detail
