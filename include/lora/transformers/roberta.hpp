#pragma once
/// RoBERTa under the names of Hugging Face transformers; also XLM-RoBERTa's encoder, whose layers are the same.
///
/// BERT's encoder with positions that begin at pad_token_id + 1 (EncoderConfig::first_position), and a head of its own
/// in place of the pooler.
///
/// Source: Liu et al. 2019, arXiv:1907.11692; transformers 5.23.0, models/roberta.

#include "lora/transformers/bert.hpp"

#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

struct RobertaType {
  static constexpr const detail::EncoderPaths& paths = BertType::paths;
  static constexpr const char* model_type = "roberta";
  static constexpr const char* module = "roberta";
  static constexpr const char* root = "roberta.";
  static constexpr const char* pooler = "pooler.dense";
  static constexpr const char* model_name = "RobertaModel";
  static constexpr const char* token_classifier_name = "RobertaForTokenClassification";
  static Targets default_targets() { return {.modules = {"query", "value"}}; }
  static double token_dropout(const EncoderConfig& config) { return config.classifier_dropout_or_hidden(); }

  struct SequenceHead {
    using Activation = Tanh;
    static constexpr const char* name = "RobertaForSequenceClassification";
    static constexpr const char* dense = "classifier.dense";
    static constexpr const char* output = "classifier.out_proj";
    static constexpr bool drops_input = true;
    static std::vector<std::string> modules_to_save() { return {"classifier"}; }
  };
};

template <class S>
using RobertaModel = TextEncoder<S, RobertaType>;
template <class S>
using RobertaForSequenceClassification = SequenceClassifier<S, RobertaType>;
template <class S>
using RobertaForTokenClassification = TokenClassifier<S, RobertaType>;

}  // namespace lora::inline LORA_ABI

#ifdef LORA_COMPILED  // by the target lora::compiled

namespace lora::inline LORA_ABI {

LORA_COMPILED_FLOAT class TextEncoder<float, RobertaType>;
LORA_COMPILED_FLOAT class SequenceClassifier<float, RobertaType>;
LORA_COMPILED_FLOAT class TokenClassifier<float, RobertaType>;
LORA_COMPILED_DOUBLE class TextEncoder<double, RobertaType>;
LORA_COMPILED_DOUBLE class SequenceClassifier<double, RobertaType>;
LORA_COMPILED_DOUBLE class TokenClassifier<double, RobertaType>;

}  // namespace lora::inline LORA_ABI
#endif
