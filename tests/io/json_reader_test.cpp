#include "lora/io/json_reader.hpp"

#include "io/files.hpp"
#include "lora/io/json_text.hpp"
#include "support/catch.hpp"

#include <chrono>
#include <clocale>

using lora_test::contains;
using lora_test::message_of;

namespace {

// Writes down what it is told.
struct Log : lora::JsonEvents {
  std::string text;
  void begin_object() override { text += "{ "; }
  void key(std::string_view name) override { text += std::string(name) + ": "; }
  void end_object() override { text += "} "; }
  void begin_array() override { text += "[ "; }
  void end_array() override { text += "] "; }
  void string(std::string_view value) override { text += "'" + std::string(value) + "' "; }
  void unsigned_integer(std::uint64_t value) override { text += "u" + std::to_string(value) + " "; }
  void negative_integer(std::int64_t value) override { text += "i" + std::to_string(value) + " "; }
  void real(double value, std::string_view written) override {
    text += "r" + std::to_string(value) + "=" + std::string(written) + " ";
  }
  void boolean(bool value) override { text += value ? "true " : "false "; }
  void null() override { text += "null "; }
};

std::string log_of(std::string_view text, const lora::JsonLimits& limits = {}) {
  Log log;
  lora::read_json("f.json", text, log, limits);
  return log.text;
}

std::string error_of(std::string_view text, const lora::JsonLimits& limits = {}) {
  return message_of<lora::FormatError>([&] { log_of(text, limits); });
}

}  // namespace

TEST_CASE("Events of JSON, in its order") {
  CHECK(log_of(R"( {"a":[1,-2,"x",null,true,false],"b":{"c":{}}} )") ==
        "{ a: [ u1 i-2 'x' null true false ] b: { c: { } } } ");
  CHECK(log_of("\"\\u00e9\\ud83d\\ude00\\n\\u0000\"") == std::string("'\xc3\xa9\xf0\x9f\x98\x80\n\0' ", 11));
}

TEST_CASE("Integers are told from other numbers, and 64 bits are exact") {
  CHECK(log_of("[18446744073709551615,0,-0,-9223372036854775808]") ==
        "[ u18446744073709551615 u0 i0 i-9223372036854775808 ] ");
  CHECK(log_of("18446744073709551616") == "r18446744073709551616.000000=18446744073709551616 ");
  CHECK(log_of("2.50") == "r2.500000=2.50 ");
  CHECK(log_of("1e1") == "r10.000000=1e1 ");
}

TEST_CASE("What is not JSON is refused, with the place") {
  struct Case {
    std::string text, message;
  };
  const Case cases[] = {
      {"", "at byte 1"},
      {"[1,]", "at byte 4"},
      {"{\"a\" 1}", "at byte 6"},
      {"01", "at byte 2"},
      {"+1", "at byte 1"},
      {"[1] x", "at byte 5"},
      {"'a'", "at byte 1"},
      {"// x\n1", "at byte 1"},
      {"NaN", "at byte"},
      {"1e999", "a number is out of range"},
      {"\"\x01\"", "at byte 2"},
      {"\"\xc0\x80\"", "ill-formed UTF-8"},
      {"\"\xed\xa0\x80\"", "ill-formed UTF-8"},
      {"\"\\ud800\"", "surrogate"},
      {std::string("1\0", 2), "at byte 2: a NUL"},
      {std::string("{}\0garbage", 10), "at byte 3: a NUL"},
      {"\xef\xbb\xbf{}", "byte order mark"},
      {"\xff", "at byte 1"},
  };
  for (const auto& [text, message] : cases) {
    INFO(text);
    const auto error = error_of(text);
    CHECK_THAT(error, contains("f.json: is not valid JSON"));
    CHECK_THAT(error, contains(message));
  }
}

