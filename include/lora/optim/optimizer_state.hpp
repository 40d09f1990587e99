#pragma once
/// The state of an optimizer for each parameter, found at every step through the model's listing.
///
/// One slot per parameter, in listing order. A step walks the listing and the slots in parallel: while the listing
/// stays the same, each parameter finds its slot by position and only compares the hash of its path and its size. After
/// an attach, detach or select the slots are reordered by that hash; a parameter that returns finds its old slot. The
/// parameters of a named adapter are identified by its number too: a new adapter under an old name starts with new
/// state.
/// No pointers into the model are kept, so the model may be moved, copied or grown between two steps. Two parameters of
/// one model must not have the same path.

#include "lora/core/parameters.hpp"
#include "lora/optim/parameter_group.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace lora::inline LORA_ABI {

/// Moments: the number of arrays of the parameter's size that the method keeps. A copy is independent and complete, and
/// restoring every slot's steps and moments continues to the bit.
template <class S, std::size_t Moments>
class OptimizerState {
  static_assert(Scalar<S>, "lora: an optimizer needs a scalar such as float or double.");
  static constexpr std::size_t not_asked = static_cast<std::size_t>(-1);

 public:
  struct Slot {
    std::uint64_t path = 0;   ///< Path::identity() of the parameter
    Index size = 0;           ///< elements in the parameter
    std::uint64_t steps = 0;  ///< steps that this parameter has taken
    std::array<Eigen::Array<S, Dynamic, 1>, Moments>
        moments{};                  ///< each empty or of `size`, in the storage order of the parameter
    std::size_t group = not_asked;  ///< index into the config's groups, or their number; computed, never saved
  };

  /// Calls update(slot, value, grad) for every parameter that is trained now and has a gradient, in listing order, with
  /// value and grad as flat arrays and slot.steps advanced by one. A parameter without a gradient, frozen, or of an
  /// adapter that is not selected does not change, nor does its slot.
  /// Cost besides update: hashing the paths. No allocation while the listing is the same as in the step before.
  /// With a handle: for the parameters of its adapter, whatever is selected. Throws StateError if nothing is trained.
  template <class T, class Update>
  void step(const detail::Caller& who, T& model, const std::vector<ParameterGroup>& groups,
            const AdapterHandle& adapter, Update&& update) {
    std::size_t position = 0;
    Index listed = 0, trained = 0;
    visit_parameters(model, [&](const Path& path, auto& parameter) {
      using Value = std::remove_cvref_t<decltype(parameter.value)>;
      if constexpr (!std::is_same_v<typename Value::Scalar, S>) {  // and not a page of Eigen's errors after it
        static_assert(std::is_same_v<typename Value::Scalar, S>,
                      "lora: the optimizer's scalar is not the parameters': use AdamW<double> for a model of doubles.");
      } else {
        ++listed;
        if (!detail::is_trained_for(adapter, path, parameter)) return;
        ++trained;
        if (parameter.grad.size() != parameter.value.size()) return;
        Slot& slot = bind(path.identity(), parameter.value.size(), position++);
        if (slot.group == not_asked) slot.group = first_group_of(path, groups);
        ++slot.steps;
        update(slot, Eigen::Map<Eigen::Array<S, Dynamic, 1>>(parameter.value.data(), slot.size),
               Eigen::Map<const Eigen::Array<S, Dynamic, 1>>(parameter.grad.data(), slot.size));
      }
    });
    if (trained == 0) fail_untrained(who, listed, adapter);
  }

  /// The slot of a parameter, or null before its first step. For a checkpoint: look up each parameter of the model.
  const Slot* find(const Path& path, Index size) const& {
    const auto found = search(slots_.begin(), slots_.end(), path.identity(), size);
    return found == slots_.end() ? nullptr : &*found;
  }
  const Slot* find(const Path& path, Index size) const&& = delete;

  /// The slot of a parameter, created if necessary. To restore a checkpoint, write its steps and moments.
  Slot& slot(const Path& path, Index size) {
    const auto found = search(slots_.begin(), slots_.end(), path.identity(), size);
    return found != slots_.end() ? *found : slots_.emplace_back(Slot{.path = path.identity(), .size = size});
  }

  /// In the order of the last step; at the end, parameters that are no longer in the listing.
  const std::vector<Slot>& slots() const& { return slots_; }
  const std::vector<Slot>& slots() const&& = delete;

  /// Forgets everything.
  void clear() { slots_.clear(); }

  /// Bytes of all moments.
  std::size_t bytes() const {
    std::size_t total = 0;
    for (const Slot& slot : slots_) {
      for (const auto& moment : slot.moments) total += static_cast<std::size_t>(moment.size()) * sizeof(S);
    }
    return total;
  }

 private:
  [[noreturn]] static void fail_untrained(const detail::Caller& who, Index listed, const AdapterHandle& adapter) {
    detail::fail<StateError>(who, listed == 0 ? "the model lists no parameters, expected some to train in its visit"
                                              : "there is nothing to train: all " + std::to_string(listed) +
                                                    " parameters are frozen, or of adapters that are not " +
                                                    (adapter ? "the handle's" : "selected"));
  }

  template <class Iterator>
  static Iterator search(Iterator first, Iterator last, std::uint64_t path, Index size) {
    return std::find_if(first, last, [&](const Slot& slot) { return slot.path == path && slot.size == size; });
  }

  /// Moves the parameter's slot to `position`, or creates it there; the slots before it are done in this step.
  Slot& bind(std::uint64_t path, Index size, std::size_t position) {
    const auto expected = slots_.begin() + static_cast<std::ptrdiff_t>(position);
    const auto found = search(expected, slots_.end(), path, size);
    if (found == slots_.end()) return *slots_.insert(expected, Slot{.path = path, .size = size});
    if (found != expected) std::iter_swap(expected, found);
    return *expected;
  }

  static std::size_t first_group_of(const Path& path, const std::vector<ParameterGroup>& groups) {
    const auto selects = [&](const ParameterGroup& group) { return group.select(path); };
    return static_cast<std::size_t>(std::find_if(groups.begin(), groups.end(), selects) - groups.begin());
  }

  std::vector<Slot> slots_;
};

namespace detail {

/// The learning rate and decay of one parameter: its group's if given, else the config's.
struct GroupSettings {
  double lr;
  double weight_decay;
};

template <class Config>
GroupSettings settings_of(const Config& config, std::size_t group) {
  GroupSettings settings{config.lr, config.weight_decay};
  if (group >= config.groups.size()) return settings;
  settings.lr = config.groups[group].lr.value_or(settings.lr);
  settings.weight_decay = config.groups[group].weight_decay.value_or(settings.weight_decay);
  return settings;
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
