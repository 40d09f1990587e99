#include "lora/linalg/factorizations/pca.hpp"

#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

using Eigen::MatrixXd;
using lora::Index;
using lora::pca;

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

MatrixXd covariance(const MatrixXd& X) {
  const MatrixXd centered = X.colwise() - X.rowwise().mean();
  return centered * centered.transpose() / static_cast<double>(X.cols() - 1);
}

}  // namespace

TEST_CASE("pca: points on a line, by hand") {
  // (1, 2) + t (3, -4) for t = -1, 0, 0, 1: variance 25 * 2/3 along (-3, 4) / 5, none across
  MatrixXd X(2, 4);
  X << -2, 1, 1, 4, 6, 2, 2, -2;
  const auto found = pca(X, {.rank = 2});
  CHECK(found.mean == Eigen::Vector2d(1, 2));
  CHECK((found.components.col(0) - Eigen::Vector2d(-0.6, 0.8)).norm() <= 1e-15);
  CHECK(found.explained_variance(0) == Approx(50.0 / 3).epsilon(1e-14));
  CHECK(found.explained_variance(1) <= 1e-28);
  CHECK(found.explained_variance_ratio(0) == Approx(1).epsilon(1e-14));
  CHECK((found.transform(X).row(0) - Eigen::RowVector4d(5, 0, 0, -5)).norm() <= 1e-14);
  CHECK(pca(X, {.energy = 0.999}).rank() == 1);
}

TEMPLATE_TEST_CASE("pca: what the components keep and leave", "", float, double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 1e-5 : 1e-12;
  lora::Rng rng(1);
  Eigen::VectorXd sigma(12);
  for (Index i = 0; i < 12; ++i) sigma(i) = 10 * std::pow(0.7, static_cast<double>(i));
  MatrixXd data = lora_test::with_spectrum(sigma, 12, 200, rng);
  data.colwise() += lora_test::normal(12, 1, rng).col(0);
  data.row(3).setConstant(7);  // a pixel that never changes
  const lora::Matrix<S> X = data.cast<S>();
  const MatrixXd expected = covariance(X.template cast<double>());
  for (const auto method : {lora::SvdMethod::exact, lora::SvdMethod::randomized}) {
    const auto found = pca(X, {.rank = 5, .method = method});
    CHECK(found.method == method);
    CHECK(found.converged);
    const MatrixXd C = found.components.template cast<double>();
    CHECK(lora_test::not_orthonormal(C) <= tolerance);
    CHECK(C.row(3).norm() <= tolerance);
    for (Index k = 0; k < 5; ++k) CHECK(C.col(k).maxCoeff() == C.col(k).cwiseAbs().maxCoeff());
    // eigenvectors of the covariance matrix, with its eigenvalues
    const MatrixXd scaled = C * found.explained_variance.asDiagonal();
    CHECK((expected * C - scaled).norm() <= (method == lora::SvdMethod::exact ? 1 : 20) * tolerance * expected.norm());
    CHECK((found.explained_variance_ratio - found.explained_variance / expected.trace()).norm() <= tolerance);
    CHECK(found.significant == 5);
    // what is left is the certificate's error
    const MatrixXd back = found.inverse_transform(found.transform(X)).template cast<double>();
    const double error = (X.template cast<double>() - back).norm();
    CHECK(std::abs(error - found.certificate.frobenius_error) <= tolerance * X.norm());
    // whitened: uncorrelated, of variance 1, and the same point again
    const MatrixXd whitened = found.whiten(X).template cast<double>();
    CHECK((covariance(whitened) - MatrixXd::Identity(5, 5)).norm() <= 20 * tolerance);
    CHECK((found.inverse_whiten(found.whiten(X)).template cast<double>() - back).norm() <= tolerance * X.norm());
  }
}

TEST_CASE("F3: pca of data whose mean is no float") {
  Eigen::Matrix2f X;
  X << 10000001, 10000000, 10000000, 10000001;
  const auto found = pca(X, {.rank = 2});
  CHECK(found.explained_variance(0) == Approx(1).epsilon(1e-7));
  CHECK(found.explained_variance(1) <= 1e-14);
  CHECK((found.components.col(0) - Eigen::Vector2f(std::sqrt(0.5F), -std::sqrt(0.5F))).norm() <= 1e-6F);
  CHECK(found.mean.cast<double>() + found.mean_rest.cast<double>() == Eigen::Vector2d::Constant(10000000.5));
  CHECK(found.significant == 1);
  CHECK((found.transform(X).row(0) - Eigen::RowVector2f(std::sqrt(0.5F), -std::sqrt(0.5F))).norm() <= 1e-6F);
  CHECK((found.whiten(X).row(0) - Eigen::RowVector2f(std::sqrt(0.5F), -std::sqrt(0.5F))).norm() <= 1e-6F);
  CHECK(found.inverse_transform(found.transform(X)) == X);
  // one direction leaves nothing, and one that were (1, 0) would leave sqrt(1/2)
  const auto one = pca(X, {.rank = 1});
  CHECK(one.certificate.frobenius_error <= 1e-7);
  CHECK((X - one.inverse_transform(one.transform(X))).norm() == 0);
  // the same in double, from where its neighbours differ by 2
  const Eigen::Matrix2d Y = (2 * (X.cast<double>().array() - 1e7) + 0x1p53).matrix();
  const auto wide = pca(Y, {.rank = 2});
  CHECK(wide.explained_variance(0) == Approx(4).epsilon(1e-14));
  CHECK(wide.explained_variance(1) <= 1e-28);
  CHECK((wide.components.col(0) - Eigen::Vector2d(std::sqrt(0.5), -std::sqrt(0.5))).norm() <= 1e-14);
}

