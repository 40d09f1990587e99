#pragma once
/// Products of a large matrix with a few vectors, which read the matrix once and in place.
///
///   Y += A X,   Y = A^T X     A (m, n) column-major,  X of few columns
///
/// A general matrix product first packs A, which for few columns takes longer than the product itself. Here a tile of
/// up to eight columns of A and three of X is held in registers. A^T X in tiles of tile_kernel.hpp would be slower:
/// benchmarks/DEAD_ENDS.md. Uses one thread; if Eigen may use several, or above 64 columns, calls Eigen's product.
///
/// Compile time: none beyond Eigen/Core.

#include "lora/kernels/packet.hpp"

#include <algorithm>
#include <utility>

namespace lora::inline LORA_ABI::detail {

template <class S>
class FewColumns {
 public:
  using Large = Eigen::Ref<const Matrix<S>, 0, Eigen::OuterStride<>>;
  using Thin = Eigen::Ref<Matrix<S>, 0, Eigen::OuterStride<>>;

  /// Y += A X     X (n, k),  Y (m, k), apart from X in memory
  static void add(const Large& A, const Large& X, Thin Y);

  /// Y = A^T X     X (m, k),  Y (n, k), apart from X in memory
  static void transposed(const Large& A, const Large& X, Thin Y);

 private:
  using Simd = detail::Simd<S>;
  using Packet = typename Simd::Packet;
  static constexpr Index lanes = Simd::lanes;
  static constexpr int depth = sizeof(Packet) >= 64 ? 8 : 4;       // columns of A at a time: 32 registers or 16
  static constexpr int width = 3;                                  // columns of X and Y at a time
  static constexpr Index panel = 4096 / Index(sizeof(S)) / lanes;  // packets of a column that stay in L1

  static bool pays(const Large& A, const Large& X) {
    return X.cols() <= 64 && A.rows() >= lanes && A.cols() >= depth && Eigen::nbThreads() == 1;
  }

  /// Calls f(0), ..., f(N - 1) with constants, so that the arrays that f indexes stay in registers.
  template <int N>
  EIGEN_ALWAYS_INLINE static void unrolled(auto&& f) {
    [&]<int... I>(std::integer_sequence<int, I...>) {
      (f(std::integral_constant<Index, I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
  }

  template <bool forward>
  static void for_each_tile(const Large& A, const Large& X, Thin& Y) {
    const Index packets = A.rows() / lanes;
    const Index max_packets = forward ? panel : 4 * panel;  // longer if each tile ends in horizontal sums
    for (Index first = 0; first < packets; first += max_packets) {
      const Index count = std::min(max_packets, packets - first);
      for (Index j = 0; j + depth <= A.cols(); j += depth) {
        Index c = 0;
        for (; c + width <= X.cols(); c += width) tile<forward, width>(A, X, Y, first * lanes, count, j, c);
        remainder<forward, width - 1>(A, X, Y, first * lanes, count, j, c);
      }
    }
  }

  template <bool forward, int N>
  static void remainder(const Large& A, const Large& X, Thin& Y, Index row, Index count, Index j, Index c) {
    if constexpr (N > 0) {
      if (X.cols() - c == N) return tile<forward, N>(A, X, Y, row, count, j, c);
      remainder<forward, N - 1>(A, X, Y, row, count, j, c);
    }
  }

  /// One tile: `count` packets, from `row` on, of columns j, ..., j + depth - 1 of A; N columns of X and Y from c on.
  template <bool forward, int N>
  static void tile(const Large& A, const Large& X, Thin& Y, Index row, Index count, Index j, Index c) {
    const S* a[depth];
    for (Index d = 0; d < depth; ++d) a[d] = A.data() + row + (j + d) * A.outerStride();
    Packet t[depth * N];
    if constexpr (forward) {
      const S* const x = X.data() + j + c * X.outerStride();
      unrolled<depth * N>(
          [&](auto k) { t[k] = Simd::template broadcast<1>(x + k % depth + k / depth * X.outerStride()); });
      S* const y = Y.data() + row + c * Y.outerStride();
      const Index stride = Y.outerStride();
      for (Index i = 0; i < count * lanes; i += lanes) {
        Packet p[depth];
        unrolled<depth>([&](auto d) { p[d] = Simd::load(a[d] + i); });
        unrolled<N>([&](auto n) {
          Packet sum = Simd::load(y + n * stride + i);
          unrolled<depth>([&](auto d) { sum = Simd::multiply_add(p[d], t[n * depth + d], sum); });
          Simd::store(y + n * stride + i, sum);
        });
      }
    } else {
      unrolled<depth * N>([&](auto k) { t[k] = Simd::zero(); });
      const S* const x = X.data() + row + c * X.outerStride();
      const Index stride = X.outerStride();
      for (Index i = 0; i < count * lanes; i += lanes) {
        Packet p[depth];
        unrolled<depth>([&](auto d) { p[d] = Simd::load(a[d] + i); });
        unrolled<N>([&](auto n) {
          const Packet column = Simd::load(x + n * stride + i);
          unrolled<depth>([&](auto d) { t[n * depth + d] = Simd::multiply_add(p[d], column, t[n * depth + d]); });
        });
      }
      unrolled<depth * N>([&](auto k) { Y(j + k % depth, c + k / depth) += Simd::sum(t[k]); });
    }
  }
};

template <class S>
void FewColumns<S>::add(const Large& A, const Large& X, Thin Y) {
  eigen_assert(A.cols() == X.rows() && Y.rows() == A.rows() && Y.cols() == X.cols());
  if (!pays(A, X)) {
    Y.noalias() += A * X;
    return;
  }
  for_each_tile<true>(A, X, Y);
  const Index rows = A.rows() % lanes;
  const Index cols = A.cols() % depth;
  if (rows > 0) Y.bottomRows(rows).noalias() += A.bottomRows(rows) * X;
  if (cols > 0) {
    const Index above = A.rows() - rows;
    Y.topRows(above).noalias() += A.topRightCorner(above, cols) * X.bottomRows(cols);
  }
}

template <class S>
void FewColumns<S>::transposed(const Large& A, const Large& X, Thin Y) {
  eigen_assert(A.rows() == X.rows() && Y.rows() == A.cols() && Y.cols() == X.cols());
  if (!pays(A, X)) {
    Y.noalias() = A.transpose() * X;
    return;
  }
  const Index rows = A.rows() % lanes;
  const Index cols = A.cols() % depth;
  Y.noalias() = A.bottomRows(rows).transpose() * X.bottomRows(rows);
  for_each_tile<false>(A, X, Y);
  if (cols > 0) {
    const Index above = A.rows() - rows;
    Y.bottomRows(cols).noalias() += A.topRightCorner(above, cols).transpose() * X.topRows(above);
  }
}

}  // namespace lora::inline LORA_ABI::detail
