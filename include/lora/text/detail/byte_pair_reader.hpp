#pragma once
/// Reads the model of a byte-level tokenizer: its merges, and which words are one token.

#include "lora/text/detail/byte_letters.hpp"
#include "lora/text/detail/byte_pair.hpp"
#include "lora/text/detail/json_part.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

class BytePairReader {
 public:
  /// `tokens` by their ids, and `vocabulary` with the same.
  BytePairReader(std::string_view who, const JsonPart& model, const std::vector<std::string>& tokens,
                 ByteTrie vocabulary)
      : who_(who), model_(model), tokens_(tokens) {
    result_.vocabulary = std::move(vocabulary);
  }

  BytePair read() {
    model_.allow({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                  "byte_fallback", "ignore_merges", "vocab", "merges"});
    for (const char* const key : {"dropout", "unk_token"}) {
      if (model_.find(key) != nullptr) model_.refuse_unsupported(key, "null");
    }
    for (const char* const key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (model_.find(key) != nullptr && !model_.text(key).empty()) model_.refuse_unsupported(key, "\"\"");
    }
    for (const char* const key : {"fuse_unk", "byte_fallback"}) {
      if (model_.find(key) != nullptr && model_.flag(key)) model_.refuse_unsupported(key, "false");
    }
    read_bytes();
    read_merges();
    find_whole_words(model_.find("ignore_merges") != nullptr && model_.flag("ignore_merges"));
    return std::move(result_);
  }

 private:
  /// Without one of them a byte would have no token. (The reference drops such bytes from the text.)
  void read_bytes() {
    for (std::size_t byte = 0; byte < byte_letters.size(); ++byte) {
      std::string letter;
      for_each_byte(byte_letters[byte], [&](char one) { letter.push_back(one); });
      result_.bytes[byte] = result_.vocabulary.find(letter);
      if (result_.bytes[byte] != ByteTrie::nothing) continue;
      fail<FormatError>(
          who_, model_.path("vocab") + " lacks " + shown(letter) + ", the letter of byte " + std::to_string(byte));
    }
  }

  /// ["a b", ...], as older files have it, or [["a", "b"], ...].
  void read_merges() {
    std::vector<Merge> merges;
    model_.for_each("merges", [&](const Json& entry, const std::string& where) {
      std::string_view left, right;
      if (entry.is_string()) {
        const std::string_view text = entry.get_ref<const std::string&>();
        const std::size_t space = text.find(' ');
        if (space == text.npos || text.find(' ', space + 1) != text.npos) refuse_merge(where, entry);
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else {
        if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string()) {
          refuse_merge(where, entry);
        }
        left = entry[0].get_ref<const std::string&>();
        right = entry[1].get_ref<const std::string&>();
      }
      const int first = id_of(left, where), second = id_of(right, where);
      merges.push_back({first, second, id_of(std::string(left).append(right), where)});
    });
    result_.merges = MergeTable(merges, tokens_.size());
  }
  [[noreturn]] void refuse_merge(const std::string& where, const Json& found) const {
    fail<FormatError>(
        who_, where + " is " + (found.is_string() ? shown(found.get_ref<const std::string&>()) : found_in_json(found)) +
                  ", expected two tokens");
  }
  int id_of(std::string_view token, const std::string& where) const {
    const int id = result_.vocabulary.find(token);
    if (id == ByteTrie::nothing) fail<FormatError>(who_, where + ": " + shown(token) + " is not in the vocabulary");
    return id;
  }

  /// Those whose bytes merge to them, or all that are written in letters of bytes. What is found here is not merged in
  /// a text; what is left out is.
  void find_whole_words(bool ignore_merges) {
    std::vector<std::string> words(tokens_.size());
    std::vector<std::pair<std::string_view, int>> whole;
    MergeScratch scratch;
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      std::string& word = words[id];
      if (!append_bytes_of(tokens_[id], word) || word.empty()) continue;
      if (!ignore_merges) {
        if (word.size() > most_bytes) continue;
        result_.merge(word, false, scratch);
        if (scratch.symbols.front().after < word.size()) continue;
      }
      whole.emplace_back(word, static_cast<int>(id));
    }
    result_.whole = ByteTrie(std::move(whole));
  }

  /// Bounds what merging needs for a token of the file.
  static constexpr std::size_t most_bytes = 1000;

  std::string_view who_;
  const JsonPart& model_;
  const std::vector<std::string>& tokens_;
  BytePair result_;
};

}  // namespace lora::inline LORA_ABI::detail
