#pragma once

// Matrices on which singular value decompositions are known to fail, and the measures that judge a result.

#include "lora/core/random.hpp"
#include "support/svd.hpp"

#include <algorithm>
#include <cmath>
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

inline Eigen::MatrixXd make(const std::string& kind, Index rows, Index cols, lora::Rng& rng) {
  const Index smaller = std::min(rows, cols);
  const auto product = [&](Index rank) -> Eigen::MatrixXd { return normal(rows, rank, rng) * normal(rank, cols, rng); };
  Eigen::MatrixXd A = normal(rows, cols, rng);
  if (kind == "low rank") return product(std::max<Index>(1, smaller / 3));
  if (kind == "rank 1") return product(1);
  if (kind == "product of rank 4") return product(std::min<Index>(4, smaller));
  if (kind == "zero") return Eigen::MatrixXd::Zero(rows, cols);
  if (kind == "identity") return Eigen::MatrixXd::Identity(rows, cols);
  if (kind == "repeated columns") {
    for (Index j = 1; j < cols; j += 2) A.col(j) = A.col(j - 1);
  }
  if (kind == "ones") return Eigen::MatrixXd::Constant(rows, cols, 1);
  if (kind == "signs of rank 1") {
    return A.col(0).array().sign().matrix() * normal(1, cols, rng).array().sign().matrix();
  }
  if (kind == "graded") {
    for (Index j = 0; j < cols; ++j) A.col(j) *= std::pow(10.0, -0.3 * static_cast<double>(j));
  }
  if (kind == "tiny") return 1e-30 * A;
  if (kind == "huge") return 1e18 * A;
  if (kind == "sparse") return A.unaryExpr([](double x) { return std::abs(x) > 1.6 ? x : 0.0; });
  return A;
}

/// Q1 diag(sigma) Q2^T with random orthonormal columns.
inline Eigen::MatrixXd with_spectrum(const Eigen::VectorXd& sigma, Index rows, Index cols, lora::Rng& rng) {
  const auto basis = [&](Index size) {
    const Eigen::HouseholderQR<Eigen::MatrixXd> qr(normal(size, sigma.size(), rng));
    Eigen::MatrixXd Q = Eigen::MatrixXd::Identity(size, sigma.size());
    Q.applyOnTheLeft(qr.householderQ());
    return Q;
  };
  const Eigen::MatrixXd U = basis(rows);
  return U * sigma.asDiagonal() * basis(cols).transpose();
}

/// ||Q^T Q - I||_F
template <class Derived>
double not_orthonormal(const Eigen::MatrixBase<Derived>& given) {
  const Eigen::MatrixXd Q = given.template cast<double>();
  return (Q.transpose() * Q - Eigen::MatrixXd::Identity(Q.cols(), Q.cols())).norm();
}

/// A - U diag(sigma) V^T, in double.
Eigen::MatrixXd residual(const Eigen::MatrixXd& A, const auto& svd) {
  return A - svd.U.template cast<double>() * svd.singular_values.template cast<double>().asDiagonal() *
                 svd.V.template cast<double>().transpose();
}

}  // namespace lora_test
