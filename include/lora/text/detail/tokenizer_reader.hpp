#pragma once
/// Reads a tokenizer.json and checks what it says.

#include "lora/text/detail/byte_pair_reader.hpp"
#include "lora/text/detail/json_part.hpp"
#include "lora/text/detail/post_processor_reader.hpp"
#include "lora/text/detail/tokenizer_parts.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Fills the parts from a file. The model comes first: a file of another kind is refused for that.
class TokenizerReader {
 public:
  TokenizerReader(std::string_view who, const Json& file) : who_(who), file_(who, "", file) {}

  TokenizerParts read() {
    file_.allow({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                 "decoder", "model"});
    if (file_.text("version") != "1.0") file_.refuse("version", file_.at("version", ""), "\"1.0\"");
    const JsonPart model = file_.object("model");
    if (is_byte_pair(model)) {
      read_byte_pair(model);
    } else {
      read_word_piece(model);
    }
    read_added_tokens();
    PostProcessorReader(who_, parts_).read(file_);
    read_decoder();
    read_truncation();
    return std::move(parts_);
  }

 private:
  /// The oldest files of GPT-2 and RoBERTa do not name their model.
  static bool is_byte_pair(const JsonPart& model) {
    if (model.find("type") == nullptr && model.find("merges") != nullptr) return true;
    return model.expect_type({"WordPiece", "BPE"}) == "BPE";
  }

