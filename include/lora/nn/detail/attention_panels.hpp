#pragma once
/// Attention of one sequence and one key head, a panel of queries at a time.
///
///   forward, for each panel      P = K^T Q, softmax down its columns, O = V P
///   backward                     P again, from the kept log of the sums;  E = P .* (V^T dO - t), t = sums of dO .* O;
///                                dV += dO P^T,  dQ = s K E,  dK += Q E^T
///   with dropout, masks M        O = V (M .* P),  E = P .* (M .* V^T dO - t),  dV += dO (M .* P)^T
///
/// P is (keys, queries of the panel), so softmax runs down contiguous columns; Q is scaled by s as it is copied. K, V
/// and their transposes are copied once, in the order in which tiles read them, and a panel of P stays in L2. All sizes
/// depend on the sequence alone, hence so do all bits.

#include "lora/adapters/dropout.hpp"
#include "lora/core/sequences.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/elementwise.hpp"
#include "lora/kernels/pack_rows.hpp"
#include "lora/kernels/packed_product.hpp"
#include "lora/kernels/packet_math.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

namespace lora::inline LORA_ABI::detail {

/// The products, of copies padded to whole packets: a copy of X (rows, columns) has columns `padded(rows)` apart.
/// keys_of(first, count): the keys that some of these queries see, which may be less than all keys.
template <class S>
struct AttentionProducts {
  using Tiles = ProductTiles<S>;
  static constexpr Index lanes = Simd<S>::lanes, mr = Blocking<S>::mr;
  static constexpr Index slack = mr + Simd<S>::line;  ///< distance(keys) - keys is less

  /// The rows that tiles read of a matrix with this many.
  static Index padded(Index rows) { return rows / mr * mr + Tiles::packets(rows % mr) * lanes; }
  /// The distance of the columns of P: whole panels, and not a power of two.
  static Index distance(Index keys) { return (keys + mr - 1) / mr * mr + Simd<S>::line; }

  static void copy(const Columns<S>& X, const S& scale, S* to) {
    const Index stride = padded(X.rows());
    for (Index j = 0; j < X.cols(); ++j, to += stride) {
      multiply_by(scale, X.data() + j * X.outerStride(), X.rows(), to);
      std::fill(to + X.rows(), to + stride, S(0));
    }
  }
  static Index transposed_size(Index rows, Index keys) { return rows * padded(keys); }
  static void copy_transposed(const Columns<S>& X, S* to) {
    for (Index first = 0; first < X.cols(); first += mr) {
      const Index count = std::min(mr, X.cols() - first), width = Tiles::packets(count) * lanes;
      pack_rows(X.data() + first * X.outerStride(), X.outerStride(), X.rows(), count, width, 1, to + first * X.rows());
    }
  }

  /// P(k, c) = sum over rows of X(., k) q(., c)
  static void dots(const S* transposed, Index rows, Index all_keys, Interval keys, const S* q, Index queries, S* P,
                   Index distance, const auto& keys_of) {
    const Index stride = padded(rows);
    TileSum<S> sum;
    sum.scalar_stride = stride;
    sum.scalar_step = 1;
    sum.steps = rows;
    for (Index first = keys.first / mr * mr; first < keys.last; first += mr) {
      const Index vectors = Tiles::packets(std::min(mr, all_keys - first));
      sum.vectors = transposed + first * rows;
      sum.vector_step = vectors * lanes;
      Tiles::for_each(queries, [&](Index query, Index count) {
        const Interval seen = keys_of(query, count);
        if (seen.last <= first || seen.first >= first + mr) return;
        sum.scalars = q + query * stride;
        Tiles::get(count, vectors)(&sum, 1, P + first + query * distance, distance, vectors * lanes, false);
      });
    }
  }

  /// out(., c) = sum over keys of X(., k) P(k, c)
  static void combine(const S* X, Index rows, Interval keys, const S* P, Index distance, Index queries, S* out,
                      const auto& keys_of) {
    const Index stride = padded(rows);
    TileSum<S> sum;
    sum.vector_step = stride;
    sum.scalar_stride = distance;
    sum.scalar_step = 1;
    for (Index first = keys.first; first < keys.last; first += Blocking<S>::kc) {
      for (Index row = 0; row < rows; row += mr) {
        const Index vectors = Tiles::packets(std::min(mr, rows - row));
        Tiles::for_each(queries, [&](Index query, Index count) {
          const Interval seen = keys_of(query, count);
          const Index from = std::max(first, seen.first), to = std::min(first + Blocking<S>::kc, seen.last);
          if (from >= to) return;
          sum.vectors = X + row + from * stride;
          sum.scalars = P + from + query * distance;
          sum.steps = to - from;
          Tiles::get(count, vectors)(&sum, 1, out + row + query * stride, stride, vectors * lanes, from > seen.first);
        });
      }
    }
  }

  /// out(., k) += sum over queries of X(., c) P(k, c).   first_query(k): the first that sees a key from k on
  static void add_outer(const S* X, Index rows, Index queries, const S* P, Index distance, Interval keys, S* out,
                        const auto& first_query) {
    const Index stride = padded(rows);
    TileSum<S> sum;
    sum.vector_step = stride;
    sum.scalar_stride = 1;
    sum.scalar_step = distance;
    Tiles::for_each(keys.last - keys.first, [&](Index tile, Index count) {
      const Index key = keys.first + tile, from = first_query(key);
      sum.scalars = P + key + from * distance;
      sum.steps = queries - from;
      for (Index row = 0; row < rows; row += mr) {
        const Index vectors = Tiles::packets(std::min(mr, rows - row));
        sum.vectors = X + row + from * stride;
        Tiles::get(count, vectors)(&sum, 1, out + row + key * stride, stride, vectors * lanes, true);
      }
    });
  }

  /// p = exp(x - the largest x) for the keys that a query sees, 0 for the others of the panel. Returns the largest and
  /// the sum. Less than a packet more on both sides is read and written.
  static std::pair<S, S> exponentials(S* x, Interval panel, Interval seen) {
    const Interval own = whole(panel, seen, x);
    auto largest = V::constant(-std::numeric_limits<S>::infinity());
    for (Index k = own.first; k < own.last; k += lanes) {
      auto score = V::load(x + k);
      if (!inside(k, seen)) {
        score = V::select(lanes_in(k, seen), score, V::constant(-std::numeric_limits<S>::infinity()));
        V::store(x + k, score);
      }
      largest = V::maximum(largest, score);
    }
    std::array<S, std::size_t(lanes)> of_lanes;
    V::store(of_lanes.data(), largest);
    const S most = *std::max_element(of_lanes.begin(), of_lanes.end());
    const auto shift = V::constant(most);
    auto sum = V::zero();
    for (Index k = own.first; k < own.last; k += lanes) {
      const auto e = PacketMath<V>::exp(V::subtract(V::load(x + k), shift));
      V::store(x + k, e);
      sum = V::add(sum, e);
    }
    return {most, V::sum(sum)};
  }
  /// p = exp(x - lse), e = p (e - t) for the keys that a query sees, 0 for the others. As above.
  static void probabilities(S* x, S* e, Interval panel, Interval seen, const S& lse, const S& t) {
    const Interval own = whole(panel, seen, x);
    whole(panel, seen, e);
    const auto sum = V::constant(lse), mean = V::constant(t);
    for (Index k = own.first; k < own.last; k += lanes) {
      auto p = PacketMath<V>::exp(V::subtract(V::load(x + k), sum));
      auto product = V::multiply(p, V::subtract(V::load(e + k), mean));
      if (!inside(k, seen)) {
        const auto mask = lanes_in(k, seen);
        p = V::masked(p, mask);
        product = V::masked(product, mask);
      }
      V::store(x + k, p);
      V::store(e + k, product);
    }
  }
  /// The sum of a_i b_i of two columns of copies.
  static S dot(const S* a, const S* b, Index rows) {
    auto sum = V::zero();
    for (Index i = 0; i < rows; i += lanes) sum = V::multiply_add(V::load(a + i), V::load(b + i), sum);
    return V::sum(sum);
  }

