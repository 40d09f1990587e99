#include "lora/io/detail/json.hpp"

#include "io/files.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <bit>
#include <chrono>
#include <clocale>
#include <cmath>
#include <random>

using lora_test::contains;
using lora_test::message_of;

namespace {

using lora::detail::Json;
using Type = Json::value_t;

Json tree_of(std::string_view text, const lora::detail::JsonLimits& limits = {}) {
  return lora::detail::parse_json("f.json", text, limits);
}

std::string error_of(std::string_view text, const lora::detail::JsonLimits& limits = {}) {
  return message_of<lora::FormatError>([&] { tree_of(text, limits); });
}

}  // namespace

TEST_CASE("JSON as a tree, in its order") {
  const Json tree = tree_of(R"( {"b":[1,-2,"x",null,true,false,1.5],"a":{"c":{}},"":[]} )");
  CHECK(tree.dump() == R"({"b":[1,-2,"x",null,true,false,1.5],"a":{"c":{}},"":[]})");
  CHECK(tree["b"][2].get<std::string>() == "x");
  CHECK(tree_of("\"\\u00e9\\ud83d\\ude00\\n\\u0000\"").get<std::string>() ==
        std::string("\xc3\xa9\xf0\x9f\x98\x80\n\0", 8));
  CHECK(tree_of("[[],[[1],2],3]").dump() == "[[],[[1],2],3]");
}

TEST_CASE("Integers are told from other numbers, and 64 bits are exact") {
  const Json tree = tree_of("[18446744073709551615,0,-0,-9223372036854775808]");
  CHECK(tree[0].get<std::uint64_t>() == UINT64_MAX);
  CHECK(tree[1].type() == Type::number_unsigned);
  CHECK(tree[2].type() == Type::number_integer);
  CHECK(tree[3].get<std::int64_t>() == INT64_MIN);
  for (const char* real : {"18446744073709551616", "-9223372036854775809", "2.0", "1e1", "-0.0"}) {
    CHECK(tree_of(real).type() == Type::number_float);
  }
  CHECK(tree_of("2.50").get<double>() == 2.5);
  CHECK(tree_of("18446744073709551616").get<double>() == 0x1p64);
}

TEST_CASE("What was found, in words") {
  const std::pair<const char*, const char*> cases[] = {{"{}", "an object"},
                                                       {"[1]", "an array"},
                                                       {"\"x\"", "a string"},
                                                       {"7", "a number"},
                                                       {"-7", "a negative number"},
                                                       {"-0", "a negative number"},
                                                       {"1.50", "the number \"1.5\""},
                                                       {"true", "true"},
                                                       {"null", "null"}};
  for (const auto& [text, found] : cases) CHECK(lora::detail::found_in_json(tree_of(text)) == found);
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
  CHECK(error_of(R"({"a":1,"b":2,"a":3})") == R"(f.json: the name "a" occurs twice)");
  CHECK(error_of(R"([{"x":{"b":1,"\u0062":2}}])") == R"(f.json: the name "b" occurs twice)");
  CHECK(error_of(R"({"":1,"":2})") == R"(f.json: the name "" occurs twice)");
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
  CHECK(error_of(std::string(30'000'000, '[')) == "f.json: its JSON nests deeper than 8 levels");
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
  const double number = tree_of("[2.5]")[0].get<double>();
  const std::string text = lora::detail::python_json(2.5);
  const bool comma = *std::localeconv()->decimal_point == ',';
  std::setlocale(LC_NUMERIC, old.c_str());
  CHECK(number == 2.5);
  CHECK(text == "2.5");
  if (!comma) LORA_TEST_SKIP("no locale with a decimal comma is installed");
}

