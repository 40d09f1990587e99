#pragma once
/// A published model from its directory: config.json and model.safetensors, as Hugging Face transformers saves them.
///
///   auto model = lora::load_pretrained<lora::BertModel<float>>("all-MiniLM-L6-v2");
///   using Classifier = lora::BertForSequenceClassification<float>;
///   auto model = lora::load_pretrained<Classifier>("all-MiniLM-L6-v2", {.num_labels = 20});
///
/// Weights are packed one by one from the mapped file, in the order in which products read them, and the file's pages
/// are given back; a table of embeddings stays in the file, of which only the rows that are read come into memory. So
/// the peak is the model and one tensor.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/encoder_settings.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/model/match.hpp"
#include "lora/transformers/layer_source.hpp"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct PretrainedOptions {
  /// For a new head, of so many labels, where the file has none. Empty: the file must have the head.
  std::optional<Index> num_labels = {};
  /// Of the new head's weights.
  std::uint64_t seed = 0;
  /// Weights that train, each in own memory, for full fine-tuning. By default they are frozen: attach an adapter.
  bool trainable = false;
  /// Tensors of the file that the model need not have: names, their ends after a dot, or a pattern. The heads of
  /// pretraining, pooler and position_ids are ignored anyway.
  ModuleNames ignored = {};
  /// Keys of config.json that are not known and do not matter.
  std::vector<std::string> ignore_settings = {};
  FileAccess access = FileAccess::map;
};

namespace detail {

/// Layers of a file. What does not fit is noted, and a layer of zeros stands in for it until finish() throws.
template <class S>
class StoredLayers : public LayerSource<S> {
 public:
  /// root: what the model's encoder has before its paths; module: what a classifier of this type has, "bert.".
  StoredLayers(Safetensors file, std::string_view root, std::string_view module, const PretrainedOptions& options,
               double deviation);

  Linear<S> linear(const std::string& path, const LinearShape& shape) override {
    const std::string weight = name_of(path) + ".weight", bias = name_of(path) + ".bias";
    const bool head = !in_encoder(path) || path.ends_with("pooler.dense");
    if (head && options_.num_labels && file_.find(weight) == nullptr && file_.find(bias) == nullptr) {
      return added_.linear(path, shape);
    }
    if (!fits(weight, {shape.out, shape.in}) || (shape.bias && !fits(bias, {shape.out}))) {
      return Linear<S>(stand_in<Matrix<S>>(shape.out, shape.in),
                       bias_if(shape, [&] { return Vector<S>::Zero(shape.out); }));
    }
    auto b = bias_if(shape, [&] { return file_.template read<S>(bias); });
    if (options_.trainable) return Linear<S>(file_.template read<S>(weight), std::move(b));
    Linear<S> layer(base_of(weight), std::move(b));
    file_.release(weight);
    return layer;
  }
  LayerNorm<S> layer_norm(const std::string& path, Index features, double epsilon) override {
    std::string weight = name_of(path) + ".weight", bias = name_of(path) + ".bias";
    if (file_.find(weight) == nullptr && file_.find(name_of(path) + ".gamma") != nullptr) {  // before 2019
      weight = name_of(path) + ".gamma";
      bias = name_of(path) + ".beta";
    }
    const bool good = fits(weight, {features});
    if (!fits(bias, {features}) || !good) {
      stand_in<Vector<S>>(features, 1);
      return LayerNorm<S>(features, epsilon);
    }
    LayerNorm<S> norm(file_.template read<S>(weight), file_.template read<S>(bias), epsilon);
    norm.weight().trainable = norm.bias().trainable = options_.trainable;
    return norm;
  }
  Embedding<S> embedding(const std::string& path, Index vocabulary, Index features) override {
    const std::string weight = name_of(path) + ".weight";
    if (!fits(weight, {vocabulary, features})) {
      return Embedding<S>(RowMajorMatrix<S>(stand_in<Matrix<S>>(vocabulary, features)));
    }
    if (!options_.trainable && is_stored_as_is(weight)) {
      const auto stored = file_.template tensor<S>(weight);
      const std::shared_ptr<const std::byte> bytes(stored.owner(), reinterpret_cast<const std::byte*>(stored.data()));
      return Embedding<S>({bytes, static_cast<std::size_t>(stored.size()) * sizeof(S)}, vocabulary, features);
    }
    RowMajorMatrix<S> rows(vocabulary, features);
    file_.read_into(weight, rows);
    file_.release(weight);
    Embedding<S> table(std::move(rows));
    table.weight().trainable = options_.trainable;
    return table;
  }
  bool has(const std::string& path) const override { return file_.find(name_of(path) + ".weight") != nullptr; }

  /// Throws MismatchError if anything did not fit, or if the file has tensors that the model did not ask for.
  void finish();

 private:
  /// The tensor's name in the file.
  std::string name_of(const std::string& path) const {
    if (!path.starts_with(root_) || !in_encoder(path)) return path;
    return file_root_ + path.substr(root_.size());
  }
  bool in_encoder(const std::string& path) const {
    if (!root_.empty()) return path.starts_with(root_);
    return true;  // a plain model is nothing but an encoder
  }
  /// Of the heads that models are pretrained with, and what older versions stored beside the weights.
  bool of_pretraining(std::string_view name) const {
    const auto begins = [&](std::string_view part) { return name.starts_with(part); };
    return begins("cls.") || begins("lm_head.") || begins("vocab_transform.") || begins("vocab_layer_norm.") ||
           begins("vocab_projector.") || name.ends_with("embeddings.position_ids") ||
           name.ends_with("embeddings.token_type_ids") || name.find("pooler.dense.") != name.npos;
  }

