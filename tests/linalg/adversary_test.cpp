// Eckart and Young's theorem, attacked: no matrix of rank r that a search finds is nearer than the truncation.

#include "lora/linalg/factored_svd.hpp"
#include "lora/linalg/rank.hpp"
#include "lora/linalg/truncated_svd.hpp"
#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

using lora::Index;
using lora_test::orthonormal;

namespace {

struct Spectrum {
  std::string name;
  Eigen::VectorXd sigma;
};

/// Spectra of 12 singular values; for the ranks 1, 3 and 6 that are cut at, some of them have equal or nearly equal
/// values on both sides of the cut.
std::vector<Spectrum> spectra() {
  const auto values = [](auto&& f) {
    Eigen::VectorXd sigma(12);
    for (Index i = 0; i < 12; ++i) sigma(i) = f(static_cast<double>(i));
    return sigma;
  };
  return {{"geometric", values([](double i) { return std::pow(0.7, i); })},
          {"steep", values([](double i) { return std::pow(0.1, i); })},
          {"power law", values([](double i) { return 1 / (1 + i); })},
          {"equal at the cut", values([](double i) { return i < 2   ? 3.0
                                                            : i < 9 ? 1.0
                                                                    : 0.5; })},
          {"clustered", values([](double i) { return std::pow(0.5, std::floor(i / 4)) * (1 - 1e-6 * i); })},
          {"flat", values([](double) { return 1.0; })}};
}
const std::vector<Index> ranks = {1, 3, 6};

/// A - A Q Q^T: what is left of A by the nearest matrix with these rows.   Q (n, r).
Eigen::MatrixXd left_by(const Eigen::MatrixXd& A, const Eigen::MatrixXd& Q) { return A - (A * Q) * Q.transpose(); }

/// What the searches found: the smallest ||A - X||_F, and the smallest ||A - X||_2 of some of them.
struct Found {
  double random, perturbed, alternating;  // Frobenius
  double spectral;
};

Found attack(const Eigen::MatrixXd& A, const Eigen::MatrixXd& U, const Eigen::VectorXd& sigma, const Eigen::MatrixXd& V,
             lora::Rng& rng) {
  const Index r = V.cols();
  const double infinite = std::numeric_limits<double>::infinity();
  Found found{infinite, infinite, infinite, infinite};
  const auto spectral = [&](const Eigen::MatrixXd& E) {
    found.spectral = std::min(found.spectral, lora::singular_values(E)(0));
  };
  // random rows, and random combinations of A's own, each with the best columns for them
  for (int i = 0; i < 200; ++i) {
    const Eigen::MatrixXd any =
        i % 2 == 0 ? lora_test::normal(A.cols(), r, rng) : A.transpose() * lora_test::normal(A.rows(), r, rng);
    const Eigen::MatrixXd E = left_by(A, orthonormal(any));
    found.random = std::min(found.random, E.norm());
    if (i % 40 == 1) spectral(E);
  }
  // the optimum, moved by less and less: all three factors, or the rows alone with the best columns for them
  for (double t = 0.1; t > 1e-9; t /= 4) {
    for (int i = 0; i < 8; ++i) {
      const Eigen::MatrixXd moved_V = V + t * lora_test::normal(V.rows(), r, rng);
      const Eigen::VectorXd moved_sigma = sigma + t * sigma(0) * lora_test::normal(r, 1, rng);
      const Eigen::MatrixXd E =
          A - (U + t * lora_test::normal(U.rows(), r, rng)) * moved_sigma.asDiagonal() * moved_V.transpose();
      const Eigen::MatrixXd refitted = left_by(A, orthonormal(moved_V));
      found.perturbed = std::min({found.perturbed, E.norm(), refitted.norm()});
      if (i == 0) spectral(E);
    }
  }
  // alternating least squares: the best columns for the rows, the best rows for the columns, and so on
  for (int start = 0; start < 100; ++start) {
    Eigen::MatrixXd Q = orthonormal(lora_test::normal(A.cols(), r, rng));
    for (int i = 0; i < 12; ++i) Q = orthonormal(A.transpose() * orthonormal(A * Q));
    const Eigen::MatrixXd E = left_by(A, Q);
    found.alternating = std::min(found.alternating, E.norm());
    if (start % 20 == 0) spectral(E);
  }
  return found;
}

/// `svd` is of A, in its scalar; the certificate holds in double.
template <class Svd>
void check_best(const Eigen::MatrixXd& A, const Svd& svd, double tolerance, lora::Rng& rng) {
  constexpr double rounding = 1e-14;  // of the attacks, which run in double
  const double size = A.norm();
  const lora::Certificate& certificate = svd.certificate;
  CHECK(svd.converged);
  CHECK(std::abs(lora_test::residual(A, svd).norm() - certificate.frobenius_error) <= tolerance * size);
  const Found found = attack(A, svd.U.template cast<double>(), svd.singular_values.template cast<double>(),
                             svd.V.template cast<double>(), rng);
  const double best = certificate.frobenius_error - std::max(rounding, tolerance / 4) * size;
  CHECK(found.random >= best);
  CHECK(found.perturbed >= best);
  CHECK(found.alternating >= best);
  CHECK(found.spectral >= certificate.spectral_error - std::max(rounding, tolerance / 4) * size);
  // the attacks come close: a worse truncation would not have stood
  CHECK(found.perturbed <= certificate.frobenius_error + 1e-6 * size);
  CHECK(found.alternating <= certificate.frobenius_error + 1e-3 * size);
}

}  // namespace

