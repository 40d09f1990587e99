#pragma once
/// The header of a safetensors file, and every rule that makes the file behind it safe to read.
///
///   8 bytes N, little-endian | N bytes of JSON | the tensors' bytes
///   {"__metadata__":{"format":"pt"},"fc1.weight":{"dtype":"F32","shape":[64,784],"data_offsets":[0,200704]},...}
///
/// Offsets count from the end of the header; the end is not included. The tensors fill the rest of the file without gap
/// or overlap, so no two share a byte and none reaches outside.
///
/// Whatever this accepts, the reference implementation accepts. It refuses a little more: a name twice in one object
/// (the reference lets the last one win), an entry written as an array, and what exceeds SafetensorsLimits or the depth
/// of 8.
/// Source: huggingface/safetensors, README.md and safetensors/src/tensor.rs.

#include "lora/io/dtype.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/json_reader.hpp"
#include "lora/io/safetensors_entries.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// Sorts the tensors by their bytes and proves that these fill data_bytes exactly, each as its dtype and shape say.
inline void check_layout(std::string_view who, std::vector<SafetensorsHeader::Entry>& tensors,
                         std::uint64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
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
  if (position != data_bytes) {
    fail<FormatError>(who, "its tensors end at byte " + std::to_string(position) + " of the data, expected " +
                               std::to_string(data_bytes) + ", where the file ends");
  }
}

}  // namespace detail

/// Reads and checks the header of the file whose bytes these are; `who` begins the messages. Throws FormatError.
/// Nothing is allocated by numbers that the header claims: memory is at most a few times the header's own size.
inline SafetensorsHeader read_safetensors_header(std::string_view who, std::span<const std::byte> file,
                                                 const SafetensorsLimits& limits = {}) {
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
  detail::SafetensorsEvents events(who, limits);
  read_json(who, {reinterpret_cast<const char*>(text.data()), text.size()}, events, {.bytes = limits.header_bytes});
  SafetensorsHeader header = std::move(events.header);
  header.data_start = prefix + text.size();
  detail::check_layout(who, header.tensors, file.size() - header.data_start);
  return header;
}

}  // namespace lora::inline LORA_ABI
