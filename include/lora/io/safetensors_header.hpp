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

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora {

/// Sorted by name.
using Metadata = std::map<std::string, std::string, std::less<>>;

struct SafetensorsLimits {
  std::size_t header_bytes = 100'000'000;  // the reference implementation's own
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

/// Collects the entries, and refuses what does not have their form.
class SafetensorsEvents final : public JsonEvents {
 public:
  using Entry = SafetensorsHeader::Entry;

  SafetensorsEvents(std::string_view who, const SafetensorsLimits& limits) : who_(who), limits_(limits) {}

  SafetensorsHeader header;

  void begin_object() override {
    if (skipped()) {
      ++skipping_;
    } else if (place_ == Place::outside) {
      place_ = Place::top;
    } else if (place_ == Place::top) {
      place_ = in_metadata_ ? Place::metadata : Place::entry;
      has_dtype_ = has_shape_ = has_offsets_ = false;
    } else {
      wrong("an object");
    }
  }

  void key(std::string_view name) override {
    if (skipping_ > 0) return;
    if (place_ == Place::top) {
      in_metadata_ = name == "__metadata__";
      if (in_metadata_) return;
      if (header.tensors.size() >= limits_.tensors) {
        fail<FormatError>(who_, "has more than " + std::to_string(limits_.tensors) + " tensors");
      }
      header.tensors.emplace_back().name = name;
    } else if (place_ == Place::metadata) {
      key_ = name;
    } else {
      field_ = name == "dtype"          ? Field::dtype
               : name == "shape"        ? Field::shape
               : name == "data_offsets" ? Field::offsets
                                        : Field::unknown;
    }
  }

  void end_object() override {
    if (skipping_ > 0) {
      --skipping_;
    } else if (place_ == Place::entry) {
      if (!has_dtype_) refuse("has no dtype");
      if (!has_shape_) refuse("has no shape");
      if (!has_offsets_) refuse("has no data_offsets");
      place_ = Place::top;
    } else {
      place_ = place_ == Place::metadata ? Place::top : Place::outside;
    }
  }

  void begin_array() override {
    if (skipped()) {
      ++skipping_;
    } else if (place_ == Place::entry && field_ == Field::shape) {
      place_ = Place::shape;
    } else if (place_ == Place::entry && field_ == Field::offsets) {
      place_ = Place::offsets;
      offsets_ = 0;
    } else {
      wrong("an array");
    }
  }

  void end_array() override {
    if (skipping_ > 0) {
      --skipping_;
    } else if (place_ == Place::shape) {
      has_shape_ = true;
      place_ = Place::entry;
    } else {
      if (offsets_ != 2) refuse("data_offsets has " + std::to_string(offsets_) + " numbers, expected 2");
      has_offsets_ = true;
      place_ = Place::entry;
    }
  }

  void string(std::string_view value) override {
    if (skipped()) return;
    if (place_ == Place::metadata) {
      if (header.metadata.size() >= limits_.metadata_entries) {
        fail<FormatError>(who_, "__metadata__ has more than " + std::to_string(limits_.metadata_entries) + " entries");
      }
      header.metadata.emplace(key_, value);
    } else if (place_ == Place::entry && field_ == Field::dtype) {
      const auto dtype = find_dtype(value);
      if (!dtype) refuse("has the unknown dtype " + shown(value));
      current().dtype = *dtype;
      has_dtype_ = true;
    } else {
      wrong("a string");
    }
  }

  void unsigned_integer(std::uint64_t value) override {
    if (skipped()) return;
    if (place_ == Place::shape) {
      if (current().shape.size() >= limits_.dimensions) {
        refuse("has more than " + std::to_string(limits_.dimensions) + " dimensions");
      }
      current().shape.push_back(value);
    } else if (place_ == Place::offsets) {
      if (offsets_ == 2) refuse("data_offsets has more than 2 numbers");
      (offsets_++ == 0 ? current().begin : current().end) = value;
    } else {
      wrong("a number");
    }
  }

  void negative_integer(std::int64_t) override {
    if (!skipped()) wrong("a number with a minus");
  }
  void real(double, std::string_view text) override {
    if (!skipped()) wrong("the number " + shown(text));
  }
  void boolean(bool value) override {
    if (!skipped()) wrong(value ? "true" : "false");
  }
  void null() override {
    // The reference implementation takes metadata of null for none.
    if (!skipped() && !(place_ == Place::top && in_metadata_)) wrong("null");
  }

 private:
  enum class Place { outside, top, metadata, entry, shape, offsets };
  enum class Field { unknown, dtype, shape, offsets };

  /// Inside a field that the format does not know, or its value itself.
  bool skipped() const { return skipping_ > 0 || (place_ == Place::entry && field_ == Field::unknown); }
  Entry& current() { return header.tensors.back(); }

  [[noreturn]] void refuse(const std::string& text) {
    fail<FormatError>(who_, "tensor " + shown(current().name) + ": " + text);
  }

  [[noreturn]] void wrong(const std::string& found) {
    constexpr std::string_view integer = "an integer from 0 to 2^64 - 1";
    switch (place_) {
      case Place::outside: fail<FormatError>(who_, "the header is " + found + ", expected an object");
      case Place::top:
        if (in_metadata_) fail<FormatError>(who_, "__metadata__ is " + found + ", expected an object");
        refuse("is " + found + ", expected an object with dtype, shape and data_offsets");
      case Place::metadata:
        fail<FormatError>(who_, "__metadata__: " + shown(key_) + " is " + found + ", expected a string");
      case Place::entry:
        if (field_ == Field::dtype) refuse("dtype is " + found + ", expected a string");
        refuse((field_ == Field::shape ? "shape is " : "data_offsets is ") + found + ", expected an array of integers");
      case Place::shape: refuse("shape contains " + found + ", expected " + std::string(integer));
      default: refuse("data_offsets contains " + found + ", expected " + std::string(integer));
    }
  }

  std::string_view who_;
  SafetensorsLimits limits_;
  Place place_ = Place::outside;
  Field field_ = Field::unknown;
  std::size_t skipping_ = 0;  // objects and arrays that are open inside an unknown field
  std::size_t offsets_ = 0;   // numbers of data_offsets so far
  bool in_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::string key_;
};

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
    detail::fail<FormatError>(who, "its header claims " + std::to_string(size) + " bytes, expected at most " +
                                       std::to_string(limits.header_bytes) + ": it is not a safetensors file?");
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

}  // namespace lora
