#pragma once
/// BERT under the names of Hugging Face transformers: as a plain model, to classify texts, and to classify tokens.
///
/// Source: Devlin et al. 2018, arXiv:1810.04805; transformers 5.23.0, models/bert.

#include "lora/model/targets.hpp"
#include "lora/transformers/sequence_classifier.hpp"
#include "lora/transformers/text_encoder.hpp"
#include "lora/transformers/token_classifier.hpp"

#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// What makes an encoder BERT: its names, and what differs from its relatives.
struct BertType {
  static constexpr detail::EncoderPaths paths{
      .word = "embeddings.word_embeddings",
      .position = "embeddings.position_embeddings",
      .type = "embeddings.token_type_embeddings",
      .norm = "embeddings.LayerNorm",
      .blocks = "encoder.layer",
      .query = "attention.self.query",
      .key = "attention.self.key",
      .value = "attention.self.value",
      .attention_output = "attention.output.dense",
      .attention_norm = "attention.output.LayerNorm",
      .intermediate = "intermediate.dense",
      .output = "output.dense",
      .output_norm = "output.LayerNorm",
      .drops_attention = true,
  };
  static constexpr const char* model_type = "bert";
  static constexpr const char* module = "bert";
  static constexpr const char* root = "bert.";
  static constexpr const char* pooler = "pooler.dense";
  static constexpr const char* model_name = "BertModel";
  static constexpr const char* token_classifier_name = "BertForTokenClassification";
  static Targets default_targets() { return {.modules = {"query", "value"}}; }
  static double token_dropout(const EncoderConfig& config) { return config.classifier_dropout_or_hidden(); }

  struct SequenceHead {
    using Activation = Tanh;
    static constexpr const char* name = "BertForSequenceClassification";
    static constexpr const char* dense = "bert.pooler.dense";
    static constexpr const char* output = "classifier";
    static constexpr bool drops_input = false;
    static std::vector<std::string> modules_to_save() { return {"classifier"}; }
  };
};

/// load_pretrained (io/pretrained.hpp) reads a published one.
template <class S>
using BertModel = TextEncoder<S, BertType>;

/// ```cpp
/// #include <lora/lora.hpp>
/// #include <lora/transformers/bert.hpp>
/// #include <vector>
///
/// int main() {
///   lora::Rng rng(1);
///   const lora::EncoderConfig config{.vocab_size = 100, .hidden_size = 32, .num_hidden_layers = 2,
///                                    .num_attention_heads = 4, .intermediate_size = 64, .num_labels = 2};
///   lora::BertForSequenceClassification<float> model(config, rng);
///   lora::attach(model, {.rank = 4, .alpha = 8}, model.default_targets(), rng);  // query, value; classifier in full
///   lora::BertForSequenceClassification<float>::Cache cache;
///   lora::AdamW<float> optimizer({.lr = 1e-2});
///   const lora::Tokens batch = {{5, 17, 3}, {42, 7}};
///   const std::vector<int> labels = {0, 1};
///   Eigen::MatrixXf dlogits;
///   for (std::uint64_t step = 0; step < 40; ++step) {
///     const auto logits = model.forward(batch, cache, {.training = true, .step = step});
///     lora::softmax_cross_entropy(logits, labels, &dlogits);
///     lora::zero_gradients(model);
///     model.backward(batch, dlogits, cache);
///     optimizer.step(model);
///   }
///   return lora::accuracy(model(batch), labels) == 1 ? 0 : 1;
/// }
/// ```
template <class S>
using BertForSequenceClassification = SequenceClassifier<S, BertType>;

template <class S>
using BertForTokenClassification = TokenClassifier<S, BertType>;

}  // namespace lora::inline LORA_ABI

#ifdef LORA_COMPILED  // by the target lora::compiled

namespace lora::inline LORA_ABI {

LORA_COMPILED_FLOAT class TextEncoder<float, BertType>;
LORA_COMPILED_FLOAT class SequenceClassifier<float, BertType>;
LORA_COMPILED_FLOAT class TokenClassifier<float, BertType>;
LORA_COMPILED_DOUBLE class TextEncoder<double, BertType>;
LORA_COMPILED_DOUBLE class SequenceClassifier<double, BertType>;
LORA_COMPILED_DOUBLE class TokenClassifier<double, BertType>;

}  // namespace lora::inline LORA_ABI
#endif
