#pragma once
/// The exceptions. Every message names the function, what it was given and what it expected:
///
///   LoraLinear::forward: x has 512 rows, expected in_features = 768
///
/// Wrong types fail to compile, and broken internal invariants are assertions. Exceptions are for what a caller can get
/// wrong at run time; they leave everything unchanged.

#include "lora/abi.hpp"

#include <Eigen/Core>

#include <array>
#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI {

/// The base class: catch this to catch everything that the library throws on purpose.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// A matrix has the wrong number of rows or columns.
struct ShapeError : Error {
  using Error::Error;
};
/// A setting is out of range or contradicts another.
struct ConfigError : Error {
  using Error::Error;
};
/// An adapter, layer or parameter is unknown, or its name is taken or not allowed.
struct NameError : Error {
  using Error::Error;
};
/// A call came out of order, such as backward without forward.
struct StateError : Error {
  using Error::Error;
};
/// An entry of the data is not allowed, such as a label out of range.
struct ValueError : Error {
  using Error::Error;
};

namespace detail {

/// The context of an error message: "Linear", or "Linear" and "forward" for Linear::forward. The text is composed only
/// when an error is thrown.
struct Caller {
  std::string_view type;
  std::string_view function = {};

  Caller(const char* name) : type(name) {}       // NOLINT(google-explicit-constructor)
  Caller(std::string_view name) : type(name) {}  // NOLINT(google-explicit-constructor)
  Caller(std::string_view type_name, std::string_view function_name) : type(type_name), function(function_name) {}

  std::string str() const {
    return function.empty() ? std::string(type) : std::string(type) + "::" + std::string(function);
  }
};

/// Throws E with the message `who: text`.
template <class E>
[[noreturn]] void fail(const Caller& who, const std::string& text) {
  throw E(who.str() + ": " + text);
}

/// The shortest text that reads back as the same number: "1e-09", where std::to_string has "0.000000".
template <class Real>
std::string text_of(Real number)
  requires std::is_floating_point_v<Real>
{
  if (number != number) return "nan";  // its sign says nothing
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  return {text.data(), end};
}

inline std::string in_quotes(std::string_view name) { return std::string(1, '"').append(name).append(1, '"'); }

/// Throws ShapeError `who: x has 512 rows, expected in_features = 768`.
inline void check_extent(const Caller& who, std::string_view what, Eigen::Index given, std::string_view extent,
                         std::string_view expected_name, Eigen::Index expected) {
  if (given == expected) return;
  fail<ShapeError>(who, std::string(what) + " has " + std::to_string(given) + " " + std::string(extent) +
                            ", expected " + std::string(expected_name) + " = " + std::to_string(expected));
}

inline void check_rows(const Caller& who, std::string_view what, Eigen::Index given, std::string_view expected_name,
                       Eigen::Index expected) {
  check_extent(who, what, given, "rows", expected_name, expected);
}

inline void check_cols(const Caller& who, std::string_view what, Eigen::Index given, std::string_view expected_name,
                       Eigen::Index expected) {
  check_extent(who, what, given, "columns", expected_name, expected);
}

inline void check_not_empty(const Caller& who, std::string_view what, Eigen::Index rows, Eigen::Index cols) {
  if (rows > 0 && cols > 0) return;
  fail<ShapeError>(who, std::string(what) + " is empty (" + std::to_string(rows) + " x " + std::to_string(cols) +
                            "), expected at least 1 x 1");
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
