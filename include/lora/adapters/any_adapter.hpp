#pragma once
/// An adapter of any kind, chosen at run time: what a layer of a model holds under a name.

#include "lora/adapters/adapter.hpp"
#include "lora/adapters/adapter_setting.hpp"
#include "lora/base/any_base.hpp"
#include "lora/core/any_parameter.hpp"
#include "lora/core/function_ref.hpp"
#include "lora/core/scratch.hpp"

#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// One tensor of an adapter as files store it: "lora_A.weight" (rank, in).
template <class S>
struct AdapterTensor {
  std::string_view name;
  Eigen::Map<std::conditional_t<std::is_const_v<S>, const Matrix<std::remove_const_t<S>>, Matrix<S>>, 0,
             Eigen::Stride<Dynamic, Dynamic>>
      value;
  bool is_vector = false;  ///< (n, 1) here, [n] in a file
};

namespace detail {

/// "... [with T = lora::...::Lora<float, -1, -1, -1>]"
template <class T>
const char* function_of_type() {
  return __PRETTY_FUNCTION__;
}

/// The name of T without namespaces and sizes at run time, for messages: "Lora<float>".
inline std::string name_of_type(std::string_view function) {
  const std::size_t begin = function.find("T = ") + 4;
  std::string name(function.substr(begin, function.rfind(']') - begin));
  for (std::size_t at = name.find(", -1"); at != name.npos; at = name.find(", -1")) name.erase(at, 4);
  const std::size_t colons = name.substr(0, name.find('<')).rfind("::");
  return colons == name.npos ? name : name.substr(colons + 2);
}

}  // namespace detail

/// Holds an adapter of any AdapterKind of run-time sizes, by value: a copy is independent and complete.
///
/// Its parts are listed (visit) as AnyParameter and AnyConstant, whatever the kind stores; as<Lora<float>>() returns
/// the adapter itself.   Cost: one virtual call for each call.
template <class S>
class AnyAdapter {
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;

  template <class A>
    requires(!std::is_same_v<A, AnyAdapter> && std::is_same_v<typename A::Scalar, S> && AdapterKind<A> &&
             A::Out == Dynamic && A::In == Dynamic)
  AnyAdapter(A adapter)  // NOLINT(google-explicit-constructor): any adapter is an AnyAdapter
      : held_(hold(std::move(adapter))) {}

  AnyAdapter(AnyAdapter&&) = default;
  AnyAdapter& operator=(AnyAdapter&&) = default;
  AnyAdapter(const AnyAdapter& other) : held_(other.held_->copy()) {}
  AnyAdapter& operator=(const AnyAdapter& other) { return *this = AnyAdapter(other); }
  ~AnyAdapter() = default;

  /// The adapter, if it is an A; null otherwise.
  template <class A>
  A* as() & {
    return held_->tag == detail::tag_of<A>() ? &static_cast<Held<A>&>(*held_).adapter : nullptr;
  }
  template <class A>
  const A* as() const& {
    return held_->tag == detail::tag_of<A>() ? &static_cast<const Held<A>&>(*held_).adapter : nullptr;
  }
  template <class A>
  const A* as() const&& = delete;
  /// The type of the adapter, for messages: "Lora<float>".
  std::string type_name() const { return detail::name_of_type(held_->function_of_type()); }

  // See Adapter and AdditiveAdapter. kept and scratch hold one object for each kind.

