#pragma once
/// Writing safetensors, byte for byte as the reference implementation does:
///
///   lora::save_safetensors("model.safetensors", {{"fc1.weight", W}, {"fc1.bias", b}});
///
/// Tensors by dtype (widest first), then by name; compact JSON, metadata first; the header padded with spaces to a
/// multiple of 8. The reference writes metadata of several keys in no fixed order, this writer sorts them by name.
/// Source: huggingface/safetensors, safetensors/src/tensor.rs, serialize.

#include "lora/io/atomic_file.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/detail/sort_by.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/safetensors_header.hpp"
#include "lora/io/tensor_to_save.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// The tensors in the order of the file. Throws NameError for a duplicate or reserved name, ValueError for a finite
/// number that the tensor's dtype makes infinite.
std::vector<const TensorToSave*> in_file_order(const std::vector<TensorToSave>& tensors);

/// The first 8 bytes and the header. Throws NameError or ValueError for text that is not UTF-8, FormatError for a
/// header above SafetensorsLimits.
std::string safetensors_start(const std::vector<const TensorToSave*>& tensors, const Metadata& metadata);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::vector<const TensorToSave*> in_file_order(const std::vector<TensorToSave>& tensors) {
  constexpr const char* who = "save_safetensors";
  std::vector<const TensorToSave*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  sort_by(order, [](const auto* a, const auto* b) { return a->name() < b->name(); });
  const auto twice = std::adjacent_find(order.begin(), order.end(),
                                        [](const auto* a, const auto* b) { return a->name() == b->name(); });
  if (twice != order.end()) fail<NameError>(who, "two tensors are named " + shown((*twice)->name()));
  for (const auto* tensor : order) {
    if (tensor->name() == "__metadata__") fail<NameError>(who, "a tensor cannot be named \"__metadata__\"");
    tensor->check_range(who);
  }
  sort_by(order, [](const auto* a, const auto* b) {
    return a->dtype() != b->dtype() ? a->dtype() > b->dtype() : a->name() < b->name();
  });
  return order;
}

LORA_IO_INLINE std::string safetensors_start(const std::vector<const TensorToSave*>& tensors,
                                             const Metadata& metadata) {
  constexpr const char* who = "save_safetensors";
  std::string json = "{";
  const auto next = [&] { return json.back() == '{' ? "" : ","; };
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      const auto key_text = json_string(key), value_text = json_string(value);
      if (!key_text || !value_text) fail<ValueError>(who, "metadata " + shown(key) + " is not UTF-8");
      json.append(next()).append(*key_text).append(1, ':').append(*value_text);
    }
    json += '}';
  }
  std::uint64_t position = 0;
  std::size_t values = 2 + metadata.size();
  for (const auto* tensor : tensors) {
    const auto name_text = json_string(tensor->name());
    if (!name_text) fail<NameError>(who, "the name " + shown(tensor->name()) + " is not UTF-8");
    values += 6 + tensor->shape().size();
    json.append(next())
        .append(*name_text)
        .append(":{\"dtype\":\"")
        .append(name(tensor->dtype()))
        .append("\",\"shape\":[");
    for (std::size_t i = 0; i < tensor->shape().size(); ++i) {
      if (i > 0) json += ',';
      json += std::to_string(tensor->shape()[i]);
    }
    json.append("],\"data_offsets\":[").append(std::to_string(position));
    position += tensor->byte_size();
    json.append(1, ',').append(std::to_string(position)).append("]}");
  }
  json += '}';
  if (values > SafetensorsLimits{}.values) {
    fail<FormatError>(who, "names, shapes and metadata are " + std::to_string(values) + " values, expected at most " +
                               std::to_string(SafetensorsLimits{}.values));
  }
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > SafetensorsLimits{}.header_bytes) {
    fail<FormatError>(who, "names, shapes and metadata take " + std::to_string(json.size()) +
                               " bytes, expected at most " + std::to_string(SafetensorsLimits{}.header_bytes));
  }
  std::string start(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) start[i] = static_cast<char>(json.size() >> (8 * i) & 0xff);
  return start + json;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Passes the contents of a file of these tensors to sink(std::span<const std::byte>) in pieces. Throws before the
/// first one: NameError for a duplicate or invalid name; ValueError for metadata that are not UTF-8, and for a finite
/// number that becomes infinite in its dtype; FormatError for a header above 32 MB or 2 million values.
template <class Sink>
void write_safetensors(Sink&& sink, const std::vector<TensorToSave>& tensors,
                       const Metadata& metadata = {{"format", "pt"}}) {
  const auto order = detail::in_file_order(tensors);
  const std::string start = detail::safetensors_start(order, metadata);
  sink(std::as_bytes(std::span(start)));
  for (const auto* tensor : order) tensor->write_to(sink);
}

/// Writes the file, atomically: see AtomicFile, also for what it throws. It may be the file that the tensors are mapped
/// from; their views keep the old contents. Python programs expect the metadata {"format": "pt"}. Throws what
/// write_safetensors throws.
template <class System = PosixFiles>
void save_safetensors(const std::filesystem::path& path, const std::vector<TensorToSave>& tensors,
                      const Metadata& metadata = {{"format", "pt"}}) {
  const auto order = detail::in_file_order(tensors);
  const std::string start = detail::safetensors_start(order, metadata);
  AtomicFile<System> file(path);
  file.write(start);
  for (const auto* tensor : order) tensor->write_to([&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
}

LORA_IO_INSTANCE(void save_safetensors<PosixFiles>(const std::filesystem::path&, const std::vector<TensorToSave>&,
                                                   const Metadata&))

}  // namespace lora::inline LORA_ABI
