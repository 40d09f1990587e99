#pragma once
/// The header of a safetensors file, and the rules that make the rest of the file safe to read.
///
///   8 bytes N, little-endian | N bytes of JSON | the tensors' bytes
///   {"__metadata__":{"format":"pt"},"fc1.weight":{"dtype":"F32","shape":[64,784],"data_offsets":[0,200704]},...}
///
/// Offsets count from the end of the header; the end is not included. The tensors fill the rest of the file without gap
/// or overlap, so no two share a byte and none reaches outside.
///
/// The reference implementation accepts everything that this accepts. This refuses a little more: a duplicate name in
/// an object (the reference lets the last one win), an entry written as an array, and files that exceed
/// SafetensorsLimits or the depth of 8.
/// Source: huggingface/safetensors, README.md and safetensors/src/tensor.rs.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/io/detail/sort_by.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/file_error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Sorted by name.
using Metadata = std::map<std::string, std::string, std::less<>>;

struct SafetensorsLimits {
  std::size_t header_bytes = 32'000'000;  // the reference implementation has 100 MB
  std::size_t values = 2'000'000;         // of its JSON: 6 for a tensor and 1 for each dimension
  std::size_t tensors = 1'000'000;
  std::size_t dimensions = 64;
  std::size_t metadata_entries = 100'000;
};

struct SafetensorsHeader {
  struct Entry {
    std::string name;
    Dtype dtype = Dtype::u8;
    std::vector<std::uint64_t> shape;
    std::uint64_t begin = 0, end = 0;  // from the start of the data
  };
  /// In the order of their bytes in the file; those without bytes by name.
  std::vector<Entry> tensors;
  Metadata metadata;
  std::size_t data_start = 0;  // from the start of the file
};

