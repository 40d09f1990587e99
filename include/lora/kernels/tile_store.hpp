#pragma once
/// The epilogue of the micro-kernel: two ways to store a tile.
///
///   product_tile      the vectors run down a column of the result: packets are stored as they are
///   transposed_tile   they run along its rows, over samples: blocks of the tile are transposed first, and the lanes
///                     of a group are added as packets
///
/// Both either add to the result or overwrite it. An edge tile goes through a buffer: nothing beyond the edge is
/// written.

#include "lora/kernels/tile_kernel.hpp"

namespace lora::inline LORA_ABI::detail {

/// out(row, t) = or += the sums, for rows 0, ..., rows - 1 of the Vectors * lanes, and t = 0, ..., Columns - 1.
template <class S, int Columns, int Vectors, PrefetchPolicy Policy = PrefetchPolicy::none>
void product_tile(const TileSum<S>* sums, int count, S* out, Index out_stride, Index rows, bool add) {
  using Kernel = TileKernel<S, Columns, Vectors, 1, Policy>;
  using Simd = detail::Simd<S>;
  constexpr Index height = Vectors * Simd::lanes;
  for (Index t = 0; t < Columns; ++t) {
    for (Index v = 0; v < height; v += Simd::line) Simd::prefetch(out + t * out_stride + v);
  }
  typename Kernel::Sums c;
  Kernel::clear(c);
  Kernel::add(c, sums, count);
  if (rows == height) {
    Kernel::store(c, out, out_stride, add);
    return;
  }
  alignas(64) S tile[Columns * height];
  Kernel::store(c, tile, height, false);
  for (Index t = 0; t < Columns; ++t) {
    for (Index row = 0; row < rows; ++row) {
      S& to = out[t * out_stride + row];
      to = add ? to + tile[t * height + row] : tile[t * height + row];
    }
  }
}

/// Adds each group of `Group` adjacent lanes. At most `Lanes` lanes are transposed together.
template <class S, int Lanes, int Group>
struct GroupFold {
  using Simd = NarrowSimd<S, Lanes>;
  static constexpr int q = Simd::lanes;
  static constexpr int samples = std::max(1, q / Group);  ///< samples in one block
  static_assert(q % Group == 0 || Group % q == 0);

  /// to(t, k) = or += tile(k Group, t) + ... + tile(k Group + Group - 1, t), for t < q and k < count <= samples
  EIGEN_ALWAYS_INLINE static void run(const S* tile, Index tile_stride, S* to, Index to_stride, Index count, bool add) {
    typename Simd::Block block = Simd::load(tile, tile_stride);
    for (int more = q; more < Group; more += q) Simd::add_to(block, Simd::load(tile + more, tile_stride));
    block = Simd::transposed(block);
    store(block, to, to_stride, count, add, counted<samples>);
  }

 private:
  template <int... K>
  EIGEN_ALWAYS_INLINE static void store(const typename Simd::Block& block, S* to, Index stride, Index count, bool add,
                                        std::integer_sequence<int, K...>) {
    constexpr int n = q / samples;
    ((K < count ? store(folded<K * n, n>(block), to + K * stride, add) : void()), ...);
  }
  EIGEN_ALWAYS_INLINE static void store(const typename Simd::Packet& sum, S* to, bool add) {
    Simd::store(to, add ? Simd::add(Simd::load(to), sum) : sum);
  }
  template <int First, int N>
  EIGEN_ALWAYS_INLINE static typename Simd::Packet folded(const typename Simd::Block& block) {
    if constexpr (N == 1) {
      return block.packet[First];
    } else {
      return Simd::add(folded<First, N / 2>(block), folded<First + N / 2, N / 2>(block));
    }
  }
};

/// out(t, sample) = or += the sum of group `sample` of tile(., t), for t < columns and sample < samples.
template <class S, int Columns, int Group>
EIGEN_ALWAYS_INLINE void store_transposed(const S* tile, Index tile_stride, S* out, Index out_stride, Index columns,
                                          Index samples, bool add) {
  using Fold = GroupFold<S, Columns, Group>;
  if constexpr (Columns % Fold::q == 0) {
    if (columns == Columns) {
      for (Index t = 0; t < Columns; t += Fold::q) {
        for (Index sample = 0; sample < samples; sample += Fold::samples) {
          Fold::run(tile + t * tile_stride + sample * Group, tile_stride, out + sample * out_stride + t, out_stride,
                    samples - sample, add);
        }
      }
      return;
    }
  }
  for (Index sample = 0; sample < samples; ++sample) {
    for (Index t = 0; t < columns; ++t) {
      const S* const group = tile + t * tile_stride + sample * Group;
      S sum = group[0];
      for (int g = 1; g < Group; ++g) sum += group[g];
      S& to = out[sample * out_stride + t];
      to = add ? to + sum : sum;
    }
  }
}

// g++ 12 does not see that Kernel::store fills `tile`.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/// out(t, sample) = or += the sums, for t < columns <= Columns and sample < samples <= Vectors * lanes / Group.
template <class S, int Columns, int Vectors, int Group, PrefetchPolicy Policy = PrefetchPolicy::none>
void transposed_tile(const TileSum<S>* sums, int count, S* out, Index out_stride, Index columns, Index samples,
                     bool add) {
  using Kernel = TileKernel<S, Columns, Vectors, Group, Policy>;
  constexpr Index width = Vectors * Simd<S>::lanes;
  for (Index sample = 0; sample < samples; ++sample) Simd<S>::prefetch(out + sample * out_stride);
  typename Kernel::Sums c;
  Kernel::clear(c);
  Kernel::add(c, sums, count);
  alignas(64) S tile[Columns * width];
  Kernel::store(c, tile, width, false);
  store_transposed<S, Columns, Group>(tile, width, out, out_stride, columns, samples, add);
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

}  // namespace lora::inline LORA_ABI::detail
