#include "lora/linalg/certificate.hpp"

#include "lora/linalg/factorizations/pivoted.hpp"
#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using lora::Index;

namespace {

using Exact = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;

Exact exactly(const auto& A) { return A.template cast<long double>(); }

/// The kinds of hard_matrices.hpp, and what is far from zero or badly scaled.
std::vector<std::pair<std::string, Eigen::MatrixXd>> matrices(Index rows, Index cols, lora::Rng& rng) {
  std::vector<std::pair<std::string, Eigen::MatrixXd>> all;
  for (const std::string& kind : lora_test::kinds) all.emplace_back(kind, lora_test::make(kind, rows, cols, rng));
  const Eigen::ArrayXd down = Eigen::ArrayXd::LinSpaced(rows, 12, -12),
                       across = Eigen::ArrayXd::LinSpaced(cols, 12, -12);
  const Eigen::VectorXd row_sizes = (down * std::log(10.0)).exp(), col_sizes = (across * std::log(10.0)).exp();
  const Eigen::MatrixXd normal = lora_test::normal(rows, cols, rng);
  all.emplace_back("1e7 from zero", (normal.array() + 1e7).matrix());
  all.emplace_back("1e15 from zero", (normal.array() + 1e15).matrix());
  all.emplace_back("rows of all sizes", row_sizes.asDiagonal() * normal);
  all.emplace_back("columns of all sizes", normal * col_sizes.asDiagonal());
  all.emplace_back("both of all sizes", row_sizes.asDiagonal() * normal * col_sizes.asDiagonal());
  all.emplace_back("one large entry", normal);
  all.back().second(rows / 2, cols / 2) = 1e8;
  return all;
}

/// E = A - X against the certificate of X.
void check(const lora::Certificate& certificate, const Exact& A, const Exact& X) {
  const long double norm = A.norm();
  const Exact E = A - X;
  CHECK(std::abs(certificate.frobenius_norm - static_cast<double>(norm)) <= certificate.rounding);
  CHECK(static_cast<double>(E.norm()) <= certificate.frobenius_error + certificate.rounding);
  CHECK(static_cast<double>(E.norm()) >= certificate.frobenius_error - certificate.rounding);
  if (!(norm > 0)) return;
  const double largest = Eigen::JacobiSVD<Eigen::MatrixXd>((E / norm).cast<double>()).singularValues()(0);
  CHECK(largest * static_cast<double>(norm) <= certificate.spectral_error + certificate.rounding);
}

Exact product(const auto& svd) {
  return exactly(svd.U) * exactly(svd.singular_values).asDiagonal() * exactly(svd.V).transpose();
}

}  // namespace

TEMPLATE_TEST_CASE("F3: a certificate is below the true error by at most the rounding that it states", "", float,
                   double) {
  using S = TestType;
  lora::Rng rng(1);
  for (const auto& [rows, cols] :
       std::vector<std::pair<Index, Index>>{{5, 5}, {40, 12}, {12, 40}, {60, 60}, {900, 20}}) {
    for (const auto& [kind, data] : matrices(rows, cols, rng)) {
      const lora::Matrix<S> A = data.template cast<S>();
      if (!A.allFinite()) continue;
      const Exact wanted = exactly(A);
      const Index smaller = std::min(rows, cols);
      for (const Index rank : {Index(1), Index(3), smaller / 2, smaller}) {
        CAPTURE(kind, rows, cols, rank);
        for (const auto method : {lora::SvdMethod::exact, lora::SvdMethod::randomized}) {
          const auto svd = lora::truncated_svd(A, {.rank = rank, .method = method});
          check(svd.certificate, wanted, product(svd));
          // useful: the exact method in double has it at 1e-12 of the matrix, in float at 1e-5
          CHECK(svd.certificate.rounding <=
                (std::is_same_v<S, float> ? 4e-5 : 1e-13) * static_cast<double>(wanted.norm()) + 1e-41);
        }
        const auto qr = lora::pivoted_qr(A, rank);
        check(qr.certificate, wanted, exactly(qr.L) * exactly(qr.R));
        const auto lu = lora::pivoted_lu(A, rank);
        check(lu.certificate, wanted, exactly(lu.L) * exactly(lu.R));
      }
    }
  }
}

TEMPLATE_TEST_CASE("F3: so is the certificate of a product whose factors cancel or differ in size", "", float, double) {
  using S = TestType;
  lora::Rng rng(2);
  for (int i = 0; i < 60; ++i) {
    const Index rows = 8 + static_cast<Index>(rng.below(40)), cols = 8 + static_cast<Index>(rng.below(40));
    const Index rank = 2 + static_cast<Index>(rng.below(6));
    lora::Factors<S> M{lora_test::normal(rows, rank, rng).cast<S>(), lora_test::normal(rank, cols, rng).cast<S>(), 1.7};
    if (i % 3 == 1) {  // terms that cancel, but for a little
      M.B.col(1) = M.B.col(0) + S(1e-4) * M.B.col(1);
      M.A.row(1) = -M.A.row(0);
    } else if (i % 3 == 2) {  // columns of sizes that their rows undo
      for (Index k = 0; k < rank; ++k) {
        const S size = std::ldexp(S(1), 12 * static_cast<int>(k) - 36);
        M.B.col(k) *= size;
        M.A.row(k) /= size;
      }
    }
    CAPTURE(i, rows, cols, rank);
    const Exact wanted = 1.7L * exactly(M.B) * exactly(M.A);
    double size = 0;
    for (Index k = 0; k < rank; ++k) size += 1.7 * static_cast<double>(M.B.col(k).norm() * M.A.row(k).norm());
    for (const Index kept : {Index(1), rank}) {
      const auto cut = lora::truncate(M, {.rank = kept});
      check(cut.certificate, wanted, product(cut));
    }
    // norms and distances are computed in double, whatever the factors are
    const double rounding = 8 * 2.3e-16 * std::sqrt(static_cast<double>(rows + cols)) * size;
    CHECK(std::abs(lora::norm(M) - static_cast<double>(wanted.norm())) <= rounding);
    CHECK(std::abs(lora::singular_values(M).norm() - static_cast<double>(wanted.norm())) <= rounding);
    lora::Factors<S> N = M;
    N.B(3, 1) += S(1e-5) * std::max(std::abs(N.B(3, 1)), S(1e-3));
    N.scale = 1.7 * (1 + 1e-9);
    const Exact other = static_cast<long double>(N.scale) * exactly(N.B) * exactly(N.A);
    CHECK(std::abs(lora::distance(M, N) - static_cast<double>((wanted - other).norm())) <= 2 * rounding);
  }
}

TEST_CASE("F3: the norm of many equal floats is not summed in float") {
  // 2^22 equal entries: a sum of their squares in float stops growing, or loses digits, where the addend is half a unit
  const lora::Matrix<float> A = lora::Matrix<float>::Constant(1 << 18, 16, 1.1F);
  const auto svd = lora::truncated_svd(A, {.rank = 1, .method = lora::SvdMethod::randomized});
  const double norm = 2048 * static_cast<double>(1.1F);
  CHECK(svd.certificate.frobenius_norm == Approx(norm).epsilon(1e-13));
}
