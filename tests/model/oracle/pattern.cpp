/// Reads a pattern and a name from alternating lines; for each pair writes 1 (matches), 0, or why it is refused.
/// pattern_oracle.py runs it, and judges.

#include "lora/model/pattern.hpp"

#include <iostream>
#include <string>

int main() {
  std::string pattern;
  std::string name;
  while (std::getline(std::cin, pattern) && std::getline(std::cin, name)) {
    try {
      std::cout << (lora::Pattern(pattern, "oracle").matches(name) ? "1\n" : "0\n");
    } catch (const lora::ConfigError& error) {
      std::cout << error.what() << '\n';
    }
  }
}