  void forward(const AnyBase<S>& base, const Columns& x, MutableColumns y, detail::Slots& kept, Scratch& scratch,
               const Pass& pass, S weight = S(1)) const {
    held_->forward(base, x, y, kept, scratch, pass, weight);
  }
  void add(const Columns& x, MutableColumns y, detail::Slots& kept, Scratch& scratch, const Pass& pass,
           S weight) const {
    held_->add(x, y, kept, scratch, pass, weight);
  }
  /// dx: null if it is not needed.
  void backward(const AnyBase<S>& base, const Columns& x, const Columns& dy, MutableColumns* dx, detail::Slots& kept,
                Scratch& scratch, const Pass& pass) {
    held_->backward(base, x, dy, dx, kept, scratch, pass);
  }
  void add_backward(const Columns& x, const Columns& dy, MutableColumns* dx, detail::Slots& kept, Scratch& scratch,
                    const Pass& pass) {
    held_->add_backward(x, dy, dx, kept, scratch, pass);
  }
  void add_delta(Matrix<Wide<S>>& block, Index first, const AnyBase<S>& base, S weight = S(1)) const {
    held_->add_delta(block, first, base, weight);
  }

  // See AdapterKind.

  void check_fits(const detail::Caller& who, Index out, Index in) const { held_->check_fits(who, out, in); }
  AdapterCount count() const { return held_->count(); }
  double max_weight() const { return held_->max_weight(); }
  bool summable() const { return held_->summable; }
  bool shared() const { return held_->shared; }
  std::string_view peft_type() const { return held_->peft_type; }
  /// The weight that replaces W0; null unless count().replaces.
  const Matrix<S>* replacement() const& { return held_->replacement(); }
  const Matrix<S>* replacement() const&& = delete;

  /// Its settings and its tensors, under PEFT's names. The tensor given to f may be a temporary.
  std::vector<AdapterSetting> settings() const {
    std::vector<AdapterSetting> all;
    held_->each_setting([&](const AdapterSetting& setting) { all.push_back(setting); });
    return all;
  }
  void tensors(detail::FunctionRef<void(const AdapterTensor<const S>&)> f) const { held_->tensors(f); }
  void tensors(detail::FunctionRef<void(const AdapterTensor<S>&)> f) { held_->tensors(f); }
  /// The names of the settings that its Config reads from a file; empty if the kind does not name a Config.
  std::optional<std::vector<std::string>> config_settings() const {
    std::vector<std::string> names;
    const bool known = held_->each_config_setting([&](const char* name) { names.emplace_back(name); });
    return known ? std::optional(std::move(names)) : std::nullopt;
  }

  /// Lists its parts by their own names, as views.
  static void visit(auto& self, auto&& f) {
    if constexpr (std::is_const_v<std::remove_reference_t<decltype(self)>>) {
      std::as_const(*self.held_)
          .visit([&](const Name& name, const AnyParameter<const S>* parameter, const AnyConstant<S>* constant) {
            parameter != nullptr ? f(name, *parameter) : f(name, *constant);
          });
    } else {
      self.held_->visit([&](const Name& name, AnyParameter<S>* parameter, const AnyConstant<S>* constant) {
        parameter != nullptr ? f(name, *parameter) : f(name, *constant);
      });
    }
  }

 private:
  using OnSetting = detail::FunctionRef<void(const AdapterSetting&)>;
  using OnConst = detail::FunctionRef<void(const Name&, const AnyParameter<const S>*, const AnyConstant<S>*)>;
  using OnPart = detail::FunctionRef<void(const Name&, AnyParameter<S>*, const AnyConstant<S>*)>;

  struct Interface {
    const void* tag;
    bool summable, shared;
    std::string_view peft_type;

