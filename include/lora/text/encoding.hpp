#pragma once
/// What a tokenizer makes of a text.

#include "lora/core/scalar.hpp"
#include "lora/text/detail/bert_normalizer.hpp"
#include "lora/text/detail/byte_pair.hpp"
#include "lora/text/detail/piece.hpp"

#include <array>
#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

namespace lora::inline LORA_ABI {

/// Bytes of a text, from begin to before end; both 0 for a special token, which is not in the text. Where offsets leave
/// out spaces (RoBERTa), nothing is left of a token that is only these.
struct ByteRange {
  std::size_t begin = 0, end = 0;
  bool operator==(const ByteRange&) const = default;
};

/// One entry of each list for each token.
struct Encoding {
  std::vector<int> ids;
  std::vector<int> types;        ///< what the model adds a type embedding for: 0, or 1 for the second text of a pair
  std::vector<int> texts;        ///< where a token is from: 0 the first text, 1 the second, -1 a special token
  std::vector<ByteRange> bytes;  ///< and what it stands for there. (The reference counts code points.)

 private:
  friend class Tokenizer;
  detail::NormalizedText normalized_;
  detail::MergeScratch merging_;
  std::array<std::vector<detail::Piece>, 2> pieces_;
};

struct EncodeOptions {
  static constexpr Index unlimited = std::numeric_limits<Index>::max();

  bool special_tokens = true;
  /// The most tokens, special ones included; nothing: Tokenizer::max_tokens().
  std::optional<Index> max_tokens = std::nullopt;
};

}  // namespace lora::inline LORA_ABI
