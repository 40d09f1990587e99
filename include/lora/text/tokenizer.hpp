#pragma once
/// Text to token ids and back, as Hugging Face's tokenizers do it, from their file tokenizer.json.
///
/// What is supported are two kinds, both with added tokens, and with TemplateProcessing or BertProcessing:
///   - BERT's: WordPiece, with BertNormalizer and BertPreTokenizer;
///   - GPT-2's and RoBERTa's: byte-level BPE, which has a token for each byte and no normalizer; here also
///     RobertaProcessing and ByteLevel as post-processors, whose trim_offsets leaves out spaces.
///
/// Everything else that a file may ask for is refused by name, because ids that are almost right are worse than none.
/// Ids, offsets and decoded text are those of tokenizers 0.23.3, for any text; tests/text/judge.py compares them.

#include "lora/io/detail/json.hpp"
#include "lora/io/file_bytes.hpp"
#include "lora/text/detail/byte_level_split.hpp"
#include "lora/text/detail/tokenizer_parts.hpp"
#include "lora/text/detail/tokenizer_reader.hpp"
#include "lora/text/detail/word_split.hpp"
#include "lora/text/encoding.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace lora::inline LORA_ABI {

/// Copies share what was read. Every function is const, and any number of threads may call them, each with an Encoding
/// of its own.
///
/// ```cpp
/// #include <lora/text.hpp>
///
/// int main() {
///   const auto tokenizer = lora::Tokenizer::parse(R"({
///     "version": "1.0",
///     "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "lowercase": true},
///     "pre_tokenizer": {"type": "BertPreTokenizer"},
///     "post_processor": {"type": "BertProcessing", "cls": ["[CLS]", 1], "sep": ["[SEP]", 2]},
///     "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
///     "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
///               "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "low": 3, "##er": 4}}
///   })");  // or Tokenizer::open("tokenizer.json")
///   const lora::Encoding encoding = tokenizer.encode("Lower?");
///   const bool right = encoding.ids == std::vector<int>{1, 3, 4, 0, 2} && tokenizer.decode({3, 4}) == "lower";
///   return right ? 0 : 1;
/// }
/// ```
class Tokenizer {
 public:
  /// Reads a tokenizer.json. Its padding is ignored: batches have none here (lora/core/sequences.hpp). Its truncation
  /// is what encode does unless told otherwise.
  ///
  /// Throws FileError if the system refuses, FormatError for a file that is broken or contradicts itself, and
  /// ConfigError for what is not supported, both with the place in the file. Cost and memory: those of its bytes.
  static Tokenizer open(const std::filesystem::path& file) {
    const FileBytes bytes = FileBytes::open(file, FileAccess::read);
    const auto text = bytes.bytes();
    return parse({reinterpret_cast<const char*>(text.data()), text.size()}, file.string());
  }
  /// The same of the text of such a file; `who` is named in errors.
  static Tokenizer parse(std::string_view text, std::string_view who = "tokenizer.json") {
    const detail::Json root = detail::parse_json(who, text);
    return Tokenizer(detail::TokenizerReader(who, root).read());
  }

  /// Throws ValueError naming the byte at which a text is not UTF-8, or for 4 GiB with byte-level BPE, and ConfigError
  /// if max_tokens is too small for the special tokens. Cost: O(bytes), for words and added tokens of usual length; a
  /// byte-level word of n bytes costs O(n log n), however long.
  Encoding encode(std::string_view text, const EncodeOptions& options = {}) const {
    Encoding to;
    encode(text, to, options);
    return to;
  }
  /// Into an encoding whose memory is used again: no heap, once it has seen a text and a word as long, and as many
  /// tokens.
  void encode(std::string_view text, Encoding& to, const EncodeOptions& options = {}) const {
    check_text("encode", "the text", text);
    const std::size_t most = tokens_left("encode", parts_->single, options);
    encode_text(text, to, 0);
    truncate(to.pieces_[0], most);
    trim(text, to.pieces_[0]);
    assemble(parts_->single, options, to);
  }

  /// Two texts as one sequence. What is too long is cut off the longer of them. Throws as encode does.
  Encoding encode_pair(std::string_view first, std::string_view second, const EncodeOptions& options = {}) const {
    Encoding to;
    encode_pair(first, second, to, options);
    return to;
  }
  void encode_pair(std::string_view first, std::string_view second, Encoding& to,
                   const EncodeOptions& options = {}) const {
    check_text("encode_pair", "the first text", first);
    check_text("encode_pair", "the second text", second);
    const std::size_t most = tokens_left("encode_pair", parts_->pair, options);
    encode_text(first, to, 0);
    encode_text(second, to, 1);
    // As the reference: the shorter one stays whole if it takes at most half; else both get a half, the longer one the
    // odd token.
    auto& [one, other] = to.pieces_;
    if (one.size() + other.size() > most) {
      auto& shorter = one.size() > other.size() ? other : one;
      auto& longer = one.size() > other.size() ? one : other;
      const std::size_t kept = std::min(shorter.size(), most / 2);
      truncate(shorter, kept);
      truncate(longer, most - kept);
    }
    trim(first, one);
    trim(second, other);
    assemble(parts_->pair, options, to);
  }

