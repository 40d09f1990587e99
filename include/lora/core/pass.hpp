#pragma once
/// What a training pass adds to the numbers: one small value that the caller owns.

#include "lora/core/adapter_handle.hpp"
#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"

#include <cstdint>

namespace lora {

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
  /// Who shares the work, such as Workers; null: this thread alone. It must outlive backward. The bits do not depend on
  /// it.
  Executor* executor = nullptr;
};

}  // namespace lora
