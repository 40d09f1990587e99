#pragma once
/// A handle to an adapter: its name, resolved once for a whole model, tells a pass which adapter to use.
///
///   const auto alice = lora::adapter(net, "alice");            // model/handle.hpp; NameError if no layer has it
///   net.forward(x, cache, {.adapter = alice});                 // alice, whatever is selected
///   net.forward(x, cache, {.adapter = lora::base_alone});      // the base
///   net.forward(x, cache);                                     // each layer's own selection
///
/// A handle is a small value. Copies share one immutable table: each layer's number and alice's part in it, or null.
/// The table owns the parts, so a handle outlives the detaching of its adapter. A pass reads nothing else that attach,
/// detach or select change, so on a frozen model it runs concurrently with them without a lock.

#include "lora/core/error.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// Returns a number that is unique in this process. It identifies a layer to handles and caches, or an adapter's part.
inline std::uint64_t next_identity() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

/// A unique number for the object that holds it: a copy gets a new one, a move takes it along.
class OwnNumber {
 public:
  OwnNumber() = default;
  OwnNumber(const OwnNumber&) {}
  OwnNumber(OwnNumber&& other) noexcept : number_(std::exchange(other.number_, next_identity())) {}
  OwnNumber& operator=(const OwnNumber& other) {
    if (this != &other) number_ = next_identity();
    return *this;
  }
  OwnNumber& operator=(OwnNumber&& other) noexcept {
    number_ = std::exchange(other.number_, next_identity());
    return *this;
  }
  ~OwnNumber() = default;
  operator std::uint64_t() const { return number_; }  // NOLINT(google-explicit-constructor): it is a number

 private:
  std::uint64_t number_ = next_identity();
};

/// What a layer computes in addition to its base; each layer type derives its own from this.
struct LayerChoice {
  virtual ~LayerChoice() = default;
};

struct HandleTable {
  struct Layer {
    std::uint64_t number;
    std::shared_ptr<const LayerChoice> choice;  ///< null: the base
  };
  std::string name;
  std::vector<Layer> layers;         ///< ascending by number
  std::vector<std::uint64_t> parts;  ///< numbers of the adapter's parts, ascending
};

}  // namespace detail

class AdapterHandle {
 public:
  /// Empty: the pass uses each layer's own selection, read when it reaches the layer.
  AdapterHandle() = default;
  explicit AdapterHandle(std::shared_ptr<const detail::HandleTable> table) : table_(std::move(table)) {}

  /// The base, in every layer of every model.
  static constexpr struct BaseAlone {
  } base_alone = {};
  AdapterHandle(BaseAlone) : base_alone_(true) {}  // NOLINT(google-explicit-constructor): {.adapter = base_alone}

  /// Whether the pass names its adapter, or asks for the base.
  explicit operator bool() const { return table_ != nullptr || base_alone_; }
  bool is_base_alone() const { return base_alone_; }
  /// "alice"; empty for none and for the base alone.
  const std::string& name() const {
    static const std::string none;
    return table_ ? table_->name : none;
  }
  const std::shared_ptr<const detail::HandleTable>& table() const { return table_; }

  /// What layer number `layer` computes; null: the base alone. Throws NameError, naming the layer `who`, if the handle
  /// belongs to another model or is older than the layer.   Cost: O(log layers).
  const std::shared_ptr<const detail::LayerChoice>& choice_of(std::uint64_t layer, const detail::Caller& who) const {
    static const std::shared_ptr<const detail::LayerChoice> none;
    if (base_alone_) return none;
    const auto found = find(layer);
    if (found == nullptr) {
      detail::fail<NameError>(who, "the handle of adapter " + detail::in_quotes(name()) +
                                       " does not know this layer: it belongs to another model, to a copy, or was made "
                                       "before the layer was added");
    }
    return found->choice;
  }

  /// Whether `part` is the number of one of this adapter's parts.   Cost: O(log layers).
  bool has(std::uint64_t part) const {
    return table_ != nullptr && std::binary_search(table_->parts.begin(), table_->parts.end(), part);
  }

 private:
  const detail::HandleTable::Layer* find(std::uint64_t layer) const {
    const auto& layers = table_->layers;
    const auto found = std::lower_bound(layers.begin(), layers.end(), layer,
                                        [](const auto& one, std::uint64_t number) { return one.number < number; });
    return found != layers.end() && found->number == layer ? &*found : nullptr;
  }

  std::shared_ptr<const detail::HandleTable> table_;
  bool base_alone_ = false;
};

/// Pass this instead of a handle to run the base alone, bit for bit.
inline constexpr AdapterHandle::BaseAlone base_alone = AdapterHandle::base_alone;

}  // namespace lora::inline LORA_ABI
