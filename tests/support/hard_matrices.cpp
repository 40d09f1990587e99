#include "support/hard_matrices.hpp"

#include <algorithm>
#include <cmath>

namespace lora_test {

Eigen::MatrixXd make(const std::string& kind, Index rows, Index cols, lora::Rng& rng) {
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

Eigen::MatrixXd with_spectrum(const Eigen::VectorXd& sigma, Index rows, Index cols, lora::Rng& rng) {
  const auto basis = [&](Index size) { return orthonormal(normal(size, sigma.size(), rng)); };
  const Eigen::MatrixXd U = basis(rows);
  return U * sigma.asDiagonal() * basis(cols).transpose();
}

double not_orthonormal(const Eigen::MatrixXd& Q) {
  return (Q.transpose() * Q - Eigen::MatrixXd::Identity(Q.cols(), Q.cols())).norm();
}

Eigen::MatrixXd residual(const Eigen::MatrixXd& A, const Eigen::MatrixXd& U, const Eigen::VectorXd& sigma,
                         const Eigen::MatrixXd& V) {
  return A - U * sigma.asDiagonal() * V.transpose();
}

}  // namespace lora_test
