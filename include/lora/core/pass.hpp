#pragma once
/// What a training pass adds to the numbers: one small value that the caller owns.

#include "lora/core/error.hpp"
#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

namespace lora {

/// The default is inference, which never drops anything.
///
/// A dropout mask is a pure function of (seed, layer, step, absolute sample): set `step` to the number of the optimizer
/// step and, when a batch is split into micro-batches or among threads, `first_sample` to the place of the first column
/// in the whole batch. The masks are then the same however the batch is split, and a checkpoint only stores the step.
///
/// `executor`: threads that share the products of the pass, forward and backward; null: this thread alone. It changes
/// no bit of any result. The caller owns it, and it must outlive the backward pass.
struct Pass {
  bool training = false;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  Index first_sample = 0;
  Executor* executor = nullptr;
};

namespace detail {

/// A number that no other call in this process returns: a cache of one layer cannot pass for that of another.
inline std::uint64_t next_identity() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

/// Turns a matrix of another number type, which Eigen does not convert by itself, into one readable sentence.
template <class S, class... Given>
consteval bool require_same_scalar() {
  static_assert((std::is_same_v<S, typename Given::Scalar> && ...),
                "lora: x and dy must have the layer's own scalar. Convert them first, as in x.cast<float>().");
  return true;
}

/// x must have in_features rows, at least one sample, and as many as a cache with compile-time Samples holds.
inline void check_pass_input(const Caller& who, const auto& x, Index in_features, int samples) {
  check_rows(who, "x", x.rows(), "in_features", in_features);
  check_not_empty(who, "x", x.rows(), x.cols());
  if (samples != Dynamic) check_cols(who, "x", x.cols(), "the cache's compile-time Samples", samples);
}

/// x and dy must be those of a forward pass with `samples` columns; negative if there was none.
inline void check_pass_gradient(const Caller& who, const auto& x, const auto& dy, Index in_features, Index out_features,
                                Index samples) {
  if (samples < 0) fail<StateError>(who, "this cache has seen no forward pass, expected forward before backward");
  check_rows(who, "x", x.rows(), "in_features", in_features);
  check_cols(who, "x", x.cols(), "samples in the forward pass", samples);
  check_rows(who, "dy", dy.rows(), "out_features", out_features);
  check_cols(who, "dy", dy.cols(), "samples in the forward pass", samples);
}

/// Results are views into the cache: a pass cannot read one of them while it writes the next in its place.
inline void check_apart(const Caller& who, std::string_view what, const auto& given, const auto& result) {
  const std::less<const void*> before;
  if (before(given.data(), result.data()) || !before(given.data(), result.data() + result.size())) return;
  fail<StateError>(who,
                   std::string(what) + " lies in the cache that this pass writes to, expected another cache or a copy");
}

}  // namespace detail
}  // namespace lora
