// Any text as a tokenizer.json, and any other text for it: a typed error, or ids of the vocabulary whose bytes are in
// the text, the same again in an encoding that is used twice, and which can be decoded.
#include "lora/text.hpp"
#include "support.hpp"

#include <string_view>

namespace {

void check(const lora::Encoding& encoding, const lora::Tokenizer& tokenizer, std::string_view first,
           std::string_view second) {
  const std::size_t count = encoding.ids.size();
  if (encoding.types.size() != count || encoding.texts.size() != count || encoding.bytes.size() != count) std::abort();
  for (std::size_t k = 0; k < count; ++k) {
    if (encoding.ids[k] < 0 || encoding.ids[k] >= tokenizer.size()) std::abort();
    const std::string_view text = encoding.texts[k] == 0 ? first : encoding.texts[k] == 1 ? second : std::string_view();
    const auto& [begin, end] = encoding.bytes[k];
    if (begin > end || end > text.size() || (begin == end) != (encoding.texts[k] == -1)) std::abort();
  }
  // Decoded text is UTF-8, as the tokens are.
  const std::string decoded = tokenizer.decode(encoding.ids, count % 2 == 0);
  if (lora::detail::utf8_end(decoded) != decoded.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::HeapLimit limit(size);
  const auto files = fuzz::files_in({reinterpret_cast<const char*>(data), size}, 2);
  try {
    const auto tokenizer = lora::Tokenizer::parse(files[0]);
    const std::string_view text = files[1].substr(0, lora::detail::utf8_end(files[1]));
    std::string_view half = text.substr(0, text.size() / 2);
    half = half.substr(0, lora::detail::utf8_end(half));
    const lora::EncodeOptions all{.max_tokens = lora::EncodeOptions::unlimited};
    lora::Encoding encoding;
    tokenizer.encode_pair(half, text, encoding, all);
    check(encoding, tokenizer, half, text);
    tokenizer.encode(text, encoding, all);
    check(encoding, tokenizer, text, "");
    if (tokenizer.encode(text, all).ids != encoding.ids) std::abort();
    tokenizer.encode(text, encoding, {.special_tokens = false, .max_tokens = 3});
    check(encoding, tokenizer, text, "");
    if (encoding.ids.size() > 3) std::abort();
    tokenizer.encode(files[1], encoding);  // may be no UTF-8, or the file's truncation too short
  } catch (const lora::Error&) {
  }
  return 0;
}
