#pragma once
/// A non-owning reference to a callable: lets a function that is not a template take a lambda.

#include "lora/abi.hpp"

#include <memory>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI::detail {

template <class Signature>
class FunctionRef;

/// Refers to the callable it is constructed from, which must outlive it. Never allocates.
template <class R, class... Arguments>
class FunctionRef<R(Arguments...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<R, F&, Arguments...>)
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor,bugprone-forwarding-reference-overload)
      : function_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* function, Arguments... arguments) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(function))(std::forward<Arguments>(arguments)...);
        }) {}

  R operator()(Arguments... arguments) const { return call_(function_, std::forward<Arguments>(arguments)...); }

 private:
  void* function_;
  R (*call_)(void*, Arguments...);
};

}  // namespace lora::inline LORA_ABI::detail