TEST_CASE("A message does not grow with the text") {
  CHECK(error_of("\"" + std::string(1'000'000, 'a')).size() < 300);
  CHECK(error_of("{\"" + std::string(1'000'000, 'a') + "\":1,\"" + std::string(1'000'000, 'a') + "\":1}").size() < 300);
}

TEST_CASE("A name twice in one object is refused, at any depth; in two objects it is not") {
  CHECK(error_of(R"({"a":1,"b":2,"a":3})") == R"(f.json: the name "a" is there twice)");
  CHECK(error_of(R"([{"x":{"b":1,"\u0062":2}}])") == R"(f.json: the name "b" is there twice)");
  CHECK(error_of(R"({"":1,"":2})") == R"(f.json: the name "" is there twice)");
  CHECK(error_of(R"({"a":{"a":{"a":1}},"b":{"a":1}})") == "");
  CHECK(error_of(R"({"a":{"b":1},"b":{"b":1},"c":{"a":2}})") == "");
}

TEST_CASE("Depth, values and bytes are bounded") {
  CHECK(error_of("[[[[[[[[]]]]]]]]") == "");
  CHECK(error_of("[[[[[[[[[]]]]]]]]]") == "f.json: its JSON nests deeper than 8 levels");
  CHECK(error_of("[{}]", {.depth = 1}) == "f.json: its JSON nests deeper than 1 levels");
  CHECK(error_of("[1,2]", {.values = 3}) == "");
  CHECK(error_of("[1,2]", {.values = 2}) == "f.json: its JSON has more than 2 values");
  CHECK(error_of("[1]", {.bytes = 3}) == "");
  CHECK(error_of("[1] ", {.bytes = 3}) == "f.json: its JSON has 4 bytes, expected at most 3");
}

TEST_CASE("Hostile texts cost time in proportion to their length") {
  const auto start = std::chrono::steady_clock::now();
  CHECK(error_of(std::string(50'000'000, '[')) == "f.json: its JSON nests deeper than 8 levels");
  // Many small objects after a large one, which a cleared hash table would pay for again and again.
  std::string text = "[{";
  for (int i = 0; i < 100'000; ++i) text += "\"" + std::to_string(i) + "\":0,";
  text.back() = '}';
  for (int i = 0; i < 100'000; ++i) text += ",{\"a\":0}";
  CHECK(error_of(text + "]") == "");
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
}

TEST_CASE("Real numbers do not depend on the locale") {
  const std::string old = std::setlocale(LC_NUMERIC, nullptr);
  const char* found = nullptr;
  for (const auto* name : {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE"}) {
    if (!found) found = std::setlocale(LC_NUMERIC, name);
  }
  const auto text = log_of("[2.5]");
  const bool comma = *std::localeconv()->decimal_point == ',';
  std::setlocale(LC_NUMERIC, old.c_str());
  CHECK_THAT(text, contains("=2.5 "));
  if (!comma) LORA_TEST_SKIP("no locale with a decimal comma is installed");
}

TEST_CASE("UTF-8 by the table of the standard") {
  using std::string;
  for (const auto& good :
       {string(), string("a"), string("\0", 1), string("\xc2\x80"), string("\xdf\xbf"), string("\xe0\xa0\x80"),
        string("\xed\x9f\xbf"), string("\xee\x80\x80"), string("\xef\xbf\xbf"), string("\xf0\x90\x80\x80"),
        string("\xf4\x8f\xbf\xbf"), string("a\xc3\xa9z")}) {
    CHECK(lora::is_utf8(good));
  }
  for (const string bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2z", "\xe0\x9f\xbf", "\xe1\x80",
                           "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
                           "a\xe2\x82", "\xe2\x28\xa1", "\xf0\x90\x80z"}) {
    CHECK_FALSE(lora::is_utf8(bad));
  }
}

TEST_CASE("Strings are escaped as serde_json does") {
  std::string json;
  lora::append_json_string(json, std::string_view("a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9\0", 15));
  CHECK(json == "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\\u0000\"");
}
