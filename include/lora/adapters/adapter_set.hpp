#pragma once
/// Named adapters beside one frozen weight, of which one, none or a weighted sum is selected.

#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/adapters/residual_lora.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lora {

/// One member of a weighted sum of adapters.
struct AdapterWeight {
  std::string_view name;
  double weight = 1;
};

/// y = W0 x + b + sum_k w_k (adapted_k(W0, x) + b_k - W0 x - b)   over the selected adapters k.
///
/// Only factors and biases can be summed. A trained copy of the whole weight is selected alone, with weight 1.
/// An adapter's trained bias b_k stands in the place of the base's bias b.
template <class S>
class AdapterSet {
 public:
  /// Low-rank factors, those that start from a part of W0, a trained copy of the whole weight, or nothing but a bias.
  using AnyAdapter = std::variant<Lora<S>, FullWeight<S>, NoAdapter<S>, ResidualLora<S>>;

  struct Member {
    std::string name;
    AnyAdapter adapter;
    std::optional<Parameter<S, Dynamic, 1>> bias = std::nullopt;

    /// Whether it is selected, and with which weight; changed through the set alone, which keeps count.
    bool selected() const { return selected_; }
    double weight() const { return weight_; }

    static void visit(auto& self, auto&& f) {
      std::visit([&](auto& own) { std::remove_cvref_t<decltype(own)>::visit(own, f); }, self.adapter);
      f("bias", self.bias);
    }

   private:
    friend AdapterSet;
    Member(std::string own_name, AnyAdapter own) : name(std::move(own_name)), adapter(std::move(own)) {}
    double weight_ = 0;
    bool selected_ = false;
  };

  /// What the selected adapters keep of a pass.
  template <int Samples = Dynamic>
  struct Cache {
    using Any = std::variant<typename NoAdapter<S>::template Cache<Samples>, typename Lora<S>::template Cache<Samples>,
                             typename FullWeight<S>::template Cache<Samples>,
                             typename ResidualLora<S>::template Cache<Samples>>;
    std::vector<Any> members;
    std::uint64_t revision = 0;
    Executor* executor = nullptr;  ///< of the last forward pass

    Index bytes() const {
      Index sum = 0;
      for (const Any& any : members) sum += std::visit([](const auto& cache) { return cache.bytes(); }, any);
      return sum;
    }
  };

  /// Adds an adapter and selects it alone. Throws NameError if the name is taken, empty or contains a dot; nothing has
  /// changed then.
  void insert(std::string_view name, AnyAdapter adapter, std::optional<Vector<S>> bias = std::nullopt) {
    check_new_name(name);
    Member member(std::string(name), std::move(adapter));
    if (bias) member.bias.emplace(std::move(*bias));
    members_.push_back(std::move(member));
    select_only(members_.size() - 1);
  }

  /// Removes an adapter. Throws NameError if there is none of that name.
  void erase(std::string_view name) {
    const std::size_t position = position_of(name, "detach");
    members_.erase(members_.begin() + static_cast<std::ptrdiff_t>(position));
    update_selection();
  }

  void select(std::string_view name) { select_only(position_of(name, "select")); }

  void select_none() {
    for (Member& member : members_) member.selected_ = false;
    update_selection();
  }

