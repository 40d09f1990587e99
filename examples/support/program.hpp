#pragma once
/// A program with flags, by CLI11:
///
///   int main(int argc, char** argv) {
///     int rank = 8;
///     examples::Program program("rank", "What it does.");
///     program.add_option("--rank", rank, "rank of the update");
///     return program.run(argc, argv, [&] { ... });
///   }

#include <CLI/CLI.hpp>

#include <exception>
#include <functional>
#include <iostream>
#include <string>

namespace examples {

/// For add_option(...)->check: CLI11's own would name the largest double.
inline const CLI::Range positive(1, 1000000, "POSITIVE"), not_negative(0, 1000000, "NONNEGATIVE");

struct Program : CLI::App {
  Program(const std::string& name, const std::string& description) : CLI::App(description, name) {
    option_defaults()->always_capture_default()->take_last();  // --help shows what the variables hold
    get_formatter()->column_width(36);
  }

  /// Calls `body` when the flags are read. The status: 0, also after --help; 2 after naming a flag that is not
  /// understood; 1 after printing what `body` threw.
  int run(int argc, const char* const* argv, const std::function<void()>& body) {
    try {
      parse(argc, argv);
      body();
      return 0;
    } catch (const CLI::ParseError& error) {
      return exit(error) == 0 ? 0 : 2;
    } catch (const std::exception& error) {
      std::cerr << get_name() << ": " << error.what() << '\n';
      return 1;
    }
  }
};

}  // namespace examples
