#pragma once
/// Everything that a tokenizer.json says.

#include "lora/core/scalar.hpp"
#include "lora/text/detail/added_tokens.hpp"
#include "lora/text/detail/bert_normalizer.hpp"
#include "lora/text/detail/byte_pair.hpp"
#include "lora/text/detail/byte_trie.hpp"
#include "lora/text/detail/offset_trim.hpp"
#include "lora/text/detail/token_template.hpp"
#include "lora/text/detail/word_piece.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct TokenizerParts {
  std::variant<WordPiece, BytePair> model;
  BertNormalizer normalizer;  // with WordPiece
  AddedTokens added;
  std::vector<std::string> tokens;  // by id
  std::vector<bool> special;        // by id
  TokenTemplate single, pair;
  OffsetTrim trim;
  enum class Decoder { none, word_piece, byte_level } decoder = Decoder::none;
  std::string decoder_prefix;  // of WordPiece, as the next
  bool cleanup = false;
  std::optional<Index> max_tokens;
  bool keep_end = false;  // truncation cuts off the begin

  const ByteTrie& vocabulary() const {
    return std::visit([](const auto& of) -> const ByteTrie& { return of.vocabulary; }, model);
  }
  /// The id of a token, or ByteTrie::nothing.
  int id(std::string_view token) const {
    const int of_model = vocabulary().find(token);
    return of_model != ByteTrie::nothing ? of_model : added.ids.find(token);
  }
};

}  // namespace lora::inline LORA_ABI::detail
