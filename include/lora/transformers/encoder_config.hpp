#pragma once
/// The settings that the encoders of BERT's kind have in common, under the names of their config.json.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/nn/activation_kind.hpp"

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

/// The defaults are BERT's of base size.
struct EncoderConfig {
  Index vocab_size = 30522;
  Index hidden_size = 768;
  Index num_hidden_layers = 12;
  Index num_attention_heads = 12;
  Index intermediate_size = 3072;
  Index max_position_embeddings = 512;
  Index type_vocab_size = 2;  ///< 0: no types
  Index first_position = 0;   ///< the position of a text's first token (RoBERTa's pad_token_id + 1)
  ActivationKind hidden_act = ActivationKind::gelu;
  double layer_norm_eps = 1e-12;
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;
  std::optional<double> classifier_dropout = {};  ///< default: hidden_dropout_prob
  double initializer_range = 0.02;
  Index num_labels = 2;

  double classifier_dropout_or_hidden() const { return classifier_dropout.value_or(hidden_dropout_prob); }
  /// The longest text.
  Index max_tokens() const { return max_position_embeddings - first_position; }
  bool operator==(const EncoderConfig&) const = default;
};

/// Throws ConfigError for a setting that no model can have, by its name.
inline void validate(const EncoderConfig& config, const detail::Caller& who = "EncoderConfig") {
  const auto refuse = [&](const char* name, const std::string& given, const std::string& expected) {
    detail::fail<ConfigError>(who, std::string(name) + " is " + given + ", expected " + expected);
  };
  const auto at_least = [&](const char* name, Index given, Index least) {
    if (given < least) refuse(name, std::to_string(given), "at least " + std::to_string(least));
  };
  at_least("vocab_size", config.vocab_size, 1);
  at_least("hidden_size", config.hidden_size, 1);
  at_least("num_hidden_layers", config.num_hidden_layers, 1);
  at_least("num_attention_heads", config.num_attention_heads, 1);
  at_least("intermediate_size", config.intermediate_size, 1);
  at_least("first_position", config.first_position, 0);
  at_least("max_position_embeddings", config.max_position_embeddings, config.first_position + 1);
  at_least("type_vocab_size", config.type_vocab_size, 0);
  at_least("num_labels", config.num_labels, 1);
  if (config.hidden_size % config.num_attention_heads != 0) {
    refuse("hidden_size", std::to_string(config.hidden_size),
           "a multiple of num_attention_heads = " + std::to_string(config.num_attention_heads));
  }
  const auto probability = [&](const char* name, double given) {
    if (!(given >= 0 && given < 1)) refuse(name, detail::text_of(given), "at least 0 and below 1");
  };
  probability("hidden_dropout_prob", config.hidden_dropout_prob);
  probability("attention_probs_dropout_prob", config.attention_probs_dropout_prob);
  if (config.classifier_dropout) probability("classifier_dropout", *config.classifier_dropout);
  const auto positive = [&](const char* name, double given) {
    if (!(given > 0 && std::isfinite(given))) refuse(name, detail::text_of(given), "a positive number");
  };
  positive("layer_norm_eps", config.layer_norm_eps);
  positive("initializer_range", config.initializer_range);
}

namespace detail {

inline const EncoderConfig& checked(const EncoderConfig& config, const Caller& who) {
  validate(config, who);
  return config;
}
inline double checked_range(const EncoderConfig& config, const Caller& who) {
  return checked(config, who).initializer_range;
}

/// The streams of an encoder's dropout masks (adapters/dropout.hpp): those of its embeddings and classifier; block l
/// has 2^20 (l + 1) + h for attention's head h, and + 2^19 and 2^19 + 1 for its branches.
inline constexpr std::uint64_t embeddings_stream = 1, classifier_stream = 2, second_classifier_stream = 3;
inline std::uint64_t block_stream(Index block) { return (static_cast<std::uint64_t>(block) + 1) << 20; }
inline std::uint64_t branch_stream(Index block) { return block_stream(block) + (1 << 19); }

}  // namespace detail
}  // namespace lora::inline LORA_ABI
