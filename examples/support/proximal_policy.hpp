#pragma once
/// A classifier that learns from rewards: proximal policy optimization, for guesses that stand alone.
///
///   pi(a | x) = softmax(z)_a                     the probability of guessing class a for the picture x
///   L = 1/n sum_j -min(r_j A_j, clip(r_j, 1 - clip, 1 + clip) A_j) + kl KL(pi(. | x_j), pi_0(. | x_j))
///   r_j = pi(a_j | x_j) / pi_old(a_j | x_j)
///
///   pi_old    the policy that made the guesses       a_j    its guess for picture j
///   pi_0      the policy to stay near                A_j    how much better than usual the guess turned out
///
/// Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; the last term as in Ziegler et al. 2019, arXiv:1909.08593.

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <vector>

#include "lora/core/random.hpp"

namespace examples {

struct ProximalPolicy {
  float clip = 0.2f;
  float kl = 0.01f;
};

/// log softmax(z), column by column, (classes, n).
inline Eigen::MatrixXf log_softmax(const Eigen::MatrixXf& logits) {
  const Eigen::MatrixXf shifted = logits.rowwise() - logits.colwise().maxCoeff();
  return shifted.rowwise() - shifted.array().exp().colwise().sum().log().matrix();
}

/// One guess for each of n pictures, and what came of it.
struct Guesses {
  std::vector<int> classes;        // a_j
  Eigen::VectorXf log_likelihood;  // log pi_old(a_j | x_j)
  Eigen::VectorXf advantage;       // A_j
  Eigen::MatrixXf log_reference;   // log pi_0(. | x_j), (classes, n)
};

/// Draws the guesses from softmax(logits) and asks for the reward of each. The advantage is the reward less the mean of
/// all, over their standard deviation.
inline Guesses make_guesses(const Eigen::MatrixXf& logits, const Eigen::MatrixXf& reference_logits, lora::Rng& rng,
                            const std::function<float(Eigen::Index picture, int guess)>& reward) {
  const Eigen::MatrixXf log_policy = log_softmax(logits);
  const Eigen::Index n = logits.cols();
  Guesses guesses{{}, Eigen::VectorXf(n), Eigen::VectorXf(n), log_softmax(reference_logits)};
  for (Eigen::Index j = 0; j < n; ++j) {
    int guess = 0;
    for (float left = rng.uniform<float>() - std::exp(log_policy(0, j)); left > 0 && guess + 1 < log_policy.rows();) {
      left -= std::exp(log_policy(++guess, j));
    }
    guesses.classes.push_back(guess);
    guesses.log_likelihood(j) = log_policy(guess, j);
    guesses.advantage(j) = reward(j, guess);
  }
  guesses.advantage.array() -= guesses.advantage.mean();
  guesses.advantage /= std::sqrt(guesses.advantage.squaredNorm() / static_cast<float>(n)) + 1e-4f;
  return guesses;
}

/// The loss of the pictures first, first + 1, ... and its derivative by their logits (classes, m).
inline float proximal_policy_loss(const Eigen::MatrixXf& logits, const Guesses& guesses, Eigen::Index first,
                                  const ProximalPolicy& settings, Eigen::MatrixXf& dlogits) {
  const Eigen::MatrixXf log_policy = log_softmax(logits);
  dlogits.resize(logits.rows(), logits.cols());
  float loss = 0;
  for (Eigen::Index j = 0; j < logits.cols(); ++j) {
    const int guess = guesses.classes[static_cast<std::size_t>(first + j)];
    const float advantage = guesses.advantage(first + j);
    const Eigen::VectorXf policy = log_policy.col(j).array().exp();
    const Eigen::VectorXf gap = log_policy.col(j) - guesses.log_reference.col(first + j);
    const float divergence = policy.dot(gap);
    const float ratio = std::exp(log_policy(guess, j) - guesses.log_likelihood(first + j));
    const float gain = ratio * advantage;
    const float clipped = std::clamp(ratio, 1 - settings.clip, 1 + settings.clip) * advantage;
    loss += settings.kl * divergence - std::min(gain, clipped);
    // L = ... + kl sum_k pi_k (log pi_k - log pi_0k)   =>   dz = kl pi .* (gap - divergence)
    dlogits.col(j) = settings.kl * policy.cwiseProduct((gap.array() - divergence).matrix());
    if (gain > clipped) continue;  // what was clipped is a constant
    // L = -r A, r = pi_a / pi_old_a   =>   dz = -r A (onehot(a) - pi)
    dlogits.col(j) += gain * policy;
    dlogits(guess, j) -= gain;
  }
  const auto m = static_cast<float>(logits.cols());
  dlogits /= m;
  return loss / m;
}

}  // namespace examples
