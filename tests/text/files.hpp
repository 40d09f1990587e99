#pragma once
// The committed tokenizers, which judge.py --fixtures has written with what the reference makes of some texts.

#include "io/files.hpp"
#include "lora/io/detail/json.hpp"
#include "lora/text.hpp"

#include <string>

namespace lora_test {

inline const fs::path text_fixtures = fs::path(__FILE__).parent_path() / "fixtures";

inline lora::Tokenizer tokenizer_of(const std::string& kind) {
  return lora::Tokenizer::open(text_fixtures / (kind + ".json"));
}
inline lora::detail::Json json_of(const std::string& name) {
  return lora::detail::Json::parse(read_file(text_fixtures / name));
}

}  // namespace lora_test
