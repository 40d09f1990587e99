#pragma once
/// DistilBERT under the names of Hugging Face transformers.
///
/// BERT's encoder under other names, without token types, and with no dropout of the attention branch. PEFT has no
/// default targets for it, so none are given here: name them, as in {.modules = {"q_lin", "v_lin"}}.
///
/// Source: Sanh et al. 2019, arXiv:1910.01108; transformers 5.23.0, models/distilbert.

#include "lora/model/targets.hpp"
#include "lora/transformers/sequence_classifier.hpp"
#include "lora/transformers/text_encoder.hpp"
#include "lora/transformers/token_classifier.hpp"

#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

struct DistilBertType {
  static constexpr detail::EncoderPaths paths{
      .word = "embeddings.word_embeddings",
      .position = "embeddings.position_embeddings",
      .type = "embeddings.token_type_embeddings",  ///< not there: type_vocab_size is 0
      .norm = "embeddings.LayerNorm",
      .blocks = "transformer.layer",
      .query = "attention.q_lin",
      .key = "attention.k_lin",
      .value = "attention.v_lin",
      .attention_output = "attention.out_lin",
      .attention_norm = "sa_layer_norm",
      .intermediate = "ffn.lin1",
      .output = "ffn.lin2",
      .output_norm = "output_layer_norm",
      .drops_attention = false,
  };
  static constexpr const char* model_type = "distilbert";
  static constexpr const char* module = "distilbert";
  static constexpr const char* root = "distilbert.";
  static constexpr const char* model_name = "DistilBertModel";
  static constexpr const char* token_classifier_name = "DistilBertForTokenClassification";
  static double token_dropout(const EncoderConfig& config) { return config.hidden_dropout_prob; }

  struct SequenceHead {
    using Activation = Relu;
    static constexpr const char* name = "DistilBertForSequenceClassification";
    static constexpr const char* dense = "pre_classifier";
    static constexpr const char* output = "classifier";
    static constexpr bool drops_input = false;
    static std::vector<std::string> modules_to_save() { return {"pre_classifier", "classifier"}; }
  };
};

template <class S>
using DistilBertModel = TextEncoder<S, DistilBertType>;
template <class S>
using DistilBertForSequenceClassification = SequenceClassifier<S, DistilBertType>;
template <class S>
using DistilBertForTokenClassification = TokenClassifier<S, DistilBertType>;

}  // namespace lora::inline LORA_ABI

#ifdef LORA_COMPILED  // by the target lora::compiled

namespace lora::inline LORA_ABI {

LORA_COMPILED_FLOAT class TextEncoder<float, DistilBertType>;
LORA_COMPILED_FLOAT class SequenceClassifier<float, DistilBertType>;
LORA_COMPILED_FLOAT class TokenClassifier<float, DistilBertType>;
LORA_COMPILED_DOUBLE class TextEncoder<double, DistilBertType>;
LORA_COMPILED_DOUBLE class SequenceClassifier<double, DistilBertType>;
LORA_COMPILED_DOUBLE class TokenClassifier<double, DistilBertType>;

}  // namespace lora::inline LORA_ABI
#endif
