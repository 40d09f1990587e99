#pragma once
/// A table of vectors, one for each id.

#include "lora/base/shared_bytes.hpp"
#include "lora/core/error.hpp"
#include "lora/core/parameter.hpp"
#include "lora/core/random.hpp"
#include "lora/kernels/arithmetic.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

namespace detail {

/// A frozen table in shared memory, row-major, as a part of a listing.
template <class S>
class SharedTable {
 public:
  using Scalar = S;
  using View = Eigen::Map<const RowMajorMatrix<S>>;

  SharedTable(const Caller& who, const SharedBytes& block, Index rows, Index cols)
      : block_(block.as<S>(who, static_cast<std::size_t>(rows * cols))), rows_(rows), cols_(cols) {}

  View dense() const { return View(block_.get(), rows_, cols_); }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }

 private:
  std::shared_ptr<const S> block_;
  Index rows_, cols_;
};

}  // namespace detail

/// y(., t) = W(id_t, .)
///
///   W (vocabulary, features)   y, dy (features, tokens)   ids: one for each token, 0 to vocabulary - 1
///   dW(id_t, .) += dy(., t)
///
/// ```cpp
/// #include <lora/nn/embedding.hpp>
/// #include <vector>
///
/// int main() {
///   lora::Rng rng(1);
///   const lora::Embedding<float> words({.vocabulary = 100, .features = 8}, rng);
///   const std::vector<int> ids = {7, 0, 7};
///   const Eigen::MatrixXf y = words(ids);
///   return y.cols() == 3 && y.col(0) == y.col(2) ? 0 : 1;
/// }
/// ```
///
/// W is row-major, as PyTorch has it and files hold it: a row is a vector, read in one piece, and a frozen table can
/// stay where it is, in a mapped file, of which only the rows that are read come into memory. "weight" is listed
/// under PyTorch's name, and frozen until it is made trainable; its gradient is then as large as W. A pass keeps
/// nothing; the caller keeps the ids. forward is const and may run on many threads. Cost: a copy of y.
template <class S>
class Embedding {
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;

  struct Shape {
    Index vocabulary = 0;
    Index features = 0;
    double deviation = 0.02;  ///< of the numbers of a new table: BERT's and GPT-2's initializer_range
  };

  /// A new table of normal numbers. Throws ShapeError if a size is below 1.
  Embedding(const Shape& shape, Rng& rng) {
    detail::check_not_empty("Embedding", "the weight", shape.vocabulary, shape.features);
    RowMajorMatrix<S> table(shape.vocabulary, shape.features);
    for (Index k = 0; k < table.size(); ++k) table.data()[k] = S(shape.deviation) * rng.template normal<S>();
    own(std::move(table));
  }
  /// A given table. Throws ShapeError if it is empty.
  explicit Embedding(RowMajorMatrix<S> weight) {
    detail::check_not_empty("Embedding", "the weight", weight.rows(), weight.cols());
    own(std::move(weight));
  }
  /// A frozen table (vocabulary, features), row-major in shared memory, such as a mapped file's. Throws ShapeError if
  /// it is empty or the block has another size or alignment, StateError for a null block.
  Embedding(const SharedBytes& block, Index vocabulary, Index features) {
    detail::check_not_empty("Embedding", "the weight", vocabulary, features);
    table_.emplace("Embedding", block, vocabulary, features);
  }

  /// Writes y (features, tokens). Throws ShapeError if y has another size, ValueError for an id that is not in the
  /// table, and changes nothing then.
  void forward(std::span<const int> ids, MutableColumns y) const {
    check("Embedding::forward", ids, "y", y);
    for (Index t = 0; t < y.cols(); ++t) std::copy_n(row(ids, t), y.rows(), &y(0, t));
  }
  /// y += the same: for the sum of several embeddings, as of words and positions. Throws as forward does.
  void add(std::span<const int> ids, MutableColumns y) const {
    check("Embedding::add", ids, "y", y);
    for (Index t = 0; t < y.cols(); ++t) detail::add_multiple(S(1), row(ids, t), y.rows(), &y(0, t));
  }
  /// y as a new matrix.
  Matrix<S> operator()(std::span<const int> ids) const {
    Matrix<S> y(features(), static_cast<Index>(ids.size()));
    forward(ids, y);
    return y;
  }

  /// The gradient of the table accumulates, in the order of the tokens; nothing happens if it is frozen. ids are those
  /// of the forward pass. Throws as forward does, and changes nothing then.
  void backward(std::span<const int> ids, const Columns& dy) {
    check("Embedding::backward", ids, "dy", dy);
    if (!trains()) return;
    auto& gradient = weight_->gradient();
    for (Index t = 0; t < dy.cols(); ++t) {
      detail::add_multiple(S(1), dy.data() + t * dy.outerStride(), dy.rows(), &gradient(ids[std::size_t(t)], 0));
    }
  }

  /// Whether backward adds to a gradient.
  bool trains() const { return weight_ && weight_->trainable; }

  /// W (vocabulary, features). Set `trainable` to train it. The first call copies a table in shared memory.
  RowMajorParameter<S>& weight() & {
    if (!weight_) own(table_->dense());
    return *weight_;
  }
  /// W, to read.
  typename detail::SharedTable<S>::View table() const& {
    if (table_) return table_->dense();
    return {weight_->value.data(), weight_->value.rows(), weight_->value.cols()};
  }
  typename detail::SharedTable<S>::View table() const&& = delete;
  Index vocabulary() const { return table_ ? table_->rows() : weight_->value.rows(); }
  Index features() const { return table_ ? table_->cols() : weight_->value.cols(); }

  /// The bytes of a frozen table in own memory; null if it is trained, or in shared memory already. And the same table
  /// over another block of these bytes (parallel/shared_base.hpp). Throws StateError, ShapeError.
  SharedBytes frozen_storage() const {
    if (!weight_ || weight_->trainable) return {};
    const auto& table = weight_->value;
    const auto* data = reinterpret_cast<const std::byte*>(table.data());
    return {std::shared_ptr<const std::byte>(std::shared_ptr<const std::byte>(), data),
            static_cast<std::size_t>(table.size()) * sizeof(S)};
  }
  void set_frozen_storage(const SharedBytes& block) {
    if (trains()) throw StateError("Embedding::set_frozen_storage: the table is trained");
    *this = Embedding(block, vocabulary(), features());
  }

  static void visit(auto& self, auto&& f) {
    if (self.table_) {
      f("weight", std::as_const(*self.table_));
    } else {
      f("weight", *self.weight_);
    }
  }

 private:
  void check(const detail::Caller& who, std::span<const int> ids, const char* name, const auto& matrix) const {
    detail::check_rows(who, name, matrix.rows(), "features", features());
    detail::check_cols(who, name, matrix.cols(), "the number of ids", static_cast<Index>(ids.size()));
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] >= 0 && ids[t] < vocabulary()) continue;
      detail::fail<ValueError>(who, "id " + std::to_string(t) + " is " + std::to_string(ids[t]) +
                                        ", expected 0 to vocabulary - 1 = " + std::to_string(vocabulary() - 1));
    }
  }
  void own(RowMajorMatrix<S> table) {
    weight_.emplace(std::move(table));
    weight_->trainable = false;
    table_.reset();
  }
  const S* row(std::span<const int> ids, Index t) const { return table().data() + ids[std::size_t(t)] * features(); }

  std::optional<RowMajorParameter<S>> weight_;   // in own memory
  std::optional<detail::SharedTable<S>> table_;  // or shared
};

}  // namespace lora::inline LORA_ABI
