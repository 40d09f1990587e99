#pragma once
/// The calls with a cache of a model whose input is token ids.

#include "lora/core/buffer.hpp"
#include "lora/core/layer_pass.hpp"
#include "lora/transformers/tokens.hpp"

#include <utility>

namespace lora::inline LORA_ABI::detail {

/// What a model needs for its passes: the result, what backward reads later (kept), and scratch. Owned by the caller;
/// after the largest batch nothing allocates.
template <class S, class Kept_>
struct TokenCache {
  Buffer<S> y;
  Kept_ kept;
  Scratch scratch;

  Index bytes() const { return y.bytes() + kept.bytes() + scratch.bytes(); }
};

/// CRTP base, over forward(tokens, y, &kept, scratch, pass) and backward(tokens, dy, kept, scratch), with
/// out_features() and out_columns(tokens) for the size of y.
template <class Model, class S>
class TokenPass {
 public:
  /// Returns y, a view into the cache, valid until its next use.
  template <class C>
    requires requires(C& cache) { cache.kept, cache.scratch, cache.y.view(); }
  auto forward(const Tokens& tokens, C& cache, const Pass& pass = {}) const {
    auto y = cache.y.resize(self().out_features(), self().out_columns(tokens));
    self().forward(tokens, y, &cache.kept, cache.scratch, pass);
    return std::as_const(cache.y).view();
  }
  /// Gradients accumulate. tokens are those of the last forward pass with this cache.
  template <class Dy, class C>
    requires requires(C& cache) { cache.kept, cache.scratch, cache.y.view(); }
  void backward(const Tokens& tokens, const Eigen::MatrixBase<Dy>& dy, C& cache) {
    static_assert(require_same_scalar<S, Dy>());
    static_cast<Model&>(*this).backward(tokens, Columns<S>(dy.derived()), cache.kept, cache.scratch);
  }
  /// y as a new matrix; nothing is kept.
  Matrix<S> operator()(const Tokens& tokens, const Pass& pass = {}) const {
    Matrix<S> y(self().out_features(), self().out_columns(tokens));
    Scratch scratch;
    self().forward(tokens, y, nullptr, scratch, pass);
    return y;
  }

 private:
  const Model& self() const { return static_cast<const Model&>(*this); }
};

}  // namespace lora::inline LORA_ABI::detail
