#pragma once
/// Tensors of the base in the file of an adapter.
///
/// PEFT writes the weight of lm_head beside its factors, and the embeddings of a vocabulary that was resized. They say
/// what the adapter was trained beside: if the model has the same numbers, they are of no further use; if not, the
/// model is not the one that the adapter fits.
///
///   base_model.model.lm_head.base_layer.weight         the weight of a layer with factors
///   base_model.model.model.embed_tokens.weight         of another layer
///   base_model.model.score.original_module.weight      of a layer that is trained in full
///
/// Source: peft 0.21.2, get_peft_model_state_dict in utils/save_and_load.py.

#include "lora/core/finite.hpp"
#include "lora/core/visit.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/detail/product_error.hpp"
#include "lora/io/detail/tensor_numbers.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/safetensors.hpp"

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The path in the model of a tensor of the base, if the name can be one: "lm_head.weight".
std::string base_path(std::string_view name);

/// The tensors of a model that belong to no adapter, to be compared with those of a file.
class BaseTensors {
 public:
  template <class T>
  BaseTensors(const T& model, const Safetensors& file) : file_(file) {
    visit_tensors(model, [&](const Path& place, const auto& tensor) {
      using Tensor = std::remove_cvref_t<decltype(tensor)>;
      using Numbers = std::remove_cvref_t<decltype(numbers_of(tensor))>;
      if (place.in_adapter()) return;
      if constexpr (std::floating_point<typename Numbers::Scalar>) {
        compare_.emplace(place.str(), [this, &tensor](const StoredTensor& stored) {
          const std::string difference = compare(numbers_of(tensor), stored);
          // A base that rounds its weight: rounded by it, the stored one may be the same.
          if constexpr (requires(const Tensor& base, Matrix<typename Numbers::Scalar> W) { base.like(W).dense(); }) {
            if (difference.empty() || stored.shape.size() != 2) return difference;
            auto W = file_.template read<typename Numbers::Scalar>(stored.name);
            if (W.rows() == tensor.rows() && W.cols() == tensor.cols() &&
                tensor.like(std::move(W)).dense() == tensor.dense()) {
              return std::string();
            }
          }
          return difference;
        });
      }
    });
  }

  /// Whether the model has a tensor of this path.
  bool has(const std::string& path) const { return compare_.contains(path); }

  /// How a stored tensor differs from the model's, and what to do; empty if they are equal.
  std::string difference(const StoredTensor& stored) const;

 private:
  template <class M>
  std::string compare(const M& own, const StoredTensor& stored) const {
    using S = typename M::Scalar;
    const auto rows = static_cast<std::uint64_t>(own.rows()), cols = static_cast<std::uint64_t>(own.cols());
    const bool vector = stored.shape.size() == 1;
    // Either way round: an embedding may have its tokens as columns, and a Conv1D stores (in, out).
    const bool as_is = vector ? own.size() == stored_size(stored) && (rows == 1 || cols == 1)
                              : stored.shape == std::vector{rows, cols};
    const bool turned = !vector && stored.shape == std::vector{cols, rows};
    if (!is_real(stored.dtype)) {
      return "is stored as " + std::string(name(stored.dtype)) + ", expected " + std::string(real_dtypes);
    }
    if (!as_is && !turned) {
      return "is of another size than the model's, which has " + std::to_string(rows) + " x " + std::to_string(cols) +
             " (a resized vocabulary?)";
    }
    const Matrix<S> numbers = file_.template read<S>(stored.name);
    std::string first;
    const auto equal = [&](const auto& mine) {
      for (Index col = 0; col < mine.cols(); ++col) {
        for (Index row = 0; row < mine.rows(); ++row) {
          if (numbers(row, col) == mine(row, col)) continue;
          if (first.empty()) {
            first = "differs from the model's " + shown_place({row, col}, vector) + ", where it is " +
                    text_of(static_cast<double>(numbers(row, col))) + ", not " +
                    text_of(static_cast<double>(mine(row, col)));
          }
          return false;
        }
      }
      return true;
    };
    if (vector) return equal(own.reshaped(own.size(), 1)) ? "" : first;
    if ((as_is && equal(own)) || (turned && equal(own.transpose()))) return {};
    return first;
  }
  static Index stored_size(const StoredTensor& stored) {
    return stored.shape[0] > std::uint64_t{PTRDIFF_MAX} ? -1 : static_cast<Index>(stored.shape[0]);
  }

  const Safetensors& file_;
  std::map<std::string, std::function<std::string(const StoredTensor&)>> compare_;
};

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string base_path(std::string_view name) {
  if (!name.starts_with(peft_prefix)) return {};
  std::string path(name.substr(peft_prefix.size()));
  for (const std::string_view segment : {".base_layer.", ".original_module."}) {
    if (const std::size_t at = path.rfind(segment); at != path.npos) path.replace(at, segment.size(), ".");
  }
  return path;
}

LORA_IO_INLINE std::string BaseTensors::difference(const StoredTensor& stored) const {
  const std::string path = base_path(stored.name);
  const auto own = compare_.find(path);
  if (own == compare_.end()) {
    return ", and the model lists no " + in_quotes(path) +
           "; list it in visit, so that it can be compared, or leave "
           "it out by ignore_tensors";
  }
  std::string how = own->second(stored);
  if (how.empty()) return {};
  return ", of the base, " + how +
         ": it was trained, or the base is another; read it into the model first "
         "(Safetensors::read_into), or leave it out by ignore_tensors";
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
