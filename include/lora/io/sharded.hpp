#pragma once
/// A model in several safetensors files, and the index that says which tensor is where:
///
///   {"metadata":{"total_size":...},"weight_map":{"fc1.weight":"model-00001-of-00002.safetensors",...}}
///
/// The index is as little trusted as the files: it can only name files in its own folder.
/// Source: huggingface_hub, serialization/_base.py.

#include "lora/io/file_bytes.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/json.hpp"
#include "lora/io/safetensors.hpp"

#include <algorithm>
#include <cstddef>
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

/// The file of each tensor, as an index says it. Throws FormatError for another form and for names that lead elsewhere.
inline std::map<std::string, std::string> weight_map(std::string_view who, std::string_view text, std::size_t most) {
  const Json root = parse_json(who, text);
  if (!root.is_object()) fail<FormatError>(who, "is " + found_in_json(root) + ", expected an object with weight_map");
  const auto found = root.find("weight_map");
  if (found == root.end() || (found->is_object() && found->empty())) {
    fail<FormatError>(who, "its weight_map is missing or empty");
  }
  if (!found->is_object()) fail<FormatError>(who, "weight_map is " + found_in_json(*found) + ", expected an object");
  if (found->size() > most) fail<FormatError>(who, "lists more than " + std::to_string(most) + " tensors");
  std::map<std::string, std::string> file_of;
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

}  // namespace detail

/// Opens all files that the index lists (model.safetensors.index.json), as one object. Every tensor of the index is in
/// the file that it names, and no two files have one of the same name; else FormatError. Tensors that are in a file but
/// not in the index are left out, see unlisted(). Of the files' metadata, what is in all of them with the same value is
/// kept.
inline Safetensors open_sharded(const std::filesystem::path& index, const SafetensorsOptions& options = {}) {
  const std::string index_path = index.string();
  const std::string_view who = index_path;
  const FileBytes bytes = FileBytes::open(index, options.access);
  const auto file_of = detail::weight_map(
      who, {reinterpret_cast<const char*>(bytes.bytes().data()), bytes.bytes().size()}, options.limits.tensors);

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
