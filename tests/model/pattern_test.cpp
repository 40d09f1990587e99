#include "lora/model/pattern.hpp"

#include <string>
#include <tuple>

#include "support/catch.hpp"

using lora::Pattern;

namespace {

bool matches(const char* pattern, const char* name) { return Pattern(pattern, "test").matches(name); }

void check_refused(const std::string& pattern, const std::string& why) {
  CHECK_THROWS_AS(Pattern(pattern, "attach"), lora::ConfigError);
  CHECK_THROWS_WITH(Pattern(pattern, "attach"), "attach: the pattern \"" + pattern + "\" " + why);
}

}  // namespace

// tests/model/pattern_oracle.py compares 400,000 patterns with Python's re.
TEST_CASE("Patterns that configs of published adapters have") {
  CHECK(matches(".*\\.(q_proj|v_proj)", "model.layers.3.self_attn.q_proj"));
  CHECK_FALSE(matches(".*\\.(q_proj|v_proj)", "model.layers.3.self_attn.k_proj"));
  CHECK_FALSE(matches(".*\\.(q_proj|v_proj)", "q_proj"));
  CHECK(matches(".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", "decoder.block.0.layer.0.SelfAttention.q"));
  CHECK(matches("model\\.layers\\.(1[0-9]|2[0-3])\\..*", "model.layers.23.mlp"));
  CHECK_FALSE(matches("model\\.layers\\.(1[0-9]|2[0-3])\\..*", "model.layers.24.mlp"));
  CHECK(matches("^(?!.*(lm_head|vision)).*proj$", "model.layers.0.q_proj"));
  CHECK_FALSE(matches("^(?!.*(lm_head|vision)).*proj$", "vision.layers.0.q_proj"));
  const char* both =
      "(?:.*?(?:vision|image).*?(?:attn|mlp).*?(?:q_proj|k_proj).*?)|"
      "(?:\\bmodel\\.layers\\.[\\d]{1,}\\.(?:self_attn|mlp)\\.(?:(?:q_proj|k_proj)))";
  CHECK(matches(both, "vision.blocks.1.attn.q_proj"));
  CHECK(matches(both, "model.layers.12.mlp.k_proj"));
  CHECK_FALSE(matches(both, "model.layers.12.mlp.v_proj"));
}

TEST_CASE("A pattern matches whole names") {
  CHECK(matches("fc1", "fc1"));
  CHECK_FALSE(matches("fc1", "fc10"));
  CHECK_FALSE(matches("fc1", "a.fc1"));
  CHECK(matches("fc.", "fc1"));
  CHECK_FALSE(matches("f.", "fc1"));
  CHECK(matches("a|ab|abc", "abc"));
}

TEST_CASE("Every part of the syntax") {
  const auto [pattern, yes, no] = GENERATE(table<const char*, const char*, const char*>({
      {"a*b", "aaab", "aac"},         {"a+b", "ab", "b"},
      {"ab?c", "ac", "abbc"},         {"a{2}", "aa", "aaa"},
      {"a{2,3}b", "aaab", "aaaab"},   {"a{,2}b", "aab", "aaab"},
      {"a{2,}b", "aaaaab", "ab"},     {"a{,}b", "b", "c"},
      {"a{x}", "a{x}", "aa"},         {"a*?b", "aab", "aa"},
      {"a{1,2}?b", "aab", "aaab"},    {"(ab)+", "abab", "aba"},
      {"(?:ab|c)*", "abcab", "abca"}, {"(?P<number>\\d)x", "3x", "ax"},
      {"[a-c_]+", "ab_c", "d"},       {"[^.]+", "ab", "a.b"},
      {"[]a]+", "]a", "["},           {"[a-]+", "a-", "b"},
      {"[\\d.]+", "1.2", "a"},        {"\\w\\W\\s\\S\\d\\D", "_. x1a", "_. x11"},
      {"\\.\\-\\_", ".-_", "a-_"},    {"^a$", "a", "b"},
      {"\\Aa\\Z", "a", "b"},          {"a\\b\\.b", "a.b", "a_b"},
      {"a\\Bb", "ab", "a"},           {"(?=ab).*", "abc", "acb"},
      {"(?!ab).*", "acb", "abc"},     {"a(?=b)b(?!c).*", "abd", "abc"},
      {"(a|)b", "b", "aab"},          {"(?:)", "", "a"},
  }));
  INFO(pattern);
  CHECK(matches(pattern, yes));
  CHECK_FALSE(matches(pattern, no));
}

