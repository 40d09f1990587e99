#pragma once
/// One listing per type, from which everything else follows.
///
/// A type names its parts once:
///
///   struct Net {
///     lora::Linear<float> fc1, fc2;
///     static void visit(auto& self, auto&& f) { f("fc1", self.fc1); f("fc2", self.fc2); }
///   };
///
/// No base class, no registration, no macro; `self` is Net& or const Net&. Counting, freezing, optimizing, attaching by
/// name, merging, saving and reporting are free functions over that listing. A part may be
///   - a Parameter,
///   - a constant: an Eigen matrix or a frozen base (anything with rows(), cols() and no visit); listed, never trained,
///   - a type with its own `visit`,
///   - a std::optional or a pointer to one of these (skipped when empty),
///   - a range of these, such as std::vector: its elements are named 0, 1, 2, ...
/// What is not listed does not exist: it is neither adapted nor trained nor saved, and nothing notices. Compare
/// lora::tensor_names(net) with the names that you expect, once.
///
/// A type that holds adapters lists each with a third argument, f(name, adapter, selected) or f(name, adapter,
/// AdapterTag): an adapter that is not selected is listed and saved like any other part, but not trained.

#include "lora/core/parameter.hpp"
#include "lora/core/path.hpp"

#include <iterator>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

namespace detail {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

struct Probe {
  void operator()(const Name&, auto&&) const {}
  void operator()(const Name&, auto&&, const AdapterTag&) const {}
};

template <class T>
concept Indirect = requires(T& t) {
  static_cast<bool>(t);
  *t;
};

template <class T>
concept Range = requires(T& t) {
  std::begin(t);
  std::end(t);
};

}  // namespace detail

namespace detail {

template <class Result, class Self, class... Rest>
constexpr bool by_value(Result (*)(Self, Rest...)) {
  return !std::is_reference_v<Self>;
}

/// Whether `visit(auto self, ...)` lists the parts of a copy.
template <class T>
constexpr bool visits_copy() {
  if constexpr (requires { by_value(&T::template visit<T, const Probe&>); }) {
    return by_value(&T::template visit<T, const Probe&>);
  } else {
    return false;  // written in another way, such as one for T& and one for const T&
  }
}

}  // namespace detail

template <class T>
concept Visitable = requires(T& part) { std::remove_cv_t<T>::visit(part, detail::Probe{}); };

/// A tensor that is listed but never trained.
template <class T>
concept Constant = !ParameterLike<T> && !Visitable<T> && requires(const T& part) {
  { part.rows() } -> std::convertible_to<Index>;
  { part.cols() } -> std::convertible_to<Index>;
};

/// Walks the listing depth first, in listing order. on_tensor(path, tensor) is called for every Parameter and constant,
/// on_module(path, module) for every type with a `visit`, before its parts. Names are composed by path.str() alone.
template <class T, class OnTensor, class OnModule>
void walk(T& part, OnTensor&& on_tensor, OnModule&& on_module, const Path& path = Path()) {
  if constexpr (ParameterLike<T> || Constant<T>) {
    on_tensor(path, part);
  } else if constexpr (Visitable<T>) {
    static_assert(!detail::visits_copy<std::remove_cv_t<T>>(),
                  "lora: visit takes its object by value, so that what happens to its parts is lost with the copy; "
                  "expected `static void visit(auto& self, auto&& f)`.");
    on_module(path, part);
    std::remove_cv_t<T>::visit(
        part, detail::Overloaded{
                  [&](const Name& name, auto& child) { walk(child, on_tensor, on_module, Path(&path, name)); },
                  [&](const Name& name, auto& child, const AdapterTag& adapter) {
                    walk(child, on_tensor, on_module, Path(&path, name, adapter));
                  },
              });
  } else if constexpr (detail::Indirect<T> && std::is_const_v<T>) {
    // A const pointer may point to a non-const object; the listing of a const model still yields const parts.
    if (part) walk(std::as_const(*part), on_tensor, on_module, path);
  } else if constexpr (detail::Indirect<T>) {
    if (part) walk(*part, on_tensor, on_module, path);
  } else if constexpr (detail::Range<T>) {
    Index position = 0;
    for (auto& element : part) walk(element, on_tensor, on_module, Path(&path, Name(position++)));
  } else {
    static_assert(
        !sizeof(T),
        "lora: a visited part must be a lora::Parameter, an Eigen matrix or frozen base, a type with a static "
        "`visit(auto& self, auto&& f)`, or an optional, pointer or range of these.");
  }
}

/// Calls f(path, tensor) for every Parameter and constant.
template <class T, class F>
void visit_tensors(T& model, F&& f) {
  walk(model, f, [](const Path&, auto&) {});
}

/// Calls f(path, parameter) for every Parameter, selected or not, trainable or not.
template <class T, class F>
void visit_parameters(T& model, F&& f) {
  visit_tensors(model, [&](const Path& path, auto& tensor) {
    if constexpr (ParameterLike<std::remove_reference_t<decltype(tensor)>>) f(path, tensor);
  });
}

/// Calls f(path, module) for the model itself and every part with a `visit`, outermost first.
template <class T, class F>
void visit_modules(T& model, F&& f) {
  walk(model, [](const Path&, auto&) {}, f);
}

/// Whether an optimizer would train this parameter now.
template <ParameterLike P>
bool is_trained(const Path& path, const P& parameter) {
  return parameter.trainable && path.active();
}

}  // namespace lora::inline LORA_ABI