  void read_word_piece(const JsonPart& model) {
    model.allow({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
    WordPiece& to = parts_.model.emplace<WordPiece>();
    to.vocabulary = read_vocabulary(model);
    to.unknown = token_named(model, "unk_token");
    to.inside = to.vocabulary.walk(model.text("continuing_subword_prefix"));
    const int most = model.integer("max_input_chars_per_word");
    if (most > longest) {
      model.refuse("max_input_chars_per_word", model.at("max_input_chars_per_word", ""),
                   "at most " + std::to_string(longest));
    }
    to.most_code_points = static_cast<std::size_t>(most);
    read_normalizer();
    const JsonPart pre_tokenizer = file_.object("pre_tokenizer");
    pre_tokenizer.expect_type({"BertPreTokenizer"});
    pre_tokenizer.allow({"type"});
  }

  void read_byte_pair(const JsonPart& model) {
    ByteTrie vocabulary = read_vocabulary(model);
    BytePair& to = parts_.model.emplace<BytePair>();
    to = BytePairReader(who_, model, parts_.tokens, std::move(vocabulary)).read();
    if (file_.find("normalizer") != nullptr) file_.object("normalizer").refuse_unsupported("type", "no normalizer");
    const JsonPart pre_tokenizer = file_.object("pre_tokenizer");
    pre_tokenizer.expect_type({"ByteLevel"});
    pre_tokenizer.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    to.prefix_space = pre_tokenizer.flag("add_prefix_space");
    pre_tokenizer.flag("trim_offsets");  // counts in the post-processor alone
    if (pre_tokenizer.find("use_regex") != nullptr && !pre_tokenizer.flag("use_regex")) {
      pre_tokenizer.refuse_unsupported("use_regex", "true");
    }
  }

  /// The tokens, by their ids; returns their texts to their ids.
  ByteTrie read_vocabulary(const JsonPart& model) {
    const JsonPart vocabulary = model.object("vocab");
    const auto& entries = model.at("vocab", "").get_ref<const Json::object_t&>();
    const std::size_t count = entries.size();
    parts_.tokens.resize(count);
    std::vector<const std::string*> taken(count, nullptr);
    std::vector<std::pair<std::string_view, int>> texts;
    texts.reserve(count);
    for (const auto& entry : entries) {
      const std::string& token = entry.first;
      const Json& value = entry.second;
      const auto name = [&] { return vocabulary.path(shown(token)); };
      if (!JsonPart::is_integer(value) || value.get<std::size_t>() >= count) {
        const std::string is = value.is_number_integer() ? value.dump() : found_in_json(value);
        fail<FormatError>(who_, name() + " is " + is + ", expected an id below " + std::to_string(count) +
                                    ": so many tokens there are, and ids have no holes");
      }
      const int id = value.get<int>();
      const std::string*& owner = taken[static_cast<std::size_t>(id)];
      if (owner != nullptr) {
        fail<FormatError>(who_, name() + " has id " + std::to_string(id) + ", which " + shown(*owner) + " has");
      }
      owner = &token;
      parts_.tokens[static_cast<std::size_t>(id)] = token;
      texts.emplace_back(token, id);
    }
    return ByteTrie(std::move(texts));
  }

  void read_normalizer() {
    if (file_.find("normalizer") == nullptr) return;
    const JsonPart normalizer = file_.object("normalizer");
    normalizer.expect_type({"BertNormalizer"});
    normalizer.allow({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
    BertNormalizer& to = parts_.normalizer;
    to.clean_text = normalizer.flag("clean_text");
    to.handle_chinese_chars = normalizer.flag("handle_chinese_chars");
    to.lowercase = normalizer.flag("lowercase");
    to.strip_accents = normalizer.find("strip_accents") == nullptr ? to.lowercase : normalizer.flag("strip_accents");
  }

  void read_added_tokens() {
    auto& tokens = parts_.added.tokens;
    if (file_.find("added_tokens") != nullptr) {
      file_.for_each("added_tokens", [&](const Json& entry, const std::string& where) {
        const JsonPart part(who_, where, entry);
        part.allow({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
        AddedToken token{.content = part.text("content"),
                         .id = part.integer("id"),
                         .single_word = part.flag("single_word"),
                         .lstrip = part.flag("lstrip"),
                         .rstrip = part.flag("rstrip"),
                         .normalized = part.flag("normalized"),
                         .special = part.flag("special")};
        if (token.content.empty() || token.content.size() > static_cast<std::size_t>(longest)) {
          fail<FormatError>(who_, where + ".content has " + std::to_string(token.content.size()) +
                                      " bytes, expected 1 to " + std::to_string(longest));
        }
        const int known = parts_.vocabulary().find(token.content);
        const int expected = known != ByteTrie::nothing ? known : static_cast<int>(parts_.tokens.size());
        if (token.id != expected) {
          fail<FormatError>(who_, where + ".id is " + std::to_string(token.id) + ", expected " +
                                      std::to_string(expected) + " for " + shown(token.content) +
                                      (known != ByteTrie::nothing ? ", as in the vocabulary" : ", the next one"));
        }
        if (known == ByteTrie::nothing) parts_.tokens.push_back(token.content);
        tokens.push_back(std::move(token));
      });
    }
    index_added_tokens();
  }

  /// What the added tokens are found by.
  void index_added_tokens() {
    const auto& tokens = parts_.added.tokens;
    using Texts = std::vector<std::pair<std::string_view, int>>;
    Texts contents, special, original, normalized;
    std::vector<std::string> texts(tokens.size());
    NormalizedText scratch;
    for (std::size_t k = 0; k < tokens.size(); ++k) {
      const AddedToken& token = tokens[k];
      contents.emplace_back(token.content, token.id);
      if (token.special) special.emplace_back(token.content, token.id);
      if (!token.normalized) {
        original.emplace_back(token.content, static_cast<int>(k));
        continue;
      }
      parts_.normalizer.normalize(token.content, 0, token.content.size(), scratch);
      if (scratch.text.empty()) {
        fail<FormatError>(who_, "added_tokens: nothing is left of " + shown(token.content) + " once it is normalized");
      }
      texts[k] = scratch.text;
      normalized.emplace_back(texts[k], static_cast<int>(k));
      parts_.tokens[static_cast<std::size_t>(token.id)] = scratch.text;  // what decode shows, as in the reference
    }
    refuse_twice(contents, "");
    refuse_twice(normalized, ", once they are normalized");  // which one is found is random in the reference
    const ByteTrie names(std::move(special));
    for (const std::string& token : parts_.tokens) parts_.special.push_back(names.find(token) != ByteTrie::nothing);
    parts_.added.ids = ByteTrie(std::move(contents));
    parts_.added.in_original = ByteTrie(std::move(original));
    parts_.added.in_normalized = ByteTrie(std::move(normalized));
  }

  void refuse_twice(std::vector<std::pair<std::string_view, int>> texts, const char* when) const {
    std::sort(texts.begin(), texts.end());
    const auto twice =
        std::adjacent_find(texts.begin(), texts.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice != texts.end()) fail<FormatError>(who_, "added_tokens has " + shown(twice->first) + " twice" + when);
  }

  int token_named(const JsonPart& part, const char* key) const {
    const std::string& name = part.text(key);
    const int id = parts_.id(name);
    if (id == ByteTrie::nothing) {
      fail<FormatError>(who_, part.path(key) + " is " + shown(name) + ", which is not in the vocabulary");
    }
    return id;
  }

  void read_decoder() {
    if (file_.find("decoder") == nullptr) return;
    const JsonPart decoder = file_.object("decoder");
    if (std::holds_alternative<BytePair>(parts_.model)) {
      decoder.expect_type({"ByteLevel"});
      decoder.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // of which it heeds none
      parts_.decoder = TokenizerParts::Decoder::byte_level;
      return;
    }
    decoder.expect_type({"WordPiece"});
    decoder.allow({"type", "prefix", "cleanup"});
    parts_.decoder = TokenizerParts::Decoder::word_piece;
    parts_.decoder_prefix = decoder.text("prefix");
    parts_.cleanup = decoder.flag("cleanup");
  }

  void read_truncation() {
    if (file_.find("truncation") == nullptr) return;
    const JsonPart truncation = file_.object("truncation");
    truncation.allow({"max_length", "strategy", "stride", "direction"});
    if (truncation.text("strategy") != "LongestFirst") truncation.refuse_unsupported("strategy", "\"LongestFirst\"");
    if (truncation.find("direction") != nullptr) {  // older files have none
      const std::string& direction = truncation.text("direction");
      if (direction != "Left" && direction != "Right") {
        truncation.refuse("direction", Json(direction), "\"Left\" or \"Right\"");
      }
      parts_.keep_end = direction == "Left";
    }
    parts_.max_tokens = truncation.integer("max_length");
  }

  /// Bounds the look-ups for each byte of a text: code points of a word, bytes of an added token.
  static constexpr int longest = 1000;

  std::string_view who_;
  JsonPart file_;
  TokenizerParts parts_;
};

}  // namespace lora::inline LORA_ABI::detail
