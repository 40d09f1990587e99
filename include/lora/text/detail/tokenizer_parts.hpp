#pragma once
/// Everything that a tokenizer.json says.

#include "lora/core/scalar.hpp"
#include "lora/text/detail/added_tokens.hpp"
#include "lora/text/detail/bert_normalizer.hpp"
#include "lora/text/detail/token_template.hpp"
#include "lora/text/detail/word_piece.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct TokenizerParts {
  BertNormalizer normalizer;
  WordPiece model;
  AddedTokens added;
  std::vector<std::string> tokens;  // by id
  std::vector<bool> special;        // by id
  TokenTemplate single, pair;
  bool has_decoder = false;
  std::string decoder_prefix;
  bool cleanup = false;
  std::optional<Index> max_tokens;
  bool keep_end = false;  // truncation cuts off the begin

  /// The id of a token, or ByteTrie::nothing.
  int id(std::string_view token) const {
    const int of_model = model.vocabulary.find(token);
    return of_model != ByteTrie::nothing ? of_model : added.ids.find(token);
  }
};

}  // namespace lora::inline LORA_ABI::detail
