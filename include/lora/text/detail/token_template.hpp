#pragma once
/// Which special tokens are put around one text, or around two.

#include "lora/core/scalar.hpp"

#include <cstddef>
#include <vector>

namespace lora::inline LORA_ABI::detail {

struct TokenTemplate {
  struct Part {
    int text = -1;              // 0 or 1: all tokens of that text; -1: a special token
    int type = 0;               // of these tokens
    std::vector<int> ids = {};  // of the special token
  };
  std::vector<Part> parts;

  Index special_tokens() const {
    std::size_t count = 0;
    for (const Part& part : parts) count += part.ids.size();
    return static_cast<Index>(count);
  }
};

}  // namespace lora::inline LORA_ABI::detail
