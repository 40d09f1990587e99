#pragma once

#include "lora/core/layer_pass.hpp"
#include "lora/core/sequences.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace lora_test {

/// A layer whose forward pass takes sequences, with those of 3, 1, 4, 3, 1, 4, ... tokens, as a Layer for the laws.
template <class Inner>
struct WithSequences : lora::detail::CachedPass<WithSequences<Inner>, typename Inner::Scalar> {
  using Scalar = typename Inner::Scalar;
  using Thin = lora::detail::CachedPass<WithSequences, Scalar>;
  using Kept = typename Inner::Kept;
  using Cache = lora::detail::LayerCache<Scalar, lora::Dynamic, lora::Dynamic, lora::Dynamic, Kept, lora::Scratch>;
  template <int>
  using CacheFor = Cache;
  using Columns = lora::detail::Columns<Scalar>;
  using MutableColumns = lora::detail::MutableColumns<Scalar>;
  using Thin::backward;
  using Thin::forward;

  Inner inner;

  explicit WithSequences(Inner layer) : inner(std::move(layer)) {}

  static lora::Sequences sequences(lora::Index tokens) {
    std::vector<lora::Index> lengths;
    for (lora::Index left = tokens, k = 0; left > 0; ++k) {
      lengths.push_back(std::min<lora::Index>(left, std::array<lora::Index, 3>{3, 1, 4}[std::size_t(k % 3)]));
      left -= lengths.back();
    }
    return lora::Sequences(lengths);
  }
  void forward(const Columns& x, MutableColumns y, Kept* kept, lora::Scratch& scratch, const lora::Pass& pass) const {
    inner.forward(x, sequences(x.cols()), y, kept, scratch, pass);
  }
  void backward(const Columns& x, const Columns& dy, auto&& dx, Kept& kept, lora::Scratch& scratch) {
    inner.backward(x, dy, dx, kept, scratch);
  }
  void check_backward(const lora::detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    inner.check_backward(who, x, dy, kept);
  }
  bool trains(const Kept& kept) const { return inner.trains(kept); }
  lora::Index in_features() const { return inner.in_features(); }
  lora::Index out_features() const { return inner.out_features(); }
  static constexpr const char* layer_name() { return "WithSequences"; }
  static void visit(auto& self, auto&& f) { f("inner", self.inner); }
};

}  // namespace lora_test
