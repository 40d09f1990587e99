#pragma once

// Matrices on which singular value decompositions are known to fail, and the measures that judge a result.

#include "lora/core/random.hpp"
#include "support/svd.hpp"

#include <string>
#include <vector>

namespace lora_test {

using lora::Index;

inline const std::vector<std::string> kinds = {"normal",
                                               "low rank",
                                               "rank 1",
                                               "product of rank 4",
                                               "zero",
                                               "identity",
                                               "repeated columns",
                                               "ones",
                                               "signs of rank 1",
                                               "graded",
                                               "tiny",
                                               "huge",
                                               "sparse"};

inline Eigen::MatrixXd normal(Index rows, Index cols, lora::Rng& rng) {
  return lora::detail::normal_matrix<double>(rows, cols, rng);
}

Eigen::MatrixXd make(const std::string& kind, Index rows, Index cols, lora::Rng& rng);

/// Q1 diag(sigma) Q2^T with random orthonormal columns.
Eigen::MatrixXd with_spectrum(const Eigen::VectorXd& sigma, Index rows, Index cols, lora::Rng& rng);

/// ||Q^T Q - I||_F
double not_orthonormal(const Eigen::MatrixXd& Q);
template <class Derived>
double not_orthonormal(const Eigen::MatrixBase<Derived>& Q) {
  return not_orthonormal(Eigen::MatrixXd(Q.template cast<double>()));
}

/// A - U diag(sigma) V^T, in double.
Eigen::MatrixXd residual(const Eigen::MatrixXd& A, const Eigen::MatrixXd& U, const Eigen::VectorXd& sigma,
                         const Eigen::MatrixXd& V);
Eigen::MatrixXd residual(const Eigen::MatrixXd& A, const auto& svd) {
  return residual(A, svd.U.template cast<double>(), svd.singular_values.template cast<double>(),
                  svd.V.template cast<double>());
}

}  // namespace lora_test