    Interface(const void* own, bool sums, bool shares, std::string_view type)
        : tag(own), summable(sums), shared(shares), peft_type(type) {}
    virtual ~Interface() = default;
    virtual std::unique_ptr<Interface> copy() const = 0;
    virtual const char* function_of_type() const = 0;
    virtual void forward(const AnyBase<S>&, const Columns&, MutableColumns&, detail::Slots&, Scratch&, const Pass&,
                         S) const = 0;
    virtual void add(const Columns&, MutableColumns&, detail::Slots&, Scratch&, const Pass&, S) const = 0;
    virtual void backward(const AnyBase<S>&, const Columns&, const Columns&, MutableColumns*, detail::Slots&, Scratch&,
                          const Pass&) = 0;
    virtual void add_backward(const Columns&, const Columns&, MutableColumns*, detail::Slots&, Scratch&,
                              const Pass&) = 0;
    virtual void add_delta(Matrix<Wide<S>>&, Index, const AnyBase<S>&, S) const = 0;
    virtual void check_fits(const detail::Caller&, Index, Index) const = 0;
    virtual AdapterCount count() const = 0;
    virtual double max_weight() const = 0;
    virtual const Matrix<S>* replacement() const = 0;
    virtual void each_setting(OnSetting) const = 0;
    virtual bool each_config_setting(detail::FunctionRef<void(const char*)>) const = 0;
    virtual void tensors(detail::FunctionRef<void(const AdapterTensor<const S>&)>) const = 0;
    virtual void tensors(detail::FunctionRef<void(const AdapterTensor<S>&)>) = 0;
    virtual void visit(OnConst) const = 0;
    virtual void visit(OnPart) = 0;
  };

  /// The table for describe(): one of the two callbacks does nothing.
  template <class SettingFunction, class TensorFunction>
  struct Table {
    SettingFunction on_setting;
    TensorFunction on_tensor;
    void setting(std::string_view name, const auto& value) const { on_setting(name, value); }
    void tensor(std::string_view name, auto& value) const { on_tensor(name, value); }
  };

  template <class A>
  struct Held final : Interface {
    A adapter;
    static_assert(!detail::visits_copy<A>(),
                  "lora: visit takes the adapter by value; expected `static void visit(auto& self, auto&& f)`.");

    explicit Held(A own)
        : Interface(detail::tag_of<A>(), A::summable, A::shared, A::peft_type), adapter(std::move(own)) {}

    static typename A::template Kept<Dynamic>& kept_in(detail::Slots& slots) {
      return slots.get<typename A::template Kept<Dynamic>>();
    }
    static typename A::template Scratch<Dynamic>& scratch_in(Scratch& scratch) {
      return scratch.get<typename A::template Scratch<Dynamic>>();
    }

    std::unique_ptr<Interface> copy() const override { return std::unique_ptr<Interface>(new Held(*this)); }
    const char* function_of_type() const override { return detail::function_of_type<A>(); }
    void forward(const AnyBase<S>& base, const Columns& x, MutableColumns& y, detail::Slots& kept, Scratch& scratch,
                 const Pass& pass, S weight) const override {
      if constexpr (A::summable) {
        adapter.forward(base, x, y, kept_in(kept), scratch_in(scratch), pass, weight);
      } else {
        adapter.forward(base, x, y, kept_in(kept), scratch_in(scratch), pass);
      }
    }
    void add(const Columns& x, MutableColumns& y, detail::Slots& kept, Scratch& scratch, const Pass& pass,
             S weight) const override {
      eigen_assert(A::summable && "a sum has summable kinds only");
      if constexpr (A::summable) adapter.add(x, y, kept_in(kept), scratch_in(scratch), pass, weight);
    }
    void backward(const AnyBase<S>& base, const Columns& x, const Columns& dy, MutableColumns* dx, detail::Slots& kept,
                  Scratch& scratch, const Pass& pass) override {
      if (dx != nullptr) return adapter.backward(base, x, dy, *dx, kept_in(kept), scratch_in(scratch), pass);
      adapter.backward(base, x, dy, NoGradient(), kept_in(kept), scratch_in(scratch), pass);
    }
    void add_backward(const Columns& x, const Columns& dy, MutableColumns* dx, detail::Slots& kept, Scratch& scratch,
                      const Pass& pass) override {
      if constexpr (A::summable) {
        if (dx != nullptr) return adapter.add_backward(x, dy, *dx, kept_in(kept), scratch_in(scratch), pass);
        adapter.add_backward(x, dy, NoGradient(), kept_in(kept), scratch_in(scratch), pass);
      }
    }
    void add_delta(Matrix<Wide<S>>& block, Index first, const AnyBase<S>& base, S weight) const override {
      if constexpr (A::summable) {
        adapter.add_delta(block, first, base, weight);
      } else {
        adapter.add_delta(block, first, base);
      }
    }
    void check_fits(const detail::Caller& who, Index out, Index in) const override { adapter.check_fits(who, out, in); }
    AdapterCount count() const override { return adapter.count(); }
    double max_weight() const override { return adapter.max_weight(); }
    const Matrix<S>* replacement() const override {
      if constexpr (requires { adapter.replacement(); }) return &adapter.replacement();
      return nullptr;
    }

