#pragma once
/// Products with low-rank factors: one long dimension, the rank on one side and samples on the other.
///
///   Z = L^T X     L (long, rank), X (long, samples)      z = A x with L = A^T, and B^T dy with L = B
///   D += X G^T    X (long, samples), G (rank, samples)   the gradients of A^T and B
///   y += U Z      U (long, rank), Z (rank, samples)      B z and A^T g, if not fused into a product with W0
///
/// A general product packs both factors first, which costs as much as the product when the rank is small. Here both are
/// read in place: Z in tiles of dot products, several columns of L with several of X; D in tiles that stay in registers
/// while samples are added. Splitting Z by samples and D by rows, at the boundaries below, changes no bit.

#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/pack_rows.hpp"
#include "lora/kernels/packed_product.hpp"

#include <type_traits>

namespace lora::inline LORA_ABI::detail {

template <class S>
class ThinTiles {
  static constexpr int lanes = Simd<S>::lanes;
  static constexpr int max_columns = Blocking<S>::transposed_columns;  // columns of L in a tile
  static constexpr int max_samples = Blocking<S>::thin_samples;

 public:
  /// out = L^T X
  static void reduce(const Columns<S>& L, const Columns<S>& X, MutableColumns<S> out) {
    if (L.cols() == 1 && X.cols() > 1 && out.outerStride() == 1) {  // X has the many columns: compute X^T L
      return reduce(X, L, Eigen::Map<Matrix<S>>(out.data(), X.cols(), 1));
    }
    if (packs(L.cols(), X.cols())) return multiply_packed(L, X, out);
    Index first = 0;
    for (; first + max_columns <= L.cols(); first += max_columns) reduce_columns<max_columns>(L, X, first, out);
    reduce_remainder<max_columns / 2>(L, X, first, out);
  }

  /// The min number of samples in a part.
  static Index min_samples(Index rank) {
    return rank > lanes / 2 ? 2 * max_columns + ProductTiles<S>::columns : 4 * max_samples;
  }
  /// The first legal split point at or after `sample`, for parts of at least min_samples().
  static Index boundary(Index rank, Index samples, Index sample) {
    if (packs(rank, samples)) return ProductTiles<S>::boundary(samples, sample);
    const Index step = rank == 1 ? max_samples * max_columns : max_samples;
    return std::min((sample + step - 1) / step * step, samples);
  }

  /// out += X G^T. With two or more samples, its rows may be split at multiples of MR.
  static void add_outer(const Columns<S>& X, const Columns<S>& G, MutableColumns<S> out) {
    if (X.cols() == 1) {
      for (Index t = 0; t < G.rows(); ++t) add_multiple(G(t, 0), X.data(), X.rows(), &out(0, t));
      return;
    }
    constexpr Index height = Blocking<S>::mr, block = Blocking<S>::outer_kc;
    alignas(64) S edge[block * height];
    TileSum<S> sum;
    sum.scalar_stride = 1;
    sum.scalar_step = G.outerStride();
    for (Index sample = 0; sample < X.cols(); sample += block) {
      sum.steps = std::min(block, X.cols() - sample);
      for (Index row = 0; row < X.rows(); row += height) {
        const Index rows = std::min(height, X.rows() - row), vectors = ProductTiles<S>::packets(rows);
        sum.vectors = X.data() + row + sample * X.outerStride();
        sum.vector_step = X.outerStride();
        if (rows != vectors * lanes) {  // packets would read beyond X: use a zero-padded copy
          pack_padded(sum.vectors, X.outerStride(), rows, sum.steps, height, edge);
          sum.vectors = edge;
          sum.vector_step = height;
        }
        ProductTiles<S>::for_each(G.rows(), [&](Index first, Index count) {
          sum.scalars = G.data() + first + sample * G.outerStride();
          ProductTiles<S>::get(count, vectors)(&sum, 1, &out(row, first), out.outerStride(), rows, true);
        });
      }
    }
  }

 private:
  static bool packs(Index rank, Index samples) { return rank > lanes / 2 && samples >= Index(2) * max_columns; }

