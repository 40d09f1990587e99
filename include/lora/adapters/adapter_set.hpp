#pragma once
/// The named adapters of one frozen weight. A pass uses one of them, none, or a weighted sum.

#include "lora/adapters/any_adapter.hpp"
#include "lora/core/adapter_handle.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// One member of a weighted sum of adapters.
struct AdapterWeight {
  std::string_view name;
  double weight = 1;
};

/// An adapter's part in one layer: its name, what it adds to W0 and, optionally, a bias that replaces the base's.
template <class S>
struct NamedAdapter {
  using Scalar = S;

  std::string name;
  AnyAdapter<S> adapter;
  std::optional<Parameter<S, Dynamic, 1>> bias = std::nullopt;
  std::uint64_t number = detail::next_identity();  ///< kept by copies: an optimizer finds its moments by it

  /// The adapter itself. Throws NameError if it is of another kind.
  template <class A>
  A& as() & {
    if (A* own = adapter.template as<A>()) return *own;
    throw NameError("as: adapter " + detail::in_quotes(name) + " is a " + adapter.type_name() + ", expected a " +
                    detail::name_of_type(detail::function_of_type<A>()));
  }
  template <class A>
  const A& as() const& {
    return const_cast<NamedAdapter*>(this)->template as<A>();
  }
  template <class A>
  const A& as() const&& = delete;

  static void visit(auto& self, auto&& f) {
    AnyAdapter<S>::visit(self.adapter, f);
    f("bias", self.bias);
  }
};

/// What a layer computes in addition to its base: sum_k w_k (adapted_k(W0, x) + b_k - W0 x - b). Immutable once shared.
template <class S>
struct Selection final : detail::LayerChoice {
  struct Choice {
    std::shared_ptr<NamedAdapter<S>> part;
    double weight = 1;
  };
  std::vector<Choice> choices;

  bool has(std::uint64_t number) const { return find(number) != nullptr; }
  const Choice* find(std::uint64_t number) const {
    const auto found =
        std::find_if(choices.begin(), choices.end(), [&](const Choice& one) { return one.part->number == number; });
    return found == choices.end() ? nullptr : &*found;
  }
};

namespace detail {

/// A shared pointer that one thread may replace while others copy it, under a lock held for a few instructions.
template <class T>
class SharedSlot {
 public:
  SharedSlot() = default;
  explicit SharedSlot(std::shared_ptr<T> value) : value_(std::move(value)) {}
  SharedSlot(const SharedSlot& other) : value_(other.load()) {}
  SharedSlot& operator=(const SharedSlot& other) {
    store(other.load());
    return *this;
  }
  ~SharedSlot() = default;

  std::shared_ptr<T> load() const {
    const Lock lock(busy_);
    return value_;
  }
  void store(std::shared_ptr<T> value) {
    const Lock lock(busy_);
    value_.swap(value);
  }

 private:
  struct Lock {
    std::atomic_flag& flag;
    explicit Lock(std::atomic_flag& own) : flag(own) {
      while (flag.test_and_set(std::memory_order_acquire)) flag.wait(true, std::memory_order_relaxed);
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    ~Lock() {
      flag.clear(std::memory_order_release);
      flag.notify_one();
    }
  };

  mutable std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::shared_ptr<T> value_;
};

}  // namespace detail

/// The adapters of one layer and its default selection. A copy has copies of all of them, with the same numbers.
///
/// insert, erase and the select functions must not run concurrently; passes, which only read the selection, may.
template <class S>
class AdapterSet {
 public:
  using Member = std::shared_ptr<NamedAdapter<S>>;

  AdapterSet() = default;
  AdapterSet(AdapterSet&& other) noexcept : members_(std::move(other.members_)), selected_(other.selected_.load()) {
    other.selected_.store(none());
  }
  AdapterSet& operator=(AdapterSet&& other) noexcept {
    members_ = std::move(other.members_);
    selected_.store(other.selected_.load());
    other.selected_.store(none());
    return *this;
  }
  AdapterSet(const AdapterSet& other) {
    for (const Member& member : other.members_) members_.push_back(std::make_shared<NamedAdapter<S>>(*member));
    Selection<S> own;
    for (const auto& choice : other.selection()->choices) {
      own.choices.push_back({*find(choice.part->name), choice.weight});
    }
    select(std::move(own));
  }
  AdapterSet& operator=(const AdapterSet& other) { return *this = AdapterSet(other); }
  ~AdapterSet() = default;

  /// Adds an adapter and selects it alone. Throws NameError, changing nothing, if the name is taken, empty or has a
  /// dot.
  void insert(std::string_view name, AnyAdapter<S> adapter, std::optional<Vector<S>> bias = std::nullopt) {
    check_new_name(name);
    auto member = std::make_shared<NamedAdapter<S>>(NamedAdapter<S>{std::string(name), std::move(adapter)});
    if (bias) member->bias.emplace(std::move(*bias));
    Selection<S> alone;
    alone.choices.push_back({member, 1});
    auto shared = std::make_shared<const Selection<S>>(std::move(alone));
    members_.push_back(std::move(member));
    selected_.store(std::move(shared));
  }

  /// Removes an adapter. Throws NameError if there is none of that name.
  void erase(std::string_view name) {
    const Member member = member_of(name, "detach");
    Selection<S> rest = *selection();
    std::erase_if(rest.choices, [&](const auto& choice) { return choice.part == member; });
    select(std::move(rest));
    std::erase(members_, member);
  }

  void select(std::string_view name) {
    Selection<S> alone;
    alone.choices.push_back({member_of(name, "select"), 1});
    select(std::move(alone));
  }

