#pragma once
/// Reads the config.json of an encoder of BERT's kind.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/detail/peft_settings.hpp"
#include "lora/transformers/encoder_config.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Throws FormatError for a config of another model_type, a setting of another type, one that is computed in another
/// way only, and one that is not known; ConfigError for a value that no model can have. ignore: keys that may be there.
EncoderConfig encoder_config_of(std::string_view who, const Json& root, std::string_view model_type,
                                const std::vector<std::string>& ignore);

#ifdef LORA_IO_DEFINITIONS

/// Settings that change nothing that is computed here, whatever they say: remarks, what belongs to tokenizers,
/// generation, other heads, or to how transformers runs the model and what else it returns.
inline constexpr std::string_view harmless_model_settings[] = {"_attn_implementation_autoset",
                                                               "_commit_hash",
                                                               "_name_or_path",
                                                               "_num_labels",
                                                               "architectures",
                                                               "attn_implementation",
                                                               "bos_token_id",
                                                               "chunk_size_feed_forward",
                                                               "directionality",
                                                               "dtype",
                                                               "eos_token_id",
                                                               "finetuning_task",
                                                               "gradient_checkpointing",
                                                               "id2label",
                                                               "label2id",
                                                               "language",
                                                               "model_type",
                                                               "name",
                                                               "num_labels",
                                                               "output_attentions",
                                                               "output_hidden_states",
                                                               "output_past",
                                                               "pad_token_id",
                                                               "pooler_fc_size",
                                                               "pooler_num_attention_heads",
                                                               "pooler_num_fc_layers",
                                                               "pooler_size_per_head",
                                                               "pooler_type",
                                                               "problem_type",
                                                               "qa_dropout",
                                                               "return_dict",
                                                               "sep_token_id",
                                                               "task_specific_params",
                                                               "tie_word_embeddings",
                                                               "tokenizer_class",
                                                               "torch_dtype",
                                                               "torchscript",
                                                               "transformers_version",
                                                               "use_bfloat16",
                                                               "use_cache",
                                                               "use_return_dict"};

/// Settings that only one value of is computed here.
struct FixedModelSetting {
  std::string_view key;
  Json only;
};
LORA_IO_INLINE std::vector<FixedModelSetting> fixed_model_settings() {
  return {{"position_embedding_type", "absolute"},
          {"is_decoder", false},
          {"is_encoder_decoder", false},
          {"add_cross_attention", false},
          {"cross_attention_hidden_size", nullptr},
          {"sinusoidal_pos_embds", false},
          {"pruned_heads", Json::object()},
          {"embedding_size", nullptr}};
}

LORA_IO_INLINE ActivationKind activation_setting(const PeftSettings& settings, const char* key) {
  const auto name = settings.text(key);
  if (!name) return ActivationKind::gelu;
  if (*name == "gelu") return ActivationKind::gelu;
  if (*name == "gelu_new" || *name == "gelu_pytorch_tanh") return ActivationKind::gelu_tanh;
  if (*name == "relu") return ActivationKind::relu;
  if (*name == "silu" || *name == "swish") return ActivationKind::silu;
  settings.refuse(key, *settings.find(key),
                  "\"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\", \"relu\", \"silu\" or \"swish\"");
}

/// Keys of the config and fields that they fill: one list for BERT and RoBERTa, one for DistilBERT.
struct EncoderKeys {
  const char *size, *layers, *heads, *intermediate, *activation, *dropout, *attention_dropout, *classifier_dropout;
};
inline constexpr EncoderKeys bert_keys{
    "hidden_size", "num_hidden_layers",   "num_attention_heads",          "intermediate_size",
    "hidden_act",  "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"};
inline constexpr EncoderKeys distilbert_keys{"dim",        "n_layers", "n_heads",           "hidden_dim",
                                             "activation", "dropout",  "attention_dropout", "seq_classif_dropout"};

LORA_IO_INLINE EncoderConfig encoder_config_of(std::string_view who, const Json& root, std::string_view model_type,
                                               const std::vector<std::string>& ignore) {
  if (!root.is_object()) fail<FormatError>(who, "is not a JSON object, expected one of settings");
  const PeftSettings settings(who, root);
  const auto type = settings.text("model_type");
  if (!type) fail<FormatError>(who, "there is no model_type, expected " + in_quotes(model_type));
  if (*type != model_type) settings.refuse("model_type", *settings.find("model_type"), in_quotes(model_type));
  const bool distilbert = model_type == "distilbert";
  const EncoderKeys& keys = distilbert ? distilbert_keys : bert_keys;
  EncoderConfig config;
  if (distilbert) {
    config.type_vocab_size = 0;
    config.num_hidden_layers = 6;
  }
  const auto integer = [&](const char* key, Index& field) { field = settings.integer(key, field); };
  const auto number = [&](const char* key, double& field) { field = settings.number(key, field); };
  integer("vocab_size", config.vocab_size);
  integer(keys.size, config.hidden_size);
  integer(keys.layers, config.num_hidden_layers);
  integer(keys.heads, config.num_attention_heads);
  integer(keys.intermediate, config.intermediate_size);
  integer("max_position_embeddings", config.max_position_embeddings);
  config.hidden_act = activation_setting(settings, keys.activation);
  number(keys.dropout, config.hidden_dropout_prob);
  number(keys.attention_dropout, config.attention_probs_dropout_prob);
  if (settings.find(keys.classifier_dropout) != nullptr) {
    config.classifier_dropout = settings.number(keys.classifier_dropout, 0);
  } else if (distilbert) {
    config.classifier_dropout = 0.2;
  }
  number("initializer_range", config.initializer_range);
  if (!distilbert) {
    integer("type_vocab_size", config.type_vocab_size);
    number("layer_norm_eps", config.layer_norm_eps);
  }
  if (model_type == "roberta") config.first_position = settings.integer("pad_token_id", 1) + 1;
  if (const Json* names = settings.find("id2label")) {
    if (!names->is_object()) settings.refuse("id2label", *names, "an object of labels");
    config.num_labels = static_cast<Index>(names->size());
  } else {
    integer("num_labels", config.num_labels);
  }

  std::vector<std::string_view> known = {"vocab_size",
                                         "max_position_embeddings",
                                         "initializer_range",
                                         keys.size,
                                         keys.layers,
                                         keys.heads,
                                         keys.intermediate,
                                         keys.activation,
                                         keys.dropout,
                                         keys.attention_dropout,
                                         keys.classifier_dropout};
  if (!distilbert) known.insert(known.end(), {"type_vocab_size", "layer_norm_eps"});
  const auto has = [](const auto& list, std::string_view key) {
    return std::find(std::begin(list), std::end(list), key) != std::end(list);
  };
  const auto fixed = fixed_model_settings();
  for (const auto& [key, value] : root.get_ref<const Json::object_t&>()) {
    if (value.is_null() || has(known, key) || has(harmless_model_settings, key) || has(ignore, key)) continue;
    const auto only = std::find_if(fixed.begin(), fixed.end(), [&name = key](const FixedModelSetting& one) {
      return one.key == name;  // clang 14 cannot capture a structured binding
    });
    if (only != fixed.end()) {
      if (value == only->only) continue;
      settings.refuse(only->key.data(), value, only->only.dump() + ", the only one that is computed");
    }
    fail<FormatError>(who, shown(key) + " is " + shown_setting(value) +
                               ", a setting that is not known; {.ignore_settings = {" + shown(key) + "}} ignores it");
  }
  validate(config, Caller(who));
  return config;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