 private:
  using V = Simd<S>;
  /// The packets that contain keys that are seen; those before and after them in the panel become 0.
  static Interval whole(Interval panel, Interval seen, S* column) {
    const Interval own{seen.first / lanes * lanes, (seen.last + lanes - 1) / lanes * lanes};
    if (panel.first < own.first) std::fill(column + panel.first, column + own.first, S(0));
    if (own.last < panel.last) std::fill(column + own.last, column + panel.last, S(0));
    return own;
  }
  static bool inside(Index packet, Interval seen) { return seen.first <= packet && packet + lanes <= seen.last; }
  EIGEN_ALWAYS_INLINE static typename V::Packet lanes_in(Index packet, Interval seen) {
    static constexpr auto numbers = [] {
      std::array<S, std::size_t(lanes)> made{};
      for (std::size_t k = 0; k < made.size(); ++k) made[k] = static_cast<S>(k);
      return made;
    }();
    const auto lane = V::load(numbers.data());
    const auto from = V::constant(static_cast<S>(seen.first - packet)),
               to = V::constant(static_cast<S>(seen.last - packet));
    return V::masked(V::at_most(from, lane), V::less(lane, to));
  }
};

/// For scalars without packets, in the plainest way.
template <class S>
  requires(!has_packets<S>)
struct AttentionProducts<S> {
  static constexpr Index slack = 0;
  static Index padded(Index rows) { return rows; }
  static Index distance(Index keys) { return keys; }
  static Index transposed_size(Index rows, Index keys) { return rows * keys; }
  static void copy(const Columns<S>& X, const S& scale, S* to) {
    Eigen::Map<Matrix<S>>(to, X.rows(), X.cols()) = X * scale;
  }
  static void copy_transposed(const Columns<S>& X, S* to) { copy(X, S(1), to); }
  static void dots(const S* X, Index rows, Index, Interval keys, const S* q, Index queries, S* P, Index distance,
                   const auto&) {
    for (Index c = 0; c < queries; ++c) {
      for (Index k = keys.first; k < keys.last; ++k) {
        S sum(0);
        for (Index i = 0; i < rows; ++i) sum = sum + X[i + k * rows] * q[i + c * rows];
        P[k + c * distance] = sum;
      }
    }
  }
  static void combine(const S* X, Index rows, Interval keys, const S* P, Index distance, Index queries, S* out,
                      const auto&) {
    for (Index c = 0; c < queries; ++c) {
      for (Index i = 0; i < rows; ++i) {
        S sum(0);
        for (Index k = keys.first; k < keys.last; ++k) sum = sum + X[i + k * rows] * P[k + c * distance];
        out[i + c * rows] = sum;
      }
    }
  }
  static void add_outer(const S* X, Index rows, Index queries, const S* P, Index distance, Interval keys, S* out,
                        const auto&) {
    for (Index k = keys.first; k < keys.last; ++k) {
      for (Index i = 0; i < rows; ++i) {
        for (Index c = 0; c < queries; ++c)
          out[i + k * rows] = out[i + k * rows] + X[i + c * rows] * P[k + c * distance];
      }
    }
  }
  static std::pair<S, S> exponentials(S* x, Interval panel, Interval seen) {
    using std::exp;
    const S most = Eigen::Map<const Vector<S>>(x + seen.first, seen.last - seen.first).maxCoeff();
    S sum(0);
    for (Index k = panel.first; k < panel.last; ++k) {
      x[k] = k < seen.first || k >= seen.last ? S(0) : exp(x[k] - most);
      sum = sum + x[k];
    }
    return {most, sum};
  }
  static void probabilities(S* x, S* e, Interval panel, Interval seen, const S& lse, const S& t) {
    using std::exp;
    for (Index k = panel.first; k < panel.last; ++k) {
      x[k] = k < seen.first || k >= seen.last ? S(0) : exp(x[k] - lse);
      e[k] = x[k] * (e[k] - t);
    }
  }
  static S dot(const S* a, const S* b, Index rows) {
    S sum(0);
    for (Index i = 0; i < rows; ++i) sum = sum + a[i] * b[i];
    return sum;
  }
};

/// Which keys a query sees: of a sequence with `keys` keys and `queries` queries, whose last query is beside the last
/// key.
struct AttentionRange {
  Index queries = 0, keys = 0;
  bool causal = false;
  Index window = 0;  ///< 0: no bound

  Index last(Index query) const { return causal ? keys - queries + query + 1 : keys; }
  Index first(Index query) const { return window > 0 ? std::max<Index>(0, last(query) - window) : 0; }
  /// Of `count` queries together.
  Interval of(Index query, Index count) const { return {first(query), last(query + count - 1)}; }
  /// The first query that sees a key from `key` on.
  Index first_query(Index key) const { return causal ? std::max<Index>(0, key - keys + queries) : 0; }
};

/// The masks of the probabilities of one sequence: entry (k, c) of head h is that of key k and of the sample of query
/// c, in stream + h.
struct AttentionMasks {
  double probability = 0;
  std::uint64_t stream = 0;  ///< of the first head
  Pass pass = {};            ///< without segments
  Index first = 0;           ///< the column of the pass that is the first query
};

/// The queries and keys of one sequence and key head; heads: how many query heads share the key head. q, o, d_o and dq
/// have the rows of all of them.
template <class S>
class AttentionHead {
  using Products = AttentionProducts<S>;

 public:
  /// Queries of a panel: P has about 16,384 numbers.
  static Index panel(Index keys) { return std::clamp<Index>(panel_size / keys / 8 * 8, min_panel, max_panel); }

  /// Numbers of memory for any sequence with at most this many keys.
  static Index forward_size(Index rows, Index keys) {
    return aligned(Products::transposed_size(rows, keys)) + aligned(Products::padded(rows) * keys) +
           2 * aligned(Products::padded(rows) * max_panel) + largest_panel(keys) + aligned(keys);
  }
  static Index backward_size(Index rows, Index keys) {
    return 2 * aligned(Products::transposed_size(rows, keys)) + 3 * aligned(Products::padded(rows) * keys) +
           3 * aligned(Products::padded(rows) * max_panel) + 2 * largest_panel(keys) + aligned(keys);
  }

  /// lse: null, or of the first head and query; the next query's is `lse_stride` on. masks: null without dropout.
  static void forward(const Columns<S>& q, const Columns<S>& k, const Columns<S>& v, const AttentionRange& range,
                      Index heads, const S& scale, const AttentionMasks* masks, MutableColumns<S> o, S* lse,
                      Index lse_stride, S* memory) {
    using std::log;
    const Index rows = k.rows(), keys = k.cols(), most = panel(keys), distance = Products::distance(keys);
    const Index stride = Products::padded(rows);
    S* const kt = take(memory, Products::transposed_size(rows, keys));
    S* const vc = take(memory, stride * keys);
    S* const Q = take(memory, stride * most);
    S* const O = take(memory, stride * most);
    S* const P = take(memory, distance * most);
    Eigen::Map<Vector<S>> mask(take(memory, keys), keys);
    Products::copy_transposed(k, kt);
    Products::copy(v, S(1), vc);
    for (Index h = 0; h < heads; ++h) {
      const std::optional<DropoutMask> drops = masks_of(masks, h);
      for (Index first = 0; first < range.queries; first += most) {
        const Index count = std::min(most, range.queries - first);
        const Interval seen = range.of(first, count);
        const auto keys_of = [&](Index query, Index some) { return range.of(first + query, some); };
        Products::copy(part_of(q, h * rows, rows, first, count), scale, Q);
        Products::dots(kt, rows, keys, seen, Q, count, P, distance, keys_of);
        std::array<S, std::size_t(max_panel)> largest, sums;
        for (Index c = 0; c < count; ++c) {
          const auto place = std::size_t(c);
          std::tie(largest[place], sums[place]) =
              Products::exponentials(P + c * distance, seen, range.of(first + c, 1));
          if (!drops) continue;
          drops->fill(mask, masks->first + first + c);
          multiply(P + c * distance, mask, range.of(first + c, 1));
        }
        Products::combine(vc, rows, seen, P, distance, count, O, keys_of);
        for (Index c = 0; c < count; ++c) {
          const auto place = std::size_t(c);
          multiply_by(S(1) / sums[place], O + c * stride, rows, &o(h * rows, first + c));
          if (lse != nullptr) lse[h + (first + c) * lse_stride] = largest[place] + log(sums[place]);
        }
      }
    }
  }

  static void backward(const Columns<S>& q, const Columns<S>& k, const Columns<S>& v, const AttentionRange& range,
                       Index heads, const S& scale, const AttentionMasks* masks, const Columns<S>& o, const S* lse,
                       Index lse_stride, const Columns<S>& d_o, MutableColumns<S> dq, MutableColumns<S> dk,
                       MutableColumns<S> dv, S* memory) {
    const Index rows = k.rows(), keys = k.cols(), most = panel(keys), distance = Products::distance(keys);
    const Index stride = Products::padded(rows);
    S* const kt = take(memory, Products::transposed_size(rows, keys));
    S* const vt = take(memory, Products::transposed_size(rows, keys));
    S* const kc = take(memory, stride * keys);
    S* const dkc = take(memory, stride * keys);
    S* const dvc = take(memory, stride * keys);
    S* const Q = take(memory, stride * most);
    S* const dO = take(memory, stride * most);
    S* const dQ = take(memory, stride * most);
    S* const P = take(memory, distance * most);
    S* const E = take(memory, distance * most);
    Eigen::Map<Vector<S>> mask(take(memory, keys), keys);
    Products::copy_transposed(k, kt);
    Products::copy_transposed(v, vt);
    Products::copy(k, S(1), kc);
    std::fill_n(dkc, stride * keys, S(0));
    std::fill_n(dvc, stride * keys, S(0));
    for (Index h = 0; h < heads; ++h) {
      const std::optional<DropoutMask> drops = masks_of(masks, h);
      for (Index first = 0; first < range.queries; first += most) {
        const Index count = std::min(most, range.queries - first);
        const Interval seen = range.of(first, count);
        const auto keys_of = [&](Index query, Index some) { return range.of(first + query, some); };
        const auto first_query = [&](Index key) {
          return std::clamp<Index>(range.first_query(key) - first, 0, count - 1);
        };
        Products::copy(part_of(q, h * rows, rows, first, count), scale, Q);
        Products::copy(part_of(d_o, h * rows, rows, first, count), S(1), dO);
        Products::copy(part_of(o, h * rows, rows, first, count), S(1), dQ);
        Products::dots(kt, rows, keys, seen, Q, count, P, distance, keys_of);
        Products::dots(vt, rows, keys, seen, dO, count, E, distance, keys_of);
        for (Index c = 0; c < count; ++c) {
          const S t = Products::dot(dO + c * stride, dQ + c * stride, rows);
          const Interval own = range.of(first + c, 1);
          if (drops) {
            drops->fill(mask, masks->first + first + c);
            multiply(E + c * distance, mask, own);
          }
          Products::probabilities(P + c * distance, E + c * distance, seen, own, lse[h + (first + c) * lse_stride], t);
          if (drops) multiply(P + c * distance, mask, own);
        }
        Products::add_outer(dO, rows, count, P, distance, seen, dvc, first_query);
        Products::combine(kc, rows, seen, E, distance, count, dQ, keys_of);
        Products::add_outer(Q, rows, count, E, distance, seen, dkc, first_query);
        write(dQ, stride, scale, part_of(dq, h * rows, rows, first, count));
      }
    }
    write(dkc, stride, S(1), dk);
    write(dvc, stride, S(1), dv);
  }

 private:
  static constexpr Index panel_size = 16384, min_panel = 16, max_panel = 64;
  static Index largest_panel(Index keys) {
    return aligned(std::max(panel_size, min_panel * keys) + Products::slack * max_panel);
  }
  static std::optional<DropoutMask> masks_of(const AttentionMasks* masks, Index head) {
    if (masks == nullptr) return std::nullopt;
    return DropoutMask(masks->probability, masks->stream + static_cast<std::uint64_t>(head), masks->pass);
  }
  static void multiply(S* column, const Eigen::Map<Vector<S>>& mask, Interval seen) {
    multiply_each(column + seen.first, mask.data() + seen.first, seen.last - seen.first, column + seen.first);
  }
  /// A multiple of a cache line.
  static Index aligned(Index size) { return (size + 15) / 16 * 16; }
  static S* take(S*& memory, Index size) { return std::exchange(memory, memory + aligned(size)); }
  static void write(const S* from, Index stride, const S& scale, MutableColumns<S> to) {
    for (Index j = 0; j < to.cols(); ++j) multiply_by(scale, from + j * stride, to.rows(), &to(0, j));
  }
};

}  // namespace lora::inline LORA_ABI::detail
