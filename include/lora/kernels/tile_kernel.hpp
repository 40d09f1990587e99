#pragma once
/// The micro-kernel: a tile of a product, its accumulators held in registers until the sum is complete.
///
///                      scalars of one step:   s_0     s_1   ...  s_(Columns - 1)
///                                              |       |
///   vectors of one step:   v_0  (a packet) --- + ----- +   each crossing is one packet of sums: sum += v * s
///                          v_1             --- + ----- +
///
/// y = W0 x + U Z: the vectors are a column of a panel of W0, the scalars a row of x; then columns of U and rows of Z.
/// dx = W0^T dy + V G: the vectors are a row of dy, samples contiguous; the scalars are elements of the panel itself,
/// which is how one packed copy serves both directions. Thin products consist of the same steps.
///
/// For few samples, which would leave most registers empty, separate loops stream the sums through memory:
/// streamed_transposed.hpp, unpacked_product.hpp (one sample) and few_columns.hpp.
///
/// With Group = lanes, one load brings `lanes` scalars: a dot product of two columns, whose lanes are added at the end.

#include "lora/kernels/blocking.hpp"

#include <algorithm>

namespace lora::inline LORA_ABI::detail {

/// The sum over `runs` x `steps` of vectors times scalars. Distances are in elements.
template <class S>
struct TileSum {
  const S* vectors = nullptr;
  Index vector_stride = Simd<S>::lanes;  ///< from one packet of a step to the next
  Index vector_step = 0;                 ///< from one step to the next
  Index vector_run = 0;                  ///< from the beginning of a run to that of the next
  const S* scalars = nullptr;
  Index scalar_stride = 0;
  Index scalar_step = 0;
  Index scalar_run = 0;
  Index steps = 0;
  Index runs = 1;
  const S* prefetch = nullptr;  ///< what to prefetch, if the policy is not none
  Index prefetch_step = 0;
  Index prefetch_run = 0;
};

/// What a step prefetches at TileSum::prefetch.
enum class PrefetchPolicy {
  none,
  l1_line,    ///< one line, into L1
  l2_line,    ///< one line, into L2
  l2_packets  ///< as many packets as a step has vectors, into L2
};

template <class S, int Columns, int Vectors, int Group, PrefetchPolicy Policy>
struct TileKernel {
  using Simd = detail::Simd<S>;
  using Packet = typename Simd::Packet;
  static constexpr int sums = Columns * Vectors;
  using Sums = Packet[sums];
  // Independent accumulators for each sum, used in turn, so that a step need not wait for the previous one.
  static constexpr int accumulators = Blocking<S>::accumulators(sums);

  EIGEN_ALWAYS_INLINE static void clear(Sums& c) { clear(c, counted<sums>); }

  EIGEN_ALWAYS_INLINE static void add(Sums& c, const TileSum<S>* terms, int count) {
    for (int k = 0; k < count; ++k) accumulate(c, terms[k]);
  }

  /// to + column * stride + vector * lanes = or += the sums
  EIGEN_ALWAYS_INLINE static void store(const Sums& c, S* to, Index stride, bool add) {
    if (add) {
      store_added(c, to, stride, counted<sums>);
    } else {
      store(c, to, stride, counted<sums>);
    }
  }

