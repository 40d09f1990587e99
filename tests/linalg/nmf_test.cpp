#include "lora/linalg/factorizations/nmf.hpp"

#include "examples/support/digits.hpp"
#include "support/catch.hpp"
#include "support/hard_matrices.hpp"
#include "support/nmf.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

using Eigen::MatrixXd;
using lora::Index;
using lora::nmf;
using lora::NmfLoss;
using lora::NmfStart;

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

MatrixXd non_negative(Index rows, Index cols, std::uint64_t seed) {
  lora::Rng rng(seed);
  return lora_test::normal(rows, cols, rng).cwiseAbs();
}

/// The loss by its definition, entry by entry.
double loss_of(const MatrixXd& X, const MatrixXd& W, const MatrixXd& H, NmfLoss loss) {
  const MatrixXd Y = W * H;
  if (loss == NmfLoss::frobenius) return (X - Y).squaredNorm() / 2;
  double sum = 0;
  for (Index j = 0; j < X.cols(); ++j) {
    for (Index i = 0; i < X.rows(); ++i) {
      sum += (X(i, j) > 0 ? X(i, j) * std::log(X(i, j) / Y(i, j)) : 0.0) - X(i, j) + Y(i, j);
    }
  }
  return sum;
}

struct Gradients {
  MatrixXd W, H;
};

Gradients gradients(const MatrixXd& X, const MatrixXd& W, const MatrixXd& H, NmfLoss loss) {
  const MatrixXd Y = W * H;
  const MatrixXd R = loss == NmfLoss::frobenius ? MatrixXd(Y - X) : MatrixXd(1 - X.array() / Y.array().max(1e-300));
  return {R * H.transpose(), W.transpose() * R};
}

const auto both = {NmfLoss::frobenius, NmfLoss::kullback_leibler};
const auto starts = {NmfStart::nndsvd, NmfStart::random};

}  // namespace

TEST_CASE("nmf: the test's gradients are those of the loss") {
  const MatrixXd X = non_negative(5, 6, 1);
  MatrixXd W = non_negative(5, 2, 2), H = non_negative(2, 6, 3);
  for (const auto loss : both) {
    const Gradients exact = gradients(X, W, H, loss);
    const double step = 1e-6;
    const auto difference = [&](double& entry) {
      const double at = entry;
      entry = at + step;
      const double above = loss_of(X, W, H, loss);
      entry = at - step;
      const double below = loss_of(X, W, H, loss);
      entry = at;
      return (above - below) / (2 * step);
    };
    for (Index t = 0; t < 2; ++t) {
      for (Index i = 0; i < 5; ++i) CHECK(difference(W(i, t)) == Approx(exact.W(i, t)).epsilon(1e-6).margin(1e-7));
      for (Index j = 0; j < 6; ++j) CHECK(difference(H(t, j)) == Approx(exact.H(t, j)).epsilon(1e-6).margin(1e-7));
    }
  }
}