TEMPLATE_TEST_CASE("F3: far from zero and badly scaled, pca's statistics are those of long double", "", float, double) {
  using S = TestType;
  using Exact = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;
  const double epsilon = static_cast<double>(std::numeric_limits<S>::epsilon());
  lora::Rng rng(11);
  for (const double offset : {0.0, 1.0, 1e3, 1 / epsilon, 1e3 / epsilon}) {
    for (const Index samples : {2, 7, 1000}) {
      // each feature is an offset plus noise of size 1, as the scalar rounds them; sizes from 1e-3 to 1e3
      lora::Matrix<S> X = (lora_test::normal(6, samples, rng).array() + offset).matrix().cast<S>();
      for (Index i = 0; i < 6; ++i) X.row(i) *= S(std::ldexp(1.0, static_cast<int>(4 * i) - 10));
      CAPTURE(offset, samples);
      // less the first sample, exactly: a mean in long double, too, is rounded this far from zero
      const Exact first = X.col(0).template cast<long double>();
      const Exact shifted = X.template cast<long double>().colwise() - first.col(0);
      const Exact mean = shifted.rowwise().mean();
      const Exact centered = shifted.colwise() - mean.col(0);
      const auto total = static_cast<double>(centered.norm());
      const Index rank = std::min<Index>(6, samples);
      for (const auto method : {lora::SvdMethod::exact, lora::SvdMethod::randomized}) {
        for (const Index kept : {Index(1), rank}) {
          const auto found = pca(X, {.rank = kept, .method = method});
          const Exact own_mean =
              (found.mean.template cast<long double>() - first) + found.mean_rest.template cast<long double>();
          CHECK(static_cast<double>((own_mean - mean).norm()) <= 2 * epsilon * total);
          const Exact C = found.components.template cast<long double>();
          const Exact E = centered - C * (C.transpose() * centered);
          const auto error = static_cast<double>(E.norm());
          const lora::Certificate& certificate = found.certificate;
          CHECK(std::abs(certificate.frobenius_norm - total) <= certificate.rounding);
          CHECK(certificate.rounding <= 700 * epsilon * total + 1e-40);
          CHECK(error <= certificate.frobenius_error + certificate.rounding);
          CHECK(error >= certificate.frobenius_error - certificate.rounding);
          for (Index k = 0; k < kept; ++k) {
            const auto variance = static_cast<double>((C.col(k).transpose() * centered).squaredNorm() /
                                                      static_cast<long double>(samples - 1));
            CHECK(std::abs(std::sqrt(found.explained_variance(k)) - std::sqrt(variance)) <=
                  2 * certificate.rounding / std::sqrt(static_cast<double>(samples - 1)));
          }
        }
      }
    }
  }
}

TEST_CASE("F3: entries of a direction that tie in magnitude give one sign in float and in double") {
  lora::Rng rng(12);
  for (int i = 0; i < 200; ++i) {
    // two features that mirror each other, beside small ones: the direction is (1, -1, ...) / sqrt(2)
    MatrixXd X = 0.01 * lora_test::normal(5, 30, rng);
    const Index first = static_cast<Index>(rng.below(4));
    X.row(first) = lora_test::normal(1, 30, rng);
    X.row(4) = -X.row(first);
    CAPTURE(i);
    const Eigen::VectorXd wide = pca(X, {.rank = 1}).components.col(0);
    const Eigen::VectorXf narrow = pca(X.cast<float>().eval(), {.rank = 1}).components.col(0);
    const Eigen::VectorXf sketched =
        pca(X.cast<float>().eval(), {.rank = 1, .method = lora::SvdMethod::randomized}).components.col(0);
    CHECK(wide(first) > 0.7);
    CHECK((wide.cast<float>() - narrow).norm() <= 1e-5F);
    CHECK((wide.cast<float>() - sketched).norm() <= 1e-4F);
  }
}

