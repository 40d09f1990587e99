#pragma once
/// A model in several safetensors files, and the index that says which tensor is where:
///
///   {"metadata":{"total_size":...},"weight_map":{"fc1.weight":"model-00001-of-00002.safetensors",...}}
///
/// The index is as little trusted as the files: it can only name files in its own folder.
/// Source: huggingface_hub, serialization/_base.py.

#include "lora/io/file_bytes.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/json_reader.hpp"
#include "lora/io/safetensors.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// Collects weight_map and skips everything else.
class ShardEvents final : public JsonEvents {
 public:
  ShardEvents(std::string_view who, std::size_t most) : who_(who), most_(most) {}

  std::map<std::string, std::string> file_of;  // tensor -> file

  void begin_object() override {
    const bool is_map = depth_ == 1 && key_ == "weight_map";
    if (depth_ > 0 && !is_map) value("an object");
    in_map_ = in_map_ || is_map;
    ++depth_;
  }
  void key(std::string_view name) override {
    if (depth_ == 1 || in_map_) key_ = name;
  }
  void end_object() override {
    if (--depth_ == 1) in_map_ = false;
  }
  void begin_array() override {
    value("an array");
    ++depth_;
  }
  void end_array() override { --depth_; }
  void string(std::string_view file) override {
    if (!in_map_) return value("a string");
    if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos) {
      fail<FormatError>(who_, "weight_map: tensor " + shown(key_) + " is in " + shown(file) +
                                  ", expected the bare name of a file in the same folder");
    }
    if (file_of.size() >= most_) fail<FormatError>(who_, "lists more than " + std::to_string(most_) + " tensors");
    file_of.emplace(key_, file);
  }
  void unsigned_integer(std::uint64_t) override { value("a number"); }
  void negative_integer(std::int64_t) override { value("a number"); }
  void real(double, std::string_view) override { value("a number"); }
  void boolean(bool) override { value("true or false"); }
  void null() override { value("null"); }

 private:
  /// Anything but the string or object that is wanted here; what nobody asked for may be anything.
  void value(const std::string& found) const {
    if (depth_ == 0) fail<FormatError>(who_, "is " + found + ", expected an object with weight_map");
    if (in_map_) fail<FormatError>(who_, "weight_map: " + shown(key_) + " is " + found + ", expected a file name");
    if (depth_ == 1 && key_ == "weight_map") fail<FormatError>(who_, "weight_map is " + found + ", expected an object");
  }

  std::string_view who_;
  std::size_t most_;
  std::string key_;
  std::size_t depth_ = 0;
  bool in_map_ = false;
};

}  // namespace detail

/// Opens all files that the index lists (model.safetensors.index.json), as one object. Every tensor of the index is in
/// the file that it names, and no two files have one of the same name; else FormatError. Tensors that are in a file but
/// not in the index are left out, see unlisted(). Of the files' metadata, what is in all of them with the same value is
/// kept.
inline Safetensors open_sharded(const std::filesystem::path& index, const SafetensorsOptions& options = {}) {
  const std::string index_path = index.string();
  const std::string_view who = index_path;
  const FileBytes bytes = FileBytes::open(index, options.access);
  detail::ShardEvents events(who, options.limits.tensors);
  read_json(who, {reinterpret_cast<const char*>(bytes.bytes().data()), bytes.bytes().size()}, events);
  const auto& file_of = events.file_of;
  if (file_of.empty()) detail::fail<FormatError>(who, "its weight_map is missing or empty");

  auto contents = std::make_shared<Safetensors::Contents>();
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  for (const auto& file : names) {
    const auto path = index.parent_path() / file;
    contents->add(path.string(), FileBytes::open(path, options.access), options.limits);
  }
  contents->title = index_path;
  contents->index();

  auto& tensors = contents->tensors;
  const auto twice =
      std::adjacent_find(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != tensors.end()) {
    detail::fail<FormatError>(who, "tensor " + detail::shown(twice->name) + " is in two files: " +
                                       contents->paths[twice->file] + " and " + contents->paths[(twice + 1)->file]);
  }
  const auto in = [&](const StoredTensor& tensor) {
    return std::filesystem::path(contents->paths[tensor.file]).filename().string();
  };
  auto listed = file_of.begin();
  const auto check_listed_before = [&](const std::string* name) {
    if (listed != file_of.end() && (!name || listed->first < *name)) {
      detail::fail<FormatError>(who, "lists tensor " + detail::shown(listed->first) + " in " +
                                         detail::shown(listed->second) + ", where it is not");
    }
  };
  // Both are sorted by name.
  std::vector<StoredTensor> kept;
  for (auto& tensor : tensors) {
    check_listed_before(&tensor.name);
    if (listed == file_of.end() || listed->first != tensor.name) {
      contents->unlisted.push_back(std::move(tensor.name));
      continue;
    }
    if (listed->second != in(tensor)) {
      detail::fail<FormatError>(who, "lists tensor " + detail::shown(tensor.name) + " in " +
                                         detail::shown(listed->second) + ", but it is in " + in(tensor));
    }
    ++listed;
    kept.push_back(std::move(tensor));
  }
  check_listed_before(nullptr);
  tensors = std::move(kept);
  return Safetensors(std::move(contents));
}

}  // namespace lora::inline LORA_ABI
