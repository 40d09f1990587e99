#pragma once
/// A type-erased parameter, of any storage order and compile-time sizes: what an adapter of a run-time kind lists.

#include "lora/core/parameter.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI {

/// A view of a parameter, which must outlive it; writes go through to it. S may be const.
///
///   value, grad   (rows, cols), in whatever order the parameter stores them: data() is its flat memory, size() long
///   trainable     the parameter's own
template <class S>
class AnyParameter {
  static constexpr bool is_const = std::is_const_v<S>;
  using Plain = std::conditional_t<is_const, const Matrix<std::remove_const_t<S>>, Matrix<S>>;

 public:
  using Scalar = std::remove_const_t<S>;
  using View = Eigen::Map<Plain, 0, Eigen::Stride<Dynamic, Dynamic>>;

  View value;
  View grad;
  std::conditional_t<is_const, const bool&, bool&> trainable;

  template <ParameterLike P>
  explicit AnyParameter(P& parameter)
      : value(view_of(parameter.value)), grad(view_of(parameter.grad)), trainable(parameter.trainable) {
    if constexpr (!is_const) {
      parameter_ = &parameter;
      call_ = [](void* of, Call what, AnyParameter& view) {
        auto& own = *static_cast<P*>(of);
        if (what == Call::gradient) own.gradient();
        if (what == Call::drop) own.drop_gradient();
        new (&view.grad) View(view_of(own.grad));
      };
    }
  }

  /// The gradient to accumulate into; see Parameter.
  View& gradient() {
    call_(parameter_, Call::gradient, *this);
    return grad;
  }
  void drop_gradient() { call_(parameter_, Call::drop, *this); }

 private:
  enum class Call { gradient, drop };

  template <class M>
  static View view_of(M& matrix) {
    constexpr bool row_major = std::remove_const_t<M>::IsRowMajor;
    const Index outer = row_major ? 1 : matrix.rows(), inner = row_major ? matrix.cols() : 1;
    return View(matrix.data(), matrix.rows(), matrix.cols(), {outer, inner});
  }

  void* parameter_ = nullptr;
  void (*call_)(void*, Call, AnyParameter&) = nullptr;
};

/// A view of a tensor that is never trained.
template <class S>
using AnyConstant = Eigen::Map<const Matrix<S>, 0, Eigen::Stride<Dynamic, Dynamic>>;

namespace detail {

template <class M>
AnyConstant<typename M::Scalar> constant_view(const M& matrix) {
  const Index outer = M::IsRowMajor ? 1 : matrix.rows(), inner = M::IsRowMajor ? matrix.cols() : 1;
  return {matrix.data(), matrix.rows(), matrix.cols(), {outer, inner}};
}

}  // namespace detail

static_assert(ParameterLike<AnyParameter<float>> && ParameterLike<AnyParameter<const double>>);

}  // namespace lora::inline LORA_ABI