 private:
  template <int... K>
  EIGEN_ALWAYS_INLINE static void clear(Sums& c, std::integer_sequence<int, K...>) {
    ((c[K] = Simd::zero()), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void store(const Sums& c, S* to, Index stride, std::integer_sequence<int, K...>) {
    (Simd::store(to + K / Vectors * stride + K % Vectors * Simd::lanes, c[K]), ...);
  }
  template <int... K>
  EIGEN_ALWAYS_INLINE static void store_added(const Sums& c, S* to, Index stride, std::integer_sequence<int, K...>) {
    (Simd::store(to + K / Vectors * stride + K % Vectors * Simd::lanes,
                 Simd::add(Simd::load(to + K / Vectors * stride + K % Vectors * Simd::lanes), c[K])),
     ...);
  }

  EIGEN_ALWAYS_INLINE static void accumulate(Sums& c, const TileSum<S>& sum) {
    Place first(sum);
    for (Index run = 0; run < sum.runs; ++run) {
      Place place = first;
      Index left = sum.steps;
      if constexpr (accumulators > 1) {
        Sums others[accumulators - 1];
        clear_all(others, counted<accumulators - 1>);
        for (; left >= accumulators; left -= accumulators) {
          steps(others, sum, place, counted<accumulators - 1>);
          place.step(c, sum, counted<sums>);
        }
        add_all(c, others, counted<(accumulators - 1) * sums>);
      }
      for (; left > 0; --left) place.step(c, sum, counted<sums>);
      first.vectors += sum.vector_run;
      first.scalars += sum.scalar_run;
      first.prefetch += sum.prefetch_run;
    }
  }

  struct Place {
    const S* vectors;
    const S* scalars;
    const S* prefetch;

    explicit Place(const TileSum<S>& sum) : vectors(sum.vectors), scalars(sum.scalars), prefetch(sum.prefetch) {}

    /// Index of sum K in vector-major order.
    static constexpr int vector_major(int K) { return K % Columns * Vectors + K / Columns; }

    /// Does one step and advances. The fewer of vectors and scalars are held in registers; the others are streamed.
    template <int... K>
    EIGEN_ALWAYS_INLINE void step(Sums& c, const TileSum<S>& sum, std::integer_sequence<int, K...>) {
      if constexpr (Policy == PrefetchPolicy::l1_line) Simd::prefetch(prefetch);
      if constexpr (Policy == PrefetchPolicy::l2_line) Simd::template prefetch<2>(prefetch);
      if constexpr (Policy == PrefetchPolicy::l2_packets)
        prefetch_packets(counted<(Vectors * Simd::lanes + Simd::line - 1) / Simd::line>);
      if constexpr (Vectors > Columns) {
        Packet scalar[Columns];
        spread(scalar, sum.scalar_stride, counted<Columns>);
        ((c[vector_major(K)] = Simd::multiply_add(Simd::load(vectors + K / Columns * sum.vector_stride),
                                                  scalar[K % Columns], c[vector_major(K)])),
         ...);
      } else {
        Packet vector[Vectors];
        load(vector, sum.vector_stride, counted<Vectors>);
        ((c[K] = Simd::multiply_add(vector[K % Vectors],
                                    Simd::template broadcast<Group>(scalars + K / Vectors * sum.scalar_stride), c[K])),
         ...);
      }
      vectors += sum.vector_step;
      scalars += sum.scalar_step;
      prefetch += sum.prefetch_step;
    }
    template <int... K>
    EIGEN_ALWAYS_INLINE void prefetch_packets(std::integer_sequence<int, K...>) const {
      (Simd::template prefetch<2>(prefetch + K * Simd::line), ...);
    }
    template <int... K>
    EIGEN_ALWAYS_INLINE void spread(Packet (&scalar)[Columns], Index stride, std::integer_sequence<int, K...>) const {
      ((scalar[K] = Simd::template broadcast<Group>(scalars + K * stride)), ...);
    }
    template <int... K>
    EIGEN_ALWAYS_INLINE void load(Packet (&vector)[Vectors], Index stride, std::integer_sequence<int, K...>) const {
      ((vector[K] = Simd::load(vectors + K * stride)), ...);
    }
  };

  template <class Others, int... I>
  EIGEN_ALWAYS_INLINE static void clear_all(Others& others, std::integer_sequence<int, I...>) {
    (clear(others[I]), ...);
  }
  template <class Others, int... I>
  EIGEN_ALWAYS_INLINE static void steps(Others& others, const TileSum<S>& sum, Place& place,
                                        std::integer_sequence<int, I...>) {
    (place.step(others[I], sum, counted<sums>), ...);
  }
  template <class Others, int... I>
  EIGEN_ALWAYS_INLINE static void add_all(Sums& c, const Others& others, std::integer_sequence<int, I...>) {
    ((c[I % sums] = Simd::add(c[I % sums], others[I / sums][I % sums])), ...);
  }
};

}  // namespace lora::inline LORA_ABI::detail
