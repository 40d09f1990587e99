#pragma once
/// All differences between a file and a model in one error.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/file_error.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI {

/// A file is valid, but does not fit the model: missing names, unexpected names, other shapes. The message lists them,
/// at most 100, one on each line.
struct MismatchError : Error {
  using Error::Error;
};

namespace detail {

/// "(6, 4)"
std::string shape_text(const std::vector<std::uint64_t>& shape);

class Mismatches {
 public:
  void missing(std::string_view name);
  void unexpected(std::string_view name);
  void add(std::string_view name, const std::string& what);

  /// Throws MismatchError `who: title` and the lines, if there are any.
  void check(const Caller& who, const std::string& title) const;

 private:
  std::vector<std::string> lines_;
};

/// Records a shape that is not the expected one; returns whether it is.
bool check_stored_shape(Mismatches& mismatches, std::string_view name, const std::vector<std::uint64_t>& shape,
                        const std::vector<std::uint64_t>& expected);

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text = "(";
  for (const std::uint64_t dimension : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dimension);
  return text + ")";
}

LORA_IO_INLINE bool check_stored_shape(Mismatches& mismatches, std::string_view name,
                                       const std::vector<std::uint64_t>& shape,
                                       const std::vector<std::uint64_t>& expected) {
  if (shape == expected) return true;
  mismatches.add(name, "has shape " + shape_text(shape) + ", expected " + shape_text(expected));
  return false;
}

LORA_IO_INLINE void Mismatches::missing(std::string_view name) { lines_.push_back("missing: " + shown(name)); }

LORA_IO_INLINE void Mismatches::unexpected(std::string_view name) { lines_.push_back("unexpected: " + shown(name)); }

LORA_IO_INLINE void Mismatches::add(std::string_view name, const std::string& what) {
  lines_.push_back(shown(name) + " " + what);
}

LORA_IO_INLINE void Mismatches::check(const Caller& who, const std::string& title) const {
  if (lines_.empty()) return;
  constexpr std::size_t most = 100;  // a file of strange names must not make a message of megabytes
  std::string text = title;
  for (std::size_t k = 0; k < lines_.size() && k < most; ++k) text += "\n  " + lines_[k];
  if (lines_.size() > most) text += "\n  and " + std::to_string(lines_.size() - most) + " more";
  fail<MismatchError>(who, text);
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace detail
}  // namespace lora::inline LORA_ABI
