#pragma once
/// The elements of what a model lists.

#include "lora/core/visit.hpp"

namespace lora::inline LORA_ABI::detail {

/// The elements of a listed part: a Parameter's value, a frozen base's W0 (a new matrix if the base stores it in
/// another order, or offers no more than FrozenBase asks for), or the matrix itself.
template <class T>
decltype(auto) numbers_of(const T& tensor) {
  if constexpr (ParameterLike<T>) {
    return (tensor.value);
  } else if constexpr (requires { tensor.dense(); }) {
    return tensor.dense();
  } else if constexpr (requires { tensor.columns(tensor.cols(), tensor.cols()); }) {
    return tensor.columns(0, tensor.cols());
  } else {
    return (tensor);
  }
}

}  // namespace lora::inline LORA_ABI::detail
