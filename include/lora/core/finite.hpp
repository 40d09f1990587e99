#pragma once
/// Finds infinity and NaN, and numbers that are too large.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace lora::inline LORA_ABI::detail {

using Place = std::pair<Index, Index>;  // row and column

/// The first element, in the order of memory, that is NaN or not below `limit` in magnitude. One pass, vectorized: the
/// element is looked for only if there is one.
template <class S>
std::optional<Place> first_not_below(double limit, const S* data, Index rows, Index cols, Index row_step,
                                     Index col_step) {
  if (rows == 0 || cols == 0) return std::nullopt;
  // A limit that S does not hold is above all of S but infinity.
  const S most = limit > static_cast<double>(std::numeric_limits<S>::max()) ? std::numeric_limits<S>::infinity()
                                                                            : static_cast<S>(limit);
  const bool by_rows = col_step < row_step;
  const Index inner = by_rows ? cols : rows, outer = by_rows ? rows : cols;
  const Index step = by_rows ? col_step : row_step, outer_step = by_rows ? row_step : col_step;
  for (Index o = 0; o < outer; ++o) {
    const S* const line = data + o * outer_step;
    bool bad = false;
    if (step == 1) {
      for (Index i = 0; i < inner; ++i) bad |= !(std::abs(line[i]) < most);
    } else {
      for (Index i = 0; i < inner; ++i) bad |= !(std::abs(line[i * step]) < most);
    }
    if (!bad) continue;
    for (Index i = 0; i < inner; ++i) {
      if (!(std::abs(line[i * step]) < most)) return by_rows ? Place(o, i) : Place(i, o);
    }
  }
  return std::nullopt;
}

/// "at (1, 2)", or "at 3" in a vector.
inline std::string shown_place(const Place& place, bool is_vector) {
  if (is_vector) return "at " + std::to_string(std::max(place.first, place.second));
  return "at (" + std::to_string(place.first) + ", " + std::to_string(place.second) + ")";
}

/// Throws ValueError `who: NAME is nan at (1, 2), expected finite numbers` and the advice, unless all elements are
/// finite. Cost: one pass.
template <class M>
void check_finite(const Caller& who, std::string_view name, const M& matrix, std::string_view advice) {
  using S = typename M::Scalar;
  const Index inner = matrix.innerStride(), outer = matrix.outerStride();
  const auto place =
      first_not_below<S>(std::numeric_limits<double>::infinity(), matrix.data(), Index{matrix.rows()},
                         Index{matrix.cols()}, M::IsRowMajor ? outer : inner, M::IsRowMajor ? inner : outer);
  if (!place) return;
  const bool vector = M::IsVectorAtCompileTime;
  fail<ValueError>(who, std::string(name) + " is " + text_of(static_cast<double>(matrix(place->first, place->second))) +
                            " " + shown_place(*place, vector) + ", expected finite numbers" + std::string(advice));
}

}  // namespace lora::inline LORA_ABI::detail
