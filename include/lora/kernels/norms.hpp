#pragma once
/// Columns brought to a common size, and their gradients.
///
///   centered: LayerNorm     h = (x - mean) s,   s = 1 / sqrt(mean (x - mean)^2 + eps)
///   not centered: RmsNorm   h = x s,            s = 1 / sqrt(mean x^2 + eps)
///
///   y = g .* h + b     dx = s (g' - mean g' - h mean(g' h)),  g' = g .* dy     dg = sum of dy .* h     db = sum of dy
///
/// without b and mean g' if not centered. The mean is taken in two passes: its rounded value m first, then the mean of
/// x - m, which is what m lacks. So numbers far from zero lose no more than they had lost when they were rounded to S.
///
/// Sums are those of kernels/softmax.hpp: the bits of a column depend on its values alone.

#include "lora/kernels/packed_product.hpp"
#include "lora/kernels/softmax.hpp"
#include "lora/kernels/split.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <type_traits>

namespace lora::inline LORA_ABI::detail {

/// A packet of one number, for scalars that have no packets.
template <class S>
struct OneLane {
  using Scalar = S;
  using Packet = S;
  using Narrower = OneLane;
  static constexpr int lanes = 1;
  static constexpr Index line = 1;
  static Packet zero() { return S(0); }
  static Packet constant(const S& value) { return value; }
  static Packet load(const S* from) { return *from; }
  static void store(S* to, const Packet& from) { *to = from; }
  static Packet add(const Packet& a, const Packet& b) { return a + b; }
  static Packet subtract(const Packet& a, const Packet& b) { return a - b; }
  static Packet multiply(const Packet& a, const Packet& b) { return a * b; }
  static Packet multiply_add(const Packet& a, const Packet& b, const Packet& c) { return a * b + c; }
};
template <class S>
using NormSimd = std::conditional_t<has_packets<S>, Simd<S>, OneLane<S>>;

/// A cache line of a column.
template <class V>
using Line = std::array<typename V::Scalar, static_cast<std::size_t>(V::line)>;

/// The line of a column that begins with element `first`: where it lies, or a copy that is filled up with `rest`.
template <class V>
const typename V::Scalar* line_at(const auto& column, Index first, Line<V>& copy, typename V::Scalar rest) {
  const Index count = std::min(V::line, column.size() - first);
  if (count == V::line) return column.data() + first;
  copy.fill(rest);
  std::copy_n(column.data() + first, count, copy.begin());
  return copy.data();
}

/// Columns, g and b are contiguous; moments (moment_count, samples) has m, mean - m and s of each column, or s alone.
template <class S, bool Centered>
class Norms {
  using V = NormSimd<S>;
  using Packet = typename V::Packet;
  using Sums = LineSums<V>;
  using Line = detail::Line<V>;

 public:
  static constexpr Index moment_count = Centered ? 3 : 1;
  using Moments = MutableColumns<S>;

  static void forward(const Columns<S>& x, const Vector<S>& g, const Vector<S>& b, const S& eps, MutableColumns<S>& y,
                      Moments* moments, Executor* executor) {
    for_columns(x, executor, [&](Index j) {
      const Column column = column_of(x.col(j), eps);
      for (Index first = 0; first < x.rows(); first += V::line) {
        Line copies[3];
        const S* const from = line_at<V>(x.col(j), first, copies[0], S(0));
        const S* const weight = line_at<V>(g, first, copies[1], S(0));
        if constexpr (Centered) {
          const S* const bias = line_at<V>(b, first, copies[2], S(0));
          write(y.col(j), first, [&](Index at) {
            return V::multiply_add(column.normalized(from + at), V::load(weight + at), V::load(bias + at));
          });
        } else {
          write(y.col(j), first,
                [&](Index at) { return V::multiply(column.normalized(from + at), V::load(weight + at)); });
        }
      }
      if (moments != nullptr) column.save(&(*moments)(0, j));
    });
  }

  /// dx may be the memory of dy.
  static void backward(const Columns<S>& x, const Vector<S>& g, const Columns<S>& moments, const Columns<S>& dy,
                       MutableColumns<S>& dx, Executor* executor) {
    for_columns(x, executor, [&](Index j) {
      const Column column(moments.data() + j * moments.outerStride());
      const auto each_line = [&](auto&& f) {
        for (Index first = 0; first < x.rows(); first += V::line) {
          Line copies[3];
          const S* const from = line_at<V>(x.col(j), first, copies[0], S(0));
          const S* const weight = line_at<V>(g, first, copies[1], S(0));
          const S* const out = line_at<V>(dy.col(j), first, copies[2], S(0));
          f(
              first, [=](Index at) { return column.normalized(from + at); },
              [=](Index at) { return V::multiply(V::load(weight + at), V::load(out + at)); });
        }
      };
      Sums sums, products;
      each_line([&](Index, const auto& h, const auto& scaled) {
        for (int p = 0; p < Sums::packets; ++p) {
          const Packet out = scaled(p * V::lanes);
          if constexpr (Centered) sums.sums[p] = V::add(sums.sums[p], out);
          products.sums[p] = V::multiply_add(out, h(p * V::lanes), products.sums[p]);
        }
      });
      const S size = static_cast<S>(static_cast<double>(x.rows()));
      const Packet mean = V::constant(sums.total() / size), slope = V::constant(S(0) - products.total() / size);
      const Packet scale = V::constant(column.s);
      each_line([&](Index first, const auto& h, const auto& scaled) {
        write(dx.col(j), first, [&](Index at) {
          Packet out = scaled(at);
          if constexpr (Centered) out = V::subtract(out, mean);
          return V::multiply(V::multiply_add(h(at), slope, out), scale);
        });
      });
    });
  }

  /// sums (features, 2): adds the sum of dy .* h to the first column and, if centered, that of dy to the second.
  static void add_gradients(const Columns<S>& x, const Columns<S>& moments, const Columns<S>& dy,
                            MutableColumns<S> sums, Executor* executor) {
    const Split split = Split::choose<S>(cost * static_cast<double>(x.size()), 2.5e5, x.rows(), V::line, 1, 1);
    for_each_part(executor, split, x.rows(), multiples_of(V::line, x.rows()), 1, multiples_of(1, 1),
                  [&](Interval rows, Interval) {
                    for (Index j = 0; j < x.cols(); ++j) {
                      const Column column(moments.data() + j * moments.outerStride());
                      for (Index first = rows.first; first < rows.last; first += V::line) {
                        Line copies[4];
                        const S* const from = line_at<V>(x.col(j), first, copies[0], S(0));
                        const S* const out = line_at<V>(dy.col(j), first, copies[1], S(0));
                        const S* const weight = line_at<V>(sums.col(0), first, copies[2], S(0));
                        write(sums.col(0), first, [&](Index at) {
                          return V::multiply_add(V::load(out + at), column.normalized(from + at), V::load(weight + at));
                        });
                        if constexpr (Centered) {
                          const S* const bias = line_at<V>(sums.col(1), first, copies[3], S(0));
                          write(sums.col(1), first,
                                [&](Index at) { return V::add(V::load(bias + at), V::load(out + at)); });
                        }
                      }
                    }
                  });
  }

 private:
  /// What is known of a column.
  struct Column {
    S m = S(0), rest = S(0), s = S(0);

    Column() = default;
    explicit Column(const S* saved) : s(saved[moment_count - 1]) {
      if constexpr (Centered) m = saved[0], rest = saved[1];
    }
    void save(S* to) const {
      if constexpr (Centered) to[0] = m, to[1] = rest;
      to[moment_count - 1] = s;
    }
    EIGEN_ALWAYS_INLINE Packet normalized(const S* x) const {
      if constexpr (Centered) {
        const Packet centered = V::subtract(V::subtract(V::load(x), V::constant(m)), V::constant(rest));
        return V::multiply(centered, V::constant(s));
      } else {
        return V::multiply(V::load(x), V::constant(s));
      }
    }
  };

  static Column column_of(const auto& x, const S& eps) {
    using std::sqrt;
    const S size = static_cast<S>(static_cast<double>(x.size()));
    Column column;
    Line copy;
    Sums squares;
    S variance;
    if constexpr (Centered) {
      Sums sums, rests;
      for (Index first = 0; first < x.size(); first += V::line) {
        const S* const from = line_at<V>(x, first, copy, S(0));
        for (int p = 0; p < Sums::packets; ++p) sums.sums[p] = V::add(sums.sums[p], V::load(from + p * V::lanes));
      }
      column.m = sums.total() / size;
      const Packet m = V::constant(column.m);
      for (Index first = 0; first < x.size(); first += V::line) {
        const S* const from = line_at<V>(x, first, copy, column.m);
        for (int p = 0; p < Sums::packets; ++p) {
          const Packet difference = V::subtract(V::load(from + p * V::lanes), m);
          rests.sums[p] = V::add(rests.sums[p], difference);
          squares.sums[p] = V::multiply_add(difference, difference, squares.sums[p]);
        }
      }
      column.rest = rests.total() / size;
      variance = squares.total() / size - column.rest * column.rest;
      if (variance < S(0)) variance = S(0);  // of equal numbers, by rounding
    } else {
      for (Index first = 0; first < x.size(); first += V::line) {
        const S* const from = line_at<V>(x, first, copy, S(0));
        for (int p = 0; p < Sums::packets; ++p) {
          const Packet some = V::load(from + p * V::lanes);
          squares.sums[p] = V::multiply_add(some, some, squares.sums[p]);
        }
      }
      variance = squares.total() / size;
    }
    column.s = S(1) / sqrt(variance + eps);
    return column;
  }

  /// Writes f(0), f(lanes), ... to the line of a column that begins with element `first`, as far as the column goes.
  EIGEN_ALWAYS_INLINE static void write(auto&& column, Index first, const auto& f) {
    const Index count = std::min(V::line, column.size() - first);
    Line line;
    S* const to = count == V::line ? column.data() + first : line.data();
    for (int p = 0; p < Sums::packets; ++p) V::store(to + p * V::lanes, f(Index(p) * V::lanes));
    if (count < V::line) std::copy_n(line.begin(), count, column.data() + first);
  }

  static constexpr double cost = 4;  // of an element, about as many multiply-adds

  static void for_columns(const Columns<S>& x, Executor* executor, const auto& f) {
    for_each_columns<S>(executor, x.rows(), x.cols(), cost, [&](Interval columns) {
      for (Index j = columns.first; j < columns.last; ++j) f(j);
    });
  }
};

}  // namespace lora::inline LORA_ABI::detail