namespace detail {

/// The entry of one tensor.
SafetensorsHeader::Entry tensor_entry(std::string_view who, const std::string& name, const Json& value,
                                      const SafetensorsLimits& limits);

Metadata metadata_entries(std::string_view who, const Json& value, const SafetensorsLimits& limits);

/// The entries of a header, each checked for its form.
SafetensorsHeader header_entries(std::string_view who, const Json& root, const SafetensorsLimits& limits);

/// Sorts the tensors by their bytes and proves that these fill the file from data_start on exactly, each as its dtype
/// and shape say.
void check_layout(std::string_view who, std::vector<SafetensorsHeader::Entry>& tensors, std::uint64_t data_start,
                  std::uint64_t data_bytes);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE SafetensorsHeader::Entry tensor_entry(std::string_view who, const std::string& name, const Json& value,
                                                     const SafetensorsLimits& limits) {
  const auto refuse = [&](const std::string& text) { fail<FormatError>(who, "tensor " + shown(name) + ": " + text); };
  if (!value.is_object()) {
    refuse("is " + found_in_json(value) + ", expected an object with dtype, shape and data_offsets");
  }
  const auto field = [&](const char* key) -> const Json& {
    const auto found = value.find(key);
    if (found == value.end()) refuse(std::string("has no ") + key);
    return *found;
  };
  const auto integers = [&](const char* key) -> const Json::array_t& {
    const Json& list = field(key);
    if (!list.is_array()) refuse(std::string(key) + " is " + found_in_json(list) + ", expected an array of integers");
    for (const Json& item : list) {
      if (item.is_number_unsigned()) continue;
      refuse(std::string(key) + " contains " + found_in_json(item) + ", expected an integer from 0 to 2^64 - 1");
    }
    return list.get_ref<const Json::array_t&>();
  };

  const Json& dtype_name = field("dtype");
  if (!dtype_name.is_string()) refuse("dtype is " + found_in_json(dtype_name) + ", expected a string");
  const auto& text = dtype_name.get_ref<const std::string&>();
  const auto dtype = find_dtype(text);
  if (!dtype) refuse("has the unknown dtype " + shown(text));
  const Json::array_t& dimensions = integers("shape");
  if (dimensions.size() > limits.dimensions) {
    refuse("has more than " + std::to_string(limits.dimensions) + " dimensions");
  }
  std::vector<std::uint64_t> shape(dimensions.size());
  for (std::size_t i = 0; i < shape.size(); ++i) shape[i] = dimensions[i].get<std::uint64_t>();
  const Json::array_t& offsets = integers("data_offsets");
  if (offsets.size() > 2) refuse("data_offsets has more than 2 numbers");
  if (offsets.size() < 2) refuse("data_offsets has " + std::to_string(offsets.size()) + " numbers, expected 2");
  return {name, *dtype, std::move(shape), offsets[0].get<std::uint64_t>(), offsets[1].get<std::uint64_t>()};
}

LORA_IO_INLINE Metadata metadata_entries(std::string_view who, const Json& value, const SafetensorsLimits& limits) {
  Metadata metadata;
  if (value.is_null()) return metadata;  // the reference implementation treats it as none
  if (!value.is_object()) fail<FormatError>(who, "__metadata__ is " + found_in_json(value) + ", expected an object");
  if (value.size() > limits.metadata_entries) {
    fail<FormatError>(who, "__metadata__ has more than " + std::to_string(limits.metadata_entries) + " entries");
  }
  for (const auto& [key, item] : value.get_ref<const Json::object_t&>()) {
    if (!item.is_string()) {
      fail<FormatError>(who, "__metadata__: " + shown(key) + " is " + found_in_json(item) + ", expected a string");
    }
    metadata.emplace(key, item.get_ref<const std::string&>());
  }
  return metadata;
}

LORA_IO_INLINE SafetensorsHeader header_entries(std::string_view who, const Json& root,
                                                const SafetensorsLimits& limits) {
  if (!root.is_object()) fail<FormatError>(who, "the header is " + found_in_json(root) + ", expected an object");
  SafetensorsHeader header;
  const bool has_metadata = root.contains("__metadata__");
  if (root.size() - has_metadata > limits.tensors) {
    fail<FormatError>(who, "has more than " + std::to_string(limits.tensors) + " tensors");
  }
  header.tensors.reserve(root.size());
  for (const auto& [name, value] : root.get_ref<const Json::object_t&>()) {
    if (name == "__metadata__") {
      header.metadata = metadata_entries(who, value, limits);
    } else {
      header.tensors.push_back(tensor_entry(who, name, value, limits));
    }
  }
  return header;
}

LORA_IO_INLINE void check_layout(std::string_view who, std::vector<SafetensorsHeader::Entry>& tensors,
                                 std::uint64_t data_start, std::uint64_t data_bytes) {
  sort_by(tensors, [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.name < b.name;
  });
  std::uint64_t position = 0;
  for (const auto& tensor : tensors) {
    const auto refuse = [&](const std::string& text) {
      fail<FormatError>(who, "tensor " + shown(tensor.name) + ": " + text);
    };
    if (tensor.begin != position) {
      refuse("its data begins at " + std::to_string(tensor.begin) + ", expected " + std::to_string(position) +
             ", where the tensor before it ends: there must be no gap and no overlap");
    }
    if (tensor.end < tensor.begin) {
      refuse("its data ends at " + std::to_string(tensor.end) + ", before it begins at " +
             std::to_string(tensor.begin));
    }
    const auto size = bit_count(tensor.dtype, tensor.shape);
    if (!size) refuse("its shape has more than 2^64 - 1 bits");
    if (*size % 8 != 0) refuse("it has " + std::to_string(*size) + " bits, expected whole bytes");
    if (tensor.end - tensor.begin != *size / 8) {
      refuse("its data_offsets span " + std::to_string(tensor.end - tensor.begin) + " bytes, expected " +
             std::to_string(*size / 8) + " for its dtype and shape");
    }
    position = tensor.end;
  }
  if (position > data_bytes) {
    fail<FormatError>(who, "its tensors end at byte " + std::to_string(position) + " of the data, but the file has " +
                               std::to_string(data_start + data_bytes) + " bytes, expected " +
                               std::to_string(data_start + position) + ": it is cut off");
  }
  if (position != data_bytes) {
    fail<FormatError>(who, "its tensors end at byte " + std::to_string(position) + " of the data, expected " +
                               std::to_string(data_bytes) + ", where the file ends");
  }
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Reads and checks the header of the file whose bytes these are; `who` begins the messages. Throws FormatError.
/// Sizes that the header claims never cause an allocation; for memory see parse_json.
SafetensorsHeader read_safetensors_header(std::string_view who, std::span<const std::byte> file,
                                          const SafetensorsLimits& limits = {});

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE SafetensorsHeader read_safetensors_header(std::string_view who, std::span<const std::byte> file,
                                                         const SafetensorsLimits& limits) {
  constexpr std::size_t prefix = 8;
  if (file.size() < prefix) {
    detail::fail<FormatError>(who, "has " + std::to_string(file.size()) +
                                       " bytes, expected at least 8: it is not a "
                                       "safetensors file, or cut off");
  }
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < prefix; ++i) size |= std::to_integer<std::uint64_t>(file[i]) << (8 * i);
  if (size > limits.header_bytes) {
    constexpr std::string_view pointer = "version https://git-lfs";
    const bool is_pointer =
        file.size() >= pointer.size() && std::memcmp(file.data(), pointer.data(), pointer.size()) == 0;
    detail::fail<FormatError>(who, "its header claims " + std::to_string(size) + " bytes, expected at most " +
                                       std::to_string(limits.header_bytes) + ": it is " +
                                       (is_pointer ? "the pointer of Git LFS to a file, which git lfs pull fetches"
                                                   : "not a safetensors file?"));
  }
  if (size > file.size() - prefix) {
    detail::fail<FormatError>(who, "its header claims " + std::to_string(size) + " bytes, but only " +
                                       std::to_string(file.size() - prefix) + " follow: the file is cut off");
  }
  const auto text = file.subspan(prefix, static_cast<std::size_t>(size));
  const detail::Json root = detail::parse_json(who, {reinterpret_cast<const char*>(text.data()), text.size()},
                                               {.bytes = limits.header_bytes, .values = limits.values});
  SafetensorsHeader header = detail::header_entries(who, root, limits);
  header.data_start = prefix + text.size();
  detail::check_layout(who, header.tensors, header.data_start, file.size() - header.data_start);
  return header;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI
