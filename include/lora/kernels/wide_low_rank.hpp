#pragma once
/// M += s B A of low-rank factors, in a type that is wider than theirs: what merging adds to a weight before it is
/// rounded.
///
/// Column by column, on rows that stay in L1; a general product in the wide type would cost every program a second of
/// compile time. A column of the delta is summed before it is added: it is smaller than the weight, and so are its
/// roundings.

#include "lora/kernels/elementwise.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

namespace lora::inline LORA_ABI::detail {

template <class W>
struct PlusFourMultiples {
  std::array<W, 4> factors;
  /// sum + the four columns, each times its factor
  template <class V, class Packet = typename V::Packet>
  Packet packet(const Packet& sum, const Packet& x0, const Packet& x1, const Packet& x2, const Packet& x3) const {
    const Packet first = V::multiply_add(V::constant(factors[1]), x1, V::multiply(V::constant(factors[0]), x0));
    const Packet last = V::multiply_add(V::constant(factors[3]), x3, V::multiply(V::constant(factors[2]), x2));
    return V::add(sum, V::add(first, last));
  }
  /// y + that
  template <class V, class Packet = typename V::Packet>
  Packet packet(const Packet& y, const Packet& sum, const Packet& x0, const Packet& x1, const Packet& x2,
                const Packet& x3) const {
    return V::add(y, packet<V>(sum, x0, x1, x2, x3));
  }
};

/// M += s B A[:, first : first + M.cols()]     M (out, any), B (out, rank), A (rank, in). Cost: 2 rank operations for
/// each element of M, and a copy of B in W.
template <class W>
void add_wide_low_rank(const W& s, const auto& B, const auto& A, Index first, Matrix<W>& M) {
  using V = Simd<W>;
  constexpr Index tile = 256;
  const Index rank = B.cols(), padded = (rank + 3) / 4 * 4,
              rows = B.rows();  // four columns at a time, the last of zeros
  Matrix<W> wide(rows, padded);
  std::fill_n(wide.data() + rows * rank, rows * (padded - rank), W(0));
  std::transform(B.data(), B.data() + B.size(), wide.data(), [](const auto& b) { return static_cast<W>(b); });
  std::array<W, std::size_t(tile)> delta;
  for (Index row = 0; row < rows; row += tile) {
    const Index height = std::min(tile, rows - row);
    for (Index j = 0; j < M.cols(); ++j) {
      const auto a = [&](Index k) { return k < rank ? s * static_cast<W>(A(k, first + j)) : W(0); };
      const W* const sum = delta.data();
      std::fill_n(delta.data(), height, W(0));
      for (Index k = 0; k < padded; k += 4) {
        const PlusFourMultiples<W> f{{a(k), a(k + 1), a(k + 2), a(k + 3)}};
        const W* const b = wide.data() + row + k * rows;
        if (k + 4 < padded) {
          map_elements<V>(f, height, delta.data(), sum, b, b + rows, b + 2 * rows, b + 3 * rows);
        } else {
          W* const to = &M(row, j);
          map_elements<V>(f, height, to, static_cast<const W*>(to), sum, b, b + rows, b + 2 * rows, b + 3 * rows);
        }
      }
    }
  }
}

}  // namespace lora::inline LORA_ABI::detail
