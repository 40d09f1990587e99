#pragma once
/// Stops and resumes training: the same bits as without the interruption.
///
///   lora::save_checkpoint("run.safetensors", net, optimizer, {.step = step, .generators = {{"data", rng}}});
///
///   lora::attach(net, config, rng);   // the model is built as before
///   const lora::Checkpoint at = lora::load_checkpoint("run.safetensors", net, optimizer);
///   rng = at.generators.at("data");
///   for (auto step = at.step; step < steps; ++step) ...
///
/// The file is safetensors. model.PATH: every parameter that is trainable or belongs to an adapter (frozen weights are
/// left out). optimizer.PATH.steps and optimizer.PATH.moment0, 1, ...: the optimizer's state, in the parameter's own
/// storage order. The metadata hold, for each adapter, what gives its tensors their meaning: its kind, its settings
/// (alpha, scaling, dropout), and a digest of its constants, such as A0 and B0 of a ResidualLora; a model that was
/// attached otherwise is refused. Dropout needs no state: its masks are a function of the seed and the step. Infinity
/// and NaN are kept: they are the state of a training, and may be what is looked for.

#include "lora/core/random.hpp"
#include "lora/core/visit.hpp"
#include "lora/io/detail/adapter_meaning.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_writer.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// The state of a training besides the values of model and optimizer.
struct Checkpoint {
  std::uint64_t step = 0;                      ///< steps done
  std::map<std::string, Rng> generators = {};  ///< with their positions
  Metadata notes = {};                         ///< anything else to remember, as text
};