  /// For a rank that fills packets and samples that pay for packing: packs a panel of L^T, to be multiplied like one of
  /// W0.
  static void multiply_packed(const Columns<S>& L, const Columns<S>& X, MutableColumns<S>& out) {
    constexpr Index height = Blocking<S>::mr, max_rows = Blocking<S>::thin_kc;
    alignas(64) S panel[height * max_rows];
    TileSum<S> sum;
    sum.vectors = panel;
    sum.scalar_stride = X.outerStride();
    sum.scalar_step = 1;
    for (Index row = 0; row < L.rows(); row += max_rows) {
      sum.steps = std::min(max_rows, L.rows() - row);
      for (Index first = 0; first < L.cols(); first += height) {
        const Index ranks = std::min(height, L.cols() - first), vectors = ProductTiles<S>::packets(ranks);
        sum.vector_step = vectors * lanes;
        pack_rows(L.data() + row + first * L.outerStride(), L.outerStride(), sum.steps, ranks, vectors * lanes, 1,
                  panel);
        ProductTiles<S>::for_each(X.cols(), [&](Index sample, Index count) {
          sum.scalars = X.data() + row + sample * X.outerStride();
          ProductTiles<S>::get(count, vectors)(&sum, 1, &out(first, sample), out.outerStride(), ranks, row > 0);
        });
      }
    }
  }

  template <int Count>
  static void reduce_remainder(const Columns<S>& L, const Columns<S>& X, Index first, MutableColumns<S>& out) {
    if constexpr (Count > 0) {
      if (first + Count <= L.cols()) {
        reduce_columns<Count>(L, X, first, out);
        first += Count;
      }
      reduce_remainder<Count / 2>(L, X, first, out);
    }
  }

  /// Columns first, ..., first + Count - 1 of L with all of X, in blocks of rows that stay in L1.
  template <int Count>
  static void reduce_columns(const Columns<S>& L, const Columns<S>& X, Index first, MutableColumns<S>& out) {
    constexpr Index max_rows = Blocking<S>::thin_rows / max_columns;
    for (Index row = 0; row < L.rows(); row += max_rows) {
      const Index rows = std::min(max_rows, L.rows() - row), remainder = rows % lanes, whole = rows - remainder;
      alignas(64) S edge_of_l[Count * lanes], edge_of_x[max_samples * lanes];  // the remainder, padded to a packet
      const S* const part = L.data() + row + first * L.outerStride();
      TileSum<S> sums[2];
      sums[0].vector_stride = X.outerStride();
      sums[0].vector_step = sums[0].scalar_step = lanes;
      sums[0].scalars = part;
      sums[0].scalar_stride = L.outerStride();
      sums[0].steps = whole / lanes;
      sums[1].vectors = edge_of_x;
      sums[1].scalars = edge_of_l;
      sums[1].scalar_stride = lanes;
      sums[1].steps = 1;
      if (remainder > 0) pack_padded(part + whole, L.outerStride(), remainder, Count, lanes, edge_of_l);
      // Columns a power of two apart evict each other from L1.
      constexpr Index apart = max_rows + Simd<S>::line;
      alignas(64) S copy[Count * apart];
      if (X.cols() >= max_columns) {
        for (Index k = 0; k < Count; ++k) std::copy_n(part + k * L.outerStride(), whole, copy + k * apart);
        sums[0].scalars = copy;
        sums[0].scalar_stride = apart;
      }

      for (Index sample = 0; sample < X.cols(); sample += max_samples) {
        const Index samples = std::min<Index>(max_samples, X.cols() - sample);
        sums[0].vectors = X.data() + row + sample * X.outerStride();
        if (remainder > 0) {
          pack_padded(sums[0].vectors + whole, X.outerStride(), remainder, samples, lanes, edge_of_x);
        }
        tile<Count>(samples)(sums, remainder > 0 ? 2 : 1, &out(first, sample), out.outerStride(), Count, samples,
                             row > 0);
      }
    }
  }

