#pragma once
/// Command-line flags: `--rank 8`, `--rank=8`, `--quiet`, `--help`.

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <functional>
#include <iostream>
#include <locale>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "text.hpp"

namespace examples {

/// What the user typed is not understood; the message says what and why.
struct ArgumentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Declares flags over variables, whose values before parsing are the defaults:
///
///   int rank = 8;
///   Arguments arguments("finetune_mlp", "Adapts a small network to turned digits.");
///   arguments.add("rank", rank, "rank of the update");
///   if (const auto status = arguments.parse(argc, argv)) return *status;
///
/// A variable is an integer, a float or double, a std::string, or a bool (then the flag takes no value and sets it).
/// If a flag is repeated the last one counts.
class Arguments {
 public:
  Arguments(std::string program, std::string description)
      : program_(std::move(program)), description_(std::move(description)) {}

  template <class Value>
  Arguments& add(const std::string& name, Value& variable, const std::string& help) {
    Flag flag;
    flag.name = "--" + name;
    flag.help = help;
    if constexpr (std::same_as<Value, bool>) {
      flag.takes_value = false;
      flag.assign = [&variable](std::string_view) { variable = true; };
    } else {
      flag.initial = text_of(variable);
      flag.assign = [&variable, shown = flag.name](std::string_view text) { variable = parsed<Value>(shown, text); };
    }
    flags_.push_back(std::move(flag));
    return *this;
  }

  /// Assigns the variables. Returns false if --help was asked for.
  /// Throws ArgumentError on an unknown flag, a missing value, or a value that is not one of its type.
  bool parse(const std::vector<std::string>& arguments) const {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      const std::string& argument = arguments[i];
      if (argument == "--help" || argument == "-h") return false;
      const std::size_t equals = argument.find('=');
      const std::string name = argument.substr(0, equals);
      const Flag& flag = find(name);
      if (!flag.takes_value) {
        if (equals != std::string::npos) throw ArgumentError(name + " takes no value");
        flag.assign({});
      } else if (equals != std::string::npos) {
        flag.assign(std::string_view(argument).substr(equals + 1));
      } else {
        if (i + 1 == arguments.size() || arguments[i + 1].starts_with("--")) {
          throw ArgumentError(name + " needs a value");
        }
        flag.assign(arguments[++i]);
      }
    }
    return true;
  }

  /// For main: `if (const auto status = arguments.parse(argc, argv)) return *status;`
  /// Nothing if the program shall run; 0 after printing the help; 2 after printing an error.
  std::optional<int> parse(int argc, const char* const* argv, std::ostream& out = std::cout,
                           std::ostream& errors = std::cerr) const {
    try {
      if (parse(std::vector<std::string>(argv + std::min(argc, 1), argv + argc))) return std::nullopt;
      out << help();
      return 0;
    } catch (const ArgumentError& error) {
      errors << program_ << ": " << error.what() << "\nTry: " << program_ << " --help\n";
      return 2;
    }
  }

  std::string help() const {
    std::string text = "Usage: " + program_ + " [options]\n\n" + description_ + "\n\nOptions:\n";
    std::size_t width = std::string_view("--help").size();
    for (const Flag& flag : flags_) width = std::max(width, flag.shown().size());
    for (const Flag& flag : flags_) {
      text += "  " + flag.shown() + std::string(width - flag.shown().size() + 3, ' ') + flag.help;
      if (!flag.initial.empty()) text += " (default: " + flag.initial + ")";
      text += "\n";
    }
    return text + "  --help" + std::string(width - 6 + 3, ' ') + "show this text\n";
  }

 private:
  struct Flag {
    std::string name;
    std::string help;
    std::string initial;
    bool takes_value = true;
    std::function<void(std::string_view)> assign;

    std::string shown() const { return takes_value ? name + " VALUE" : name; }
  };

  const Flag& find(const std::string& name) const {
    for (const Flag& flag : flags_) {
      if (flag.name == name) return flag;
    }
    throw ArgumentError((name.starts_with("-") ? "unknown flag " : "unexpected argument ") + name);
  }

  template <class Value>
  static std::string text_of(const Value& value) {
    if constexpr (std::same_as<Value, std::string>) {
      return value;
    } else {
      return shortest(value);
    }
  }

  template <class Value>
  static Value parsed(const std::string& name, std::string_view text) {
    if constexpr (std::same_as<Value, std::string>) {
      return std::string(text);
    } else if constexpr (std::integral<Value>) {
      Value value{};
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      const bool whole = end == text.data() + text.size() && !text.empty();
      if (whole && error == std::errc{}) return value;
      const bool too_large = whole && error == std::errc::result_out_of_range;
      throw ArgumentError(name + ": \"" + std::string(text) + "\" is " +
                          (too_large                     ? "out of range"
                           : std::signed_integral<Value> ? "not a whole number"
                                                         : "not a whole number of 0 or more"));
    } else {
      static_assert(std::floating_point<Value>, "a flag is a bool, a number or a std::string");
      // std::from_chars for floating point is missing from several standard libraries that we support.
      std::istringstream stream{std::string(text)};
      stream.imbue(std::locale::classic());
      Value value{};
      stream >> std::noskipws >> value;
      if (!stream || stream.peek() != std::istringstream::traits_type::eof()) {
        throw ArgumentError(name + ": \"" + std::string(text) + "\" is not a number");
      }
      return value;
    }
  }

  std::string program_;
  std::string description_;
  std::vector<Flag> flags_;
};

}  // namespace examples
