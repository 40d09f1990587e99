#pragma once
/// The options of a pass: one small value that the caller owns.

#include "lora/core/adapter_handle.hpp"
#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"

#include <cstdint>
#include <optional>
#include <span>

namespace lora::inline LORA_ABI {

/// A range of columns of a batch and the adapter for them. The segments of a pass cover each column exactly once, in
/// any order; several may name the same adapter.
struct Segment {
  AdapterHandle adapter = {};  ///< or base_alone; empty: each layer's own selection
  Index first = 0;             ///< first column
  Index count = 0;             ///< number of columns
  /// For the dropout masks of a separate pass. Defaults: the pass's seed and step, and its first_sample + first.
  std::optional<std::uint64_t> seed = {};
  std::optional<std::uint64_t> step = {};
  std::optional<Index> first_sample = {};
};

/// The default is inference, without dropout.
///
/// A dropout mask is a pure function of (seed, layer, step, absolute sample): set `step` to the number of the optimizer
/// step and, when a batch is split into micro-batches or among threads, `first_sample` to the index of the first column
/// in the whole batch. The masks are then the same however the batch is split, and a checkpoint stores only the step.
struct Pass {
  bool training = false;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  Index first_sample = 0;
  /// The adapter to use; by default each layer's own selection (core/adapter_handle.hpp).
  AdapterHandle adapter = {};
  /// A mixed batch, instead of `adapter`: each column uses its segment's adapter. They must live until forward returns.
  std::span<const Segment> segments = {};
  /// Who shares the work, such as Workers; null: this thread alone. Must outlive backward; changes no bit of results.
  Executor* executor = nullptr;
};

}  // namespace lora::inline LORA_ABI