namespace detail {

inline bool is_checkpointed(const Path& path, const auto& parameter) {
  return path.in_adapter() || parameter.trainable;
}

std::string written(const Rng& rng);

/// Reads unsigned numbers with single spaces between; throws FormatError unless there are exactly `count`.
std::vector<std::uint64_t> read_numbers(const std::string& file, std::string_view key, std::string_view text,
                                        std::size_t count);

/// Of the format. 2: with the meaning of the adapters.
constexpr std::string_view version_key = "lora.checkpoint";
constexpr std::string_view version = "2";
constexpr std::string_view adapter_key = "lora.adapter.";
constexpr std::string_view step_key = "lora.step";
constexpr std::string_view moments_key = "lora.moments";
constexpr std::string_view generator_key = "lora.generator.";
constexpr std::string_view note_key = "lora.note.";

/// The metadata of a checkpoint, except the number of moments.
Checkpoint read_checkpoint_metadata(const Safetensors& file);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string written(const Rng& rng) {
  return std::to_string(rng.seed()) + " " + std::to_string(rng.stream()) + " " + std::to_string(rng.position());
}

LORA_IO_INLINE std::vector<std::uint64_t> read_numbers(const std::string& file, std::string_view key,
                                                       std::string_view text, std::size_t count) {
  std::vector<std::uint64_t> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (numbers.size() < count) {
    std::uint64_t number = 0;
    const auto [after, error] = std::from_chars(at, end, number);
    if (error != std::errc()) break;
    numbers.push_back(number);
    at = after;
    if (numbers.size() < count && (at == end || *at++ != ' ')) break;
  }
  if (numbers.size() == count && at == end) return numbers;
  fail<FormatError>(std::string_view(file), "the metadata " + shown(key) + " is " + shown(text) + ", expected " +
                                                std::to_string(count) + (count == 1 ? " number" : " numbers"));
}

LORA_IO_INLINE Checkpoint read_checkpoint_metadata(const Safetensors& file) {
  const std::string& path = file.files().front();
  Checkpoint point;
  bool has_step = false;
  for (const auto& [key, text] : file.metadata()) {
    if (key == step_key) {
      point.step = read_numbers(path, key, text, 1)[0];
      has_step = true;
    } else if (key.starts_with(generator_key)) {
      const auto numbers = read_numbers(path, key, text, 3);
      Rng rng(numbers[0], numbers[1]);
      rng.seek(numbers[2]);
      point.generators.emplace(key.substr(generator_key.size()), rng);
    } else if (key.starts_with(note_key)) {
      point.notes.emplace(key.substr(note_key.size()), text);
    }
  }
  if (!has_step) fail<FormatError>(std::string_view(path), "is not a checkpoint: the metadata has no \"lora.step\"");
  const auto own = file.metadata().find(version_key);
  if (own == file.metadata().end() || own->second != version) {
    fail<FormatError>(std::string_view(path), "is a checkpoint of version " +
                                                  (own == file.metadata().end() ? "1" : shown(own->second)) +
                                                  ", expected " + std::string(version) +
                                                  ", which says what scale its adapters have; read its tensors with "
                                                  "Safetensors::open, or resume with the library that wrote it");
  }
  return point;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Writes the file, atomically. Optimizer: AdamW, Sgd, or any type whose state() has find(path, size) as theirs. Throws
/// what save_safetensors throws; an old checkpoint of this name stays intact then.
template <class T, class Optimizer>
void save_checkpoint(const std::filesystem::path& file, const T& model, const Optimizer& optimizer,
                     const Checkpoint& point) {
  std::vector<TensorToSave> tensors;
  std::size_t moments = 0;
  visit_parameters(model, [&](const Path& place, const auto& parameter) {
    if (!detail::is_checkpointed(place, parameter)) return;
    const std::string path = place.str();
    tensors.emplace_back("model." + path, parameter.value);
    const auto* slot = optimizer.state().find(place, parameter.value.size());
    if (slot == nullptr) return;
    moments = slot->moments.size();
    tensors.emplace_back("optimizer." + path + ".steps", Eigen::Matrix<std::uint64_t, 1, 1>::Constant(slot->steps));
    for (std::size_t k = 0; k < moments; ++k) {
      if (slot->moments[k].size() == 0) continue;
      tensors.emplace_back("optimizer." + path + ".moment" + std::to_string(k), slot->moments[k].matrix());
    }
  });
  Metadata metadata{{"format", "pt"},
                    {std::string(detail::version_key), std::string(detail::version)},
                    {std::string(detail::step_key), std::to_string(point.step)},
                    {std::string(detail::moments_key), std::to_string(moments)}};
  for (const auto& [name, rng] : point.generators) {
    metadata.emplace(std::string(detail::generator_key) + name, detail::written(rng));
  }
  for (const auto& [path, meaning] : detail::adapter_meanings(model)) {
    metadata.emplace(std::string(detail::adapter_key) + path, detail::written(meaning));
  }
  for (const auto& [name, text] : point.notes) metadata.emplace(std::string(detail::note_key) + name, text);
  save_safetensors(file, tensors, metadata);
}

/// Loads the values of a checkpoint into model and optimizer; the optimizer keeps its own settings. The model must have
/// the same parameters as the saved one, in the same scalar, with the same layers frozen and the same settings of all
/// adapters.
/// Throws MismatchError listing every difference, FormatError or FileError; it changes nothing then.
template <class T, class Optimizer>
Checkpoint load_checkpoint(const std::filesystem::path& path, T& model, Optimizer& optimizer) {
  constexpr const char* who = "load_checkpoint";
  const auto file = Safetensors::open(path);
  const Checkpoint point = detail::read_checkpoint_metadata(file);

  detail::Mismatches mismatches;
  std::vector<std::string> used;
  const auto expect = [&](const std::string& name, Dtype dtype, const std::vector<std::uint64_t>& shape) {
    used.push_back(name);
    const StoredTensor* stored = file.find(name);
    if (stored == nullptr) return false;
    if (stored->dtype != dtype) {
      mismatches.add(name, "is stored as " + std::string(lora::name(stored->dtype)) + ", expected " +
                               std::string(lora::name(dtype)));
      return false;
    }
    return detail::check_stored_shape(mismatches, name, stored->shape, shape);
  };

  const auto meanings = detail::adapter_meanings(model);
  for (const auto& [adapter, own] : meanings) {
    const auto saved = file.metadata().find(std::string(detail::adapter_key) + adapter);
    if (saved == file.metadata().end()) {
      mismatches.missing(adapter);
      continue;
    }
    const std::string place = file.files().front() + ", the metadata " + saved->first;
    detail::compare_meanings(mismatches, adapter, detail::read_meaning(place, saved->second), own);
  }
  for (const auto& [key, text] : file.metadata()) {
    if (!key.starts_with(detail::adapter_key)) continue;
    const std::string adapter = key.substr(detail::adapter_key.size());
    if (!meanings.contains(adapter)) mismatches.unexpected(adapter);
  }

  Optimizer restored = optimizer;
  restored.state().clear();
  visit_parameters(model, [&](const Path& place, const auto& parameter) {
    if (!detail::is_checkpointed(place, parameter)) return;
    using Value = std::remove_cvref_t<decltype(parameter.value)>;
    const Dtype dtype = dtype_of<typename Value::Scalar>();
    const std::string name = place.str();
    const auto rows = static_cast<std::uint64_t>(parameter.value.rows());
    const auto cols = static_cast<std::uint64_t>(parameter.value.cols());
    const auto shape = Value::IsVectorAtCompileTime ? std::vector{rows * cols} : std::vector{rows, cols};
    if (file.find("model." + name) == nullptr) mismatches.missing("model." + name);
    expect("model." + name, dtype, shape);
    if (!expect("optimizer." + name + ".steps", Dtype::u64, {1})) return;
    auto& slot = restored.state().slot(place, parameter.value.size());
    slot.steps = file.template read<std::uint64_t>("optimizer." + name + ".steps")(0, 0);
    for (std::size_t k = 0; k < slot.moments.size(); ++k) {
      const std::string moment = "optimizer." + name + ".moment" + std::to_string(k);
      if (!expect(moment, dtype, {rows * cols})) continue;
      slot.moments[k] = file.template read<typename Value::Scalar>(moment).array();
    }
  });
  std::sort(used.begin(), used.end());
  for (const StoredTensor& stored : file.tensors()) {
    if (!std::binary_search(used.begin(), used.end(), stored.name)) mismatches.unexpected(stored.name);
  }
  const std::size_t own = std::tuple_size_v<std::remove_cvref_t<decltype(restored.state().slots().front().moments)>>;
  const auto found = file.metadata().find(detail::moments_key);
  const std::uint64_t saved = found == file.metadata().end()
                                  ? own
                                  : detail::read_numbers(file.files().front(), found->first, found->second, 1)[0];
  if (saved != 0 && saved != own) {
    mismatches.add("optimizer", "keeps " + std::to_string(saved) + " moments, expected " + std::to_string(own));
  }
  mismatches.check(who, file.files().front() + " is of another model or optimizer:");

  visit_parameters(model, [&](const Path& place, auto& parameter) {
    if (detail::is_checkpointed(place, parameter)) file.read_into("model." + place.str(), parameter.value);
  });
  optimizer = std::move(restored);
  return point;
}

}  // namespace lora::inline LORA_ABI