  /// The tokens of these ids as text; special tokens are left out or not. Words have a space between them, but in
  /// byte-level tokens are all spaces that there were, and U+FFFD stands for bytes that are no text. Throws ValueError
  /// for an id that is none.
  std::string decode(std::span<const int> ids, bool skip_special = true) const {
    const bool byte_level = parts_->decoder == detail::TokenizerParts::Decoder::byte_level;
    std::string text, token;
    bool first = true;
    for (std::size_t k = 0; k < ids.size(); ++k) {
      const std::size_t id = checked("decode", ids[k], " at position ", k);
      if (skip_special && parts_->special[id]) continue;
      token = parts_->tokens[id];
      if (byte_level) {
        if (!detail::append_bytes_of(token, text)) text += token;
        continue;
      }
      if (!first) join(token);
      if (parts_->cleanup) clean_up(token);
      text += token;
      first = false;
    }
    if (byte_level) detail::replace_what_is_not_utf8(text);
    return text;
  }
  std::string decode(std::initializer_list<int> ids, bool skip_special = true) const {
    return decode(std::span(ids.begin(), ids.size()), skip_special);
  }

  /// How many tokens there are: ids are below this.
  Index size() const { return static_cast<Index>(parts_->tokens.size()); }
  /// The token of an id. Throws ValueError for one that is none.
  const std::string& token(int id) const { return parts_->tokens[checked("token", id)]; }
  /// The id of a token, if it is one.
  std::optional<int> id(std::string_view token) const {
    const int found = parts_->id(token);
    return found == detail::ByteTrie::nothing ? std::nullopt : std::optional(found);
  }
  /// What the file says about truncation: the most tokens, special ones included.
  std::optional<Index> max_tokens() const { return parts_->max_tokens; }

 private:
  explicit Tokenizer(detail::TokenizerParts parts)
      : parts_(std::make_shared<const detail::TokenizerParts>(std::move(parts))) {}

  void check_text(std::string_view function, std::string_view what, std::string_view text) const {
    if (text.size() > detail::BytePair::most_bytes && std::holds_alternative<detail::BytePair>(parts_->model)) {
      detail::fail<ValueError>({"Tokenizer", function}, std::string(what) + " has " + std::to_string(text.size()) +
                                                            " bytes, expected at most " +
                                                            std::to_string(detail::BytePair::most_bytes));
    }
    const std::size_t end = detail::utf8_end(text);
    if (end == text.size()) return;
    detail::fail<ValueError>({"Tokenizer", function},
                             std::string(what) + " is not UTF-8 at byte " + std::to_string(end));
  }

  /// How many tokens the texts may have together.
  std::size_t tokens_left(std::string_view function, const detail::TokenTemplate& around,
                          const EncodeOptions& options) const {
    const Index special = options.special_tokens ? around.special_tokens() : 0;
    const Index most = options.max_tokens.value_or(parts_->max_tokens.value_or(EncodeOptions::unlimited));
    if (most < special) {
      detail::fail<ConfigError>({"Tokenizer", function}, "max_tokens is " + std::to_string(most) +
                                                             ", expected at least " + std::to_string(special) +
                                                             ", the number of special tokens");
    }
    return static_cast<std::size_t>(most - special);
  }

  void encode_text(std::string_view text, Encoding& to, std::size_t number) const {
    auto& pieces = to.pieces_[number];
    pieces.clear();
    const auto& added = parts_->added;
    added.split(added.in_original, text, 0, text.size(), [&](std::size_t first, std::size_t last, const auto* token) {
      if (token != nullptr) {
        pieces.push_back({token->id, first, last, true});
      } else if (const auto* const words = std::get_if<detail::WordPiece>(&parts_->model)) {
        encode_part(*words, text, first, last, to.normalized_, pieces);
      } else {
        encode_part(std::get<detail::BytePair>(parts_->model), text, first, last, to.merging_, pieces);
      }
    });
  }

