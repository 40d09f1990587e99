#include "lora/linalg/rank.hpp"

#include "lora/linalg/factorizations/pivoted.hpp"
#include "lora/linalg/truncated_svd.hpp"
#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <numeric>

using lora::Index;

namespace {

template <class E>
std::string message(auto&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("rank: rows that repeat each other count once") {
  Eigen::Matrix4d A;
  A << 2, 4, 6, 8, 1, 3, 5, 7, 4, 8, 12, 16, 3, 9, 15, 21;
  const auto found = lora::numerical_rank(A);
  CHECK(found.rank == 2);
  CHECK(found.tolerance == Approx(4 * 0x1p-52 * lora::singular_values(A)(0)).epsilon(1e-12));
  CHECK(lora::numerical_rank(A.cast<float>()).rank == 2);
  // what two rows and columns, or two directions, leave of it is nothing
  CHECK(lora::pivoted_qr(A, 2).certificate.relative_error() <= 1e-15);
  CHECK(lora::pivoted_lu(A, 2).certificate.relative_error() <= 1e-15);
  CHECK((lora::pivoted_qr(A, 2).matrix() - A).norm() <= 1e-14 * A.norm());
  CHECK((lora::pivoted_lu(A, 2).matrix() - A).norm() <= 1e-14 * A.norm());
}

TEST_CASE("rank: four measures of one spectrum, by hand") {
  const Eigen::Vector3d sigma(12, 4, 3);
  CHECK(lora::numerical_rank(sigma, 0).rank == 3);
  CHECK(lora::numerical_rank(sigma, 3).rank == 2);
  CHECK(lora::numerical_rank(sigma, 2.9).rank == 3);
  CHECK(lora::numerical_rank(sigma, 12).rank == 0);
  CHECK(lora::rank_for_energy(sigma, 144.0 / 169) == 1);
  CHECK(lora::rank_for_energy(sigma, 0.9) == 2);
  CHECK(lora::rank_for_energy(sigma, 1) == 3);
  CHECK(lora::stable_rank(sigma) == Approx(169.0 / 144).epsilon(1e-15));
  double entropy = 0;
  for (const double p : {12.0 / 19, 4.0 / 19, 3.0 / 19}) entropy -= p * std::log(p);
  CHECK(lora::effective_rank(sigma) == Approx(std::exp(entropy)).epsilon(1e-14));
}

TEST_CASE("rank: equal singular values count fully, zeros not at all, scale not either") {
  Eigen::VectorXd sigma = Eigen::VectorXd::Zero(9);
  CHECK(lora::stable_rank(sigma) == 0);
  CHECK(lora::effective_rank(sigma) == 0);
  CHECK(lora::numerical_rank(sigma, 0).rank == 0);
  CHECK(lora::rank_for_energy(sigma, 0.5) == 1);
  for (const double size : {1.0, 1e-300, 1e300, 1.7e308}) {
    sigma.head(5).setConstant(size);
    CHECK(lora::stable_rank(sigma) == Approx(5).epsilon(1e-15));
    CHECK(lora::effective_rank(sigma) == Approx(5).epsilon(1e-14));
    CHECK(lora::rank_for_energy(sigma, 1) == 5);
    CHECK(lora::rank_for_energy(sigma, 0.6) == 3);
  }
}

TEMPLATE_TEST_CASE("rank: of a product, to the rounding of its scalar", "", float, double) {
  lora::Rng rng(1);
  for (Index rank = 1; rank <= 12; ++rank) {
    Eigen::VectorXd sigma(rank);
    for (Index i = 0; i < rank; ++i) sigma(i) = 1 + static_cast<double>(rank - i);
    const lora::Matrix<TestType> A = lora_test::with_spectrum(sigma, 40, 25, rng).cast<TestType>();
    CHECK(lora::numerical_rank(A).rank == rank);
    CHECK((lora::singular_values(A).head(rank) - sigma).norm() <= (std::is_same_v<TestType, float> ? 1e-5 : 1e-13));
    CHECK(lora::singular_values(A).size() == 25);
  }
}

TEMPLATE_TEST_CASE("pivoted: every approximation has the error it states, and none beats the theorem", "", float,
                   double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 1e-5 : 1e-13;
  lora::Rng rng(2);
  for (const std::string& kind : lora_test::kinds) {
    const Index rows = 1 + static_cast<Index>(rng.below(30));
    const Index cols = 1 + static_cast<Index>(rng.below(30));
    const lora::Matrix<S> A = lora_test::make(kind, rows, cols, rng).template cast<S>();
    const Eigen::MatrixXd exact = A.template cast<double>();
    const Eigen::VectorXd sigma = lora::singular_values(A);
    for (Index rank = 1; rank <= std::min(rows, cols); ++rank) {
      const double best = lora::detail::tail(sigma, rank);
      for (const bool qr : {true, false}) {
        CAPTURE(kind, rows, cols, rank, qr);
        const auto found = qr ? lora::pivoted_qr(A, rank) : lora::pivoted_lu(A, rank);
        CHECK(found.rank() == rank);
        const Eigen::MatrixXd L = found.L.template cast<double>();
        const double error = (exact - L * found.R.template cast<double>()).norm();
        if (qr) {  // columns of length 1, or 0 once nothing is left
          Eigen::MatrixXd gram = L.transpose() * L;
          gram.diagonal() -= (gram.diagonal().array() > 0.5).cast<double>().matrix();
          CHECK(gram.norm() <= tolerance);
        }
        CHECK(std::abs(found.certificate.frobenius_error - error) <= tolerance * exact.norm());
        CHECK(std::abs(found.certificate.frobenius_norm - exact.norm()) <= tolerance * exact.norm());
        CHECK(error >= best - tolerance * exact.norm());
        if (rank == std::min(rows, cols)) CHECK(error <= tolerance * exact.norm());
      }
    }
  }
}

TEST_CASE("pivoted: the norms of a large matrix of floats, whose sum of squares float would round away") {
  const Eigen::MatrixXf A = Eigen::MatrixXf::Constant(3000, 1000, 0.7f);
  const double norm = std::sqrt(3e6) * static_cast<double>(0.7f);
  CHECK(lora::pivoted_qr(A, 1).certificate.frobenius_norm == Approx(norm).epsilon(1e-9));
  CHECK(lora::pivoted_lu(A, 1).certificate.frobenius_norm == Approx(norm).epsilon(1e-9));
}

TEST_CASE("pivoted: beyond the rank, columns and rows are zero") {
  Eigen::MatrixXd A = Eigen::MatrixXd::Zero(5, 4);
  A(2, 1) = 3;
  for (const auto& found : {lora::pivoted_qr(A, 3), lora::pivoted_lu(A, 3)}) {
    CHECK(found.L.rightCols(2).isZero(0));
    CHECK(found.R.bottomRows(2).isZero(0));
    CHECK(found.matrix() == A);
  }
}

TEST_CASE("rank: what it refuses, and how it says so") {
  const Eigen::Vector2d rising(1, 2);
  CHECK(message<lora::ValueError>([&] { lora::stable_rank(rising); }) ==
        "stable_rank: sigma(1) is 2, expected finite singular values from the largest to the smallest");
  CHECK(message<lora::ValueError>([&] { lora::effective_rank(-rising); }) ==
        "effective_rank: sigma(0) is -1, expected finite singular values from the largest to the smallest");
  CHECK(message<lora::ShapeError>([&] { lora::effective_rank(Eigen::VectorXd()); }) ==
        "effective_rank: sigma is empty (0 x 1), expected at least 1 x 1");
  CHECK(message<lora::ConfigError>([&] { lora::numerical_rank(rising.reverse(), -1); }) ==
        "numerical_rank: tolerance is -1, expected 0 or more");
  CHECK(message<lora::ConfigError>([&] { lora::rank_for_energy(rising.reverse(), 0); }) ==
        "rank_for_energy: share is 0, expected above 0 and at most 1");
  Eigen::Matrix2d A = Eigen::Matrix2d::Identity();
  CHECK(message<lora::ConfigError>([&] { lora::pivoted_qr(A, 3); }) == "pivoted_qr: rank is 3, expected 1 to 2");
  CHECK(message<lora::ConfigError>([&] { lora::pivoted_lu(A, 0); }) == "pivoted_lu: rank is 0, expected 1 to 2");
  A(1, 0) = std::nan("");
  CHECK(message<lora::ValueError>([&] { lora::singular_values(A); }) ==
        "singular_values: A(1, 0) is nan, expected a finite number");
  CHECK(message<lora::ValueError>([] { lora::singular_values(Eigen::MatrixXd::Constant(9, 9, 1e308)); }) ==
        "singular_values: the largest singular value overflows");
  const Eigen::Matrix3f large = Eigen::Matrix3f::Constant(3e38f);  // of which sqrt(3) times an entry is in R
  CHECK(message<lora::ValueError>([&] { lora::pivoted_qr(large, 1); }) ==
        "pivoted_qr: an entry of R or the norm of A overflows");
  CHECK(message<lora::ValueError>([&] { lora::pivoted_lu(Eigen::Matrix2d::Constant(1e308), 1); }) ==
        "pivoted_lu: an entry of R or the norm of A overflows");
  CHECK(message<lora::ValueError>([&] { lora::pivoted_lu(A, 1); }) ==
        "pivoted_lu: A(1, 0) is nan, expected a finite number");
}
