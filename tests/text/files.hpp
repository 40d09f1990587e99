#pragma once
// The committed tokenizers, which judge.py --fixtures has written with what the reference makes of some texts.

#include "io/files.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/text.hpp"

#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

namespace lora_test {

inline const fs::path text_fixtures = fs::path(__FILE__).parent_path() / "fixtures";

inline lora::Tokenizer tokenizer_of(const std::string& kind) {
  return lora::Tokenizer::open(text_fixtures / (kind + ".json"));
}
inline lora::detail::Json json_of(const std::string& name) {
  return lora::detail::Json::parse(read_file(text_fixtures / name));
}

/// How many of the texts one of four threads encodes or decodes in another way than this one does, all at a time.
inline int wrong_in_threads(const lora::Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<std::vector<int>> expected;
  for (const std::string& text : texts) expected.push_back(tokenizer.encode(text).ids);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, copy = tokenizer] {
      lora::Encoding encoding;
      for (std::size_t k = 0; k < texts.size(); ++k) {
        copy.encode(texts[k], encoding);
        if (encoding.ids != expected[k] || tokenizer.decode(expected[k]) != copy.decode(encoding.ids)) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return wrong;
}

}  // namespace lora_test
