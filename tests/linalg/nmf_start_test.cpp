#include "lora/linalg/factorizations/detail/nmf_start.hpp"

#include "support/catch.hpp"
#include "support/hard_matrices.hpp"
#include "support/nmf.hpp"

#include "lora/linalg/factorizations/nmf.hpp"

#include <cmath>

using Eigen::MatrixXd;
using lora::Index;
using lora::nmf;
using lora::NmfLoss;
using lora::NmfStart;

namespace {

/// A start as nmf returns it after no iteration.
lora::Nmf<double> start_of(const MatrixXd& X, Index rank, NmfStart start, NmfLoss loss = NmfLoss::frobenius,
                           std::uint64_t seed = 0) {
  return nmf(X, {.rank = rank, .loss = loss, .start = start, .max_iterations = 0, .seed = seed});
}

MatrixXd non_negative(Index rows, Index cols, std::uint64_t seed) {
  lora::Rng rng(seed);
  return lora_test::normal(rows, cols, rng).cwiseAbs();
}

}  // namespace

TEST_CASE("nmf start: NNDSVD by hand") {
  // sigma = 3, 1 with u = v = (1, 1) / sqrt 2 and (1, -1) / sqrt 2: of the second pair either part, of size 1 / 2
  MatrixXd X(2, 2);
  X << 2, 1, 1, 2;
  const auto found = start_of(X, 2, NmfStart::nndsvd);
  CHECK((found.W.col(0) * found.H.row(0) - MatrixXd::Constant(2, 2, 1.5)).norm() <= 1e-14);
  CHECK((found.W.col(0).transpose() - found.H.row(0)).norm() <= 1e-14);
  const MatrixXd second = found.W.col(1) * found.H.row(1);
  CHECK(second.maxCoeff() == Approx(0.5).epsilon(1e-14));
  CHECK((second.array() != 0).count() == 1);
  CHECK(second(0, 1) + second(1, 0) == 0);  // on the diagonal
  CHECK(found.iterations == 0);
  CHECK_FALSE(found.converged);
}

TEST_CASE("nmf start: NNDSVD keeps the larger part of each pair of singular vectors") {
  const MatrixXd X = non_negative(20, 30, 1);
  const auto svd = lora::truncated_svd(X, {.rank = 6});
  const auto found = start_of(X, 6, NmfStart::nndsvd);
  CHECK((found.W.col(0) * found.H.row(0) -
         svd.singular_values(0) * svd.U.col(0).cwiseAbs() * svd.V.col(0).cwiseAbs().transpose())
            .norm() <= 1e-12);
  for (Index t = 1; t < 6; ++t) {
    const MatrixXd plus = svd.U.col(t).cwiseMax(0) * svd.V.col(t).cwiseMax(0).transpose();
    const MatrixXd minus = (-svd.U.col(t)).cwiseMax(0) * (-svd.V.col(t)).cwiseMax(0).transpose();
    const MatrixXd expected = svd.singular_values(t) * (plus.norm() > minus.norm() ? plus : minus);
    CHECK((found.W.col(t) * found.H.row(t) - expected).norm() <= 1e-12);
    CHECK(found.W.col(t).norm() == Approx(found.H.row(t).norm()).epsilon(1e-12));
  }
}

TEST_CASE("nmf start: random entries have the size of X and follow the seed") {
  const MatrixXd X = non_negative(60, 80, 2) * 100;
  const auto found = start_of(X, 4, NmfStart::random);
  // |z| has mean sqrt(2 / pi)
  const double spread = std::sqrt(X.mean() / 4) * std::sqrt(2 / 3.14159265358979);
  CHECK(found.W.mean() == Approx(spread).epsilon(0.15));
  CHECK(found.H.mean() == Approx(spread).epsilon(0.15));
  CHECK(found.W.minCoeff() > 0);
  CHECK(start_of(X, 4, NmfStart::random).W == found.W);
  CHECK(start_of(X, 4, NmfStart::random, NmfLoss::kullback_leibler).H == found.H);
  CHECK(start_of(X, 4, NmfStart::random, NmfLoss::frobenius, 1).W != found.W);
}

TEST_CASE("nmf start: the divergence is finite from every start") {
  MatrixXd X = MatrixXd::Identity(6, 6);
  X(0, 5) = 4;
  const auto zeros = start_of(X, 2, NmfStart::nndsvd);
  CHECK((zeros.W.array() == 0).any());
  const auto raised = start_of(X, 2, NmfStart::nndsvd, NmfLoss::kullback_leibler);
  const double least = std::sqrt(X.mean() / 2) / 100;
  CHECK(raised.W.minCoeff() == Approx(least).epsilon(1e-12));
  CHECK(raised.H.minCoeff() == Approx(least).epsilon(1e-12));
  CHECK(std::isfinite(raised.loss));
  // zeros that do no harm stay
  MatrixXd W0 = MatrixXd::Ones(6, 2), H0 = MatrixXd::Ones(2, 6);
  W0.col(1).setZero();
  const auto kept = nmf(X, {.rank = 2, .loss = NmfLoss::kullback_leibler, .max_iterations = 0}, W0, H0);
  CHECK(kept.W == W0);
  W0.row(3).setZero();
  const auto mended = nmf(X, {.rank = 2, .loss = NmfLoss::kullback_leibler, .max_iterations = 0}, W0, H0);
  CHECK(mended.W.minCoeff() > 0);
  CHECK(nmf(X, {.rank = 2, .loss = NmfLoss::kullback_leibler}, W0, H0).loss < raised.loss);
}
