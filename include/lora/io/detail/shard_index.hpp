#pragma once
// The index of a model in several safetensors files, model.safetensors.index.json:
//
//   {"metadata":{"total_size":...},"weight_map":{"fc1.weight":"model-00001-of-00002.safetensors",...}}
//
// It is as untrusted as the files: it can only name files in its own folder.
// Source: huggingface_hub, serialization/_base.py.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/file_error.hpp"

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI::detail {

using WeightMap = std::map<std::string, std::string, std::less<>>;

/// The file of each tensor in an index. Throws FormatError for another form and for names outside its folder.
WeightMap weight_map(std::string_view who, std::string_view text, std::size_t most);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE WeightMap weight_map(std::string_view who, std::string_view text, std::size_t most) {
  const Json root = parse_json(who, text);
  if (!root.is_object()) fail<FormatError>(who, "is " + found_in_json(root) + ", expected an object with weight_map");
  const auto found = root.find("weight_map");
  if (found == root.end() || (found->is_object() && found->empty())) {
    fail<FormatError>(who, "its weight_map is missing or empty");
  }
  if (!found->is_object()) fail<FormatError>(who, "weight_map is " + found_in_json(*found) + ", expected an object");
  if (found->size() > most) fail<FormatError>(who, "lists more than " + std::to_string(most) + " tensors");
  WeightMap file_of;
  for (const auto& [tensor, value] : found->get_ref<const Json::object_t&>()) {
    if (!value.is_string()) {
      fail<FormatError>(who, "weight_map: " + shown(tensor) + " is " + found_in_json(value) + ", expected a file name");
    }
    const auto& file = value.get_ref<const std::string&>();
    if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos) {
      fail<FormatError>(who, "weight_map: tensor " + shown(tensor) + " is in " + shown(file) +
                                 ", expected the bare name of a file in the same folder");
    }
    file_of.emplace(tensor, file);
  }
  return file_of;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