TEST_CASE("nmf: one iteration by hand") {
  // W <- X H^T / (H H^T) = (7, 14) / 10, then H <- W^T X / (W^T W) = (1, 2) / 0.7 by which X = W H
  MatrixXd X(2, 2);
  X << 1, 2, 2, 4;
  MatrixXd W0(2, 1), H0(1, 2);
  W0 << 5, 0;
  H0 << 1, 3;
  const auto found = nmf(X, {.rank = 1, .max_iterations = 1}, W0, H0);
  CHECK(found.iterations == 1);
  CHECK_FALSE(found.converged);
  CHECK((found.W - Eigen::Vector2d(0.7, 1.4)).norm() <= 1e-15);
  CHECK((found.H - Eigen::RowVector2d(1, 2) / 0.7).norm() <= 1e-15);
  CHECK(found.loss <= 1e-30);
  // the divergence, by the equations of nmf_newton.hpp
  MatrixXd W1(1, 1), H1(1, 1), x(1, 1);
  W1 << 2;
  H1 << 3;
  x << 4;  // y = 6: f' = 3 - 3 4 / 6 = 1, f'' = 9 4 / 36 = 1, W <- 2 - 2 / (1 + 2); y = 4 is the minimum: H stays
  const auto step = nmf(x, {.rank = 1, .loss = NmfLoss::kullback_leibler, .max_iterations = 1}, W1, H1);
  CHECK(step.W(0, 0) == Approx(4.0 / 3).epsilon(1e-15));
  CHECK(step.H(0, 0) == Approx(3).epsilon(1e-15));
  W1 << 1;  // y = 3: f' = 3 - 4 = -1, f'' = 4, W <- 1 + 1/4; y = 3.75: H: f' = 1.25 - 4/3, f'' = 1.5625 4 / 3.75^2
  const auto rise = nmf(x, {.rank = 1, .loss = NmfLoss::kullback_leibler, .max_iterations = 1}, W1, H1);
  CHECK(rise.W(0, 0) == Approx(1.25).epsilon(1e-15));
  CHECK(rise.H(0, 0) == Approx(3 + (4.0 / 3 - 1.25) / (1.5625 * 4 / (3.75 * 3.75))).epsilon(1e-14));
  // two components: the second sees what the first has changed
  MatrixXd X2(2, 2), W2(2, 2), H2(2, 2);
  X2 << 4, 0, 0, 0;
  W2 << 2, 1, 0, 0;
  H2 << 3, 0, 1,
      0;  // y = 7: f' = 3 - 12 / 7, f'' = 36 / 49, W <- 144 / 135; y = 4.2: f' = 1 - 4 / 4.2, f'' = 4 / 4.2^2
  const auto two = nmf(X2, {.rank = 2, .loss = NmfLoss::kullback_leibler, .max_iterations = 1}, W2, H2);
  CHECK(two.W(0, 0) == Approx(144.0 / 135).epsilon(1e-14));
  const double curvature = 4 / (4.2 * 4.2);
  CHECK(two.W(0, 1) == Approx(curvature / (1 - 4 / 4.2 + curvature)).epsilon(1e-13));
}

TEST_CASE("nmf: the residual by hand") {
  const auto residual = [](const Eigen::Vector2d& X, const Eigen::Vector2d& W0) {
    return nmf(X, {.rank = 1, .max_iterations = 0}, W0, MatrixXd::Ones(1, 1)).residual;
  };
  CHECK(residual({1, 1}, {1, 0}) == Approx(std::sqrt(0.5)).epsilon(1e-15));  // dW = (0, -1): it wants to grow from 0
  CHECK(residual({1, 0}, {1, 0}) == 0);
  CHECK(residual({3, 4}, {3, 4}) == 0);
  CHECK(residual({2, 0}, {2, 1}) == Approx(1.0 / 3).epsilon(1e-15));  // dW = (0, 1), with 1 below the mean 1.5
}

TEMPLATE_TEST_CASE("nmf: no entry is negative, the loss is what it says and never rises", "", float, double) {
  using S = TestType;
  const double rounding = std::is_same_v<S, float> ? 1e-5 : 1e-12;
  MatrixXd data = non_negative(13, 37, 4).unaryExpr([](double x) { return x > 0.6 ? x : 0.0; });
  data.row(5).setZero();
  data.col(7).setZero();
  const lora::Matrix<S> X = data.cast<S>();
  for (const auto loss : both) {
    for (const auto start : starts) {
      double before = std::numeric_limits<double>::infinity();
      for (int iterations = 0; iterations <= 25; ++iterations) {
        const auto found =
            nmf(X, {.rank = 4, .loss = loss, .start = start, .tolerance = 0, .max_iterations = iterations});
        CHECK(found.iterations == iterations);
        CHECK(found.W.minCoeff() >= 0);
        CHECK(found.H.minCoeff() >= 0);
        const double expected =
            loss_of(X.template cast<double>(), found.W.template cast<double>(), found.H.template cast<double>(), loss);
        CHECK(found.loss == Approx(expected).epsilon(1e-12));
        CHECK(found.loss <= before * (1 + rounding));
        before = found.loss;
      }
    }
  }
}