    void each_setting(OnSetting f) const override {
      const auto on_setting = [&](std::string_view name, const auto& value) { f(AdapterSetting(name, value)); };
      const auto on_tensor = [](std::string_view, const auto&) {};
      A::describe(adapter, Table<decltype(on_setting), decltype(on_tensor)>{on_setting, on_tensor});
    }
    /// Whether the kind names a Config, which may list no settings.
    bool each_config_setting([[maybe_unused]] detail::FunctionRef<void(const char*)> f) const override {
      if constexpr (requires { typename A::Config; }) {
        using C = typename A::Config;
        if constexpr (requires(C& config) { C::settings(config, [](const char*, auto&) {}); }) {
          C config{};
          C::settings(config, [&](const char* name, auto&) { f(name); });
        }
        return true;
      }
      return false;
    }
    void tensors(detail::FunctionRef<void(const AdapterTensor<const S>&)> f) const override {
      each_tensor<const S>(adapter, f);
    }
    void tensors(detail::FunctionRef<void(const AdapterTensor<S>&)> f) override { each_tensor<S>(adapter, f); }

    template <class T>
    static void each_tensor(auto& of, auto&& f) {
      const auto on_setting = [](std::string_view, const auto&) {};
      const auto on_tensor = [&](std::string_view name, auto& tensor) {
        using Tensor = std::remove_reference_t<decltype(tensor)>;
        if constexpr (std::is_const_v<T> || !std::is_const_v<Tensor>) {  // a temporary cannot be written to
          auto& value = tensor.value;
          using Value = std::remove_cvref_t<decltype(value)>;
          using View = decltype(AdapterTensor<T>::value);
          const Index outer = Value::IsRowMajor ? 1 : value.rows(), inner = Value::IsRowMajor ? value.cols() : 1;
          f(AdapterTensor<T>{name, View(value.data(), value.rows(), value.cols(), {outer, inner}),
                             bool(Value::IsVectorAtCompileTime)});
        }
      };
      A::describe(of, Table<decltype(on_setting), decltype(on_tensor)>{on_setting, on_tensor});
    }

    void visit(OnConst f) const override {
      A::visit(adapter, [&](const Name& name, const auto& part) {
        if constexpr (ParameterLike<decltype(part)>) {
          const AnyParameter<const S> view(part);
          f(name, &view, nullptr);
        } else {
          const AnyConstant<S> view = detail::constant_view(part);
          f(name, nullptr, &view);
        }
      });
    }
    void visit(OnPart f) override {
      A::visit(adapter, [&](const Name& name, auto& part) {
        if constexpr (ParameterLike<decltype(part)>) {
          AnyParameter<S> view(part);
          f(name, &view, nullptr);
        } else {
          const AnyConstant<S> view = detail::constant_view(part);
          f(name, nullptr, &view);
        }
      });
    }
  };

  /// Defined outside the class, so that it can be compiled once for the common kinds (lora/compiled.hpp).
  template <class A>
  static std::unique_ptr<Interface> hold(A adapter);

  std::unique_ptr<Interface> held_;
};

template <class S>
template <class A>
std::unique_ptr<typename AnyAdapter<S>::Interface> AnyAdapter<S>::hold(A adapter) {
  return std::unique_ptr<Interface>(new Held<A>(std::move(adapter)));
}

}  // namespace lora::inline LORA_ABI
