#pragma once
/// One vector for each sequence of a batch.

#include "lora/core/error.hpp"
#include "lora/core/sequences.hpp"
#include "lora/kernels/packed_product.hpp"

#include <cmath>
#include <vector>

namespace lora::inline LORA_ABI {

/// The number of the first column of each sequence: of [CLS], which a classifier of BERT's kind reads.
inline void first_columns(const Sequences& sequences, std::vector<Index>& columns) {
  columns.assign(sequences.starts().begin(), sequences.starts().end() - 1);
}

namespace detail {

inline void check_pooling(const Caller& who, const auto& tokens, const Sequences& sequences, const auto& texts) {
  check_cols(who, "x", tokens.cols(), "the columns of the sequences", sequences.total());
  check_cols(who, "y", texts.cols(), "the sequences", sequences.count());
  check_rows(who, "y", texts.rows(), "the rows of x", tokens.rows());
}

}  // namespace detail

/// y(., s) = the mean of the columns of sequence s.   x (features, tokens), y (features, sequences). Throws ShapeError.
template <class S>
void mean_pool(const detail::Columns<S>& x, const Sequences& sequences, detail::MutableColumns<S> y) {
  detail::check_pooling("mean_pool", x, sequences, y);
  for (Index s = 0; s < sequences.count(); ++s) {
    const auto [first, count] = sequences[s];
    y.col(s) = x.middleCols(first, count).rowwise().sum() / static_cast<S>(count);
  }
}

/// forward: y = the mean over n columns   =>   dx = dy / n in each of them. Throws ShapeError.
template <class S>
void mean_pool_backward(const Sequences& sequences, const detail::Columns<S>& dy, detail::MutableColumns<S> dx) {
  detail::check_pooling("mean_pool_backward", dx, sequences, dy);
  for (Index s = 0; s < sequences.count(); ++s) {
    const auto [first, count] = sequences[s];
    for (Index j = first; j < first + count; ++j) dx.col(j) = dy.col(s) / static_cast<S>(count);
  }
}

/// y = x / |x|, column by column: embeddings whose product is their cosine. A column of zeros stays zero.
template <class S>
void normalize(const detail::Columns<S>& x, detail::MutableColumns<S> y) {
  detail::check_rows("normalize", "y", y.rows(), "the rows of x", x.rows());
  detail::check_cols("normalize", "y", y.cols(), "the columns of x", x.cols());
  for (Index j = 0; j < x.cols(); ++j) {
    const S length = x.col(j).norm();
    y.col(j) = x.col(j) / (length > S(0) ? length : S(1));
  }
}

/// dx, given x and dy:   dx = (dy - y (y . dy)) / |x|, y = x / |x|. 0 where x is.
template <class S>
void normalize_backward(const detail::Columns<S>& x, const detail::Columns<S>& dy, detail::MutableColumns<S> dx) {
  detail::check_rows("normalize_backward", "dy", dy.rows(), "the rows of x", x.rows());
  detail::check_cols("normalize_backward", "dy", dy.cols(), "the columns of x", x.cols());
  detail::check_rows("normalize_backward", "dx", dx.rows(), "the rows of x", x.rows());
  detail::check_cols("normalize_backward", "dx", dx.cols(), "the columns of x", x.cols());
  for (Index j = 0; j < x.cols(); ++j) {
    const S square = x.col(j).squaredNorm();
    if (!(square > S(0))) {
      dx.col(j).setZero();
      continue;
    }
    using std::sqrt;
    const S along = x.col(j).dot(dy.col(j)) / square;
    dx.col(j) = (dy.col(j) - along * x.col(j)) / sqrt(square);
  }
}

}  // namespace lora::inline LORA_ABI
