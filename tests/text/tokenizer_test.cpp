#include "support/catch.hpp"
#include "support/heap.hpp"
#include "text/files.hpp"

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

using lora_test::contains;
using lora_test::message_of;
using lora_test::tokenizer_of;

namespace {

/// Words, punctuation and letters of all lengths in UTF-8, with nothing that the normalizer drops.
std::string random_text(std::minstd_rand& random) {
  static const std::vector<std::string> parts{"hello", "world", " ",  " ",       "the", ".", "Café",
                                              "ß",     "北",    "한", "unknown", "!",   "é", "\xf0\x9f\x98\x80"};
  std::string text;
  for (std::size_t k = random() % 12; k > 0; --k) text += parts[random() % parts.size()];
  return text;
}

}  // namespace

TEST_CASE("What a token stands for is where its offsets say") {
  const auto tokenizer = tokenizer_of("plain");
  const std::string text = "Caf\xc3\xa9, the WORLD";
  const auto encoding = tokenizer.encode(text);
  std::vector<std::string> slices;
  for (const auto& [begin, end] : encoding.bytes) slices.push_back(text.substr(begin, end - begin));
  CHECK(slices == std::vector<std::string>{"", "Caf\xc3\xa9", ",", "the", "WORLD", ""});

  std::minstd_rand random(1);
  for (int round = 0; round < 300; ++round) {
    const std::string any = random_text(random);
    const auto of_any = tokenizer.encode(any, {.special_tokens = false});
    std::string joined, without_spaces;
    std::size_t end = 0;
    for (std::size_t k = 0; k < of_any.ids.size(); ++k) {
      const auto& range = of_any.bytes[k];
      REQUIRE(range.begin < range.end);
      REQUIRE(range.end <= any.size());
      REQUIRE(of_any.texts[k] == 0);
      // The parts of one Hangul syllable share it; else ranges follow each other.
      if (range.begin >= end) joined += any.substr(range.begin, range.end - range.begin);
      end = range.end;
    }
    std::remove_copy(any.begin(), any.end(), std::back_inserter(without_spaces), ' ');
    CHECK(joined == without_spaces);
  }
}

TEST_CASE("Decoding gives plain words back") {
  const auto tokenizer = tokenizer_of("plain");
  for (const std::string text : {"hello world", "the tokenizer isn", "i am low, you go. play!", "unaffly testing"}) {
    CHECK(tokenizer.decode(tokenizer.encode(text).ids) == text);
  }
  const int mask = *tokenizer.id("[MASK]"), hello = *tokenizer.id("hello");
  CHECK(tokenizer.decode({mask, hello}) == "hello");
  CHECK(tokenizer.decode({mask, hello}, false) == "[MASK] hello");
  CHECK(tokenizer.decode(std::vector<int>{}) == "");
}

TEST_CASE("Truncation keeps the begin, or what the file says, and the special tokens") {
  const std::string text = "the widest world is low";
  const auto tokenizer = tokenizer_of("plain");
  CHECK_FALSE(tokenizer.max_tokens());
  const auto whole = tokenizer.encode(text, {.special_tokens = false});
  for (lora::Index most = 0; most < 12; ++most) {
    const auto cut = tokenizer.encode(text, {.special_tokens = false, .max_tokens = most});
    const auto kept =
        static_cast<std::ptrdiff_t>(std::min<std::size_t>(static_cast<std::size_t>(most), whole.ids.size()));
    CHECK(cut.ids == std::vector<int>(whole.ids.begin(), whole.ids.begin() + kept));
    CHECK(cut.bytes == std::vector<lora::ByteRange>(whole.bytes.begin(), whole.bytes.begin() + kept));
    if (most < 2) continue;
    const auto around = tokenizer.encode(text, {.max_tokens = most});
    CHECK(around.ids.size() == std::min<std::size_t>(static_cast<std::size_t>(most), whole.ids.size() + 2));
    CHECK(around.ids.front() == *tokenizer.id("[CLS]"));
    CHECK(around.ids.back() == *tokenizer.id("[SEP]"));
  }
  const auto left = tokenizer_of("left");  // at most 9, of which "[SEP]" and "the" are two, and the end of a text
  CHECK(left.max_tokens() == 9);
  CHECK(left.encode(std::string(50, '.')).ids.size() == 9);
  CHECK(left.encode(std::string(50, '.'), {.max_tokens = lora::EncodeOptions::unlimited}).ids.size() == 53);
  CHECK(left.encode("a b c d e f g h i j k", {.max_tokens = 5}).bytes[1] == lora::ByteRange{18, 19});
}

TEST_CASE("A pair is one sequence, cut off at the longer text") {
  const auto tokenizer = tokenizer_of("plain");
  const auto pair = tokenizer.encode_pair("hello", "the world");
  CHECK(pair.types == std::vector<int>{0, 0, 0, 1, 1, 1});
  CHECK(pair.texts == std::vector<int>{-1, 0, -1, 1, 1, -1});
  CHECK(pair.bytes[4] == lora::ByteRange{4, 9});
  const auto lengths = [&](std::size_t first, std::size_t second, lora::Index most) {
    const auto cut = tokenizer.encode_pair(std::string(first, '.'), std::string(second, '.'), {.max_tokens = most});
    return std::pair(std::count(cut.texts.begin(), cut.texts.end(), 0),
                     std::count(cut.texts.begin(), cut.texts.end(), 1));
  };
  using Lengths = std::pair<std::ptrdiff_t, std::ptrdiff_t>;
  CHECK(lengths(2, 9, 10) == Lengths{2, 5});
  CHECK(lengths(9, 2, 10) == Lengths{5, 2});
  CHECK(lengths(9, 8, 10) == Lengths{4, 3});
  CHECK(lengths(8, 8, 10) == Lengths{3, 4});
  CHECK(lengths(3, 3, 10) == Lengths{3, 3});
  CHECK(lengths(3, 3, 3) == Lengths{0, 0});
}

