#pragma once
/// What the JSON of a safetensors header says, entry by entry; safetensors_header.hpp makes a checked header of it.

#include "lora/io/dtype.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/json_reader.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

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

}  // namespace detail
}  // namespace lora::inline LORA_ABI