TEMPLATE_TEST_CASE("adversary: nothing is nearer than the truncated SVD", "", float, double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;
  lora::Rng rng(1);
  for (const Spectrum& spectrum : spectra()) {
    const lora::Matrix<S> A = lora_test::with_spectrum(spectrum.sigma, 16, 12, rng).cast<S>();
    for (const Index rank : ranks) {
      CAPTURE(spectrum.name, rank);
      check_best(A.template cast<double>(), lora::truncated_svd(A, {.rank = rank}), tolerance, rng);
    }
  }
}

TEMPLATE_TEST_CASE("adversary: nothing is nearer than the truncated product", "", float, double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;
  lora::Rng rng(2);
  for (const Spectrum& spectrum : spectra()) {
    // a product of rank 12 with this spectrum whose factors are not orthogonal
    const Eigen::MatrixXd turn = orthonormal(lora_test::normal(12, 12, rng));
    const Eigen::VectorXd size = lora_test::normal(12, 1, rng).cwiseAbs().array() + 0.1;
    const Eigen::MatrixXd left = lora_test::with_spectrum(spectrum.sigma, 16, 12, rng) * turn * size.asDiagonal();
    const Eigen::MatrixXd right =
        size.cwiseInverse().asDiagonal() * turn.transpose() * orthonormal(lora_test::normal(14, 12, rng)).transpose();
    const lora::Factors<S> M{left.cast<S>(), right.cast<S>(), 0.5};
    const Eigen::MatrixXd product = 0.5 * M.B.template cast<double>() * M.A.template cast<double>();
    for (const Index rank : ranks) {
      CAPTURE(spectrum.name, rank);
      const auto cut = lora::truncate(M, {.rank = rank});
      check_best(product, cut, tolerance, rng);
      const auto dense = lora::truncated_svd(product, {.rank = rank});
      CHECK(std::abs(cut.certificate.frobenius_error - dense.certificate.frobenius_error) <=
            tolerance * product.norm());
      CHECK(std::abs(cut.certificate.spectral_error - dense.certificate.spectral_error) <= tolerance * product.norm());
    }
  }
}

TEST_CASE("adversary: the attacks find what is wrong with a truncation that is not the best") {
  lora::Rng rng(3);
  for (const Spectrum& spectrum : {spectra()[0], spectra()[2]}) {
    const Eigen::MatrixXd A = lora_test::with_spectrum(spectrum.sigma, 16, 12, rng);
    const auto svd = lora::truncated_svd(A, {.rank = 4});
    // the fourth direction in place of the third
    Eigen::MatrixXd U = svd.U.leftCols(3), V = svd.V.leftCols(3);
    Eigen::VectorXd sigma = svd.singular_values.head(3);
    U.col(2) = svd.U.col(3);
    V.col(2) = svd.V.col(3);
    sigma(2) = svd.singular_values(3);
    const double error = (A - U * sigma.asDiagonal() * V.transpose()).norm();
    CHECK(attack(A, U, sigma, V, rng).alternating < error - 1e-3 * A.norm());
    // That is a saddle, where random moves gain nothing beyond rounding. Beside the best, half of the small ones gain.
    V.col(2) = (svd.V.col(2) + 0.1 * svd.V.col(3)).normalized();
    CHECK(attack(A, svd.U.leftCols(3), svd.singular_values.head(3), V, rng).perturbed <
          left_by(A, V).norm() - 1e-7 * A.norm());
  }
}
