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
  struct Paths {
    static constexpr const char* word = "embeddings.word_embeddings";
    static constexpr const char* position = "embeddings.position_embeddings";
    static constexpr const char* type = "embeddings.token_type_embeddings";  ///< not there: type_vocab_size is 0
    static constexpr const char* norm = "embeddings.LayerNorm";
    static constexpr const char* blocks = "transformer.layer";
    static constexpr const char* query = "attention.q_lin";
    static constexpr const char* key = "attention.k_lin";
    static constexpr const char* value = "attention.v_lin";
    static constexpr const char* attention_output = "attention.out_lin";
    static constexpr const char* attention_norm = "sa_layer_norm";
    static constexpr const char* intermediate = "ffn.lin1";
    static constexpr const char* output = "ffn.lin2";
    static constexpr const char* output_norm = "output_layer_norm";
    static constexpr bool drops_attention = false;
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
