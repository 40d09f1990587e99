#pragma once
/// What a model makes of a word, and what an added token is.

#include "lora/abi.hpp"

#include <cstddef>

namespace lora::inline LORA_ABI::detail {

/// An id, and the bytes that it stands for.
struct Piece {
  int id;
  std::size_t begin, end;
  bool added = false;  // an added token, with the spaces that it took
};

}  // namespace lora::inline LORA_ABI::detail
