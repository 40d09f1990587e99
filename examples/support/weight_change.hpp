#pragma once
/// What a training changed in the weights of a network, layer by layer as s B A, whoever made it.

#include "training.hpp"

#include <lora/lora.hpp>
#include <lora/model/surgery.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <variant>
#include <vector>

namespace examples {

using Change = std::vector<lora::Lora<float>>;

inline Change change_by_lora(const Network& net) {
  Change change;
  for (const auto& layer : net.layers()) {
    change.push_back(layer.adapters().at("default").as<lora::Lora<float>>());
  }
  return change;
}

inline Change change_by_training(const Network& before, const Network& after) {
  Change change;
  for (std::size_t l = 0; l < before.layers().size(); ++l) {
    const auto W0 = before.layers()[l].dense(), W = after.layers()[l].dense();
    change.push_back(lora::extract(W0, W, {.rank = std::min(W.rows(), W.cols())}).adapter);
  }
  return change;
}

/// The nearest change of this rank.
inline Change nearest(const Change& change, Eigen::Index rank) {
  Change cut;
  for (const auto& layer : change) cut.push_back(lora::resize(layer, {.rank = std::min(rank, layer.rank())}).adapter);
  return cut;
}

inline double norm(const Change& change) {
  double sum = 0;
  for (const auto& layer : change) sum += std::pow(lora::norm(lora::delta_of(layer)), 2);
  return std::sqrt(sum);
}

inline double distance(const Change& one, const Change& other) {
  double sum = 0;
  for (std::size_t l = 0; l < one.size(); ++l) {
    sum += std::pow(lora::distance(lora::delta_of(one[l]), lora::delta_of(other[l])), 2);
  }
  return std::sqrt(sum);
}

/// The network with this change of its weights, and the biases of `after`.
inline Network changed(const Network& before, const Change& change, const Network& after) {
  Network net = before;
  for (std::size_t l = 0; l < change.size(); ++l) {
    net.layers()[l].attach("default", change[l], *after.layers()[l].bias());
  }
  return net;
}

inline Eigen::VectorXd spectrum_of(const lora::Lora<float>& layer) {
  return lora::singular_values(lora::delta_of(layer));
}

/// How much of the leading directions that one layer's change reads, at most 8 of them, the other's reads as well.
inline double overlap(const lora::Lora<float>& one, const lora::Lora<float>& other) {
  const Eigen::Index count = std::min<Eigen::Index>({one.rank(), other.rank(), 8});
  return lora::subspace_overlap(lora::delta_of(one), lora::delta_of(other), count, count, lora::Side::right);
}

}  // namespace examples