  void select_none() { selected_.store(none()); }

  /// Throws NameError for an unknown or repeated name, ConfigError for a weight that is not finite in S, alone or times
  /// the adapter's scale, or an adapter that cannot be summed and is not alone with weight 1; the selection is
  /// unchanged then. An adapter of weight 0 (in S) is not in the sum: nothing of it is read or trained, NaN in it does
  /// no harm, and weights of 0 alone are the same as select_none.
  void select_sum(const std::vector<AdapterWeight>& chosen) { select(sum_of(chosen)); }
  /// Throws what select_sum would throw, and changes nothing.
  void check_sum(const std::vector<AdapterWeight>& chosen) const { sum_of(chosen); }

  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Throws NameError if there is no adapter of that name. The reference holds until the adapter is detached.
  NamedAdapter<S>& at(std::string_view name) & { return *member_of(name, "adapter"); }
  const NamedAdapter<S>& at(std::string_view name) const& { return *member_of(name, "adapter"); }
  const NamedAdapter<S>& at(std::string_view name) const&& = delete;

  const std::vector<Member>& members() const& { return members_; }
  const std::vector<Member>& members() const&& = delete;
  bool empty() const { return members_.empty(); }
  std::shared_ptr<const Selection<S>> selection() const { return selected_.load(); }
  /// The weight of an adapter in the selection; 0 if it is not selected.
  double weight_of(std::string_view name) const {
    for (const auto& choice : selection()->choices) {
      if (choice.part->name == name) return choice.weight;
    }
    return 0;
  }
  bool selects(std::string_view name) const {
    const auto now = selection();
    return std::any_of(now->choices.begin(), now->choices.end(),
                       [&](const auto& one) { return one.part->name == name; });
  }

  /// Throws NameError unless an adapter of this name could be added.
  void check_new_name(std::string_view name) const {
    if (name.empty() || name.find('.') != std::string_view::npos) {
      throw NameError("attach: the adapter name " + detail::in_quotes(name) +
                      " is not allowed, expected text without a dot");
    }
    if (contains(name)) throw NameError("attach: an adapter " + detail::in_quotes(name) + " exists already");
  }

  /// The selection of `name` alone, for a handle; null if there is no such adapter.
  std::shared_ptr<const Selection<S>> alone(std::string_view name) const {
    const Member* member = find(name);
    if (member == nullptr) return nullptr;
    Selection<S> one;
    one.choices.push_back({*member, 1});
    return std::make_shared<const Selection<S>>(std::move(one));
  }

  static void visit(auto& self, auto&& f) {
    const auto now = self.selection();
    for (auto& member : self.members_) {
      const AdapterTag tag(now->has(member->number), member->number);
      if constexpr (std::is_const_v<std::remove_reference_t<decltype(self)>>) {
        f(Name(std::string_view(member->name)), std::as_const(*member), tag);
      } else {
        f(Name(std::string_view(member->name)), *member, tag);
      }
    }
  }

 private:
  static const std::shared_ptr<const Selection<S>>& none() {
    static const auto nothing = std::make_shared<const Selection<S>>();
    return nothing;
  }

  void select(Selection<S> selection) { selected_.store(std::make_shared<const Selection<S>>(std::move(selection))); }

  const Member* find(std::string_view name) const {
    const auto found =
        std::find_if(members_.begin(), members_.end(), [&](const Member& member) { return member->name == name; });
    return found == members_.end() ? nullptr : &*found;
  }

  const Member& member_of(std::string_view name, const char* who) const {
    if (const Member* member = find(name)) return *member;
    std::string known;
    for (const Member& member : members_) known += (known.empty() ? "" : ", ") + detail::in_quotes(member->name);
    throw NameError(std::string(who) + ": there is no adapter " + detail::in_quotes(name) +
                    (known.empty() ? ": none has been attached" : ", expected one of " + known));
  }

  Selection<S> sum_of(const std::vector<AdapterWeight>& chosen) const {
    const auto counts = [](const AdapterWeight& one) { return S(one.weight) != S(0); };
    const auto counted = std::count_if(chosen.begin(), chosen.end(), counts);
    Selection<S> sum;
    for (auto one = chosen.begin(); one != chosen.end(); ++one) {
      const Member& member = member_of(one->name, "select_sum");
      if (std::any_of(chosen.begin(), one, [&](const AdapterWeight& before) { return before.name == one->name; })) {
        throw NameError("select_sum: adapter " + detail::in_quotes(one->name) + " is named twice");
      }
      if (!counts(*one)) continue;
      if (!(std::abs(one->weight) <= std::min(member->adapter.max_weight(), detail::largest_finite<S>())) &&
          member->adapter.summable()) {
        throw ConfigError("select_sum: the weight of adapter " + detail::in_quotes(one->name) + " is " +
                          detail::text_of(one->weight) + ", expected a finite number, also times the adapter's scale");
      }
      if (!member->adapter.summable() && (counted > 1 || one->weight != 1.0)) {
        throw ConfigError("select_sum: adapter " + detail::in_quotes(one->name) +
                          " is of a kind that cannot be summed, expected it alone and with weight 1");
      }
      sum.choices.push_back({member, one->weight});
    }
    // in the order of attachment, so that the same sum of the same adapters has the same bits
    std::sort(sum.choices.begin(), sum.choices.end(), [&](const auto& a, const auto& b) {
      return std::find(members_.begin(), members_.end(), a.part) < std::find(members_.begin(), members_.end(), b.part);
    });
    return sum;
  }

  std::vector<Member> members_;
  detail::SharedSlot<const Selection<S>> selected_{none()};
};

}  // namespace lora::inline LORA_ABI
