#pragma once
/// What a training pass adds to the numbers: one small value that the caller owns.

#include "lora/core/adapter_handle.hpp"
#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"

#include <cstdint>
#include <optional>
#include <span>

namespace lora::inline LORA_ABI {

/// Some columns of a batch and whose they are. The segments of a pass cover its columns, each once, in any order;
/// several may name one adapter.
struct Segment {
  AdapterHandle adapter = {};  ///< or base_alone; none: what each layer has selected
  Index first = 0;             ///< column
  Index count = 0;             ///< of columns
  /// For dropout that equals that of a pass of its own: the pass's where they are not given, and its first_sample +
  /// first.
  std::optional<std::uint64_t> seed = {};
  std::optional<std::uint64_t> step = {};
  std::optional<Index> first_sample = {};
};

/// The default is inference, which never drops anything.
///
/// A dropout mask is a pure function of (seed, layer, step, absolute sample): set `step` to the number of the optimizer
/// step and, when a batch is split into micro-batches or among threads, `first_sample` to the place of the first column
/// in the whole batch. The masks are then the same however the batch is split, and a checkpoint only stores the step.
struct Pass {
  bool training = false;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  Index first_sample = 0;
  /// Which adapter; by default each layer's own selection (core/adapter_handle.hpp).
  AdapterHandle adapter = {};
  /// A mixed batch, in place of an adapter: each column is its segment's. They must live until forward returns.
  std::span<const Segment> segments = {};
  /// Who shares the work, such as Workers; null: this thread alone. It must outlive backward. The bits do not depend on
  /// it.
  Executor* executor = nullptr;
};

}  // namespace lora::inline LORA_ABI
