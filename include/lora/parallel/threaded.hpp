#pragma once
/// A packed weight whose products several threads share, with the same results to the bit as on one.
///
/// Each product is cut into parts, and whoever is free takes the next:
///
///   y = W0 x + U Z       rows of W0 (whole panels) times samples (whole tiles)
///   dx = W0^T dy + V G   columns of W0 (as many as a panel is high) times samples (whole passes)
///   Z = T X              samples
///   D += X G^T           rows of D
///
/// No sum is ever cut, and where cuts are is decided by the shape alone. So every number comes out of the same sequence
/// of operations for any number of threads, and in Packed itself.

#include "lora/base/packed.hpp"
#include "lora/parallel/workers.hpp"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>

namespace lora {

namespace detail {

/// How many parts a product is cut into, from its multiply-adds in single precision.
struct Parts {
  static constexpr double least = 1e5;  ///< in a part: a microsecond or two
  static constexpr Index most = 32;

  Index of_rows = 1;
  Index of_samples = 1;
  double work = 0;

  /// Whole if it is less than `worth`, else in parts with no fewer rows and samples than these.
  template <class S>
  static Parts choose(double size, double worth, Index rows, Index least_rows, Index samples, Index least_samples) {
    size *= static_cast<double>(sizeof(S)) / sizeof(float);
    if (size < worth) return {};
    const Index wanted = size > least * most ? most : std::max<Index>(static_cast<Index>(size / least), 1);
    const Index of_samples = std::clamp<Index>(samples / least_samples, 1, wanted);
    return {std::clamp<Index>(wanted / of_samples, 1, std::max<Index>(rows / least_rows, 1)), of_samples, size};
  }

  Index count() const { return of_rows * of_samples; }

  /// Part k of `parts` of something of this size, between places where it may be cut.
  static Interval range(Index k, Index parts, Index size, const auto& boundary) {
    return {boundary(size * k / parts), boundary(size * (k + 1) / parts)};
  }
};

}  // namespace detail

/// W0 (out, in) as Packed holds it, and threads to multiply with:
///
///   auto workers = std::make_shared<lora::Workers>(2);
///   lora::Adapted<lora::Threaded<float>, lora::Lora<float>> layer({std::move(W0), workers}, {.rank = 8}, rng);
///
/// Any number of layers share one Workers, and copies share W0 as well. Everything else is as in Packed.
template <class S>
class Threaded {
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;
  using Term = detail::LowRankTerm<S>;
  using Layout = detail::PanelLayout<S>;
  using Parts = detail::Parts;
  using Interval = detail::Interval;

 public:
  using Scalar = S;
  static constexpr int Out = Dynamic;
  static constexpr int In = Dynamic;

  /// Throws StateError if there are no workers.
  Threaded(Packed<S> W0, std::shared_ptr<Workers> workers) : packed_(std::move(W0)), workers_(std::move(workers)) {
    if (workers_ == nullptr) throw StateError("Threaded: the workers are a null pointer, expected threads to share");
  }

  void apply(const Columns& x, MutableColumns y) const { product(x, y, {}); }
  void apply(const Columns& x, MutableColumns y, const Columns& U, const Columns& Z) const { product(x, y, {U, Z}); }
  void apply_transposed(const Columns& dy, MutableColumns dx) const { transposed_product(dy, dx, {}); }
  void apply_transposed(const Columns& dy, MutableColumns dx, const Columns& V, const Columns& G) const {
    transposed_product(dy, dx, {V, G});
  }

  /// As the plan of the packed weight says.
  void apply(const Columns& x, MutableColumns y, const Columns& U, const Columns& Z, const detail::Rows<S>& V, S s,
             MergedWeight<S>& merged) const {
    if (!packed_.merge(U, V, s, x.cols(), merged)) return apply(x, y, U, Z);
    product(packed_.layout_, merged.numbers.data(), x, y, {});
  }
  void apply_transposed(const Columns& dy, MutableColumns dx, const Columns& V, const Columns& G,
                        const MergedWeight<S>& merged) const {
    if (!merged.formed) return apply_transposed(dy, dx, V, G);
    transposed_product(merged.numbers.data(), dy, dx, {});
  }

  static void multiply(const Columns& W, const Columns& x, MutableColumns y) { Packed<S>::multiply(W, x, y); }

  void thin_product(const auto& T, const auto& X, auto&& Z) const {
    if constexpr (by_tiles<decltype(T.transpose())>) {
      thin_product_of(T.transpose(), X, Z);
    } else {
      packed_.thin_product(T, X, Z);
    }
  }
  void add_outer(const auto& X, const auto& G, auto&& D) const {
    if constexpr (!by_tiles<decltype(D)>) {
      packed_.add_outer(X, G, D);
    } else if constexpr (std::remove_cvref_t<decltype(D)>::IsRowMajor) {
      add_outer_to(G, X, D.transpose());
    } else {
      add_outer_to(X, G, D);
    }
  }

  Index rows() const { return packed_.rows(); }
  Index cols() const { return packed_.cols(); }
  Index bytes() const { return packed_.bytes(); }
  Copies copies() const { return packed_.copies(); }
  Matrix<S> dense() const { return packed_.dense(); }
  Matrix<S> columns(Index first, Index count) const { return packed_.columns(first, count); }
  const Packed<S>& packed() const { return packed_; }
  Workers& workers() const { return *workers_; }

