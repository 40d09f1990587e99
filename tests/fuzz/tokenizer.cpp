// Any text as a tokenizer.json, and any other text for it: a typed error, or ids of the vocabulary whose bytes are in
// the text, the same again in an encoding that is used twice, and which can be decoded. A vocabulary of bytes is long,
// so "<256>":0 in the file is put for it.
#include "lora/text.hpp"
#include "support.hpp"

#include <string>
#include <string_view>

namespace {

/// A file with the letters of all bytes as its first tokens, if it asks for them.
std::string with_bytes(std::string_view file) {
  constexpr std::string_view asked = "\"<256>\":0";
  const std::size_t at = file.find(asked);
  if (at == file.npos) return std::string(file);
  std::string letters;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    letters += byte == 0 ? "\"" : ",\"";
    if (byte == '"' || byte == '\\') letters += '\\';
    lora::detail::for_each_byte(lora::detail::byte_letters[byte], [&](char one) { letters += one; });
    letters += "\":" + std::to_string(byte);
  }
  return std::string(file.substr(0, at)) + letters + std::string(file.substr(at + asked.size()));
}

/// A space, another white one, or the letter of a space.
bool contains_space(std::string_view token) {
  for (std::size_t at = 0; at < token.size(); at += lora::detail::utf8_length(lora::detail::byte_at(token, at))) {
    const std::uint32_t code = lora::detail::code_point(token, at);
    if (code == lora::detail::letter_of_space) return true;
    if ((lora::detail::unicode::properties(code) & lora::detail::unicode::space) != 0) return true;
  }
  return false;
}

void check(const lora::Encoding& encoding, const lora::Tokenizer& tokenizer, std::string_view first,
           std::string_view second) {
  const std::size_t count = encoding.ids.size();
  if (encoding.types.size() != count || encoding.texts.size() != count || encoding.bytes.size() != count) std::abort();
  for (std::size_t k = 0; k < count; ++k) {
    if (encoding.ids[k] < 0 || encoding.ids[k] >= tokenizer.size()) std::abort();
    const std::string_view text = encoding.texts[k] == 0 ? first : encoding.texts[k] == 1 ? second : std::string_view();
    const auto& [begin, end] = encoding.bytes[k];
    // Offsets that leave out spaces leave nothing of a token that is only spaces.
    if (begin > end || end > text.size() || (encoding.texts[k] == -1 && end != 0)) std::abort();
    if (begin == end && encoding.texts[k] != -1 && !contains_space(tokenizer.token(encoding.ids[k]))) std::abort();
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
    const auto tokenizer = lora::Tokenizer::parse(with_bytes(files[0]));
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
