#pragma once
/// Sorts vectors of any type by one function, because each std::sort takes a tenth of a second to compile.

#include "lora/core/function_ref.hpp"
#include "lora/io/detail/definitions.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The positions 0 ... count - 1 in the order that before(position, position) gives.
std::vector<std::size_t> sorted_positions(std::size_t count, FunctionRef<bool(std::size_t, std::size_t)> before);

template <class T, class Before>
void sort_by(std::vector<T>& items, Before&& before) {
  std::vector<T> sorted;
  sorted.reserve(items.size());
  const auto positions = sorted_positions(items.size(), [&](std::size_t a, std::size_t b) {
    return before(std::as_const(items)[a], std::as_const(items)[b]);
  });
  for (const std::size_t k : positions) sorted.push_back(std::move(items[k]));
  items = std::move(sorted);
}

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::vector<std::size_t> sorted_positions(std::size_t count,
                                                         FunctionRef<bool(std::size_t, std::size_t)> before) {
  std::vector<std::size_t> positions(count);
  for (std::size_t k = 0; k < count; ++k) positions[k] = k;
  std::sort(positions.begin(), positions.end(), before);
  return positions;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
