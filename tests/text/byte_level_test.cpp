// What is special about byte-level BPE; that its ids are those of the reference, golden_test.cpp shows.
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "text/files.hpp"

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <utility>
#include <vector>

using lora_test::message_of;
using lora_test::tokenizer_of;
using Strings = std::vector<std::string>;

namespace {

Strings words(const std::string& text, bool prefix = false) {
  Strings result;
  lora::detail::for_each_byte_level_word(text, 0, text.size(), prefix, [&](std::size_t a, std::size_t b, bool after) {
    result.push_back((after ? "_" : "") + text.substr(a, b - a));
  });
  return result;
}

Strings slices(const lora::Tokenizer& tokenizer, const std::string& text) {
  Strings result;
  for (const auto& [begin, end] : tokenizer.encode(text, {.special_tokens = false}).bytes) {
    result.push_back(text.substr(begin, end - begin));
  }
  return result;
}

std::string random_text(std::minstd_rand& random) {
  static const Strings parts{
      " the", "of", " ",  "  ", "\n",   "'s",          " small", "\xc3\xa9", "\xe5\x8c\x97",    "7",
      "42",   "!?", "\t", "xq", "zzzz", "\xc2\xa0ing", "<mask>", "ing",      "\xf0\x9f\x98\x80"};
  std::string text;
  for (std::size_t k = random() % 14; k > 0; --k) text += parts[random() % parts.size()];
  return text;
}

/// A plain, slow reading of what merging is: the first pair of the file that occurs, at its leftmost place.
Strings merged_slowly(const lora::detail::Json& file, const std::string& text) {
  Strings symbols;
  for (const char byte : text) {
    symbols.emplace_back();
    lora::detail::for_each_byte(lora::detail::byte_letters[static_cast<unsigned char>(byte)],
                                [&](char one) { symbols.back().push_back(one); });
  }
  const auto& merges = file["model"]["merges"];
  for (std::size_t k = 0; k < merges.size();) {
    const std::string left = merges[k][0], right = merges[k][1];
    std::size_t at = 0;
    while (at + 1 < symbols.size() && (symbols[at] != left || symbols[at + 1] != right)) ++at;
    if (at + 1 >= symbols.size()) {
      ++k;
      continue;
    }
    symbols[at] += right;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    k = 0;
  }
  return symbols;
}

/// The tokens of a text by roberta.json with more merges, of letters that have none there.
Strings tokens_with(const std::vector<std::pair<std::string, std::string>>& merges, const std::string& text) {
  auto file = lora_test::json_of("roberta.json");
  auto& model = file["model"];
  for (const auto& [left, right] : merges) {
    model["merges"].push_back({left, right});
    if (!model["vocab"].contains(left + right)) model["vocab"][left + right] = model["vocab"].size();
  }
  const auto tokenizer = lora::Tokenizer::parse(file.dump());
  Strings tokens;
  for (const int id : tokenizer.encode(text, {.special_tokens = false}).ids) tokens.push_back(tokenizer.token(id));
  return tokens;
}

double seconds_of(const lora::Tokenizer& tokenizer, const std::string& text, std::size_t& tokens) {
  const auto start = std::chrono::steady_clock::now();
  tokens = tokenizer.encode(text, {.special_tokens = false}).ids.size();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

TEST_CASE("GPT-2's words have the space before them") {
  CHECK(words("a small  cat") == Strings{"a", " small", " ", " cat"});
  CHECK(words("   ") == Strings{"   "});
  CHECK(words("  a") == Strings{" ", " a"});
  CHECK(words("\n\na") == Strings{"\n", "\n", "a"});
  CHECK(words("\na") == Strings{"\n", "a"});
  CHECK(words("a \t\n b") == Strings{"a", " \t\n", " b"});
  CHECK(words("it's we'll I'm he'd 've't're") ==
        Strings{"it", "'s", " we", "'ll", " I", "'m", " he", "'d", " '", "ve", "'t", "'re"});
  CHECK(words("'S'l''s'") == Strings{"'", "S", "'", "l", "''", "s", "'"});
  CHECK(words("12ab!? 3") == Strings{"12", "ab", "!?", " 3"});
  CHECK(words("\xc3\xa9t\xc2\xbd\xcc\x81!") == Strings{"\xc3\xa9t", "\xc2\xbd", "\xcc\x81!"});
  CHECK(words("a\xc2\xa0\xe3\x80\x80 b") == Strings{"a", "\xc2\xa0\xe3\x80\x80", " b"});
  CHECK(words("").empty());
}

TEST_CASE("A space that is thought in front goes to the first word") {
  CHECK(words("a b", true) == Strings{"_a", " b"});
  CHECK(words(" a", true) == Strings{" a"});
  CHECK(words("\ta", true) == Strings{"_", "\t", "a"});
  CHECK(words("\t\ta", true) == Strings{"_\t", "\t", "a"});
  CHECK(words("\t", true) == Strings{"_\t"});
  CHECK(words("'s", true) == Strings{"_'", "s"});
  CHECK(words("", true).empty());
}

TEST_CASE("Words are all bytes of a text, each once") {
  std::minstd_rand random(4);
  for (int round = 0; round < 500; ++round) {
    const std::string text = random_text(random);
    std::string joined;
    for (const auto& word : words(text)) {
      CHECK_FALSE(word.empty());
      joined += word;
    }
    CHECK(joined == text);
  }
}

TEST_CASE("Each byte has a letter, and each letter its byte") {
  std::string all, back;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    all.push_back(static_cast<char>(byte));
    std::string letter;
    lora::detail::for_each_byte(lora::detail::byte_letters[byte], [&](char one) { letter.push_back(one); });
    CHECK(lora::detail::append_bytes_of(letter, back));
  }
  CHECK(back == all);
  CHECK(lora::detail::letter_of_space == 0x120);
  std::string to = "x";
  CHECK_FALSE(lora::detail::append_bytes_of("a b", to));  // a space is no letter
  CHECK_FALSE(lora::detail::append_bytes_of("a\xe5\x8c\x97", to));
  CHECK(to == "x");
}

TEST_CASE("Merging is that of the file, pair after pair") {
  for (const std::string kind : {"roberta", "holes"}) {
    const auto tokenizer = tokenizer_of(kind);
    auto file = lora_test::json_of(kind + ".json");
    auto& merges = file["model"]["merges"];  // of equal pairs the last counts
    for (std::size_t k = 0; k < merges.size(); ++k) {
      for (std::size_t later = k + 1; later < merges.size(); ++later) {
        if (merges[later] == merges[k]) merges[k] = lora::detail::Json::array({"", ""});
      }
    }
    std::minstd_rand random(5);
    for (int round = 0; round < 200; ++round) {
      std::string word;  // of one kind, so that it is one word
      for (std::size_t k = 1 + random() % 20; k > 0; --k) word += "aeinorstlcd"[random() % 11];
      Strings tokens;
      for (const int id : tokenizer.encode(word, {.special_tokens = false}).ids) tokens.push_back(tokenizer.token(id));
      INFO(word);
      CHECK(tokens == merged_slowly(file, word));
    }
  }
}

TEST_CASE("Pairs are merged in the order of the file, and as they are by then") {
  CHECK(tokens_with({{"X", "Z"}, {"Q", "X"}}, "QXZ") == Strings{"Q", "XZ"});
  CHECK(tokens_with({{"Q", "X"}, {"X", "Z"}}, "QXZ") == Strings{"QX", "Z"});
  // Q and X are a pair no longer when their turn comes.
  CHECK(tokens_with({{"X", "Z"}, {"Q", "X"}, {"Q", "XZ"}}, "QXZQ") == Strings{"QXZ", "Q"});
  // Of equal pairs the leftmost, and of equal merges in the file the last.
  CHECK(tokens_with({{"Q", "Q"}}, "QQQ") == Strings{"QQ", "Q"});
  CHECK(tokens_with({{"Q", "Q"}, {"QQ", "QQ"}}, "QQQQQQQ") == Strings{"QQQQ", "QQ", "Q"});
  CHECK(tokens_with({{"X", "Z"}, {"Q", "X"}, {"X", "Z"}}, "QXZ") == Strings{"QX", "Z"});
  // A token that no merge makes is none of a text.
  CHECK(tokens_with({{"X", "Z"}, {"Q", "X"}, {"QX", "Z"}}, "QXZ") == Strings{"Q", "XZ"});
}

TEST_CASE("RoBERTa's offsets leave out the spaces, and name whole code points") {
  const auto roberta = tokenizer_of("roberta"), gpt2 = tokenizer_of("gpt2");
  CHECK(slices(roberta, "the of <mask>.") == Strings{"the", "of", "<mask>", "."});
  CHECK(slices(gpt2, "the of") == Strings{"the", " of"});
  CHECK(slices(roberta, "\xe5\x8c\x97") == Strings(3, "\xe5\x8c\x97"));
  // Of white space alone nothing is left.
  const auto spaces = roberta.encode("the   of", {.special_tokens = false});
  REQUIRE(spaces.bytes.size() >= 3);
  CHECK(spaces.bytes[1].begin == spaces.bytes[1].end);
  CHECK(spaces.texts[1] == 0);
  // The space that is thought in front stands for the code point after it.
  const auto prefix = tokenizer_of("prefix");
  CHECK(slices(prefix, "\xe5\x8c\x97").size() == 4);
  CHECK(prefix.encode("the").ids == prefix.encode(" the").ids);
}

TEST_CASE("A pair of RoBERTa's has two separators, and one type") {
  const auto tokenizer = tokenizer_of("roberta");
  const auto pair = tokenizer.encode_pair("z", "the");
  CHECK(pair.ids == std::vector<int>{0, *tokenizer.id("z"), 2, 2, *tokenizer.id("the"), 2});
  CHECK(pair.types == std::vector<int>(6, 0));
  CHECK(pair.texts == std::vector<int>{-1, 0, -1, -1, 1, -1});
  CHECK(message_of<lora::ConfigError>([&] { tokenizer.encode_pair("a", "b", {.max_tokens = 3}); }) ==
        "Tokenizer::encode_pair: max_tokens is 3, expected at least 4, the number of special tokens");
}

TEST_CASE("Decoding gives any text back") {
  const auto tokenizer = tokenizer_of("gpt2");
  std::minstd_rand random(6);
  for (int round = 0; round < 300; ++round) {
    const std::string text = random_text(random);
    CHECK(tokenizer.decode(tokenizer.encode(text).ids) == text);
  }
}

TEST_CASE("Bytes that are no text are decoded as U+FFFD") {
  const auto tokenizer = tokenizer_of("gpt2");
  const auto decoded = [&](const std::string& bytes) {
    std::vector<int> ids;
    for (const char byte : bytes) {
      std::string letter;
      lora::detail::for_each_byte(lora::detail::byte_letters[static_cast<unsigned char>(byte)],
                                  [&](char one) { letter.push_back(one); });
      ids.push_back(tokenizer.id(letter).value());
    }
    return tokenizer.decode(ids);
  };
  const std::string bad = "\xef\xbf\xbd";
  CHECK(decoded("a\xe5\x8c\x97z") == "a\xe5\x8c\x97z");
  CHECK(decoded("\x80") == bad);
  CHECK(decoded("a\xe5\x8cz") == "a" + bad + "z");                       // one for what could have become a letter
  CHECK(decoded("\xf0\x9f\x98z\xf0\x9f\xf0") == bad + "z" + bad + bad);  // of three bytes, of two, of one
  CHECK(decoded("\xe0\x80\x80") == bad + bad + bad);                     // which never could
  CHECK(decoded("\xed\xa0\x80") == bad + bad + bad);                     // a surrogate
  CHECK(decoded("\xf4\x90\x80\x80\xff\xc0") == bad + bad + bad + bad + bad + bad);
  CHECK(decoded("\xc3") == bad);
  CHECK(decoded("\xc3\xa9\xc3\xc3\xa9") == "\xc3\xa9" + bad + "\xc3\xa9");
}

TEST_CASE("An encoding of bytes that is used again takes no heap") {
  for (const std::string kind : {"roberta", "prefix", "bytes"}) {
    const auto tokenizer = tokenizer_of(kind);
    std::minstd_rand random(2);
    Strings texts;
    for (int k = 0; k < 50; ++k) texts.push_back(random_text(random));
    texts.emplace_back(300, 'q');
    texts.emplace_back("thethethetheofofofof" + std::string(100, 'e'));
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
      CHECK(again.bytes == fresh.bytes);
    }
    // One text and one word as long are enough, whatever is in them.
    lora::Encoding once;
    tokenizer.encode(std::string(400, '\x01'), once);
    if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
    CHECK(lora_test::heap_allocations_in(encode_all) == 0);
    const std::string merging = "thethethetheofofofof" + std::string(100, 'e');
    CHECK(lora_test::heap_allocations_in([&] { tokenizer.encode(merging, once); }) == 0);
  }
}

TEST_CASE("One word of a megabyte takes seconds at most, whatever is in it") {
  const auto tokenizer = tokenizer_of("roberta");
  std::minstd_rand random(7);
  std::string letters, one(1'000'000, 'e');
  for (int k = 0; k < 1'000'000; ++k) letters += "aeinorstlcd"[random() % 11];
  for (const std::string& word : {letters, one, std::string(1'000'000, '!'), std::string(1'000'000, ' ')}) {
    std::size_t tokens = 0, of_part = 0;
    const double all = seconds_of(tokenizer, word, tokens);
    seconds_of(tokenizer, word.substr(0, 1000), of_part);
    CHECK(tokens > 100'000);
    CHECK(tokens / 1000 <= of_part + 10);
    CHECK(all < 20);  // a second of an ordinary machine; a search from the begin for each merge takes hours
  }
}

TEST_CASE("One byte-level tokenizer serves many threads", "[threads]") {
  std::minstd_rand random(3);
  std::vector<std::string> texts;
  for (int k = 0; k < 100; ++k) texts.push_back(random_text(random));
  CHECK(lora_test::wrong_in_threads(tokenizer_of("bytes"), texts) == 0);
}