  /// Throws NameError for an unknown or repeated name, ConfigError for a weight that is not finite in S, alone or times
  /// the adapter's scale, or a trained copy that is not alone with weight 1; the selection is unchanged then.
  void select_sum(const std::vector<AdapterWeight>& chosen) {
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      const Member& member = members_[position_of(chosen[k].name, "select_sum")];
      const bool repeated = std::any_of(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(k),
                                        [&](const AdapterWeight& other) { return other.name == chosen[k].name; });
      if (repeated) throw NameError("select_sum: adapter " + detail::in_quotes(member.name) + " is named twice");
      const auto* factors = std::get_if<Lora<S>>(&member.adapter);
      if (const auto* offset = std::get_if<ResidualLora<S>>(&member.adapter)) factors = &offset->trained;
      const double scale = factors ? scaling_factor(factors->alpha, factors->rank(), factors->scaling) : 1;
      if (!detail::is_finite_in<S>(chosen[k].weight) || !detail::is_finite_in<S>(chosen[k].weight * scale)) {
        throw ConfigError("select_sum: the weight of adapter " + detail::in_quotes(member.name) + " is " +
                          std::to_string(chosen[k].weight) +
                          ", expected a finite number, also times the adapter's scale");
      }
      if (std::holds_alternative<FullWeight<S>>(member.adapter) && (chosen.size() > 1 || chosen[k].weight != 1.0)) {
        throw ConfigError("select_sum: adapter " + detail::in_quotes(member.name) +
                          " is a trained copy of the weight, expected it alone and with weight 1");
      }
    }
    for (Member& member : members_) {
      const auto found =
          std::find_if(chosen.begin(), chosen.end(), [&](const AdapterWeight& one) { return one.name == member.name; });
      member.selected_ = found != chosen.end();
      member.weight_ = member.selected_ ? found->weight : 0;
    }
    update_selection();
  }

  bool contains(std::string_view name) const {
    return std::any_of(members_.begin(), members_.end(), [&](const Member& member) { return member.name == name; });
  }
  /// Throws NameError if there is no adapter of that name.
  Member& at(std::string_view name) { return members_[position_of(name, "at")]; }
  const Member& at(std::string_view name) const { return members_[position_of(name, "at")]; }

  const std::vector<Member>& members() const { return members_; }
  bool empty() const { return members_.empty(); }
  /// Changes whenever the selection does, and differs from that of every other set but its copies.
  std::uint64_t revision() const { return revision_; }

  /// Throws NameError unless an adapter of this name could be added.
  void check_new_name(std::string_view name) const {
    if (name.empty() || name.find('.') != std::string_view::npos) {
      throw NameError("attach: the adapter name " + detail::in_quotes(name) +
                      " is not allowed, expected text without a dot");
    }
    if (contains(name)) throw NameError("attach: an adapter " + detail::in_quotes(name) + " exists already");
  }

  template <int N>
  void forward(const FrozenBase auto& base, const Vector<S>* bias, const auto& x, auto& y, Cache<N>& cache,
               const Pass& pass) const {
    cache.revision = revision_;
    cache.executor = pass.executor;
    if (cache.members.size() < selected_.size()) cache.members.resize(selected_.size());
    if (selected_.empty()) base.apply(x, y, pass.executor);
    for (std::size_t k = 0; k < selected_.size(); ++k) {
      with_cache<N>(members_[selected_[k]], cache.members[k], [&](const auto& adapter, auto& own, S weight) {
        if constexpr (AdditiveAdapter<std::remove_cvref_t<decltype(adapter)>>) {
          if (k == 0) adapter.forward(base, x, y, own, pass, weight);
          if (k > 0) adapter.add(x, y, own, pass, weight);
        } else {
          adapter.forward(base, x, y, own, pass);
        }
      });
    }
    add_bias(bias, y);
  }

  /// Throws StateError unless `cache` is that of a forward pass of the adapters that are selected now.
  template <int N>
  void check_backward(const detail::Caller& who, const Cache<N>& cache, Index samples) const {
    if (cache.revision != revision_) {
      detail::fail<StateError>(who, "this cache has seen another layer, or another selection of adapters");
    }
    for (std::size_t k = 0; k < selected_.size(); ++k) {
      std::visit(
          [&](const auto& adapter) {
            using Own = typename std::remove_cvref_t<decltype(adapter)>::template Cache<N>;
            const Own* own = k < cache.members.size() ? std::get_if<Own>(&cache.members[k]) : nullptr;
            if (own == nullptr) {
              detail::fail<StateError>(who, "this cache has seen adapters of another kind");
            }
            if constexpr (requires { adapter.check_backward(who, *own, samples); }) {
              adapter.check_backward(who, *own, samples);
            }
          },
          members_[selected_[k]].adapter);
    }
  }

  template <int N>
  void backward(const FrozenBase auto& base, const auto& x, const auto& dy, auto&& dx, Cache<N>& cache) {
    if (selected_.empty()) {
      if constexpr (wants_gradient<decltype(dx)>) base.apply_transposed(dy, dx, cache.executor);
    }
    for (std::size_t k = 0; k < selected_.size(); ++k) {
      Member& member = members_[selected_[k]];
      // forward: y += w_k (b_k - b)   =>   db_k = w_k times the sum of dy over the samples
      if (member.bias && member.bias->trainable) member.bias->gradient() += S(member.weight_) * dy.rowwise().sum();
      with_cache<N>(member, cache.members[k], [&](auto& adapter, auto& own, S) {
        if constexpr (AdditiveAdapter<std::remove_cvref_t<decltype(adapter)>>) {
          if (k > 0) return adapter.add_backward(x, dy, dx, own);
        }
        adapter.backward(base, x, dy, dx, own);
      });
    }
  }

  /// The trained copy that stands in W0's place, if one is selected; null otherwise.
  const Matrix<S>* replacement() const {
    if (selected_.size() != 1) return nullptr;
    const auto* full = std::get_if<FullWeight<S>>(&members_[selected_[0]].adapter);
    return full != nullptr ? &full->replacement() : nullptr;
  }

  /// block += (adapted - W0)[:, first : first + block.cols()]
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const FrozenBase auto& base) const {
    for (const std::size_t position : selected_) {
      const Member& member = members_[position];
      std::visit(
          [&](const auto& adapter) {
            if constexpr (AdditiveAdapter<std::remove_cvref_t<decltype(adapter)>>) {
              adapter.add_delta(block, first, base, S(member.weight_));
            } else {
              adapter.add_delta(block, first, base);
            }
          },
          member.adapter);
    }
  }

  /// y += b + sum_k w_k (b_k - b) to every column; one selected bias of weight 1 is added as it is, to the bit.
  void add_bias(const Vector<S>* bias, auto& y) const {
    if (bias == nullptr) return;
    if (selected_.size() == 1 && members_[selected_[0]].bias && members_[selected_[0]].weight_ == 1.0) {
      y.colwise() += members_[selected_[0]].bias->value;
      return;
    }
    y.colwise() += *bias;
    for (const std::size_t position : selected_) {
      const Member& member = members_[position];
      if (!member.bias) continue;
      // Column by column: colwise() would first evaluate the difference into a new vector, at every pass.
      for (Index j = 0; j < y.cols(); ++j) y.col(j) += S(member.weight_) * (member.bias->value - *bias);
    }
  }

  static void visit(auto& self, auto&& f) {
    for (auto& member : self.members_) f(Name(std::string_view(member.name)), member, member.selected_);
  }

 private:
  std::size_t position_of(std::string_view name, const char* who) const {
    for (std::size_t k = 0; k < members_.size(); ++k) {
      if (members_[k].name == name) return k;
    }
    std::string known;
    for (const Member& member : members_) known += (known.empty() ? "" : ", ") + detail::in_quotes(member.name);
    throw NameError(std::string(who) + ": there is no adapter " + detail::in_quotes(name) + ", expected " +
                    (known.empty() ? "one that was attached (there is none)" : "one of " + known));
  }

  void select_only(std::size_t position) {
    for (std::size_t k = 0; k < members_.size(); ++k) {
      members_[k].selected_ = k == position;
      members_[k].weight_ = k == position ? 1.0 : 0.0;
    }
    update_selection();
  }

  void update_selection() {
    selected_.clear();
    for (std::size_t k = 0; k < members_.size(); ++k) {
      if (members_[k].selected_) selected_.push_back(k);
    }
    revision_ = detail::next_identity();
  }

  /// Calls f(adapter, its cache, its weight) with the adapter's own type, making the cache the first time.
  template <int N>
  static void with_cache(auto& member, typename Cache<N>::Any& any, auto&& f) {
    std::visit(
        [&](auto& adapter) {
          using Own = typename std::remove_cvref_t<decltype(adapter)>::template Cache<N>;
          if (!std::holds_alternative<Own>(any)) any.template emplace<Own>();
          f(adapter, std::get<Own>(any), S(member.weight_));
        },
        member.adapter);
  }

  std::vector<Member> members_;
  std::vector<std::size_t> selected_;  // positions in members_
  std::uint64_t revision_ = 0;
};

}  // namespace lora
