#pragma once
/// Common to the passes of every layer: checks of the arguments, and the calls with a cache, which are thin wrappers of
/// those that write to given matrices.

#include "lora/core/buffer.hpp"
#include "lora/core/error.hpp"
#include "lora/core/pass.hpp"
#include "lora/core/scratch.hpp"

#include <functional>
#include <string>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// Pass this in place of dx when the gradient of the input is not needed, as in the first layer of a network.
struct NoGradient {};
inline constexpr NoGradient no_gradient = {};

template <class Dx>
inline constexpr bool wants_gradient = !std::is_same_v<std::remove_cvref_t<Dx>, NoGradient>;

namespace detail {

/// Reports a matrix of another scalar type, which Eigen does not convert implicitly, in one readable sentence.
template <class S, class... Given>
consteval bool require_same_scalar() {
  static_assert((std::is_same_v<S, typename Given::Scalar> && ...),
                "lora: x and dy must have the layer's own scalar. Convert them first, as in x.cast<float>().");
  return true;
}

/// Checks that x has in_features rows and at least one sample, or exactly the compile-time Samples of the cache.
inline void check_pass_input(const Caller& who, const auto& x, Index in_features, int samples = Dynamic) {
  check_rows(who, "x", x.rows(), "in_features", in_features);
  check_not_empty(who, "x", x.rows(), x.cols());
  if (samples != Dynamic) check_cols(who, "x", x.cols(), "the cache's compile-time Samples", samples);
}

/// Checks that x and dy match a forward pass with `samples` columns; negative if there was none.
inline void check_pass_gradient(const Caller& who, const auto& x, const auto& dy, Index in_features, Index out_features,
                                Index samples) {
  if (samples < 0) fail<StateError>(who, "this cache has seen no forward pass, expected forward before backward");
  check_rows(who, "x", x.rows(), "in_features", in_features);
  check_cols(who, "x", x.cols(), "samples in the forward pass", samples);
  check_rows(who, "dy", dy.rows(), "out_features", out_features);
  check_cols(who, "dy", dy.cols(), "samples in the forward pass", samples);
}

/// Checks that an input does not overlap the result: results are views into the cache, which the next pass overwrites.
inline void check_apart(const Caller& who, std::string_view what, const auto& given, const auto& result) {
  const std::less<const void*> before;
  if (before(given.data(), result.data()) || !before(given.data(), result.data() + result.size())) return;
  fail<StateError>(who,
                   std::string(what) + " lies in the cache that this pass writes to, expected another cache or a copy");
}

/// What a single layer needs for its passes: results, what backward reads later (kept), and scratch. Owned by the
/// caller; after the largest batch nothing allocates.   Samples: fixed or Dynamic.
template <class S, int Out, int In, int N, class Kept_, class Scratch_>
struct LayerCache {
  static constexpr int Samples = N;
  Buffer<S, Out, N> y;
  Buffer<S, In, N> dx;
  Kept_ kept;
  Scratch_ scratch;

  Index bytes() const { return y.bytes() + dx.bytes() + kept.bytes() + scratch.bytes(); }
};

template <class C>
concept IsLayerCache = requires(C& cache) {
  C::Samples;
  cache.y.view();
  cache.dx.view();
  cache.kept;
  cache.scratch;
};

/// CRTP base: a layer's calls with a cache, implemented by those that write to given matrices:
///
///   forward(x, y, &kept, scratch, pass)         kept null: no backward pass follows
///   backward(x, dy, dx, kept, scratch)          dx: a matrix, or no_gradient
template <class Layer, class S, int Out = Dynamic, int In = Dynamic>
class CachedPass {
 public:
  /// Returns y (out, samples), a view into the cache. Throws ShapeError unless x has in_features rows and at least one
  /// sample, StateError if x lies in this cache.
  template <class X, IsLayerCache C>
  auto forward(const Eigen::MatrixBase<X>& x, C& cache, const Pass& pass = {}) const {
    static_assert(require_same_scalar<S, X>());
    const Caller who(Layer::layer_name(), "forward");
    check_pass_input(who, x, self().in_features(), C::Samples);
    const Eigen::Ref<const Matrix<S, In, C::Samples>> input(x.derived());
    check_apart(who, "x", input, cache.y.view());
    auto y = cache.y.resize(self().out_features(), x.cols());
    self().forward(input, y, &cache.kept, cache.scratch, pass);
    return std::as_const(cache.y).view();
  }

  /// Gradients accumulate; returns dx (in, samples), a view into the cache. x is the input of the last forward pass
  /// with this cache, which keeps no copy: another x of the same size gives another gradient, and nothing notices.
  /// Throws StateError without a forward pass, ShapeError if x or dy differ from it in size.
  template <class X, class Dy, IsLayerCache C>
  auto backward(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy, C& cache) {
    self().check_backward({Layer::layer_name(), "backward"}, x, dy, cache.kept);
    auto dx = cache.dx.resize(self().in_features(), x.cols());
    propagate(x, dy, dx, cache);
    return std::as_const(cache.dx).view();
  }

  /// As above without dx, for a first layer: saves the product with W0^T.
  template <class X, class Dy, IsLayerCache C>
  void backward(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy, C& cache, NoGradient) {
    self().check_backward({Layer::layer_name(), "backward"}, x, dy, cache.kept);
    propagate(x, dy, no_gradient, cache);
  }

  /// y as a new matrix, (out, samples).
  template <class X>
  Matrix<S, Out, X::ColsAtCompileTime> operator()(const Eigen::MatrixBase<X>& x) const {
    static_assert(require_same_scalar<S, X>());
    typename Layer::template CacheFor<X::ColsAtCompileTime> cache;
    return forward(x, cache);
  }

 private:
  Layer& self() { return static_cast<Layer&>(*this); }
  const Layer& self() const { return static_cast<const Layer&>(*this); }

  void propagate(const auto& x, const auto& dy, auto&& dx, auto& cache) {
    constexpr int N = std::remove_cvref_t<decltype(cache)>::Samples;
    static_assert(require_same_scalar<S, std::remove_cvref_t<decltype(x)>, std::remove_cvref_t<decltype(dy)>>());
    const Eigen::Ref<const Matrix<S, In, N>> input(x.derived());
    const Eigen::Ref<const Matrix<S, Out, N>> dout(dy.derived());
    if constexpr (wants_gradient<decltype(dx)>) check_apart({Layer::layer_name(), "backward"}, "dy", dout, dx);
    self().backward(input, dout, dx, cache.kept, cache.scratch);
  }
};

}  // namespace detail
}  // namespace lora::inline LORA_ABI
