#include "lora/linalg/factored_svd.hpp"

#include "lora/linalg/rank.hpp"
#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <limits>
#include <type_traits>

using lora::Index;

namespace {

template <class S>
constexpr double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;

template <class S>
lora::Factors<S> random_factors(Index rows, Index rank, Index cols, double scale, lora::Rng& rng) {
  return {lora_test::normal(rows, rank, rng).cast<S>(), lora_test::normal(rank, cols, rng).cast<S>(), scale};
}

/// The product, in double.
template <class S>
Eigen::MatrixXd dense(const lora::Factors<S>& M) {
  return M.scale * M.B.template cast<double>() * M.A.template cast<double>();
}

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

TEMPLATE_TEST_CASE("factored: the same as with the product", "", float, double) {
  using S = TestType;
  lora::Rng rng(1);
  for (int i = 0; i < 40; ++i) {
    const Index rows = 1 + static_cast<Index>(rng.below(40));
    const Index cols = 1 + static_cast<Index>(rng.below(40));
    const Index rank = 1 + static_cast<Index>(rng.below(20));  // at times above both sides
    CAPTURE(rows, cols, rank);
    const auto M = random_factors<S>(rows, rank, cols, -0.7, rng);
    const auto N = random_factors<S>(rows, 3, cols, 2, rng);
    const Eigen::MatrixXd A = dense(M);
    const double size = A.norm();
    CHECK(lora::norm(M) == Approx(size).epsilon(tolerance<S>));
    CHECK(std::abs(lora::inner_product(M, N) - A.cwiseProduct(dense(N)).sum()) <= 1e-13 * size * dense(N).norm());
    CHECK(std::abs(lora::distance(M, N) - (A - dense(N)).norm()) <= tolerance<S> * (size + dense(N).norm()));

    const Index count = std::min({rows, cols, rank});
    const Eigen::VectorXd sigma = lora::singular_values(A);
    const Eigen::VectorXd found = lora::singular_values(M);
    REQUIRE(found.size() == count);
    CHECK((found - sigma.head(count)).norm() <= tolerance<S> * size);

    const Index kept = 1 + static_cast<Index>(rng.below(static_cast<std::uint64_t>(count)));
    const auto svd = lora::truncate(M, {.rank = kept});
    CHECK(svd.converged);
    const double error = lora_test::residual(A, svd).norm();
    CHECK(std::abs(svd.certificate.frobenius_error - error) <= tolerance<S> * size);
    CHECK(std::abs(svd.certificate.frobenius_error - lora::detail::tail(sigma, kept)) <= tolerance<S> * size);
    CHECK(std::abs(svd.certificate.spectral_error - (kept < sigma.size() ? sigma(kept) : 0)) <= tolerance<S> * size);
    CHECK(std::abs(svd.certificate.frobenius_norm - size) <= tolerance<S> * size);
    CHECK(lora_test::not_orthonormal(svd.U) <= 10 * tolerance<S>);
    CHECK(lora_test::not_orthonormal(svd.V) <= 10 * tolerance<S>);
    CHECK(lora::truncate(M, {.energy = 0.8}).rank() == lora::truncated_svd(A, {.energy = 0.8}).rank());
    CHECK(lora::truncate(M, {.error = 0.3}).rank() == lora::truncated_svd(A, {.error = 0.3}).rank());
  }
}

TEMPLATE_TEST_CASE("factored: balanced factors are the same matrix and equally large", "", float, double) {
  using S = TestType;
  lora::Rng rng(2);
  auto M = random_factors<S>(30, 5, 20, 0.5, rng);
  M.B *= S(1e4);
  const auto N = lora::balanced(M);
  CHECK((dense(N) - dense(M)).norm() <= tolerance<S> * dense(M).norm());
  CHECK(N.scale == 1);
  CHECK(N.rank() == 5);
  const Eigen::MatrixXd left = (N.B.transpose() * N.B).template cast<double>();
  const Eigen::MatrixXd right = (N.A * N.A.transpose()).template cast<double>();
  CHECK((left - right).norm() <= tolerance<S> * left.norm());
  CHECK((left - Eigen::MatrixXd(left.diagonal().asDiagonal())).norm() <= tolerance<S> * left.norm());
}

TEMPLATE_TEST_CASE("factored: sums are exact, of any ranks, without cross terms", "", float, double) {
  using S = TestType;
  lora::Rng rng(3);
  const auto M = random_factors<S>(12, 2, 9, 2, rng);
  const auto N = random_factors<S>(12, 5, 9, 0.5, rng);
  // powers of two round nothing: the sum's factors are the terms' own
  const auto sum = lora::weighted_sum<S>({{M, 0.5}, {N, -4}});
  CHECK(sum.scale == 1);
  CHECK(sum.rank() == 7);
  CHECK(sum.B.leftCols(2) == M.B);
  CHECK(sum.B.rightCols(5) == N.B);
  CHECK(sum.A.topRows(2) == M.A);
  CHECK(sum.A.bottomRows(5) == S(-2) * N.A);
  CHECK((dense(sum) - (0.5 * dense(M) - 4 * dense(N))).norm() <= 1e-13);

  const auto cut = lora::truncate(sum, {.rank = 3});
  CHECK(cut.certificate.frobenius_error ==
        Approx(lora::truncated_svd(dense(sum), {.rank = 3}).certificate.frobenius_error).epsilon(tolerance<S> * 10));
}

TEST_CASE("factored: one term of weight 1 is itself, and equal factors become the scale") {
  lora::Rng rng(4);
  const auto M = random_factors<float>(6, 2, 5, 0.3, rng);
  const auto alone = lora::weighted_sum<float>({{M, 1}});
  CHECK(alone.B == M.B);
  CHECK(alone.A == M.A);
  CHECK(alone.scale == M.scale);
  const auto twice = lora::weighted_sum<float>({{M, 0.1}, {M, 0.1}});
  CHECK(twice.A.topRows(2) == M.A);
  CHECK(twice.scale == 0.1 * M.scale);
}

TEST_CASE("factored: a difference that cancels keeps its digits") {
  lora::Rng rng(5);
  const auto M = random_factors<double>(20, 4, 30, 1, rng);
  auto N = M;
  N.B(3, 2) += 1e-9;
  CHECK(lora::distance(M, N) == Approx((N.B(3, 2) - M.B(3, 2)) * M.A.row(2).norm()).epsilon(1e-5));
  CHECK(lora::distance(M, M) <= 1e-14 * lora::norm(M));
}

TEMPLATE_TEST_CASE("factored: sizes near the ends of the scalar's range", "", float, double) {
  using S = TestType;
  const double big = std::is_same_v<S, float> ? 0x1p100 : 0x1p900;
  lora::Rng rng(6);
  const auto M = random_factors<S>(8, 3, 7, 1, rng);
  auto N = M;
  N.B *= S(big);
  N.A /= S(big);
  CHECK(lora::singular_values(N) == lora::singular_values(M));
  CHECK(lora::norm(N) == lora::norm(M));
  N.B = M.B / S(big);
  const lora::Factors<S> tiny{N.B, M.A, 1};
  CHECK(lora::singular_values(tiny) == lora::singular_values(M) / big);
  CHECK(lora::norm(lora::Factors<S>{M.B, lora::RowMajorMatrix<S>::Zero(3, 7), 1}) == 0);
  CHECK(lora::truncate(lora::Factors<S>{M.B, lora::RowMajorMatrix<S>::Zero(3, 7), 1}, {.rank = 2})
            .certificate.relative_error() == 0);
}

TEST_CASE("factored: a scale that overflows with one factor and not with both") {
  const lora::Factors<double> large{Eigen::MatrixXd::Constant(5, 2, 0x1p1000),
                                    Eigen::MatrixXd::Constant(2, 5, 0x1p-1000), 0x1p60};
  CHECK(lora::norm(large) == Approx(10 * 0x1p60).epsilon(1e-14));
  const lora::Factors<double> small{Eigen::MatrixXd::Constant(5, 2, 0x1p-1000),
                                    Eigen::MatrixXd::Constant(2, 5, 0x1p1000), 0x1p-60};
  CHECK(lora::norm(small) == Approx(10 * 0x1p-60).epsilon(1e-14));
  CHECK(lora::truncate(small, {.rank = 1}).singular_values(0) == Approx(10 * 0x1p-60).epsilon(1e-14));
  const lora::Factors<double> both{large.B, large.B.transpose(), 1};
  CHECK(message<lora::ValueError>([&] { lora::norm(both); }) ==
        "norm: the product of the factors and their scale overflows");
  CHECK(message<lora::ValueError>([&] { lora::truncate(both, {.rank = 1}); }) ==
        "truncate: the product of the factors and their scale overflows");
  const Eigen::Matrix2d diagonal = Eigen::Vector2d::Constant(1.7e308).asDiagonal();
  const lora::Factors<double> norm_alone{diagonal, Eigen::Matrix2d::Identity(), 1};
  CHECK(message<lora::ValueError>([&] { lora::norm(norm_alone); }) ==
        "norm: the product of the factors and their scale overflows");
}

TEST_CASE("factored: the overlap of subspaces that are known") {
  // columns e1, e2 with singular values 2, 1 against e2, e3 with 2, 1
  lora::Factors<double> M{Eigen::MatrixXd::Zero(4, 2), Eigen::MatrixXd::Identity(2, 5), 1};
  lora::Factors<double> N = M;
  M.B(0, 0) = 2;
  M.B(1, 1) = 1;
  N.B(1, 0) = 2;
  N.B(2, 1) = 1;
  const auto left = [&](Index i, Index j) { return lora::subspace_overlap(M, N, i, j, lora::Side::left); };
  CHECK(left(1, 1) == Approx(0).margin(1e-15));
  CHECK(left(2, 1) == Approx(1));
  CHECK(left(1, 2) == Approx(0).margin(1e-15));
  CHECK(left(2, 2) == Approx(0.5));
  CHECK(lora::subspace_overlap(M, N, 2, 2, lora::Side::right) == Approx(1));
  CHECK(lora::subspace_overlap(M, N, 1, 1, lora::Side::right) == Approx(1));
}

TEMPLATE_TEST_CASE("factored: factors that lie elsewhere give the same as owned ones, to the bit", "", float, double) {
  using S = TestType;
  lora::Rng rng(8);
  const auto M = random_factors<S>(9, 3, 7, -0.7, rng);
  const auto N = random_factors<S>(9, 2, 7, 2, rng);
  const lora::FactorView<S> m(M), n(N);
  STATIC_REQUIRE(lora::FactoredMatrix<lora::Factors<S>>);
  STATIC_REQUIRE(lora::FactoredMatrix<lora::FactorView<S>>);
  STATIC_REQUIRE(!lora::FactoredMatrix<lora::Matrix<S>>);
  CHECK(lora::norm(m) == lora::norm(M));
  CHECK(lora::singular_values(m) == lora::singular_values(M));
  CHECK(lora::truncate(m, {.rank = 2}).U == lora::truncate(M, {.rank = 2}).U);
  CHECK(lora::balanced(m).A == lora::balanced(M).A);
  CHECK(lora::inner_product(m, n) == lora::inner_product(M, N));
  CHECK(lora::inner_product(m, N) == lora::inner_product(M, N));
  CHECK(lora::distance(m, n) == lora::distance(M, N));
  CHECK(lora::distance(M, n) == lora::distance(M, N));
  CHECK(lora::weighted_sum<S>({{m, 0.5}, {n, 2}}).A == lora::weighted_sum<S>({{M, 0.5}, {N, 2}}).A);
  for (const auto side : {lora::Side::left, lora::Side::right}) {
    CHECK(lora::subspace_overlap(m, n, 2, 1, side) == lora::subspace_overlap(M, N, 2, 1, side));
    CHECK(lora::subspace_overlap(M, n, 2, 1, side) == lora::subspace_overlap(M, N, 2, 1, side));
  }
}

TEST_CASE("factored: what it refuses, and how it says so") {
  lora::Rng rng(7);
  auto M = random_factors<double>(4, 2, 3, 1, rng);
  CHECK(message<lora::ConfigError>([&] { lora::truncate(M, {.rank = 3}); }) == "truncate: rank is 3, expected 1 to 2");
  CHECK(message<lora::ConfigError>([&] { lora::subspace_overlap(M, M, 0, 1, lora::Side::left); }) ==
        "subspace_overlap: rank is 0, expected 1 to 2");
  CHECK(message<lora::ConfigError>([&] { lora::weighted_sum<double>({}); }) ==
        "weighted_sum: there are no terms, expected at least one");
  auto fresh = M;
  fresh.B.setZero();
  CHECK(message<lora::ValueError>([&] { lora::subspace_overlap(M, fresh, 1, 1, lora::Side::right); }) ==
        "subspace_overlap: the second has numerical rank 0, expected at least 1");
  fresh.B.col(0) = M.B.col(0);
  fresh.B.col(1) = M.B.col(0) / 3;
  CHECK(lora::subspace_overlap(fresh, fresh, 1, 1, lora::Side::left) == Approx(1));
  CHECK(message<lora::ValueError>([&] { lora::subspace_overlap(fresh, M, 2, 1, lora::Side::left); }) ==
        "subspace_overlap: the first has numerical rank 1, expected at least 2");
  const auto wide = random_factors<double>(4, 2, 5, 1, rng);
  CHECK(message<lora::ShapeError>([&] { lora::weighted_sum<double>({{M, 1}, {wide, 1}}); }) ==
        "weighted_sum: term 1 is 4 x 5, expected 4 x 3 as term 0");
  CHECK(message<lora::ShapeError>([&] { lora::inner_product(M, wide); }) ==
        "inner_product: the second has 5 columns, expected columns of the first = 3");
  CHECK(message<lora::ShapeError>([&] { lora::distance(M, wide); }) ==
        "distance: term 1 is 4 x 5, expected 4 x 3 as term 0");
  CHECK(message<lora::ValueError>([&] { lora::weighted_sum<double>({{M, std::nan("")}}); }) ==
        "weighted_sum: weight times scale of term 0 is nan, expected a finite number");
  CHECK(message<lora::ShapeError>([&] { lora::norm(lora::Factors<double>{M.B, wide.A.topRows(1), 1}); }) ==
        "norm: A has 1 rows, expected B.cols() = 2");
  CHECK(message<lora::ShapeError>([&] {
          lora::norm(lora::Factors<double>{Eigen::MatrixXd(4, 0), Eigen::MatrixXd(0, 3), 1});
        }) == "norm: B is empty (4 x 0), expected at least 1 x 1");
  lora::Factors<float> large{Eigen::MatrixXf::Ones(4, 2), Eigen::MatrixXf::Constant(2, 3, 1e20f), 1};
  CHECK(message<lora::ValueError>([&] { lora::weighted_sum<float>({{large, 1}, {large, 1e25}}); }) ==
        "weighted_sum: weight times scale of term 1 is 1e+25, which takes an entry of A "
        "beyond the range of the scalar");
  large.B(3, 1) = std::numeric_limits<float>::infinity();
  CHECK(message<lora::ValueError>([&] { lora::weighted_sum<float>({{large, 1}, {large, 2}}); }) ==
        "weighted_sum: in term 0, B(3, 1) is inf, expected a finite number");
  M.A(1, 2) = std::nan("");
  CHECK(message<lora::ValueError>([&] { lora::truncate(M, {.rank = 1}); }) ==
        "truncate: A(1, 2) is nan, expected a finite number");
}