  template <int Count>
  static auto tile(Index samples) {
    using Function = void (*)(const TileSum<S>*, int, S*, Index, Index, Index, bool);
    static constexpr std::array<Function, 3> table = {&transposed_tile<S, Count, 1, lanes>,
                                                      &transposed_tile<S, Count, 2, lanes>,
                                                      &transposed_tile<S, Count, 3, lanes>};
    return table[static_cast<std::size_t>(samples - 1)];
  }
};

/// Whether the kernels above support M: run-time sizes, float or double.
template <class M>
inline constexpr bool thin_by_tiles =
    (std::is_same_v<typename M::Scalar, float> || std::is_same_v<typename M::Scalar, double>) &&
    M::RowsAtCompileTime == Dynamic && M::ColsAtCompileTime == Dynamic;

/// Z = L^T X by the kernels above, split among the threads of an executor if there is one.
template <class S>
void thin_product_by_tiles(const Columns<S>& L, const Columns<S>& X, MutableColumns<S> Z, Executor* executor) {
  using Tiles = ThinTiles<S>;
  const double size = static_cast<double>(L.size()) * static_cast<double>(X.cols());
  const auto split =
      Split::choose<S>(size, split_threshold(2.5e5, 128, L.size()), 1, 1, X.cols(), Tiles::min_samples(L.cols()));
  const auto boundary = [&](Index sample) { return Tiles::boundary(L.cols(), X.cols(), sample); };
  for_each_part(executor, split, 1, multiples_of(1, 1), X.cols(), boundary,
                [&](Interval, Interval samples) { Tiles::reduce(L, columns_in(X, samples), columns_in(Z, samples)); });
}

/// D += X G^T, likewise.
template <class S>
void add_thin_outer_by_tiles(const Columns<S>& X, const Columns<S>& G, MutableColumns<S> D, Executor* executor) {
  constexpr Index height = Blocking<S>::mr;
  const double size = X.cols() < 2 ? 0 : static_cast<double>(D.size()) * static_cast<double>(X.cols());
  const auto split = Split::choose<S>(size, split_threshold(2.5e5, 512, D.size()), X.rows(), height, 1, 1);
  for_each_part(executor, split, X.rows(), multiples_of(height, X.rows()), 1, multiples_of(1, 1),
                [&](Interval rows, Interval) { ThinTiles<S>::add_outer(rows_in(X, rows), G, rows_in(D, rows)); });
}

/// y += U Z, likewise: the low-rank term of a product whose weight has no columns.
template <class S>
void add_low_rank_by_tiles(const Columns<S>& U, const Columns<S>& Z, MutableColumns<S> y, Executor* executor) {
  constexpr Index height = Blocking<S>::mr;
  const PanelLayout<S> no_columns{U.rows(), 0};
  const LowRankTerm<S> term(U, Z);
  const double size = static_cast<double>(U.size()) * static_cast<double>(Z.cols());
  const auto split =
      Split::choose<S>(size, split_threshold(2.5e5, 128, U.size()), U.rows(), height, Z.cols(), Blocking<S>::nc);
  const auto tiles = [&](Index sample) { return ProductTiles<S>::boundary(Z.cols(), sample); };
  for_each_part(executor, split, U.rows(), multiples_of(height, U.rows()), Z.cols(), tiles,
                [&](Interval rows, Interval samples) {
                  packed_product_part<S>(no_columns, nullptr, columns_in(Z, samples), columns_in(y, samples),
                                         term.from(samples.first), rows, true);
                });
}

/// Z = L^T X     L (long, rank), X (long, samples), Z (rank, samples). A x of a row-major A (rank, in) is
/// thin_product(A.transpose(), x, z). For float and double with run-time sizes, it does not allocate, and does not copy
/// operands with contiguous columns; otherwise it is Eigen's product. The result has the same bits for any executor.
template <class Factor>
void thin_product(const Factor& L, const auto& X, auto&& Z, Executor* executor = nullptr) {
  eigen_assert(L.rows() == X.rows() && Z.rows() == L.cols() && Z.cols() == X.cols());
  if constexpr (thin_by_tiles<Factor>) {
    thin_product_by_tiles<typename Factor::Scalar>(L, X, Z, executor);
  } else {
    Z.noalias() = L.transpose() * X;
  }
}

/// D += X G^T     X (long, samples), G (rank, samples), D (long, rank). The gradient g x^T of a row-major A is
/// add_thin_outer(x, g, dA.transpose()). Otherwise as above.
template <class Gradient>
void add_thin_outer(const auto& X, const auto& G, Gradient&& D, Executor* executor = nullptr) {
  eigen_assert(X.cols() == G.cols() && D.rows() == X.rows() && D.cols() == G.rows());
  if constexpr (thin_by_tiles<std::remove_cvref_t<Gradient>>) {
    add_thin_outer_by_tiles<typename std::remove_cvref_t<Gradient>::Scalar>(X, G, D, executor);
  } else {
    D.noalias() += X * G.transpose();
  }
}

/// y += U Z     U (out, rank), Z (rank, samples), y (out, samples). dx += A^T g of a row-major A is
/// add_low_rank(A.transpose(), g, dx). Otherwise as above.
template <class Factor>
void add_low_rank(const Factor& U, const auto& Z, auto&& y, Executor* executor = nullptr) {
  eigen_assert(U.cols() == Z.rows() && y.rows() == U.rows() && y.cols() == Z.cols());
  if constexpr (thin_by_tiles<Factor>) {
    add_low_rank_by_tiles<typename Factor::Scalar>(U, Z, y, executor);
  } else {
    y.noalias() += U * Z;
  }
}

}  // namespace lora::inline LORA_ABI::detail
