#include "support/catch.hpp"
#include "text/files.hpp"

#include <string>
#include <vector>

TEST_CASE("Ids, types, offsets and decoded text are those of the reference") {
  std::size_t texts = 0;
  for (const std::string kind : {"plain", "bert", "left", "added", "cased", "none", "roberta", "gpt2", "prefix",
                                 "mixed", "bytes", "tail", "holes", "whole"}) {
    const auto tokenizer = lora_test::tokenizer_of(kind);
    lora::Encoding encoding;
    for (const auto& golden : lora_test::json_of(kind + ".golden.json")) {
      const auto text = golden["text"].get<std::string>();
      INFO(kind << ": " << golden["text"].dump(-1, ' ', true) << ", pair " << golden["pair"].dump(-1, ' ', true));
      lora::EncodeOptions options{.special_tokens = golden["special"].get<bool>()};
      if (!golden["max"].is_null()) options.max_tokens = golden["max"].get<lora::Index>();
      if (golden["pair"].is_null()) {
        tokenizer.encode(text, encoding, options);
      } else {
        tokenizer.encode_pair(text, golden["pair"].get<std::string>(), encoding, options);
      }
      std::vector<lora::ByteRange> bytes;
      for (const auto& range : golden["bytes"]) bytes.push_back({range[0], range[1]});
      CHECK(encoding.ids == golden["ids"].get<std::vector<int>>());
      CHECK(encoding.types == golden["types"].get<std::vector<int>>());
      CHECK(encoding.texts == golden["texts"].get<std::vector<int>>());
      CHECK(encoding.bytes == bytes);
      CHECK(tokenizer.decode(encoding.ids) == golden["decoded"][0].get<std::string>());
      CHECK(tokenizer.decode(encoding.ids, false) == golden["decoded"][1].get<std::string>());
      ++texts;
    }
  }
  CHECK(texts == 974);
}