TEST_CASE("A pattern that is none, or that this matcher cannot decide, is refused") {
  check_refused("a(b", "has an unmatched opening bracket");
  check_refused("a)b", "has an unmatched closing bracket");
  check_refused("*a", "has nothing before a quantifier");
  check_refused("{2}a", "has nothing before a quantifier");
  check_refused("^*", "has nothing before a quantifier");
  check_refused("a**", "has a quantifier of a quantifier");
  check_refused("a*{2}", "has a quantifier of a quantifier");
  check_refused("a*+", "has a possessive quantifier");
  check_refused("a{3,2}", "has a quantifier whose minimum exceeds its maximum");
  check_refused("a{1001}", "repeats more than 1000 times");
  check_refused("x[ab", "ends in \"[ab\", expected a ] that ends the set");
  check_refused("[a-", "ends in \"[a-\", expected a ] that ends the set");
  check_refused("[]", "ends in \"[]\", expected a ] that ends the set");
  check_refused("a\\", "ends in \"\\\", expected a character after the backslash");
  check_refused("[a\\", "ends in \"\\\", expected a character after the backslash");
  check_refused("a(?P<name", "ends in \"(?P<name\", expected a > that ends the name of the group");
  check_refused("[c-a]", "has an invalid range \"c-a\"");
  check_refused("[\\d-z]", "has an invalid range \"\\d-z\"");
  check_refused("(a)\\1", "has an escape \"\\1\" that is not supported");
  check_refused("\\q", "has an escape \"\\q\" that is not supported");
  check_refused("(?<=a)b", "has a kind of group that is not supported");
  check_refused("(?i)a", "has a kind of group that is not supported");
  check_refused("(?P=n)", "has a kind of group that is not supported");
  check_refused("[\xc3\xa9]", "has characters beyond ASCII in a set");
  check_refused(std::string(60, '(') + std::string(60, ')'), "is nested too deeply");
}

TEST_CASE("Names beyond ASCII: one character is one character, as in Python") {
  const auto [pattern, yes, no] = GENERATE(table<const char*, const char*, const char*>({
      {".*", "schl\u00fcssel.q", "a\nb"},
      {"a.b", "a\u00fcb", "a\u00fc\u00fcb"},
      {".", "\u20ac", "ab"},
      {".{2}", "\u00fc\U0001f600", "\u00fc"},
      {"[^.]+", "\u6ce8\u610f", "\u6ce8.\u610f"},
      {"\\D", "\u00fc", "\u0663"},  // an Arabic digit
      {"\\d+", "1\u0663\U0001d7ff", "1\u00fc"},
      {"\\S", "\u00fc", "\u3000"},  // an ideographic space
      {"\\s", "\u2003", "\u00fc"},
      {"[\\w\\W]", "\u00fc", "ab"},
      {"[^\\d]", "\u00fc", "1"},
      {"\u00fc", "\u00fc", "u"},  // itself
      {"(?:\u00fc|\\\u00f6)*x", "\u00fc\u00f6\u00fcx", "\u00e4x"},
      {"\u00fc{2}", "\u00fc\u00fc", "\u00fc"},
      {"(?!.*\u00fc).*", "a", "a\u00fc"},
      {"..", "\xff\xc3", "\xff"},  // no UTF-8: bytes of their own
  }));
  INFO(pattern);
  CHECK(matches(pattern, yes));
  CHECK_FALSE(matches(pattern, no));
}

TEST_CASE("Which characters beyond ASCII are letters is not known, and said") {
  for (const char* pattern : {"\\w+", "\\W+", "[\\w.]+", "\\b.*", ".*\\B.*"}) {
    CHECK_THROWS_WITH(matches(pattern, "\u00fcb"), "test: the pattern \"" + std::string(pattern) +
                                                       "\" asks which characters of \"\u00fcb\" are letters, which is "
                                                       "known for ASCII only");
    CHECK_NOTHROW(matches(pattern, "ub"));
  }
  CHECK_FALSE(matches("a\\w*", "\u00fc"));  // not asked
}

TEST_CASE("No pattern takes exponential time, and one that takes too long is refused") {
  const std::string name(200, 'a');
  CHECK_FALSE(Pattern("(a*)*b", "test").matches(name));
  CHECK_FALSE(Pattern("(a|a)*b", "test").matches(name));
  CHECK_FALSE(Pattern("(a|aa)+$b", "test").matches(name));
  CHECK_FALSE(Pattern("(.*)(.*)(.*)(.*)(.*)(.*)(.*)b", "test").matches(name));
  const Pattern heavy("((((a?b?){900}){900}c?){900}d?){900}x", "attach");
  const std::string mixed = name + name + name + name;
  // it settles, or it is refused; either way soon
  try {
    CHECK_FALSE(heavy.matches(mixed));
  } catch (const lora::ConfigError& error) {
    CHECK(std::string(error.what()).find("takes too long to decide") != std::string::npos);
  }
  const Pattern look("(?:(?=(?:(?=(?:(?=(?:a*)*x|)a)*y|)a)*z|)a)*", "attach");
  CHECK_THROWS_WITH(look.matches(mixed), lora_test::contains("takes too long to decide"));
}