  void encode_part(const detail::WordPiece& model, std::string_view text, std::size_t first, std::size_t last,
                   detail::NormalizedText& normalized, std::vector<detail::Piece>& pieces) const {
    const auto& added = parts_->added;
    // Where the bytes of the normalized text are from.
    const auto original = [&](std::size_t begin, std::size_t end) {
      const std::size_t last_point = normalized.origin[end - 1];
      return std::pair(normalized.origin[begin], last_point + detail::utf8_length(detail::byte_at(text, last_point)));
    };
    parts_->normalizer.normalize(text, first, last, normalized);
    const std::size_t before = pieces.size();
    const std::string_view clean = normalized.text;
    added.split(added.in_normalized, clean, 0, clean.size(), [&](std::size_t begin, std::size_t end, const auto* of) {
      if (of != nullptr) {
        pieces.push_back({of->id, begin, end, true});
        return;
      }
      detail::for_each_word(clean, begin, end, [&](std::size_t a, std::size_t b, std::size_t code_points) {
        model.add(clean, a, b, code_points, pieces);
      });
    });
    for (std::size_t k = before; k < pieces.size(); ++k) {
      std::tie(pieces[k].begin, pieces[k].end) = original(pieces[k].begin, pieces[k].end);
    }
  }

  void encode_part(const detail::BytePair& model, std::string_view text, std::size_t first, std::size_t last,
                   detail::MergeScratch& scratch, std::vector<detail::Piece>& pieces) const {
    const auto& added = parts_->added;
    added.split(added.in_normalized, text, first, last, [&](std::size_t begin, std::size_t end, const auto* of) {
      if (of != nullptr) {
        pieces.push_back({of->id, begin, end, true});
        return;
      }
      detail::for_each_byte_level_word(text, begin, end, model.prefix_space,
                                       [&](std::size_t a, std::size_t b, bool after_prefix) {
                                         model.add(text, a, b, after_prefix, scratch, pieces);
                                       });
    });
  }

  void truncate(std::vector<detail::Piece>& pieces, std::size_t most) const {
    if (pieces.size() <= most) return;
    const auto excess = static_cast<std::ptrdiff_t>(pieces.size() - most);
    if (parts_->keep_end) {
      pieces.erase(pieces.begin(), pieces.begin() + excess);
    } else {
      pieces.erase(pieces.end() - excess, pieces.end());
    }
  }

  void trim(std::string_view text, std::vector<detail::Piece>& pieces) const {
    if (!parts_->trim.on) return;
    for (std::size_t k = 0; k < pieces.size(); ++k) {
      parts_->trim.apply(text, parts_->tokens[static_cast<std::size_t>(pieces[k].id)], k == 0, pieces[k]);
    }
  }

  static void assemble(const detail::TokenTemplate& around, const EncodeOptions& options, Encoding& to) {
    to.ids.clear();
    to.types.clear();
    to.texts.clear();
    to.bytes.clear();
    const auto add = [&](int id, int type, int text, ByteRange bytes) {
      to.ids.push_back(id);
      to.types.push_back(type);
      to.texts.push_back(text);
      to.bytes.push_back(bytes);
    };
    for (const auto& part : around.parts) {
      if (part.text >= 0) {
        for (const auto& piece : to.pieces_[static_cast<std::size_t>(part.text)]) {
          add(piece.id, part.type, part.text, {piece.begin, piece.end});
        }
      } else if (options.special_tokens) {
        for (const int id : part.ids) add(id, part.type, -1, {});
      }
    }
  }

  std::size_t checked(std::string_view function, int id, std::string_view where = "", std::size_t position = 0) const {
    if (id >= 0 && id < size()) return static_cast<std::size_t>(id);
    detail::fail<ValueError>({"Tokenizer", function},
                             "id " + std::to_string(id) +
                                 (where.empty() ? "" : std::string(where) + std::to_string(position)) +
                                 ", expected 0 to " + std::to_string(size() - 1));
  }

  /// A token that is not the first: without its prefix if it continues a word, else after a space.
  void join(std::string& token) const {
    const std::string& prefix = parts_->decoder_prefix;
    if (parts_->decoder == detail::TokenizerParts::Decoder::word_piece && token.starts_with(prefix)) {
      token.erase(0, prefix.size());
    } else {
      token.insert(0, 1, ' ');
    }
  }

  /// English punctuation without the space before it, as the reference's decoder has it.
  static void clean_up(std::string& token) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 11> changes{{{" .", "."},
                                                                                     {" ?", "?"},
                                                                                     {" !", "!"},
                                                                                     {" ,", ","},
                                                                                     {" ' ", "'"},
                                                                                     {" n't", "n't"},
                                                                                     {" 'm", "'m"},
                                                                                     {" do not", " don't"},
                                                                                     {" 's", "'s"},
                                                                                     {" 've", "'ve"},
                                                                                     {" 're", "'re"}}};
    if (token.find(' ') == std::string::npos) return;
    for (const auto& [from, to] : changes) {
      for (std::size_t at = token.find(from); at != std::string::npos; at = token.find(from, at + to.size())) {
        token.replace(at, from.size(), to);
      }
    }
  }

  std::shared_ptr<const detail::TokenizerParts> parts_;
};

}  // namespace lora::inline LORA_ABI
