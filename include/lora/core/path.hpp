#pragma once
/// The name of a part of a model, such as "encoder.layers.3.fc1.weight", composed only on request.
///
/// A Path is a linked list of segments on the stack of the function that walks the model: an optimizer's step allocates
/// nothing for names, and the full text exists only for error messages, files and reports.

#include "lora/core/scalar.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI {

namespace detail {

/// Whether `path` equals `name` or ends with "." + name.
inline bool is_end_of(std::string_view name, std::string_view path) {
  return path.ends_with(name) && (path.size() == name.size() || path[path.size() - name.size() - 1] == '.');
}

}  // namespace detail

/// One segment: a word, a number ("3"), or a word with a number ("fc1").
struct Name {
  std::string_view word;
  Index number = -1;

  Name(const char* text) : word(text) {}  // NOLINT(google-explicit-constructor): f("fc1", part) is how it is written
  Name(std::string_view text) : word(text) {}  // NOLINT(google-explicit-constructor)
  Name(const std::string& text)
      : word(text) {}  // NOLINT(google-explicit-constructor): the text outlives the walk below it
  explicit Name(Index position) : number(position) {}
  Name(std::string_view text, Index position) : word(text), number(position) {}
};

/// What the listing tells about an adapter besides its name: whether it is selected, and its number, which copies keep;
/// 0 if adapters have none.
struct AdapterTag {
  bool selected = false;
  std::uint64_t number = 0;

  AdapterTag(bool is_selected) : selected(is_selected) {}  // NOLINT(google-explicit-constructor): f(name, part, true)
  AdapterTag(bool is_selected, std::uint64_t own_number) : selected(is_selected), number(own_number) {}
};

class Path {
 public:
  Path() = default;
  Path(const Path* parent, Name name)
      : parent_(parent),
        name_(name),
        active_(parent->active_),
        in_adapter_(parent->in_adapter_),
        adapter_(parent->adapter_) {}
  /// The path of an adapter, which may be selected or not.
  Path(const Path* parent, Name name, const AdapterTag& adapter)
      : parent_(parent),
        name_(name),
        active_(adapter.selected && parent->active_),
        in_adapter_(true),
        adapter_(adapter.number) {}

  /// False inside an adapter that is not selected: its parameters are listed and saved, but not trained.
  bool active() const { return active_; }
  /// Whether this is an adapter or a part of one, rather than of the base model.
  bool in_adapter() const { return in_adapter_; }
  /// The number of the adapter that this is a part of; 0 if there is none or it has no number.
  std::uint64_t adapter() const { return adapter_; }

  std::string str() const {
    std::string text;
    each_character([&](char c) { text.push_back(c); });
    return text;
  }

  /// FNV-1a over the characters of str(): identifies a parameter between two steps without composing its name.
  std::uint64_t hash() const {
    std::uint64_t value = 14695981039346656037ull;
    each_character([&](char c) { value = (value ^ static_cast<unsigned char>(c)) * 1099511628211ull; });
    return value;
  }

  /// Identifies a parameter between two steps: hash(), and within an adapter its number as well. A new adapter under an
  /// old name is another parameter; a copy of an adapter is the same one.
  std::uint64_t identity() const { return hash() ^ (adapter_ * 0x9E3779B97F4A7C15ull); }

  /// Whether str() equals `text` or ends with "." + text: PEFT's target_modules. "proj" does not match "q_proj".
  bool ends_with(std::string_view text) const { return detail::is_end_of(text, str()); }

 private:
  template <class F>
  void each_character(F&& f) const {
    if (parent_ != nullptr && !parent_->is_root()) {
      parent_->each_character(f);
      f('.');
    }
    for (const char c : name_.word) f(c);
    if (name_.number < 0) return;
    std::array<char, 20> digits{};
    std::size_t count = 0;
    for (Index rest = name_.number; count == 0 || rest > 0; rest /= 10)
      digits[count++] = static_cast<char>('0' + rest % 10);
    while (count > 0) f(digits[--count]);
  }
  bool is_root() const { return parent_ == nullptr && name_.word.empty() && name_.number < 0; }

  const Path* parent_ = nullptr;
  Name name_{""};
  bool active_ = true;
  bool in_adapter_ = false;
  std::uint64_t adapter_ = 0;
};

}  // namespace lora::inline LORA_ABI