TEST_CASE("nmf: stationary at convergence, by the conditions of Karush, Kuhn and Tucker") {
  const MatrixXd X = non_negative(12, 30, 5).unaryExpr([](double x) { return x > 0.4 ? x : 0.0; });
  for (const auto loss : both) {
    for (const auto start : starts) {
      const auto found =
          nmf(X, {.rank = 3, .loss = loss, .start = start, .tolerance = 1e-11, .max_iterations = 100000, .seed = 3});
      CHECK(found.converged);
      CHECK(found.residual <= 1e-8);
      CHECK((found.W.array() == 0).any());
      const Gradients g = gradients(X, found.W, found.H, loss);
      for (const auto& [factor, gradient] : {std::pair{found.W, g.W}, std::pair{found.H, g.H}}) {
        CHECK(gradient.minCoeff() >= -1e-8);
        CHECK((factor.array() * gradient.array()).abs().maxCoeff() <= 1e-8);
      }
      // and early on the residual says that it is not
      CHECK(nmf(X, {.rank = 3, .loss = loss, .start = start, .max_iterations = 1, .seed = 3}).residual > 1e-3);
    }
  }
}

TEMPLATE_TEST_CASE("nmf: a start that is a solution has converged", "", float, double) {
  using S = TestType;
  const lora::Matrix<S> W = non_negative(7, 3, 14).cast<S>(), H = non_negative(3, 9, 15).cast<S>();
  for (const auto loss : both) {
    const auto found = nmf(W * H, {.rank = 3, .loss = loss}, W, H);
    CHECK(found.converged);
    CHECK(found.iterations <= 3);
    CHECK(found.residual <= 4 * std::numeric_limits<S>::epsilon());
    // the first singular vectors, too, where nothing else can be better
    const auto one = nmf(W.col(0) * H.row(0), {.rank = 1, .loss = loss});
    CHECK(one.converged);
    CHECK(one.iterations <= 5);
    CHECK(one.residual <= 4 * std::numeric_limits<S>::epsilon());
  }
}

TEMPLATE_TEST_CASE("nmf: a start that is nearly infinitely far is no measure of nearness", "", float, double) {
  using S = TestType;
  lora::Matrix<S> X = non_negative(8, 9, 16).cast<S>();
  for (Index i = 0; i < 8; ++i) X.row(i) *= static_cast<S>(std::pow(10.0, -4.0 * static_cast<double>(i)));
  const auto found = nmf(X, {.rank = 3, .loss = NmfLoss::kullback_leibler, .max_iterations = 2000});
  CHECK((found.converged ? found.residual < 0.01 : found.iterations == 2000));
}

TEMPLATE_TEST_CASE("nmf: separable data is recovered exactly", "", float, double) {
  using S = TestType;
  // every part has a pixel of its own and a sample of its own, so the factors are unique up to order and scale
  MatrixXd W = non_negative(12, 4, 6), H = non_negative(4, 25, 7);
  W.topRows(4) = MatrixXd::Identity(4, 4);
  H.leftCols(4) = MatrixXd::Identity(4, 4);
  const lora::Matrix<S> X = (W * H).cast<S>();
  const double tolerance = std::is_same_v<S, float> ? 1e-3 : 1e-6;
  for (const auto loss : both) {
    const auto found = nmf(X, {.rank = 4, .loss = loss, .tolerance = 1e-12, .max_iterations = 3000});
    CHECK((found.matrix() - X).norm() <= tolerance * X.norm());
    for (Index t = 0; t < 4; ++t) {
      Index part = 0;
      const S size = found.W.topRows(4).col(t).maxCoeff(&part);
      CHECK((found.W.col(t) / size - W.col(part).cast<S>()).norm() <= 30 * tolerance);
    }
  }
}

TEST_CASE("nmf: the zero matrix, rank 1, and the full rank") {
  for (const auto loss : both) {
    for (const auto start : starts) {
      const auto zero = nmf(MatrixXd::Zero(3, 4), {.rank = 2, .loss = loss, .start = start});
      CHECK(zero.W.isZero(0));
      CHECK(zero.H.isZero(0));
      CHECK(zero.loss == 0);
      CHECK(zero.residual == 0);
      CHECK(zero.converged);
      const MatrixXd one = non_negative(6, 1, 8) * non_negative(1, 9, 9);
      const auto found = nmf(one, {.rank = 3, .loss = loss, .start = start, .tolerance = 1e-9, .max_iterations = 2000});
      CHECK((found.matrix() - one).norm() <= 1e-5 * one.norm());
      const MatrixXd X = non_negative(3, 5, 10);
      CHECK(nmf(X, {.rank = 3, .loss = loss, .start = start, .max_iterations = 2000}).matrix().allFinite());
    }
    const auto gone = nmf(MatrixXd::Zero(3, 4), {.rank = 2, .loss = loss}, MatrixXd::Ones(3, 2), MatrixXd::Ones(2, 4));
    CHECK(gone.loss == 0);
  }
}

