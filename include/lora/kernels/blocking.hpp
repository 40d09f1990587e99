#pragma once
/// The blocking constants of all kernels, in one place. Names follow BLIS where it has one:
///
///   y = W0 x       MR rows of W0 by NR samples are a tile in registers; KC columns of W0 by MR rows are a panel in L1;
///                  all of W0 is multiplied by NC samples before the next NC; their KC rows of x stay in L2
///   dx = W0^T dy   `transposed_columns` columns of W0 by `transposed_packets` packets of samples are a tile
///
/// `benchmarks/run.sh blocking` compares candidates on another machine; benchmarks/DEAD_ENDS.md names the processors
/// for which these were chosen, and what else was tried; .ci/check_generated_code.py looks at what compilers make of
/// them. Values that split a sum (KC, kc_rank, packed_dy, ...) also decide the bits of results.

#include "lora/kernels/packet.hpp"

namespace lora::inline LORA_ABI::detail {

/// Blocking that depends on the number of registers and their size.
struct RegisterBlocking {
  int mr_packets;          ///< packets in MR: MR x NR accumulators and the operands of a step fill the registers
  int nr;                  ///< samples in a tile of y
  int transposed_columns;  ///< columns of W0 in a tile of dx, or of L in a tile of L^T X
  int transposed_packets;  ///< max packets of samples in a tile of dx
  int dot_panels;          ///< panels processed together for a single sample, with their rows of dy in registers
  int sample_panels;       ///< panels in a tile of y for a single sample, two accumulators for each packet of them
  bool lone_tile_waits;    ///< a single tile does not prefetch: that would take longer than it saves
};

/// AVX-512, NEON: 16 accumulators in a tile of y; 24 (12 samples) reach 91 % of the peak instead of 98 %.
inline constexpr RegisterBlocking blocking_of_32_registers{2, 8, 8, 2, 4, 4, false};
/// AVX: 12 accumulators. 3 x 4 has fewer loads, and y is up to 8 points faster on a Zen 5; but a column of a panel is
/// then a line and a half, dx up to 14 points slower, and g++ 12 on a Zen 3 reaches 70 % of the peak instead of 90 %.
inline constexpr RegisterBlocking blocking_of_16_registers{2, 6, 4, 3, 6, 2, false};
/// SSE2: 12 accumulators, because each product takes a register before it is added; 3 x 4 is 5 to 25 % slower.
inline constexpr RegisterBlocking blocking_of_sse2{6, 2, 4, 2, 2, 1, true};

template <class S>
struct Blocking {
  static constexpr RegisterBlocking table = Simd<S>::registers >= 32 ? blocking_of_32_registers
                                            : Simd<S>::tight         ? blocking_of_sse2
                                                                     : blocking_of_16_registers;
  static constexpr int lanes = Simd<S>::lanes;
  static constexpr Index elements_in(Index bytes) { return bytes / static_cast<Index>(sizeof(S)); }

  // y = W0 x + U Z
  static constexpr int mr_packets = table.mr_packets;
  static constexpr Index mr = Index(mr_packets) * lanes;
  static constexpr int nr = table.nr;
  static constexpr int sample_panels = table.sample_panels;
  static constexpr Index kc = 264;      ///< 256 would put panels 32 KiB apart, into the same sets of L1
  static constexpr Index nc = 128;      ///< 128 samples x (264 rows of x + a panel of y) = 150 KiB of floats: fits L2
  static constexpr Index kc_rank = 32;  ///< columns of U per pass; a padded copy of an edge panel fits on the stack
  static constexpr Index large = elements_in(1 << 20);  ///< elements of W0 above which it does not fit L2
  /// With at most this many samples no tile prefetches the next panel: the product is memory-bound either way.
  static constexpr Index unprefetched_samples = table.lone_tile_waits ? nr : nr / 2;
  /// Max tiles of a panel among which the prefetch of the next panel is divided, so that none has to wait for memory.
  static constexpr Index prefetching_tiles = 4;

  // dx = W0^T dy + V G
  static constexpr int transposed_columns = table.transposed_columns;
  static constexpr int transposed_packets = table.transposed_packets;
  static constexpr Index packed_dy = elements_in(65536);  ///< of dy; 128 KiB gain at most 4 %, for twice the stack
  static constexpr Index same_set = elements_in(4096);    ///< columns of dx a multiple of this apart share a set of L1
  static constexpr Index collected_columns = 136;         ///< columns of dx to compute in a buffer when they do

  // dx of a few samples
  static constexpr int streamed_packets = 3;  ///< max packets of samples; above, tiles are faster
  static constexpr int dot_panels = table.dot_panels;
  static constexpr Index streamed_dy = elements_in(32768);       ///< packed elements of dy: they stay in L1 and L2
  static constexpr Index prefetch_distance = elements_in(8192);  ///< into L2: 100 GFLOP/s for 8 samples; 3 KiB: 70

  // Z = L^T X and D += X G^T
  static constexpr int thin_samples = 3;                  ///< columns of X in a tile of dot products
  static constexpr Index thin_rows = elements_in(16384);  ///< elements of L in a tile: half of L1
  static constexpr Index thin_kc = 256;                   ///< rows of L that are packed together
  static constexpr Index outer_kc = 64;                   ///< samples per pass over D

  // y = W x of one sample, W not packed
  static constexpr Index walked_rows = 32 * mr;               ///< rows whose accumulators stay in L1
  static constexpr Index far_apart = 4 * sample_panels * mr;  ///< stride from which columns are read faster than rows

  /// Independent accumulators for each sum of a tile: a multiply-add waits for the previous one on the same
  /// accumulator, and fewer than eight in flight leave the arithmetic units idle.
  static constexpr int accumulators(int sums) { return sums < 8 ? 8 / sums : 1; }
};

}  // namespace lora::inline LORA_ABI::detail
