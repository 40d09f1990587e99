#pragma once
/// Compares the tensors in the file of a PEFT adapter with those that a model needs.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/safetensors.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Collects all differences between the tensors of a file and the wanted ones, to report them together.
class PeftTensorCheck {
 public:
  explicit PeftTensorCheck(const Safetensors& weights) : weights_(weights) {}

  void want(const std::string& key, std::vector<std::uint64_t> shape, const std::string& remark = {});
  /// Allows the file to have the tensor `of` a second time, under the name `key`.
  void allow_copy(const std::string& key, const std::string& of);

  /// Throws MismatchError with three lists, each of which shows its first entries. Tensors that `ignored` has do not
  /// matter; of any other that no layer wants, difference(tensor) is the reason why it is unexpected, if it is.
  void finish(std::string_view who, const std::vector<std::string>& ignored = {},
              const std::function<std::string(const StoredTensor&)>& difference = {}) const;

 private:
  void compare(const StoredTensor& tensor, const std::vector<std::uint64_t>& shape, const std::string& remark);

  /// What a strange name says about its origin, and what to do.
  static std::string hint(std::string_view name);

  const Safetensors& weights_;
  std::set<std::string, std::less<>> wanted_;
  std::vector<std::string> missing_, misshapen_;
};

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE void PeftTensorCheck::want(const std::string& key, std::vector<std::uint64_t> shape,
                                          const std::string& remark) {
  wanted_.insert(key);
  const StoredTensor* tensor = weights_.find(key);
  if (tensor == nullptr) {
    missing_.push_back(key + " " + shape_text(shape));
  } else {
    compare(*tensor, shape, remark);
  }
}

LORA_IO_INLINE void PeftTensorCheck::allow_copy(const std::string& key, const std::string& of) {
  wanted_.insert(key);
  const StoredTensor *copy = weights_.find(key), *tensor = weights_.find(of);
  if (copy == nullptr || tensor == nullptr) return;
  const bool same = copy->dtype == tensor->dtype && copy->shape == tensor->shape &&
                    std::equal(copy->bytes.begin(), copy->bytes.end(), tensor->bytes.begin(), tensor->bytes.end());
  if (!same) misshapen_.push_back(copy->name + ": it is not what " + of + " is, expected a copy of it");
}

LORA_IO_INLINE void PeftTensorCheck::finish(std::string_view who, const std::vector<std::string>& ignored,
                                            const std::function<std::string(const StoredTensor&)>& difference) const {
  const std::set<std::string_view> left_out(ignored.begin(), ignored.end());
  for (const std::string_view name : left_out) {
    if (!wanted_.contains(name)) continue;
    fail<ConfigError>("load_adapter", shown(name) + " is in ignore_tensors, but the adapter needs it");
  }
  std::vector<std::string> unexpected;
  for (const StoredTensor& tensor : weights_.tensors()) {
    if (wanted_.contains(tensor.name) || left_out.contains(tensor.name)) continue;
    std::string why = hint(tensor.name);
    if (why.empty() && difference) {
      why = difference(tensor);
      if (why.empty()) continue;
    }
    unexpected.push_back(shown(tensor.name) + " " + shape_text(tensor.shape) + why);
  }
  if (missing_.empty() && unexpected.empty() && misshapen_.empty()) return;
  std::string text = "does not fit the model and " + std::string(peft_config_name) + ", nothing was loaded";
  const auto list = [&](const char* title, const std::vector<std::string>& entries) {
    if (entries.empty()) return;
    text += "\n" + std::to_string(entries.size()) + " " + title + ":";
    constexpr std::size_t most = 100;  // a file of strange names must not make a message of megabytes
    for (std::size_t k = 0; k < entries.size() && k < most; ++k) text += "\n  " + entries[k];
    if (entries.size() > most) text += "\n  and " + std::to_string(entries.size() - most) + " more";
  };
  list("missing", missing_);
  list("unexpected", unexpected);
  list("misshapen", misshapen_);
  fail<MismatchError>(who, text);
}

LORA_IO_INLINE void PeftTensorCheck::compare(const StoredTensor& tensor, const std::vector<std::uint64_t>& shape,
                                             const std::string& remark) {
  if (tensor.shape != shape) {
    misshapen_.push_back(tensor.name + ": shape is " + shape_text(tensor.shape) + ", expected " + shape_text(shape) +
                         remark);
  } else if (!is_real(tensor.dtype)) {
    misshapen_.push_back(tensor.name + ": dtype is " + std::string(name(tensor.dtype)) + ", expected " +
                         std::string(real_dtypes));
  }
}

LORA_IO_INLINE std::string PeftTensorCheck::hint(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  if (has("_orig_mod.")) return ", of a model that torch.compile wrapped; save the adapter of model._orig_mod";
  if (has("_fsdp_wrapped_module.")) return ", of a model that FSDP wrapped; save it with save_pretrained";
  if (name.starts_with("module.")) return ", of a model in DataParallel; save the adapter of model.module";
  if (has(".lora_A.default.") || has(".lora_B.default.")) {
    return ", of a whole state_dict; save the adapter with PEFT's save_pretrained, which leaves \".default\" out";
  }
  if (name.ends_with(".lora_a") || name.ends_with(".lora_b")) {
    return ", of MLX, which stores lora_a (in, rank) and lora_b (rank, out); transpose both, and call them "
           "base_model.model. ... .lora_A.weight and .lora_B.weight";
  }
  if (name.starts_with("lora_unet_") || name.starts_with("lora_te") || has(".lora_down.") || has(".lora_up.")) {
    return ", of kohya's sd-scripts, whose names do not tell the layers apart; convert it with diffusers and PEFT";
  }
  if (has(".modules_to_save.")) {
    return ", of a module inside of another that modules_to_save names; if it names both, leave the inner one out of "
           "it, "
           "and save again";
  }
  if (name.find("lora_magnitude_vector") != name.npos) return ", of DoRA; merge the adapter first";
  if (name.find("lora_embedding_") != name.npos) return ", of an embedding, which takes no adapters here";
  if (name.ends_with("lora_B.bias")) return ", of lora_bias; merge the adapter first";
  if (!name.starts_with(peft_prefix)) return ", expected names that begin with " + std::string(peft_prefix);
  return {};
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