TEST_CASE("UTF-8 by the table of the standard, read and written") {
  using std::string;
  for (const auto& good : {string(), string("a"), string("\xc2\x80"), string("\xdf\xbf"), string("\xe0\xa0\x80"),
                           string("\xed\x9f\xbf"), string("\xee\x80\x80"), string("\xef\xbf\xbf"),
                           string("\xf0\x90\x80\x80"), string("\xf4\x8f\xbf\xbf"), string("a\xc3\xa9z")}) {
    CHECK(lora::detail::json_string(good) == "\"" + good + "\"");
    CHECK(tree_of("\"" + good + "\"").get<string>() == good);
  }
  for (const string bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2z", "\xe0\x9f\xbf", "\xe1\x80",
                           "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
                           "a\xe2\x82", "\xe2\x28\xa1", "\xf0\x90\x80z"}) {
    CHECK_FALSE(lora::detail::json_string(bad));
    CHECK_FALSE(error_of("\"" + bad + "\"").empty());
    CHECK_THROWS_AS(lora::detail::python_json({{"k", bad}}), lora::ValueError);
  }
}

TEST_CASE("Strings are escaped as serde_json does") {
  CHECK(lora::detail::json_string(std::string_view("a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9\0", 15)) ==
        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\\u0000\"");
}

TEST_CASE("Trees are written as Python's json.dumps writes them with indent=2 and sort_keys=True") {
  CHECK(lora::detail::python_json(
            tree_of(R"({"b":{"z":[1,[],{}],"y":null},"a":"\u00e9\ud83d\ude00\u007f\n\u0001\"","\u00e9":-5})")) ==
        "{\n  \"a\": \"\\u00e9\\ud83d\\ude00\\u007f\\n\\u0001\\\"\",\n  \"b\": {\n    \"y\": null,\n    \"z\": [\n "
        "     1,\n      [],\n      {}\n    ]\n  },\n  \"\\u00e9\": -5\n}");
}

TEST_CASE("Doubles are written as Python writes them, and read back as the same number") {
  for (const auto& [number, text] :
       std::vector<std::pair<double, std::string>>{{0, "0.0"},
                                                   {-0.0, "-0.0"},
                                                   {1, "1.0"},
                                                   {0.1, "0.1"},
                                                   {-2.5, "-2.5"},
                                                   {1e-4, "0.0001"},
                                                   {1e-5, "1e-05"},
                                                   {1.5e-10, "1.5e-10"},
                                                   {123456.75, "123456.75"},
                                                   {1e14, "100000000000000.0"},
                                                   {1e16, "1e+16"},
                                                   {1.25e100, "1.25e+100"},
                                                   {5e-324, "5e-324"},
                                                   {1.7976931348623157e308, "1.7976931348623157e+308"},
                                                   {0.30000000000000004, "0.30000000000000004"}}) {
    CHECK(lora::detail::python_json(number) == text);
  }
  std::mt19937_64 random(3);
  for (int i = 0; i < 10'000; ++i) {
    const auto number = std::bit_cast<double>(std::uint64_t{random()});
    if (!std::isfinite(number)) continue;
    const std::string text = lora::detail::python_json(number);
    const Json read = tree_of(text);
    if (read.type() != Type::number_float || read.get<double>() != number) FAIL(text);
  }
  CHECK_THROWS_AS(lora::detail::json_number(std::nan("")), lora::ValueError);
  CHECK_THROWS_AS(lora::detail::json_number(INFINITY), lora::ValueError);
}

TEST_CASE("Memory is at most 50 bytes for a byte of text") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  for (const std::string value :
       {"0", "[]", "{}", "\"\"", "[0]", "{\"\":0}", "[[[]]]", "{\"a\":[{\"\":[]}]}", "\"16 bytes or more\""}) {
    std::string text = "[" + value;
    while (text.size() < 300'000) text += "," + value;
    text += "]";
    CHECK(lora_test::heap_peak_in([&] { tree_of(text); }) < 50 * static_cast<std::ptrdiff_t>(text.size()));
  }
  std::string text = "{\"0\":0";
  for (int i = 1; i < 30'000; ++i) text += ",\"" + std::to_string(i) + "\":0";
  text += "}";
  CHECK(lora_test::heap_peak_in([&] { tree_of(text); }) < 50 * static_cast<std::ptrdiff_t>(text.size()));
}
