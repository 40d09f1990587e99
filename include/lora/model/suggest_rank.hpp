#pragma once
/// Suggests a rank from the singular values of a known change of the weights: that of a full fine-tuning, or of a
/// training with a large rank.
///
///   std::vector<Eigen::VectorXd> spectra;                        // of every layer's change
///   spectra.push_back(singular_values(delta_of(adapter)));       // model/surgery.hpp
///   attach(net, {.rank = suggest_rank(spectra).rank}, rng);
///
/// With singular values sigma_{l,1} >= sigma_{l,2} >= ... of layer l, the nearest change whose
/// layers have the ranks r_l keeps the share (Eckart & Young)
///
///   kept(r_1, r_2, ...) = sum_l sum_{i <= r_l} sigma_{l,i}^2 / sum_l sum_i sigma_{l,i}^2
///
/// The suggested rank keeps this change. Training at that rank finds another change, which may need less:
/// examples/rank.cpp measures how much.

#include "lora/linalg/rank.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct RankSuggestion {
  Index rank = 1;                       ///< the smallest one for all layers
  double kept = 1;                      ///< the share that it keeps
  std::vector<Index> ranks;             ///< of each layer, at least 1, with the min sum: a rank_pattern
  std::vector<double> effective_ranks;  ///< of each layer's change
  std::string reason;                   ///< a sentence with these numbers
};

/// The ranks that keep the share of the change. A rank above the max rank of a layer counts as the max. spectra: each
/// layer's singular values, descending; the layers may differ in how many they have.
/// Throws ConfigError without layers or unless 0 < share <= 1; ShapeError for a layer without singular values,
/// ValueError unless they are finite, descending and not negative.   Cost: one sort of all of them.
inline RankSuggestion suggest_rank(const std::vector<Eigen::VectorXd>& spectra, double share = 0.9) {
  constexpr const char* who = "suggest_rank";
  if (spectra.empty()) detail::fail<ConfigError>(who, "there are no layers, expected at least one");
  RankSuggestion suggestion;
  Index longest = 0, all = 0;
  double largest = 0;
  for (std::size_t l = 0; l < spectra.size(); ++l) {
    const std::string name = "spectra[" + std::to_string(l) + "]";
    detail::check_spectrum({who, name}, spectra[l]);
    suggestion.effective_ranks.push_back(effective_rank(spectra[l]));
    longest = std::max(longest, spectra[l].size());
    all += spectra[l].size();
    largest = std::max(largest, spectra[l](0));
  }
  const double unit = largest > 0 ? largest : 1;  // dividing by it keeps squares from overflowing

  // one rank for all: the energy of direction i, summed over the layers, descends as in each layer
  Eigen::VectorXd together = Eigen::VectorXd::Zero(longest);
  std::vector<std::pair<double, std::size_t>> directions;
  for (std::size_t l = 0; l < spectra.size(); ++l) {
    together.head(spectra[l].size()) += (spectra[l] / unit).cwiseAbs2();
    for (const double sigma : spectra[l]) directions.emplace_back(sigma / unit, l);
  }
  const double energy = together.sum();
  const auto kept = [&](Index rank) { return energy > 0 ? together.head(rank).sum() / energy : 1; };
  suggestion.rank = rank_for_energy(together.cwiseSqrt(), share);
  suggestion.kept = kept(suggestion.rank);

  // one rank for each: the largest singular values among all layers
  std::sort(directions.begin(), directions.end(), [](const auto& one, const auto& other) {
    return one.first == other.first ? one.second < other.second : one.first > other.first;
  });
  Eigen::VectorXd sorted(all);
  for (Index i = 0; i < all; ++i) sorted(i) = directions[static_cast<std::size_t>(i)].first;
  directions.resize(static_cast<std::size_t>(rank_for_energy(sorted, share)));
  suggestion.ranks.assign(spectra.size(), 0);
  for (const auto& direction : directions) ++suggestion.ranks[direction.second];
  for (Index& rank : suggestion.ranks) rank = std::max<Index>(rank, 1);

  const auto percent = [](double part) { return std::to_string(std::lround(100 * part)) + " %"; };
  suggestion.reason = "rank " + std::to_string(suggestion.rank) + " keeps " + percent(suggestion.kept) +
                      " of the change's energy in all layers together (" + percent(share) + " was asked for)";
  if (suggestion.rank > 1) {
    const Index half = suggestion.rank / 2;
    suggestion.reason += ", rank " + std::to_string(half) + " only " + percent(kept(half));
  }
  return suggestion;
}

}  // namespace lora::inline LORA_ABI
