// What judge.py compares with the reference:
//   tokenizer FILE               answers requests on stdin, a line of JSON for each: {"text", "pair", "max", "special"}
//   tokenizer FILE --time LINES  encodes the lines of a file one by one into one encoding: seconds, and tokens
#include "lora/text.hpp"

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace {

void write(std::uint32_t number) { std::cout.write(reinterpret_cast<const char*>(&number), sizeof number); }

void answer(const lora::Encoding& encoding, const lora::Tokenizer& tokenizer) {
  write(static_cast<std::uint32_t>(encoding.ids.size()));
  for (std::size_t k = 0; k < encoding.ids.size(); ++k) {
    write(static_cast<std::uint32_t>(encoding.ids[k]));
    write(static_cast<std::uint32_t>(encoding.types[k]));
    write(static_cast<std::uint32_t>(encoding.texts[k]));
    write(static_cast<std::uint32_t>(encoding.bytes[k].begin));
    write(static_cast<std::uint32_t>(encoding.bytes[k].end));
  }
  for (const bool skip : {true, false}) {
    const std::string text = tokenizer.decode(encoding.ids, skip);
    write(static_cast<std::uint32_t>(text.size()));
    std::cout << text;
  }
}

void time_lines(const lora::Tokenizer& tokenizer, const char* file) {
  std::ifstream input(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(input, line);) lines.push_back(line);
  lora::Encoding encoding;
  std::size_t tokens = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& line : lines) {
    tokenizer.encode(line, encoding);
    tokens += encoding.ids.size();
  }
  std::cout << std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() << ' ' << tokens << '\n';
}

}  // namespace

int main(int count, char** given) {
  std::ios::sync_with_stdio(false);
  try {
    const auto tokenizer = lora::Tokenizer::open(given[1]);
    if (count == 4) return time_lines(tokenizer, given[3]), 0;
    lora::Encoding encoding;
    for (std::string line; std::getline(std::cin, line);) {
      const auto request = nlohmann::json::parse(line);
      lora::EncodeOptions options{.special_tokens = request["special"].get<bool>()};
      if (!request["max"].is_null()) options.max_tokens = request["max"].get<lora::Index>();
      const auto& text = request["text"].get_ref<const std::string&>();
      if (request["pair"].is_null()) {
        tokenizer.encode(text, encoding, options);
      } else {
        tokenizer.encode_pair(text, request["pair"].get_ref<const std::string&>(), encoding, options);
      }
      answer(encoding, tokenizer);
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