TEST_CASE("An encoding that is used again is as a new one, and takes no heap") {
  const auto tokenizer = tokenizer_of("added");
  std::minstd_rand random(2);
  std::vector<std::string> texts;
  for (int k = 0; k < 50; ++k) texts.push_back(random_text(random));
  lora::Encoding again;
  const auto encode_all = [&] {
    for (const auto& text : texts) tokenizer.encode_pair(text, texts.front(), again, {.max_tokens = 20});
    for (const auto& text : texts) tokenizer.encode(text, again);
  };
  encode_all();
  for (const auto& text : texts) {
    tokenizer.encode(text, again);
    const auto fresh = tokenizer.encode(text);
    CHECK(again.ids == fresh.ids);
    CHECK(again.types == fresh.types);
    CHECK(again.texts == fresh.texts);
    CHECK(again.bytes == fresh.bytes);
  }
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  CHECK(lora_test::heap_allocations_in(encode_all) == 0);
}

TEST_CASE("Many marks after one letter cost no more than their sorting") {
  const auto tokenizer = tokenizer_of("plain");
  std::string text = "a";
  // U+302F and U+302E stay, U+0301 and U+0323 are dropped; all of them change places.
  for (int k = 0; k < 20000; ++k) text += k % 2 == 0 ? "\xe3\x80\xaf\xcc\x81" : "\xe3\x80\xae\xcc\xa3";
  const auto encoding = tokenizer.encode(text);  // longer than a word may be
  CHECK(encoding.ids == std::vector<int>{*tokenizer.id("[CLS]"), *tokenizer.id("[UNK]"), *tokenizer.id("[SEP]")});
  CHECK(encoding.bytes[1].begin == 0);
}

TEST_CASE("Tokens and their ids") {
  const auto tokenizer = tokenizer_of("added");
  CHECK(tokenizer.size() > 200);
  for (int id = 0; id < 150; ++id) CHECK(tokenizer.id(tokenizer.token(id)).has_value());
  CHECK(tokenizer.token(2) == "[CLS]");
  CHECK(tokenizer.id("no such token") == std::nullopt);
  CHECK(tokenizer.id("") == std::nullopt);
  // A token that is found in normalized text is shown as it is found there, as in the reference.
  CHECK(tokenizer.token(tokenizer
                            .id("\xc3\x80"
                                "B")
                            .value()) == "ab");
  const auto size = std::to_string(tokenizer.size());
  const auto last = std::to_string(tokenizer.size() - 1);
  CHECK(message_of<lora::ValueError>([&] { tokenizer.token(-1); }) == "Tokenizer::token: id -1, expected 0 to " + last);
  CHECK(message_of<lora::ValueError>([&] { tokenizer.decode({1, 2, static_cast<int>(tokenizer.size())}); }) ==
        "Tokenizer::decode: id " + size + " at position 2, expected 0 to " + last);
}

TEST_CASE("Text that is not UTF-8 is refused at its byte") {
  const auto tokenizer = tokenizer_of("plain");
  const auto error = [&](const std::string& text) {
    return message_of<lora::ValueError>([&] { tokenizer.encode(text); });
  };
  for (const std::string bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x9f\xbf", "\xe2\x82",
                                "\xe2(\xa1", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x9f\x98",
                                "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    CHECK(error("ab\xc3\xa9" + bad) == "Tokenizer::encode: the text is not UTF-8 at byte 4");
    CHECK(error("ab\xc3\xa9" + bad + "cdef") == "Tokenizer::encode: the text is not UTF-8 at byte 4");
  }
  for (const std::string good : {"\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
                                 "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(error(good).empty());
  }
  CHECK(message_of<lora::ValueError>([&] { tokenizer.encode_pair("a", "b\xff"); }) ==
        "Tokenizer::encode_pair: the second text is not UTF-8 at byte 1");
}

TEST_CASE("No room for the special tokens") {
  const auto tokenizer = tokenizer_of("plain");
  CHECK(message_of<lora::ConfigError>([&] { tokenizer.encode("a", {.max_tokens = 1}); }) ==
        "Tokenizer::encode: max_tokens is 1, expected at least 2, the number of special tokens");
  CHECK(message_of<lora::ConfigError>([&] { tokenizer.encode_pair("a", "b", {.max_tokens = 2}); }) ==
        "Tokenizer::encode_pair: max_tokens is 2, expected at least 3, the number of special tokens");
  CHECK(message_of<lora::ConfigError>([&] { tokenizer.encode("a", {.special_tokens = false, .max_tokens = -1}); }) ==
        "Tokenizer::encode: max_tokens is -1, expected at least 0, the number of special tokens");
}

TEST_CASE("One tokenizer serves many threads", "[threads]") {
  std::minstd_rand random(3);
  std::vector<std::string> texts;
  for (int k = 0; k < 100; ++k) texts.push_back(random_text(random));
  CHECK(lora_test::wrong_in_threads(tokenizer_of("added"), texts) == 0);
}
