#pragma once
/// Reads which special tokens are put around texts, and checks that they are tokens.

#include "lora/text/detail/json_part.hpp"
#include "lora/text/detail/tokenizer_parts.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Needs the tokens of `parts`, and fills its templates.
class PostProcessorReader {
 public:
  PostProcessorReader(std::string_view who, TokenizerParts& parts) : who_(who), parts_(parts) {}

  void read(const JsonPart& file) {
    using Part = TokenTemplate::Part;
    parts_.single.parts = {Part{.text = 0}};
    parts_.pair.parts = {Part{.text = 0}, Part{.text = 1, .type = 1}};
    if (file.find("post_processor") == nullptr) return;
    const JsonPart processor = file.object("post_processor");
    const bool byte_level = std::holds_alternative<BytePair>(parts_.model);
    const std::string& type =
        byte_level ? processor.expect_type({"TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel"})
                   : processor.expect_type({"TemplateProcessing", "BertProcessing"});
    if (type == "ByteLevel") {
      processor.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      read_trim(processor);
      return;
    }
    if (type == "RobertaProcessing") {
      processor.allow({"type", "sep", "cls", "add_prefix_space", "trim_offsets"});
      read_trim(processor);
      const Part cls{.ids = {named_pair(processor, "cls")}}, sep{.ids = {named_pair(processor, "sep")}};
      parts_.single.parts = {cls, Part{.text = 0}, sep};
      parts_.pair.parts = {cls, Part{.text = 0}, sep, sep, Part{.text = 1}, sep};
      return;
    }
    if (type == "BertProcessing") {
      processor.allow({"type", "sep", "cls"});
      const Part cls{.ids = {named_pair(processor, "cls")}}, sep{.ids = {named_pair(processor, "sep")}};
      parts_.single.parts = {cls, Part{.text = 0}, sep};
      parts_.pair.parts = {cls, Part{.text = 0}, sep, Part{.text = 1, .type = 1}, sep};
      parts_.pair.parts.back().type = 1;
      return;
    }
    processor.allow({"type", "single", "pair", "special_tokens"});
    const JsonPart special = processor.object("special_tokens");
    parts_.single = read_template(processor, "single", special, 1);
    parts_.pair = read_template(processor, "pair", special, 2);
  }

 private:
  void read_trim(const JsonPart& processor) const {
    parts_.trim = {.on = processor.flag("trim_offsets"), .prefix_space = processor.flag("add_prefix_space")};
  }

  TokenTemplate read_template(const JsonPart& processor, const char* key, const JsonPart& special, int texts) const {
    TokenTemplate result;
    std::vector<int> uses(2, 0);
    processor.for_each(key, [&](const Json& entry, const std::string& where) {
      const JsonPart piece(who_, where, entry);
      piece.allow({"SpecialToken", "Sequence"});
      const bool is_text = piece.find("Sequence") != nullptr;
      if (is_text && piece.find("SpecialToken") != nullptr) {
        fail<FormatError>(who_, where + " is both a SpecialToken and a Sequence, expected one of them");
      }
      const JsonPart part = piece.object(is_text ? "Sequence" : "SpecialToken");
      part.allow({"id", "type_id"});
      TokenTemplate::Part to{.type = part.integer("type_id")};
      const std::string& id = part.text("id");
      if (is_text) {
        if (id != "A" && id != "B") part.refuse("id", Json(id), "\"A\" or \"B\"");
        to.text = id == "A" ? 0 : 1;
        ++uses[static_cast<std::size_t>(to.text)];
      } else {
        to.ids = ids_of(special, id);
      }
      result.parts.push_back(std::move(to));
      if (static_cast<Index>(result.parts.size()) + result.special_tokens() > most_parts) {
        fail<FormatError>(who_, where + ": more than " + std::to_string(most_parts) + " parts and special tokens");
      }
    });
    if (uses[0] != 1 || uses[1] != texts - 1) {
      fail<FormatError>(who_, processor.path(key) + " has Sequence A " + std::to_string(uses[0]) + " times and B " +
                                  std::to_string(uses[1]) + " times, expected " +
                                  (texts == 1 ? "A once" : "each of them once"));
    }
    return result;
  }

  /// The ids of a special token of a template, which have to be those of the tokens that it names.
  std::vector<int> ids_of(const JsonPart& special, const std::string& name) const {
    const std::string at = special.path(shown(name));
    const Json* const value = special.find(name);
    if (value == nullptr) fail<FormatError>(who_, at + " is missing, expected the ids of this special token");
    const JsonPart token(who_, at, *value);
    token.allow({"id", "ids", "tokens"});
    if (token.text("id") != name) token.refuse("id", token.at("id", ""), shown(name));
    std::vector<int> ids;
    std::vector<std::string_view> names;
    token.for_each("tokens", [&](const Json& entry, const std::string& where) {
      if (!entry.is_string()) fail<FormatError>(who_, where + " is " + found_in_json(entry) + ", expected a string");
      names.push_back(entry.get_ref<const std::string&>());
    });
    std::size_t count = 0;
    token.for_each("ids", [&](const Json&, const std::string&) { ++count; });
    if (count != names.size() || count == 0) {
      fail<FormatError>(who_, at + " has " + std::to_string(count) + " ids and " + std::to_string(names.size()) +
                                  " tokens, expected as many, and at least one");
    }
    token.for_each("ids", [&](const Json& entry, const std::string& where) {
      const std::string_view name_of_id = names[ids.size()];
      check_id(where, entry, name_of_id, parts_.id(name_of_id));
      ids.push_back(parts_.id(name_of_id));
    });
    return ids;
  }

  /// "sep": ["[SEP]", 102]
  int named_pair(const JsonPart& processor, const char* key) const {
    const Json& pair = processor.at(key, "a token and its id");
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) {
      processor.refuse(key, pair, "a token and its id");
    }
    const auto& name = pair[0].get_ref<const std::string&>();
    const int expected = parts_.id(name);
    check_id(processor.path(key) + "[1]", pair[1], name, expected);
    return expected;
  }

  /// Throws FormatError unless a value of the file is the id that a token has.
  void check_id(const std::string& where, const Json& given, std::string_view token, int expected) const {
    if (expected == ByteTrie::nothing) {
      fail<FormatError>(who_, where + ": " + shown(token) + " is not in the vocabulary");
    }
    if (JsonPart::is_integer(given) && given.get<int>() == expected) return;
    fail<FormatError>(who_, where + " is " + (given.is_number_integer() ? given.dump() : found_in_json(given)) +
                                ", expected " + std::to_string(expected) + ", the id of " + shown(token));
  }

  /// Bounds what a template adds to each text, and the search for its special tokens.
  static constexpr Index most_parts = 100;

  std::string_view who_;
  TokenizerParts& parts_;
};

}  // namespace lora::inline LORA_ABI::detail