 private:
  template <class M>
  static constexpr bool by_tiles = detail::thin_by_tiles<std::remove_cvref_t<M>>;

  /// f(rows, samples) for all parts, or for all at once if nobody can help.
  void share(const Parts& parts, Index rows, const auto& row_boundary, Index samples, const auto& sample_boundary,
             const auto& f) const {
    const auto part = [&](Index k) {
      const Interval of_rows = Parts::range(k % parts.of_rows, parts.of_rows, rows, row_boundary);
      const Interval of_samples = Parts::range(k / parts.of_rows, parts.of_samples, samples, sample_boundary);
      if (of_rows.first < of_rows.last && of_samples.first < of_samples.last) f(of_rows, of_samples);
    };
    if (!workers_->share(parts.count(), part, parts.work)) f(Interval{0, rows}, Interval{0, samples});
  }

  /// Multiples of `unit`, and the end.
  static auto multiples_of(Index unit, Index size) {
    return [=](Index place) { return std::min((place + unit - 1) / unit * unit, size); };
  }

  /// Multiply-adds; a few samples wait for W0 to come from memory, and take as long as four.
  double size_of(const auto& x) const {
    const Index samples = std::max<Index>(x.cols(), 4);
    return static_cast<double>(rows()) * static_cast<double>(cols()) * static_cast<double>(samples);
  }

  /// Below this many multiply-adds a product is faster whole. What two processors read stands in the caches of both,
  /// and what they write in that of one: whoever writes the factors next, the optimizer, waits for each line of them.
  static double worth_sharing(double least, double per_number, Index factor) {
    return std::max(least, per_number * static_cast<double>(factor));
  }

  void product(const Columns& x, MutableColumns& y, const Term& term) const {
    product(packed_.layout_, packed_.panels(), x, y, term);
  }

  void product(const Layout& layout, const S* panels, const Columns& x, MutableColumns& y, const Term& term) const {
    const double worth = worth_sharing(1e6, 512, term.rank * layout.rows);
    const auto parts =
        Parts::choose<S>(size_of(x), worth, layout.rows, Layout::height, x.cols(), detail::samples_at_once);
    const auto tiles = [&](Index sample) { return detail::ProductTiles<S>::boundary(x.cols(), sample); };
    share(parts, layout.rows, multiples_of(Layout::height, layout.rows), x.cols(), tiles,
          [&](Interval rows, Interval samples) {
            detail::packed_product<S>(layout, panels, some(x, samples), some(y, samples), term.from(samples.first),
                                      rows);
          });
  }

  void transposed_product(const Columns& dy, MutableColumns& dx, const Term& term) const {
    if (packed_.transposed_) {
      product({cols(), rows()}, packed_.transposed_->data(), dy, dx, term);
    } else {
      transposed_product(packed_.panels(), dy, dx, term);
    }
  }

  void transposed_product(const S* panels, const Columns& dy, MutableColumns& dx, const Term& term) const {
    using Product = detail::PackedTransposed<S>;
    constexpr Index most = Product::most_samples;
    const double worth = worth_sharing(1e6, 512, term.rank * cols());
    // each cut of the columns has all of dy copied once more
    const Index least_cols = dy.cols() < 4 * most ? 128 : 512;
    const auto parts = Parts::choose<S>(size_of(dy), worth, cols(), least_cols, dy.cols(), most);
    share(parts, cols(), multiples_of(Layout::height, cols()), dy.cols(), multiples_of(most, dy.cols()),
          [&](Interval cols, Interval samples) {
            Product::run(packed_.layout_, panels, some(dy, samples), some(dx, samples), term.from(samples.first), cols);
          });
  }

  /// Z = L^T X
  void thin_product_of(const Columns& L, const Columns& X, MutableColumns Z) const {
    using Tiles = detail::ThinTiles<S>;
    const double worth = worth_sharing(2.5e5, 128, L.size());
    const double size = static_cast<double>(L.size()) * static_cast<double>(X.cols());
    const auto parts = Parts::choose<S>(size, worth, 1, 1, X.cols(), Tiles::least_samples(L.cols()));
    const auto boundary = [&](Index sample) { return Tiles::boundary(L.cols(), X.cols(), sample); };
    share(parts, 1, multiples_of(1, 1), X.cols(), boundary,
          [&](Interval, Interval samples) { Tiles::reduce(L, some(X, samples), some(Z, samples)); });
  }

  /// D += X G^T
  void add_outer_to(const Columns& X, const Columns& G, MutableColumns D) const {
    const double size = X.cols() < 2 ? 0 : static_cast<double>(D.size()) * static_cast<double>(X.cols());
    const double worth = worth_sharing(2.5e5, 512, D.size());
    const auto parts = Parts::choose<S>(size, worth, X.rows(), Layout::height, 1, 1);
    share(parts, X.rows(), multiples_of(Layout::height, X.rows()), 1, multiples_of(1, 1), [&](Interval rows, Interval) {
      detail::ThinTiles<S>::add_outer(X.middleRows(rows.first, rows.last - rows.first), G,
                                      D.middleRows(rows.first, rows.last - rows.first));
    });
  }

  static auto some(auto& matrix, Interval range) { return matrix.middleCols(range.first, range.last - range.first); }

  Packed<S> packed_;
  std::shared_ptr<Workers> workers_;
};

static_assert(FrozenBase<Threaded<float>> && FrozenBase<Threaded<double>>);

}  // namespace lora
