#pragma once
/// A setting of an adapter as files store it: a name of PEFT's and a value of one of four types.

#include "lora/core/scalar.hpp"

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

namespace lora::inline LORA_ABI {

/// One setting of an adapter, under PEFT's name: "r" of 8. (Not a std::variant: every program that saves adapters would
/// compile 400 functions more.)
struct AdapterSetting {
  enum Type { boolean, integer, real, text };
  std::string name;
  Type type = boolean;
  bool flag = false;         ///< its value, if it is a boolean
  Index whole = 0;           ///< if it is an integer
  double number = 0;         ///< if it is real
  std::string letters = {};  ///< if it is text
  bool operator==(const AdapterSetting&) const = default;

  AdapterSetting(std::string_view own, const auto& value) : name(own) {
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (std::is_same_v<T, bool>) {
      flag = value;
    } else if constexpr (std::integral<T>) {
      type = integer;
      whole = static_cast<Index>(value);
    } else if constexpr (std::floating_point<T>) {
      type = real;
      number = static_cast<double>(value);
    } else {
      type = text;
      letters = value;
    }
  }
  /// f(value), with the type that it has.
  void visit(auto&& f) const {
    switch (type) {
      case boolean: return f(flag);
      case integer: return f(whole);
      case real: return f(number);
      case text: return f(letters);
    }
  }
};

}  // namespace lora::inline LORA_ABI