TEMPLATE_TEST_CASE("nmf: the size of X does not matter", "", float, double) {
  using S = TestType;
  const lora::Matrix<S> X = non_negative(9, 14, 11).cast<S>();
  for (const auto loss : both) {
    for (const auto start : starts) {
      const lora::NmfOptions options{.rank = 3, .loss = loss, .start = start, .max_iterations = 50};
      const auto plain = nmf(X, options);
      for (const double size : {1e-30, 1e18}) {
        const auto found = nmf((X * static_cast<S>(size)).eval(), options);
        CHECK(found.W.allFinite());
        CHECK(found.H.allFinite());
        const double power = loss == NmfLoss::frobenius ? size * size : size;
        CHECK(found.loss / power == Approx(plain.loss).epsilon(0.02));
      }
      // a power of 4 rounds nothing
      const auto found = nmf((X * S(0x1p-40)).eval(), options);
      CHECK(found.iterations == plain.iterations);
      if (start == NmfStart::random) CHECK(found.W == plain.W * S(0x1p-20));
    }
    // a start whose factors are of very different size is the same start
    const lora::Matrix<S> W0 = non_negative(9, 3, 12).cast<S>(), H0 = non_negative(3, 14, 13).cast<S>();
    const lora::NmfOptions options{.rank = 3, .loss = loss, .max_iterations = 20};
    const auto even = nmf(X, options, W0, H0);
    const auto uneven = nmf(X, options, W0 * S(0x1p80), H0 * S(0x1p-80));
    CHECK(uneven.loss == Approx(even.loss).epsilon(1e-4));
  }
}

TEST_CASE("nmf: storage order, strides and the transpose") {
  const MatrixXd X = non_negative(17, 23, 14);
  const MatrixXd W0 = non_negative(17, 3, 15), H0 = non_negative(3, 23, 16);
  const Eigen::Matrix<double, lora::Dynamic, lora::Dynamic, Eigen::RowMajor> row_major = X;
  MatrixXd spaced = MatrixXd::Constant(34, 46, -1);
  Eigen::Map<MatrixXd, 0, Eigen::Stride<lora::Dynamic, lora::Dynamic>> strided(spaced.data(), 17, 23, {68, 2});
  strided = X;
  for (const auto loss : both) {
    const lora::NmfOptions options{.rank = 3, .loss = loss, .max_iterations = 30};
    const auto plain = nmf(X, options, W0, H0);
    for (const MatrixXd& W : {nmf(row_major, options, W0, H0).W, nmf(strided, options, W0, H0).W,
                              nmf(row_major * 1.0, options, W0, H0).W}) {
      CHECK((W - plain.W).norm() <= 1e-9 * plain.W.norm());
    }
    // X^T ~ H^T W^T, converged: the same kind of point
    const auto turned = nmf(X.transpose(), {.rank = 3, .loss = loss, .tolerance = 1e-10, .max_iterations = 50000},
                            plain.H.transpose(), plain.W.transpose());
    CHECK(turned.converged);
    CHECK(turned.loss <= plain.loss * (1 + 1e-12));
    CHECK(turned.W.rows() == 23);
    const auto on = nmf(X, {.rank = 3, .loss = loss, .tolerance = 1e-10, .max_iterations = 50000}, plain.W, plain.H);
    CHECK(turned.loss == Approx(on.loss).epsilon(1e-3));
  }
}

