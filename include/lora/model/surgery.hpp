#pragma once
/// Resizes adapters, combines them, or extracts them from a full fine-tune, and reports the error.
///
///   resize(adapter, {.rank = 8})                          the nearest adapter of a rank, energy or error
///   combine<float>({{first, 0.7}, {second, 0.3}})         the weighted sum of their deltas, exactly
///   combine<float>({{first, 0.7}, {second, 0.3}}, {...})  and the nearest adapter to it
///   extract(W_before, W_after, {.rank = 8})               the nearest adapter to W_after - W_before
///
/// The delta s B A (out, in) is never formed: resize and combine take O((out + in) R^2 + R^3) operations for adapters
/// of total rank R. resize takes as much memory as the factors have and 16 R^2 doubles: at most twice that of the
/// factors while R is at most a sixteenth of out and in. The result is an ordinary adapter with balanced factors, B^T B
/// = A A^T, and scale 1.
///
/// One {.rank = 64} is for all layers of a model, so a layer that is smaller gets the largest rank that its delta can
/// have, at which nothing is lost, and says so in `clamped`: min(out, in), for resize and combine also the rank that
/// there is.
///
/// Source: linalg/factored_svd.hpp, linalg/truncated_svd.hpp.
/// Compile time (g++ 12 -O2): 0.4 s over Eigen/Core to include; to use resize for one scalar 7 s, extract 3 s more, and
/// that of linalg/exact_svd.hpp, which tells how to pay once in a program.

#include "lora/adapters/lora.hpp"
#include "lora/linalg/factored_svd.hpp"
#include "lora/linalg/linear_operator.hpp"
#include "lora/linalg/rank.hpp"
#include "lora/linalg/truncated_svd.hpp"

#include <algorithm>
#include <concepts>
#include <functional>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// A new adapter and its error against the wanted delta.
template <class S>
struct Surgery {
  Lora<S> adapter;
  Certificate certificate;           ///< of the new delta, as an approximation of the wanted one
  Eigen::VectorXd singular_values;   ///< of the new delta, (rank)
  double effective_rank_before = 0;  ///< of the wanted delta; randomized: of the directions it found
  double effective_rank_after = 0;
  SvdMethod method = SvdMethod::exact;
  bool converged = true;  ///< whether the result passed its verification
  bool clamped = false;   ///< options.rank is above the largest that this delta can have, which the adapter has instead
};

/// One term of a weighted sum.
template <class S>
struct WeightedLora {
  std::reference_wrapper<const Lora<S>> adapter;
  double weight = 1;
};

/// A view of the delta s B A of an adapter: the argument of norm, singular_values, inner_product, distance, truncate,
/// balanced, subspace_overlap and weighted_sum of linalg/factored_svd.hpp and linalg/factors.hpp. Valid as long as the
/// adapter exists and keeps its size. For a ResidualLora, call this, resize and combine with its to_lora().
template <class S>
FactorView<S> delta_of(const Lora<S>& adapter) {
  return {adapter.B.value, adapter.A.value, static_cast<double>(adapter.scale())};
}

namespace detail {

/// An adapter with delta B A: alpha = rank, so that the scale is 1.
template <class S>
Lora<S> adapter_of(Factors<S> factors) {
  Rng unused(0);
  const Index rank = factors.rank();
  Lora<S> made(factors.rows(), factors.cols(), {.rank = 1, .alpha = static_cast<double>(rank)}, unused);
  made.A.value = std::move(factors.A);
  made.B.value = std::move(factors.B);
  return made;
}

/// What truncation can give of the options. A rank below 1 is left to be refused.
inline SvdOptions clamped(SvdOptions options, Index largest_rank) {
  if (options.rank) options.rank = std::min(*options.rank, largest_rank);
  return options;
}

/// options: as they were given.
template <class S>
Surgery<S> surgery_of(const TruncatedSvd<S>& svd, const SvdOptions& options) {
  const Eigen::VectorXd kept = svd.singular_values.template cast<double>();
  return {adapter_of(balanced_factors(svd)),
          svd.certificate,
          kept,
          effective_rank(svd.spectrum),
          effective_rank(kept),
          svd.method,
          svd.converged,
          options.rank && *options.rank > svd.rank()};
}

template <class S>
Surgery<S> surgery_of(Compressed<S>&& compressed, const SvdOptions& options) {
  const SvdOptions possible = clamped(options, compressed.largest_rank());
  return surgery_of(std::move(compressed).truncate(possible), options);
}

template <class S>
std::vector<WeightedFactors<S>> deltas_of(const std::vector<WeightedLora<S>>& terms) {
  std::vector<WeightedFactors<S>> deltas;
  deltas.reserve(terms.size());
  for (const WeightedLora<S>& term : terms) deltas.push_back({delta_of(term.adapter.get()), term.weight});
  return deltas;
}

}  // namespace detail

