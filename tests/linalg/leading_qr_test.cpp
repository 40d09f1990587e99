#include "lora/linalg/leading_qr.hpp"

#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <limits>
#include <type_traits>

using lora::Index;

TEMPLATE_TEST_CASE("leading qr: the first columns and rows of the whole decomposition, of every kind of matrix", "",
                   float, double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;
  lora::Rng rng(1);
  for (const std::string& kind : lora_test::kinds) {
    for (int i = 0; i < 8; ++i) {
      const Index rows = 1 + static_cast<Index>(rng.below(30));
      const Index cols = 1 + static_cast<Index>(rng.below(30));
      const Index rank = 1 + static_cast<Index>(rng.below(static_cast<std::uint64_t>(std::min(rows, cols))));
      CAPTURE(kind, rows, cols, rank);
      const lora::RowMajorMatrix<S> A = lora_test::make(kind, rows, cols, rng).template cast<S>();
      const auto found = lora::leading_qr(A, rank);
      CHECK(found.rows() == rows);
      CHECK(found.cols() == cols);
      CHECK(found.rank() == rank);
      CHECK(found.scale == 1);
      CHECK(lora_test::not_orthonormal(found.B) <= 10 * tolerance);
      const Eigen::MatrixXd exact = A.template cast<double>();
      const Eigen::MatrixXd B = found.B.template cast<double>();
      CHECK((found.A.template cast<double>() - B.transpose() * exact).norm() <= tolerance * exact.norm());
      CHECK((B * found.A.template cast<double>() - exact).leftCols(rank).norm() <= tolerance * exact.norm());
      for (Index row = 1; row < rank; ++row) CHECK((found.A.row(row).head(row).array() == S(0)).all());
    }
  }
}

TEST_CASE("leading qr: what Eigen's whole decomposition begins with") {
  lora::Rng rng(2);
  const Eigen::MatrixXd A = lora_test::normal(12, 9, rng);
  const Eigen::HouseholderQR<Eigen::MatrixXd> whole(A);
  const Eigen::MatrixXd Q = whole.householderQ();
  const Eigen::MatrixXd R = whole.matrixQR().triangularView<Eigen::Upper>();
  const auto found = lora::leading_qr(A, 4);
  CHECK((found.B - Q.leftCols(4)).norm() <= 1e-14);
  CHECK((found.A - R.topRows(4)).norm() <= 1e-13);
}

TEST_CASE("leading qr: what it refuses, and how it says so") {
  Eigen::Matrix<float, 2, 3> A = Eigen::Matrix<float, 2, 3>::Ones();
  CHECK_THROWS_WITH(lora::leading_qr(A, 3), "leading_qr: rank is 3, expected 1 to 2");
  CHECK_THROWS_WITH(lora::leading_qr(A, 0), "leading_qr: rank is 0, expected 1 to 2");
  CHECK_THROWS_WITH(lora::leading_qr(3e38f * A, 1), "leading_qr: an entry of R overflows");
  A(1, 0) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(lora::leading_qr(A, 1), "leading_qr: A(1, 0) is nan, expected a finite number");
}
