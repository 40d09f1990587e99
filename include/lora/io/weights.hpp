#pragma once
/// Base weights by name: from a file into a model, and back.
///
///   lora::load_weights(net, lora::Safetensors::open("model.safetensors"));
///   lora::load_weights(net, file, {.prefixes = {{"", "transformer."}}, .transposed = {"c_attn", "c_proj", "c_fc"}});
///   lora::save_weights(net, "base.safetensors");
///
/// A tensor's name is its path in the model's listing: "fc1.weight". Adapters are left out.

#include "lora/core/visit.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/tensor_numbers.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/model/match.hpp"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// How the names and layouts of a file differ from those of the model.
struct WeightNames {
  /// {in the model, in the file}: the prefixes of a name. The first pair that fits applies.
  std::vector<std::pair<std::string, std::string>> prefixes = {};
  /// Layers whose weight the file stores as (in, out), as GPT-2's Conv1D does. In memory it is still (out, in).
  ModuleNames transposed = {};
  /// Tensors of the file that the model need not have: names, their ends after a dot, or a pattern.
  ModuleNames ignored = {};
};

namespace detail {

std::string name_in_file(const std::string& path, const WeightNames& names);

std::string_view layer_of(std::string_view tensor);

/// A view of the same memory as the transpose: a column-major (out, in) is a row-major (in, out).
template <class M>
auto transposed_map(M& matrix) {
  using S = typename std::remove_const_t<M>::Scalar;
  using Plain = Eigen::Matrix<S, Dynamic, Dynamic, M::IsRowMajor ? Eigen::ColMajor : Eigen::RowMajor>;
  return Eigen::Map<std::conditional_t<std::is_const_v<M>, const Plain, Plain>>(matrix.data(), matrix.cols(),
                                                                                matrix.rows());
}

/// The shape of a matrix in a file: (n) for a vector at compile time.
template <class M>
std::vector<std::uint64_t> stored_shape(const M& matrix, bool transposed) {
  const auto rows = static_cast<std::uint64_t>(matrix.rows());
  const auto cols = static_cast<std::uint64_t>(matrix.cols());
  if constexpr (M::IsVectorAtCompileTime) return {rows * cols};
  if (transposed) return {cols, rows};
  return {rows, cols};
}

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string name_in_file(const std::string& path, const WeightNames& names) {
  for (const auto& [here, there] : names.prefixes) {
    if (path.starts_with(here)) return there + path.substr(here.size());
  }
  return path;
}

LORA_IO_INLINE std::string_view layer_of(std::string_view tensor) {
  const std::size_t dot = tensor.rfind('.');
  return dot == tensor.npos ? std::string_view() : tensor.substr(0, dot);
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail

/// Fills every parameter outside adapters. F64, F32, F16 and BF16 are converted to the model's scalar.
///
/// Throws MismatchError listing every tensor that is missing, unexpected (and not ignored), or of another shape or
/// kind; StateError if a weight is frozen already: load weights before attaching adapters. It changes nothing then.
/// Cost: one copy of the elements.
template <class T>
void load_weights(T& model, const Safetensors& file, const WeightNames& names = {}) {
  constexpr const char* who = "load_weights";
  const detail::ModuleMatcher transposed("transposed", names.transposed, who);
  const detail::ModuleMatcher ignored("ignored", names.ignored, who);
  const auto is_transposed = [&](const std::string& path) { return transposed.matches(detail::layer_of(path)); };

  detail::Mismatches mismatches;
  std::vector<std::string> used;
  visit_tensors(model, [&](const Path& place, const auto& tensor) {
    if (place.in_adapter()) return;
    const std::string path = place.str();
    if constexpr (!ParameterLike<std::remove_cvref_t<decltype(tensor)>>) {
      detail::fail<StateError>(who, path + " is frozen, expected weights to be loaded before adapters are attached");
    } else {
      const std::string name = detail::name_in_file(path, names);
      used.push_back(name);
      const StoredTensor* stored = file.find(name);
      if (stored == nullptr) return mismatches.missing(name);
      if (!is_real(stored->dtype)) {
        return mismatches.add(name, "is stored as " + std::string(lora::name(stored->dtype)) + ", expected " +
                                        std::string(detail::real_dtypes));
      }
      detail::check_stored_shape(mismatches, name, stored->shape,
                                 detail::stored_shape(tensor.value, is_transposed(path)));
    }
  });
  std::sort(used.begin(), used.end());
  for (const StoredTensor& stored : file.tensors()) {
    if (!std::binary_search(used.begin(), used.end(), stored.name) && !ignored.matches(stored.name)) {
      mismatches.unexpected(stored.name);
    }
  }
  mismatches.check(who, file.files().front() + " does not fit the model:");

  visit_parameters(model, [&](const Path& place, auto& parameter) {
    if (place.in_adapter()) return;
    const std::string path = place.str();
    const std::string name = detail::name_in_file(path, names);
    using Value = std::remove_reference_t<decltype(parameter.value)>;
    if constexpr (!Value::IsVectorAtCompileTime) {
      if (is_transposed(path)) {
        auto map = detail::transposed_map(parameter.value);
        return file.read_into(name, map);
      }
    }
    file.read_into(name, parameter.value);
  });
}

/// Writes every weight and bias that does not belong to an adapter, frozen or not, atomically: as `dtype` if given,
/// else in the model's own scalar. Throws what save_safetensors throws; an old file of this name stays intact then.
template <class T>
void save_weights(const T& model, const std::filesystem::path& path, const WeightNames& names = {},
                  std::optional<Dtype> dtype = {}) {
  const detail::ModuleMatcher transposed("transposed", names.transposed, "save_weights");
  std::vector<TensorToSave> tensors;
  visit_tensors(model, [&](const Path& place, const auto& tensor) {
    if (place.in_adapter()) return;
    const std::string own = place.str();
    const std::string name = detail::name_in_file(own, names);
    decltype(auto) numbers = detail::numbers_of(tensor);
    using Numbers = decltype(numbers);
    if constexpr (!std::remove_cvref_t<Numbers>::IsVectorAtCompileTime) {
      if (transposed.matches(detail::layer_of(own))) {
        if constexpr (std::is_lvalue_reference_v<Numbers>) {
          tensors.emplace_back(name, detail::transposed_map(numbers), dtype);
        } else {
          tensors.emplace_back(name, numbers.transpose().eval(), dtype);
        }
        return;
      }
    }
    tensors.emplace_back(name, std::forward<Numbers>(numbers), dtype);
  });
  save_safetensors(path, tensors);
}

}  // namespace lora::inline LORA_ABI