/// The nearest adapter of a smaller rank, or of the smallest rank that keeps an energy or stays below an error. Keeps
/// the dropout and its stream. The largest rank is min(out, in, rank).
/// Throws ConfigError for options out of range, ValueError for an entry that is not finite.
template <class S>
Surgery<S> resize(const Lora<S>& adapter, const SvdOptions& options) {
  Surgery<S> result = detail::surgery_of(detail::Compressed<S>("resize", delta_of(adapter)), options);
  result.adapter.dropout = adapter.dropout;
  return result;
}

/// An adapter whose delta is w_1 s_1 B_1 A_1 + w_2 s_2 B_2 A_2 + ..., of the sum of the ranks, which may differ. Each
/// entry is rounded once. One adapter of weight 1 comes back as it is; any other sum has no dropout.
/// Throws ConfigError without terms, ShapeError naming the term whose shape differs, ValueError for a weight or an
/// entry that is not finite, or an entry that its weight takes beyond the range of the scalar.
template <class S>
Lora<S> combine(const std::vector<WeightedLora<S>>& terms) {
  Factors<S> sum = detail::concatenated("combine", detail::deltas_of(terms));
  if (terms.size() == 1 && terms[0].weight == 1) return terms[0].adapter.get();
  if (sum.scale != 1) sum.A = (sum.scale * sum.A.template cast<double>()).template cast<S>();
  if (!sum.A.allFinite())
    detail::fail<ValueError>("combine", "the weights take an entry of A beyond its scalar's range");
  return detail::adapter_of(std::move(sum));
}

/// The nearest adapter to that sum for a rank, energy or error.
template <class S>
Surgery<S> combine(const std::vector<WeightedLora<S>>& terms, const SvdOptions& options) {
  const Factors<S> sum = detail::concatenated("combine", detail::deltas_of(terms));
  return detail::surgery_of(detail::Compressed<S>("combine", sum), options);
}

/// The nearest adapter to the change by a fine-tuning, W_after - W_before (out, in). The randomized method only
/// multiplies by the difference, block by block: no third matrix of that size exists. The exact one forms it, in double
/// too; the automatic choice is that of truncated_svd, exact for every energy and error.
/// Throws ShapeError if the two differ in shape or are empty, ValueError naming an entry of the difference that is not
/// finite, ConfigError for options out of range.
template <class Before, class After>
auto extract(const Eigen::MatrixBase<Before>& W_before, const Eigen::MatrixBase<After>& W_after,
             const SvdOptions& options) -> Surgery<typename After::Scalar>
  requires std::same_as<typename Before::Scalar, typename After::Scalar>
{
  using S = typename After::Scalar;
  return detail::with_view(W_before, [&](const detail::MatrixView<S>& before) {
    return detail::with_view(W_after, [&](const detail::MatrixView<S>& after) {
      detail::check_rows("extract", "W_after", after.rows(), "W_before.rows()", before.rows());
      detail::check_cols("extract", "W_after", after.cols(), "W_before.cols()", before.cols());
      const SvdOptions possible = detail::clamped(options, std::min(after.rows(), after.cols()));
      return detail::surgery_of(
          detail::truncated_svd(DifferenceOperator<S>(after, before), possible, "extract", "(W_after - W_before)"),
          options);
    });
  });
}

}  // namespace lora::inline LORA_ABI
