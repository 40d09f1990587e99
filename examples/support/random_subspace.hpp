#pragma once
/// A random subspace of all weights of a network:
///
///   theta = theta_0 + P z      P = D H E / sqrt(n)
///
///   theta, theta_0 (n)   all weights, and their start
///   z (d)                what is trained
///   E (N, d)             puts the numbers of z at d random places; N is the power of two from n on
///   H (N, N)             the Walsh-Hadamard matrix, of +1 and -1
///   D (n, N)             random signs; it drops what is beyond n
///
/// Every column of P has length 1, and each weight depends on every number of z. A product with P or P^T takes
/// N log2 N additions, where a matrix of n d random numbers would have to be stored and read.
///
/// Sources: Li et al. 2018, arXiv:1804.08838 (training in a random subspace); Ailon & Chazelle 2009, doi
/// 10.1137/060673096 (random signs and a Hadamard transform as a random projection).

#include "rehearsal.hpp"
#include "training.hpp"

#include <lora/lora.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace examples {

/// h <- H h. Its length is a power of two.
inline void walsh_hadamard(Eigen::VectorXf& h) {
  for (Eigen::Index half = 1; half < h.size(); half *= 2) {
    for (Eigen::Index first = 0; first < h.size(); first += 2 * half) {
      for (Eigen::Index i = first; i < first + half; ++i) {
        const float a = h(i), b = h(i + half);
        h(i) = a + b;
        h(i + half) = a - b;
      }
    }
  }
}

class RandomSubspace {
 public:
  /// Throws std::invalid_argument unless 1 <= dimension <= weights.
  RandomSubspace(Eigen::Index weights, Eigen::Index dimension, lora::Rng rng) : signs_(weights) {
    if (dimension < 1 || dimension > weights) {
      throw std::invalid_argument("RandomSubspace: the dimension is " + std::to_string(dimension) + ", expected 1 to " +
                                  std::to_string(weights));
    }
    const float length = 1 / std::sqrt(static_cast<float>(weights));
    for (float& sign : signs_) sign = rng.below(2) == 0 ? length : -length;
    buffer_.resize(static_cast<Eigen::Index>(std::bit_ceil(static_cast<std::size_t>(weights))));
    places_.resize(static_cast<std::size_t>(buffer_.size()));
    std::iota(places_.begin(), places_.end(), 0);
    rng.shuffle(places_);
    places_.resize(static_cast<std::size_t>(dimension));
  }

  Eigen::Index dimension() const { return std::ssize(places_); }
  Eigen::Index weights() const { return signs_.size(); }

  /// P z, (weights)
  Eigen::VectorXf expand(const Eigen::VectorXf& z) {
    buffer_.setZero();
    for (std::size_t k = 0; k < places_.size(); ++k) buffer_(places_[k]) = z(static_cast<Eigen::Index>(k));
    walsh_hadamard(buffer_);
    return signs_.cwiseProduct(buffer_.head(weights()));
  }

  /// P^T g, (dimension): the derivative by z of a function whose derivative by theta is g.
  Eigen::VectorXf project(const Eigen::VectorXf& g) {
    buffer_.setZero();
    buffer_.head(weights()) = signs_.cwiseProduct(g);
    walsh_hadamard(buffer_);
    Eigen::VectorXf z(dimension());
    for (std::size_t k = 0; k < places_.size(); ++k) z(static_cast<Eigen::Index>(k)) = buffer_(places_[k]);
    return z;
  }

 private:
  Eigen::VectorXf signs_;             // with the length of a column
  std::vector<Eigen::Index> places_;  // of the numbers of z among N
  Eigen::VectorXf buffer_;
};

/// Trains all weights and biases of the network, but only as z moves them, with AdamW for z and no weight decay.
/// step: about how far theta moves at most in one step; the learning rate is step / sqrt(dimension).
inline void train_in_subspace(Network& net, Eigen::Index dimension, const Digits& digits, int epochs, double step,
                              std::uint64_t seed) {
  RehearsalBatches batches(digits, digits, {.rehearsed = 0}, lora::Rng(seed));
  const std::uint64_t steps = batches.per_epoch() * static_cast<std::uint64_t>(epochs);
  const lora::Schedule schedule{.shape = lora::ScheduleShape::cosine, .warmup = steps / 20, .total = steps};

  RandomSubspace subspace(lora::count_parameters(net).total, dimension, lora::Rng(seed, 1));
  lora::Parameter<float, lora::Dynamic, 1> z(Eigen::VectorXf::Zero(dimension));
  lora::AdamW<float> optimizer({.lr = step / std::sqrt(static_cast<double>(dimension)), .weight_decay = 0});
  Eigen::VectorXf start(subspace.weights()), theta = start, gradient = start;
  const auto for_each_part = [&](auto&& f) {
    Eigen::Index first = 0;
    for (auto& part : lora::gather<float>(net)) {
      f(part, first, part.value.size());
      first += part.value.size();
    }
  };
  for_each_part([&](auto& part, Eigen::Index first, Eigen::Index size) { start.segment(first, size) = part.value; });

  Network::Cache cache;
  Eigen::MatrixXf dlogits;
  const lora::DenormalsAsZero scope;
  for (std::uint64_t s = 0; s < steps; ++s) {
    const Digits batch = batches.next();
    lora::softmax_cross_entropy(net.forward(batch.pixels, cache), batch.labels, &dlogits);
    lora::zero_gradients(net);
    net.backward(batch.pixels, dlogits, cache, lora::no_gradient);
    for_each_part(
        [&](auto& part, Eigen::Index first, Eigen::Index size) { gradient.segment(first, size) = part.grad; });
    z.gradient() = subspace.project(gradient);
    optimizer.step(z, schedule(s));
    theta = start + subspace.expand(z.value);
    for_each_part([&](auto& part, Eigen::Index first, Eigen::Index size) { part.value = theta.segment(first, size); });
  }
}

}  // namespace examples
