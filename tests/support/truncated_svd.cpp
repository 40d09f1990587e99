#include "support/svd.hpp"

LORA_TEST_SVD(template, float)
LORA_TEST_SVD(template, double)

Eigen::MatrixXd lora_test::orthonormal(const Eigen::MatrixXd& columns) {
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(columns);
  Eigen::MatrixXd Q = Eigen::MatrixXd::Identity(columns.rows(), columns.cols());
  Q.applyOnTheLeft(qr.householderQ());
  return Q;
}
