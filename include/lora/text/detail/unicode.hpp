#pragma once
/// Looks up code points in the table.

#include "lora/text/detail/unicode_table.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <span>

namespace lora::inline LORA_ABI::detail::unicode {

/// The properties of a code point, bits of the enumeration, and its order above them.
inline std::uint32_t properties(std::uint32_t code) {
  const std::uint32_t most = code << first_shift | ((1u << first_shift) - 1);
  return *std::prev(std::upper_bound(std::begin(runs), std::end(runs), most)) & ((1u << first_shift) - 1);
}

/// 0, or the place of a mark among the marks after one letter.
inline std::uint32_t order(std::uint32_t properties) { return properties >> order_shift; }

/// The kind of a code point: letter, number, white or other.
inline std::uint32_t kind(std::uint32_t code) {
  const std::uint32_t most = code << kind_bits | ((1u << kind_bits) - 1);
  return *std::prev(std::upper_bound(std::begin(kinds), std::end(kinds), most)) & ((1u << kind_bits) - 1);
}

/// In lower case; but U+0130 becomes "i" and U+0307.
inline std::uint32_t lowered(std::uint32_t code) {
  const auto above = std::upper_bound(std::begin(lower), std::end(lower), code,
                                      [](std::uint32_t value, const Lower& row) { return value < row.first; });
  if (above == std::begin(lower)) return code;
  const Lower& row = *std::prev(above);
  if (code > row.last || (code - row.first) % row.step != 0) return code;
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(code) + row.difference);
}

/// What is left of a code point that is no mark once it is decomposed and its marks are dropped: at most three.
class Stripped {
 public:
  explicit Stripped(std::uint32_t code) : codes_{code} {
    constexpr std::uint32_t hangul = 0xac00, syllables = 11172, tails = 28, of_one_lead = 21 * tails;
    if (code - hangul < syllables) {
      const std::uint32_t index = code - hangul;
      codes_ = {0x1100 + index / of_one_lead, 0x1161 + index % of_one_lead / tails, 0x11a7 + index % tails};
      size_ = index % tails == 0 ? 2 : 3;
      return;
    }
    const auto above = std::upper_bound(std::begin(blocks), std::end(blocks), code,
                                        [](std::uint32_t value, const Block& block) { return value < block.first; });
    if (above == std::begin(blocks) || code > std::prev(above)->last) return;
    const Block& block = *std::prev(above);
    codes_[0] = targets[block.begin + (code - block.first)];
    if (codes_[0] < longer_from) return;
    const std::uint32_t* const text = longer + (codes_[0] - longer_from);
    size_ = text[0];
    std::copy_n(text + 1, size_, codes_.begin());
  }
  const std::uint32_t* begin() const { return codes_.data(); }
  const std::uint32_t* end() const { return codes_.data() + size_; }

 private:
  std::array<std::uint32_t, 3> codes_;
  std::size_t size_ = 1;
};

}  // namespace lora::inline LORA_ABI::detail::unicode