TEST_CASE("pca: constant data has no variance and stays finite") {
  for (const Index samples : {6, 10, 1001}) {  // of which 10 and 1001 times 0.1, divided again, is not 0.1
    const MatrixXd X = MatrixXd::Constant(3, samples, 0.1);
    const auto found = pca(X, {.rank = 2});
    CHECK(found.mean == X.col(0));
    CHECK(found.explained_variance == Eigen::Vector2d::Zero());
    CHECK(found.explained_variance_ratio == Eigen::Vector2d::Zero());
    CHECK(found.whiten(X) == MatrixXd::Zero(2, samples));
    CHECK(found.inverse_transform(found.transform(X)) == X);
  }
}

TEMPLATE_TEST_CASE("pca: variance that is rounding is not blown up", "", float, double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 1e-4 : 1e-12;
  lora::Rng rng(2);
  lora::Matrix<S> few = lora_test::normal(10, 4, rng).cast<S>();  // four samples vary in three directions
  lora::Matrix<S> repeated = lora_test::normal(4, 30, rng).cast<S>();
  repeated.row(2) = S(3.1) * repeated.row(1);
  for (const auto& X : {few, repeated}) {
    for (const auto method : {lora::SvdMethod::exact, lora::SvdMethod::randomized}) {
      const auto found = pca(X, {.rank = 4, .method = method});
      CHECK(found.significant == 3);
      const MatrixXd whitened = found.whiten(X).template cast<double>();
      CHECK((covariance(whitened).topLeftCorner(3, 3) - MatrixXd::Identity(3, 3)).norm() <= tolerance);
      CHECK(whitened.row(3) == MatrixXd::Zero(1, X.cols()));
      CHECK((found.inverse_whiten(found.whiten(X)) - X).norm() <= S(tolerance) * X.norm());
    }
  }
}

TEMPLATE_TEST_CASE("pca: the size of the data does not matter, while its variance is a double", "", float, double) {
  using S = TestType;
  lora::Rng rng(3);
  const lora::Matrix<S> X = lora_test::normal(3, 20, rng).cast<S>();
  const auto plain = pca(X, {.rank = 2});
  for (const S size :
       std::is_same_v<S, float> ? std::vector{S(0x1p-110), S(0x1p110)} : std::vector{S(0x1p-500), S(0x1p500)}) {
    const auto found = pca(size * X, {.rank = 2});
    CHECK(found.significant == 2);
    CHECK(found.components == plain.components);
    CHECK(found.explained_variance == plain.explained_variance * static_cast<double>(size) * static_cast<double>(size));
    CHECK((found.whiten(size * X) - plain.whiten(X)).norm() <= S(1e-5));
    CHECK((found.inverse_whiten(found.whiten(size * X)) / size - plain.inverse_whiten(plain.whiten(X))).norm() <=
          S(1e-5));
  }
}

TEST_CASE("pca: what it refuses, and how it says so") {
  MatrixXd X = MatrixXd::Ones(3, 5);
  CHECK(message<lora::ShapeError>([&] { pca(X.leftCols(1), {.rank = 1}); }) ==
        "pca: X has 1 column, expected at least 2 samples");
  CHECK(message<lora::ShapeError>([&] { pca(X.topRows(0), {.rank = 1}); }) ==
        "pca: X is empty (0 x 5), expected at least 1 x 1");
  CHECK(message<lora::ConfigError>([&] { pca(X, {.rank = 4}); }) == "pca: rank is 4, expected 1 to 3");
  const auto found = pca(X, {.rank = 2});
  CHECK(message<lora::ShapeError>([&] { found.transform(MatrixXd(4, 2)); }) ==
        "Pca::transform: X has 4 rows, expected features = 3");
  CHECK(message<lora::ShapeError>([&] { found.inverse_transform(MatrixXd(4, 2)); }) ==
        "Pca::inverse_transform: Z has 4 rows, expected rank = 2");
  CHECK(message<lora::ValueError>([&] { pca(1e200 * Eigen::Matrix2d::Identity(), {.rank = 1}); }) ==
        "pca: the variance overflows");
  CHECK(message<lora::ValueError>([] { pca(Eigen::RowVector2d(1.7e308, -1.7e308), {.rank = 1}); }) ==
        "pca: the largest singular value overflows the matrix's scalar type");
  CHECK(message<lora::ValueError>([] { pca(Eigen::RowVector3f(-3e38f, -3e38f, 3e38f), {.rank = 1}); }) ==
        "pca: (X - mean)(0, 2) is inf, expected a finite number");
  X(2, 4) = std::nan("");
  CHECK(message<lora::ValueError>([&] { pca(X, {.rank = 1}); }) == "pca: X(2, 4) is nan, expected a finite number");
}
