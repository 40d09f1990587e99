#pragma once
/// The options of a pass: one small value that the caller owns; and a copy of them for some of its columns.

#include "lora/core/adapter_handle.hpp"
#include "lora/core/error.hpp"
#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

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
  /// Where columns were picked from a larger batch: column j is number columns[j] of it, and sample first_sample +
  /// columns[j]; ascending, one for each column. Empty: j itself. They must live until backward has run (KeptPass).
  std::span<const Index> columns = {};
  /// Who shares the work, such as Workers; null: this thread alone. Must outlive backward; changes no bit of results.
  Executor* executor = nullptr;
};

namespace detail {

/// The columns of one segment as a pass of its own: its seed, step and samples, and the absolute numbers of its columns
/// if those were picked. `whole` may not have an adapter beside its segments.
inline Pass pass_of(const Pass& whole, const Segment& segment) {
  Pass own = whole;
  own.segments = {};
  own.adapter = segment.adapter;
  own.seed = segment.seed.value_or(whole.seed);
  own.step = segment.step.value_or(whole.step);
  own.first_sample = segment.first_sample.value_or(whole.first_sample + segment.first);
  if (whole.columns.empty()) return own;
  // With picked columns, a segment's first_sample is that of column 0 of the batch they were picked from.
  own.first_sample = segment.first_sample.value_or(whole.first_sample);
  own.columns = {};  // also of a segment that the caller will refuse
  const auto all = static_cast<Index>(whole.columns.size());
  if (segment.first >= 0 && segment.count >= 0 && segment.first <= all - segment.count) {
    own.columns = whole.columns.subspan(std::size_t(segment.first), std::size_t(segment.count));
  }
  return own;
}

}  // namespace detail

/// A copy of a pass that owns what its spans show, for a layer that keeps it until backward; or a pass restricted to
/// some columns of its batch, as pooling needs it, and a last layer that computes no more than the loss reads. Segments
/// shrink then to the columns that are left of them, and every column keeps its absolute number, so that dropout masks
/// and adapters stay the same. After the largest pass seen, no heap.
class KeptPass {
 public:
  void assign(const Pass& whole) {
    settings_ = whole;
    settings_.segments = {};
    settings_.columns = {};
    segments_.assign(whole.segments.begin(), whole.segments.end());
    numbers_.assign(whole.columns.begin(), whole.columns.end());
  }

  /// columns: ascending. A segment of which none is left is dropped. Throws ShapeError for a column that lies in no
  /// segment.
  void assign(const Pass& whole, std::span<const Index> columns) {
    assign(whole);
    segments_.clear();
    Index covered = 0;
    for (const Segment& segment : whole.segments) {
      const auto from = std::lower_bound(columns.begin(), columns.end(), segment.first);
      const auto to = std::lower_bound(from, columns.end(), segment.first + segment.count);
      if (from == to) continue;
      Segment some = segment;
      some.first = from - columns.begin();
      some.count = to - from;
      // That of column 0, from which the numbers count.
      if (segment.first_sample && whole.columns.empty()) some.first_sample = *segment.first_sample - segment.first;
      segments_.push_back(some);
      covered += some.count;
    }
    if (!whole.segments.empty() && covered != static_cast<Index>(columns.size())) {
      detail::fail<ShapeError>("KeptPass", std::to_string(covered) + " of " + std::to_string(columns.size()) +
                                               " columns lie in a segment of the pass, expected all of them");
    }
    numbers_.assign(columns.begin(), columns.end());
    if (whole.columns.empty()) return;
    for (Index& number : numbers_) number = whole.columns[static_cast<std::size_t>(number)];
  }

  /// Shows this object's memory: valid until the next assign.
  Pass pass() const& {
    Pass some = settings_;
    some.segments = segments_;
    some.columns = numbers_;
    return some;
  }
  Pass pass() const&& = delete;
  Executor* executor() const { return settings_.executor; }

 private:
  Pass settings_;
  std::vector<Segment> segments_;
  std::vector<Index> numbers_;
};

}  // namespace lora::inline LORA_ABI