TEST_CASE("nmf: the handwritten digits in 16 parts") {
  const Eigen::MatrixXf X = examples::load_digits().pixels;
  const double norm = X.norm();
  const auto parts = nmf(X, {.rank = 16});
  CHECK(std::sqrt(2 * parts.loss) / norm < 0.26);
  CHECK(parts.W.minCoeff() >= 0);
  CHECK((parts.W.array() == 0).cast<float>().mean() > 0.5f);  // parts: most pixels have no ink
  CHECK(parts.residual < 0.01);
  const auto plain = nmf(X, {.rank = 16, .tolerance = 0, .max_iterations = 20, .sweeps = 1});
  CHECK(nmf(X, {.rank = 16, .tolerance = 0, .max_iterations = 20}).loss < plain.loss);  // what more sweeps are for
  const auto random = nmf(X, {.rank = 16, .start = NmfStart::random, .max_iterations = 30, .seed = 5});
  const auto again = nmf(X, {.rank = 16, .start = NmfStart::random, .max_iterations = 30, .seed = 5});
  CHECK(random.W == again.W);
  CHECK(random.H == again.H);
  CHECK(nmf(X, {.rank = 16, .start = NmfStart::random, .max_iterations = 30, .seed = 6}).W != random.W);
}

TEST_CASE("nmf: what it refuses, and how it says so") {
  MatrixXd X = MatrixXd::Ones(4, 6);
  const auto config = [&](const lora::NmfOptions& options) {
    return message<lora::ConfigError>([&] { nmf(X, options); });
  };
  CHECK(config({}) == "nmf: rank is 0, expected 1 to 4");
  CHECK(config({.rank = 5}) == "nmf: rank is 5, expected 1 to 4");
  CHECK(config({.rank = 2, .tolerance = -1}) == "nmf: tolerance is -1, expected 0 or more");
  CHECK(config({.rank = 2, .tolerance = std::nan("")}) == "nmf: tolerance is nan, expected 0 or more");
  CHECK(config({.rank = 2, .max_iterations = -1}) == "nmf: max_iterations is -1, expected 0 or more");
  CHECK(config({.rank = 2, .sweeps = -1}) == "nmf: sweeps is -1, expected 0 or more");
  CHECK(message<lora::ShapeError>([&] { nmf(MatrixXd(0, 3), {.rank = 1}); }) ==
        "nmf: X is empty (0 x 3), expected at least 1 x 1");
  const MatrixXd W = MatrixXd::Ones(4, 2), H = MatrixXd::Ones(2, 6);
  const auto shape = [&](const MatrixXd& W0, const MatrixXd& H0) {
    return message<lora::ShapeError>([&] { nmf(X, {.rank = 2}, W0, H0); });
  };
  CHECK(shape(W.topRows(3), H) == "nmf: W0 has 3 rows, expected X.rows() = 4");
  CHECK(shape(W.leftCols(1), H) == "nmf: W0 has 1 columns, expected rank = 2");
  CHECK(shape(W, H.topRows(1)) == "nmf: H0 has 1 rows, expected rank = 2");
  CHECK(shape(W, H.leftCols(5)) == "nmf: H0 has 5 columns, expected X.cols() = 6");
  const auto value = [&](const MatrixXd& W0, const MatrixXd& H0) {
    return message<lora::ValueError>([&] { nmf(X, {.rank = 2}, W0, H0); });
  };
  MatrixXd bad = W;
  bad(3, 1) = -0.5;
  CHECK(value(bad, H) == "nmf: W0(3, 1) is -0.5, expected 0 or more");
  bad = H;
  bad(1, 4) = std::nan("");
  CHECK(value(W, bad) == "nmf: H0(1, 4) is nan, expected a finite number");
  CHECK(
      value(1e100 * W, 1e60 * H) ==
      "nmf: the entries of W0 H0 may reach 2e+160 where those of X reach 1, too far above to compare; scale the start "
      "down");
  for (const lora::NmfLoss loss : {lora::NmfLoss::frobenius, lora::NmfLoss::kullback_leibler}) {
    CHECK(std::isfinite(nmf(X, {.rank = 2, .loss = loss}, 1e100 * W, 1e40 * H).loss));
  }
  X(3, 5) = -1;
  CHECK(value(W, H) == "nmf: X(3, 5) is -1, expected 0 or more");
  const Eigen::Matrix<double, lora::Dynamic, lora::Dynamic, Eigen::RowMajor> row_major = X;
  CHECK(message<lora::ValueError>([&] { nmf(row_major, {.rank = 2}); }) == "nmf: X(3, 5) is -1, expected 0 or more");
  X(3, 5) = std::numeric_limits<double>::infinity();
  CHECK(value(W, H) == "nmf: X(3, 5) is inf, expected a finite number");
}
