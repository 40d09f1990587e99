#pragma once
/// A batch of texts as token ids.

#include "lora/core/error.hpp"
#include "lora/core/sequences.hpp"

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// The ids of all texts, one after the other, without padding.
///
/// ```cpp
/// #include <lora/transformers/tokens.hpp>
///
/// int main() {
///   lora::Tokens batch;
///   batch.add(std::vector<int>{101, 7592, 102});        // [CLS] hello [SEP]
///   batch.add(std::vector<int>{101, 2088, 999, 102});
///   return batch.sequences().count() == 2 && batch.ids().size() == 7 ? 0 : 1;
/// }
/// ```
///
/// clear() keeps the memory, so that a batch that is filled again does not allocate.
class Tokens {
 public:
  Tokens() = default;
  Tokens(std::initializer_list<std::vector<int>> texts) {
    for (const std::vector<int>& text : texts) add(text);
  }

  /// Adds a text. types: one for each token, such as 0 for the first and 1 for the second of a pair; empty: all 0.
  /// Throws ValueError for an empty text, ShapeError for types of another number; nothing is added then.
  void add(std::span<const int> ids, std::span<const int> types = {}) {
    if (ids.empty()) detail::fail<ValueError>("Tokens::add", "the text has no tokens, expected at least one");
    if (!types.empty() && types.size() != ids.size()) {
      detail::fail<ShapeError>("Tokens::add", std::to_string(types.size()) + " types given, expected as many as ids, " +
                                                  std::to_string(ids.size()));
    }
    if (!types.empty() || !types_.empty()) {
      types_.resize(ids_.size(), 0);
      types_.insert(types_.end(), types.begin(), types.end());
      types_.resize(ids_.size() + ids.size(), 0);
    }
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    sequences_.add(static_cast<Index>(ids.size()));
  }
  void clear() {
    ids_.clear();
    types_.clear();
    sequences_.clear();
  }

  std::span<const int> ids() const& { return ids_; }
  std::span<const int> ids() const&& = delete;
  /// Empty if all are 0.
  std::span<const int> types() const& { return types_; }
  std::span<const int> types() const&& = delete;
  const Sequences& sequences() const& { return sequences_; }
  const Sequences& sequences() const&& = delete;
  /// The number of texts.
  Index count() const { return sequences_.count(); }

 private:
  std::vector<int> ids_, types_;
  Sequences sequences_;
};

}  // namespace lora::inline LORA_ABI
