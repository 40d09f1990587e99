#pragma once
/// The one micro-kernel: a tile of a product, kept in registers while everything that belongs to it is added.
///
///                      scalars of one step:   s_0     s_1   ...  s_(Columns - 1)
///                                              |       |
///   vectors of one step:   v_0  (a packet) --- + ----- +   each crossing is one packet of sums: sum += v * s
///                          v_1             --- + ----- +
///
/// y = W0 x + U Z: the vectors are a column of a panel of W0, the scalars a row of x; then columns of U and rows of Z.
/// dx = W0^T dy + V G: the vectors are a row of dy, samples side by side; the scalars lie in the panel itself, which is
/// how one packed copy serves both directions. Thin products are made of the same steps.
///
/// With Group = lanes, one load brings as many scalars: the scalar product of two columns, whose lanes are added at the
/// end.

#include "lora/kernels/packet.hpp"

#include <algorithm>

namespace lora::detail {

/// The sum over `runs` times `steps` of vectors times scalars. Distances are in numbers.
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
  const S* ahead = nullptr;  ///< what will be needed soon, for which a step may ask
  Index ahead_step = 0;
  Index ahead_run = 0;
};

/// What a step asks of memory at `ahead`, without waiting for it.
enum class Asks {
  nothing,
  line,        ///< one line, for the first cache
  later_line,  ///< one, for the second cache
  packets      ///< as many packets as a step has vectors, for the second cache
};

template <class S, int Columns, int Vectors, int Group, Asks What>
struct TileKernel {
  using Simd = detail::Simd<S>;
  using Packet = typename Simd::Packet;
  static constexpr int sums = Columns * Vectors;
  using Sums = Packet[sums];
  // A sum waits for its last step to finish: few sums are split into independent ones that take turns.
  static constexpr int chains = std::max(1, 8 / sums);

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
      if constexpr (chains > 1) {
        Sums turns[chains - 1];
        clear_all(turns, counted<chains - 1>);
        for (; left >= chains; left -= chains) {
          steps(turns, sum, place, counted<chains - 1>);
          place.step(c, sum, counted<sums>);
        }
        add_all(c, turns, counted<(chains - 1) * sums>);
      }
      for (; left > 0; --left) place.step(c, sum, counted<sums>);
      first.vectors += sum.vector_run;
      first.scalars += sum.scalar_run;
      first.ahead += sum.ahead_run;
    }
  }

  struct Place {
    const S* vectors;
    const S* scalars;
    const S* ahead;

    explicit Place(const TileSum<S>& sum) : vectors(sum.vectors), scalars(sum.scalars), ahead(sum.ahead) {}

    /// The sum that is K-th when those of one vector follow each other, not those of one scalar.
    static constexpr int turned(int K) { return K % Columns * Vectors + K / Columns; }

    /// One step, and on to the next. Of vectors and scalars the fewer are held in registers, the others pass by.
    template <int... K>
    EIGEN_ALWAYS_INLINE void step(Sums& c, const TileSum<S>& sum, std::integer_sequence<int, K...>) {
      if constexpr (What == Asks::line) Simd::prefetch(ahead);
      if constexpr (What == Asks::later_line) Simd::template prefetch<2>(ahead);
      if constexpr (What == Asks::packets) ask(counted<(Vectors * Simd::lanes + Simd::line - 1) / Simd::line>);
      if constexpr (Vectors > Columns) {
        Packet scalar[Columns];
        spread(scalar, sum.scalar_stride, counted<Columns>);
        ((c[turned(K)] = Simd::multiply_add(Simd::load(vectors + K / Columns * sum.vector_stride), scalar[K % Columns],
                                            c[turned(K)])),
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
      ahead += sum.ahead_step;
    }
    template <int... K>
    EIGEN_ALWAYS_INLINE void ask(std::integer_sequence<int, K...>) const {
      (Simd::template prefetch<2>(ahead + K * Simd::line), ...);
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

  template <class Turns, int... I>
  EIGEN_ALWAYS_INLINE static void clear_all(Turns& turns, std::integer_sequence<int, I...>) {
    (clear(turns[I]), ...);
  }
  template <class Turns, int... I>
  EIGEN_ALWAYS_INLINE static void steps(Turns& turns, const TileSum<S>& sum, Place& place,
                                        std::integer_sequence<int, I...>) {
    (place.step(turns[I], sum, counted<sums>), ...);
  }
  template <class Turns, int... I>
  EIGEN_ALWAYS_INLINE static void add_all(Sums& c, const Turns& turns, std::integer_sequence<int, I...>) {
    ((c[I % sums] = Simd::add(c[I % sums], turns[I / sums][I % sums])), ...);
  }
};

}  // namespace lora::detail