  bool fits(const std::string& name, const std::vector<Index>& shape) {
    used_.push_back(name);
    const StoredTensor* stored = file_.find(name);
    if (stored == nullptr) {
      mismatches_.missing(name);
      return false;
    }
    if (!is_real(stored->dtype)) {
      mismatches_.add(name,
                      "is stored as " + std::string(lora::name(stored->dtype)) + ", expected F64, F32, F16 or BF16");
      return false;
    }
    const std::vector<std::uint64_t> expected(shape.begin(), shape.end());
    return check_stored_shape(mismatches_, name, stored->shape, expected);
  }
  bool is_stored_as_is(const std::string& name) const {
    return (std::is_same_v<S, float> || std::is_same_v<S, double>) && file_.at(name).dtype == dtype_of<S>();
  }
  AnyBase<S> base_of(const std::string& weight) const {
    if (is_stored_as_is(weight)) return AnyBase<S>(Frozen<S>(file_.template tensor<S>(weight)));
    return AnyBase<S>(Frozen<S>(file_.template read<S>(weight)));
  }
  static std::optional<Vector<S>> bias_if(const LinearShape& shape, auto&& make) {
    if (!shape.bias) return std::nullopt;
    return Vector<S>(make());
  }
  /// Zeros of this size. A config that asks for more than a file could have missed by mistake ends here.
  template <class M>
  M stand_in(Index rows, Index cols) {
    spent_ += static_cast<double>(rows) * static_cast<double>(cols) + 1000;
    if (spent_ > 1e7) throw_mismatches();
    return M::Zero(rows, cols);
  }
  void throw_mismatches() const {
    mismatches_.check("load_pretrained", file_.files().front() + " does not fit the model:");
  }

  Safetensors file_;
  std::string root_, file_root_;
  const PretrainedOptions& options_;
  Rng rng_;
  NewLayers<S> added_;
  ModuleMatcher ignored_;
  Mismatches mismatches_;
  std::vector<std::string> used_;
  double spent_ = 0;
};

template <class S>
StoredLayers<S>::StoredLayers(Safetensors file, std::string_view root, std::string_view module,
                              const PretrainedOptions& options, double deviation)
    : file_(std::move(file)),
      root_(root),
      options_(options),
      rng_(options.seed),
      added_(rng_, deviation),
      ignored_("ignored", options.ignored, "load_pretrained") {
  // A file has the paths of the plain model, or those of a model with a head.
  const bool headed = std::any_of(file_.tensors().begin(), file_.tensors().end(),
                                  [&](const StoredTensor& tensor) { return tensor.name.starts_with(module); });
  file_root_ = headed ? module : "";
}

template <class S>
void StoredLayers<S>::finish() {
  std::sort(used_.begin(), used_.end());
  for (const StoredTensor& stored : file_.tensors()) {
    if (std::binary_search(used_.begin(), used_.end(), stored.name)) continue;
    if (!ignored_.matches(stored.name) && !of_pretraining(stored.name)) mismatches_.unexpected(stored.name);
  }
  throw_mismatches();
}

EncoderConfig read_encoder_config(const std::filesystem::path& directory, const PretrainedOptions& options,
                                  std::string_view model_type);

/// model.safetensors, or the files that model.safetensors.index.json lists.
Safetensors open_pretrained(const std::filesystem::path& directory, FileAccess access);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE EncoderConfig read_encoder_config(const std::filesystem::path& directory,
                                                 const PretrainedOptions& options, std::string_view model_type) {
  const auto file = directory / "config.json";
  EncoderConfig config = encoder_config_of(file.string(), read_settings(file), model_type, options.ignore_settings);
  if (options.num_labels) config.num_labels = *options.num_labels;
  validate(config, "load_pretrained");
  return config;
}

LORA_IO_INLINE Safetensors open_pretrained(const std::filesystem::path& directory, FileAccess access) {
  std::error_code ignored;
  const auto index = directory / "model.safetensors.index.json";
  const bool sharded =
      !std::filesystem::exists(directory / "model.safetensors", ignored) && std::filesystem::exists(index, ignored);
  return Safetensors::open(sharded ? index : directory / "model.safetensors", {.access = access});
}

#endif  // LORA_IO_DEFINITIONS

LORA_IO_INSTANCE(class StoredLayers<float>)
LORA_IO_DOUBLE_INSTANCE(class StoredLayers<double>)

}  // namespace detail

/// The settings of a published model. Throws FileError, FormatError for a setting that is not known or that is not
/// computed here, ConfigError.
template <class Model>
EncoderConfig read_pretrained_config(const std::filesystem::path& directory, const PretrainedOptions& options = {}) {
  return detail::read_encoder_config(directory, options, Model::ModelType::model_type);
}

/// A model with the weights of model.safetensors, or of the files that model.safetensors.index.json lists. The file may
/// hold the plain model or one with a head, and F64, F32, F16 or BF16, which are converted to the model's scalar.
///
/// Throws FileError, FormatError, ConfigError, and MismatchError that lists every tensor that is missing, unexpected or
/// of another shape or kind; only the first ones, if together they have more than 10 million numbers. Cost: one copy of
/// the weights that products read.
template <class Model>
Model load_pretrained(const std::filesystem::path& directory, const PretrainedOptions& options = {}) {
  using S = typename Model::Scalar;
  const EncoderConfig config = read_pretrained_config<Model>(directory, options);
  detail::StoredLayers<S> layers(detail::open_pretrained(directory, options.access), Model::root,
                                 Model::ModelType::root, options, config.initializer_range);
  Model model(config, layers);
  layers.finish();
  return model;
}

}  // namespace lora::inline LORA_ABI
