#include "lora/linalg/truncated_svd.hpp"

#include "support/catch.hpp"
#include "support/hard_matrices.hpp"

#include <type_traits>

using lora::Index;
using lora::SvdMethod;
using lora::truncated_svd;
using lora_test::make;
using lora_test::not_orthonormal;
using lora_test::residual;

namespace {

template <class S>
constexpr double tolerance = std::is_same_v<S, float> ? 1e-5 : 1e-12;

/// y_i = x_{i+1}, an operator of one's own, that has a view, but not DenseOperator's: n - 1 singular values 1, one 0.
struct Shift {
  using Scalar = double;
  Index n;

  Index rows() const { return n; }
  Index cols() const { return n; }
  int view() const { return 0; }
  void apply(const Eigen::MatrixXd& x, Eigen::MatrixXd& y) const {
    y.topRows(n - 1) = x.bottomRows(n - 1);
    y.row(n - 1).setZero();
  }
  void apply_transposed(const Eigen::MatrixXd& x, Eigen::MatrixXd& y) const {
    y.bottomRows(n - 1) = x.topRows(n - 1);
    y.row(0).setZero();
  }
  void columns(Index first, Eigen::MatrixXd& y) const {
    for (Index j = 0; j < y.cols(); ++j) y.col(j) = Eigen::VectorXd::Unit(n + 1, first + j).tail(n);
  }
};

double largest_singular_value(const Eigen::MatrixXd& A) { return lora::ExactSvd<double>(A).singular_values()(0); }

/// A is S-representable and given in double.
template <class S>
void check(const Eigen::MatrixXd& A, const lora::TruncatedSvd<S>& svd, Index rank) {
  const double norm = A.norm();
  REQUIRE(svd.converged);
  REQUIRE(svd.U.rows() == A.rows());
  REQUIRE(svd.V.rows() == A.cols());
  REQUIRE(svd.rank() == rank);
  REQUIRE(svd.U.cols() == rank);
  REQUIRE(svd.V.cols() == rank);
  CHECK(not_orthonormal(svd.U) <= tolerance<S>);
  CHECK(not_orthonormal(svd.V) <= tolerance<S>);
  const Eigen::MatrixXd E = residual(A, svd);
  CHECK(std::abs(svd.certificate.frobenius_error - E.norm()) <= tolerance<S> * norm);
  CHECK(std::abs(svd.certificate.frobenius_norm - norm) <= tolerance<S> * norm);
  if (svd.method == SvdMethod::exact) {
    CHECK(std::abs(svd.certificate.spectral_error - largest_singular_value(E)) <= tolerance<S> * norm);
    CHECK(svd.certificate.probability == 1);
  } else {
    CHECK(svd.certificate.spectral_error >= largest_singular_value(E) - tolerance<S> * norm);
    CHECK(svd.certificate.spectral_error <= svd.certificate.frobenius_error);
  }
  CHECK((svd.singular_values.array() >= 0).all());
  for (Index i = 1; i < rank; ++i) CHECK(svd.singular_values(i) <= svd.singular_values(i - 1));
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

TEST_CASE("truncated_svd: a diagonal matrix, by hand") {
  const Eigen::Matrix3d A = Eigen::Vector3d(1, -3, 2).asDiagonal();
  const auto svd = truncated_svd(A, {.rank = 1});
  CHECK(svd.method == SvdMethod::exact);
  CHECK_FALSE(svd.fell_back);
  CHECK(svd.singular_values(0) == Approx(3).epsilon(1e-15));
  CHECK((svd.matrix() - Eigen::Matrix3d(Eigen::Vector3d(0, -3, 0).asDiagonal())).norm() <= 1e-14);
  CHECK(svd.certificate.frobenius_error == Approx(std::sqrt(5)).epsilon(1e-14));
  CHECK(svd.certificate.spectral_error == Approx(2).epsilon(1e-14));
  CHECK(svd.certificate.frobenius_norm == Approx(std::sqrt(14)).epsilon(1e-14));
  CHECK(svd.certificate.energy() == Approx(9.0 / 14).epsilon(1e-14));
}

TEST_CASE("truncated_svd: the smallest rank that keeps an energy or stays below an error") {
  const Eigen::Vector3d sigma(12, 4, 3);  // squares 144, 16, 9: together 169
  const Eigen::Matrix3d A = sigma.asDiagonal();
  const auto rank = [&](const lora::SvdOptions& options) { return truncated_svd(A, options).rank(); };
  CHECK(rank({.energy = 0.01}) == 1);
  CHECK(rank({.energy = 144.0 / 169}) == 1);
  CHECK(rank({.energy = 144.0 / 169 + 1e-9}) == 2);
  CHECK(rank({.energy = 160.0 / 169}) == 2);
  CHECK(rank({.energy = 160.0 / 169 + 1e-9}) == 3);
  CHECK(rank({.energy = 1}) == 3);
  CHECK(rank({.error = 2}) == 1);
  CHECK(rank({.error = 5.0 / 13}) == 1);
  CHECK(rank({.error = 5.0 / 13 - 1e-9}) == 2);
  CHECK(rank({.error = 3.0 / 13 - 1e-9}) == 3);
  CHECK(rank({.error = 0}) == 3);
  CHECK(truncated_svd(Eigen::MatrixXd(Eigen::MatrixXd::Zero(4, 2)), {.energy = 0.9}).rank() == 1);
}

TEMPLATE_TEST_CASE("truncated_svd: thirteen kinds of matrices, and the certificate holds for each", "", float, double) {
  using S = TestType;
  lora::Rng rng(1);
  for (const std::string& kind : lora_test::kinds) {
    for (int i = 0; i < 10; ++i) {
      const Index rows = i == 0 ? 1 : 1 + static_cast<Index>(rng.below(48));
      const Index cols = i == 1 ? 1 : 1 + static_cast<Index>(rng.below(48));
      const Index rank = 1 + static_cast<Index>(rng.below(static_cast<std::uint64_t>(std::min(rows, cols))));
      CAPTURE(kind, rows, cols, rank);
      const lora::Matrix<S> A = make(kind, rows, cols, rng).template cast<S>();
      check<S>(A.template cast<double>(), truncated_svd(A, {.rank = rank}), rank);
      check<S>(A.template cast<double>(), truncated_svd(A, {.rank = rank, .method = SvdMethod::randomized}), rank);
    }
  }
}

TEST_CASE("truncated_svd: the certificate at every rank of a matrix that fades into rounding") {
  lora::Rng rng(8);
  const Eigen::MatrixXd A = make("graded", 48, 60, rng);  // down to 1e-18 of the first column
  for (Index rank = 1; rank <= 48; ++rank) {
    CAPTURE(rank);
    check<double>(A, truncated_svd(A, {.rank = rank}), rank);
  }
}

TEST_CASE("truncated_svd: no other matrix of the rank is nearer") {
  lora::Rng rng(2);
  for (const std::string& kind : lora_test::kinds) {
    const Index rank = 3;
    const Eigen::MatrixXd A = make(kind, 12, 9, rng);
    const auto svd = truncated_svd(A, {.rank = rank});
    const double best = svd.certificate.frobenius_error;
    const double allowed = best - 1e-12 * A.norm();
    CAPTURE(kind);
    // any two factors, at their best scale
    for (int i = 0; i < 50; ++i) {
      const Eigen::MatrixXd other = lora_test::normal(12, rank, rng) * lora_test::normal(rank, 9, rng);
      CHECK((A - (A.cwiseProduct(other).sum() / other.squaredNorm()) * other).norm() >= allowed);
    }
    // the optimum, disturbed
    for (double size : {1e-1, 1e-3, 1e-6}) {
      for (int i = 0; i < 10; ++i) {
        const Eigen::MatrixXd U = svd.U + size * lora_test::normal(12, rank, rng);
        const Eigen::MatrixXd V = svd.V + size * lora_test::normal(9, rank, rng);
        CHECK((A - U * svd.singular_values.asDiagonal() * V.transpose()).norm() >= allowed);
      }
    }
    // alternating least squares: each factor in turn the best for the other
    for (int start = 0; start < 100; ++start) {
      Eigen::MatrixXd V = lora::detail::orthonormal<double>(lora_test::normal(9, rank, rng));
      for (int i = 0; i < 10; ++i) V = lora::detail::orthonormal<double>(A.transpose() * (A * V));
      CHECK((A - A * V * V.transpose()).norm() >= allowed);
    }
  }
}

TEST_CASE("truncated_svd: the singular values of a matrix that was built from them") {
  lora::Rng rng(3);
  Eigen::VectorXd sigma(20);
  for (Index i = 0; i < 20; ++i) sigma(i) = std::pow(0.5, static_cast<double>(i));
  const Eigen::MatrixXd A = lora_test::with_spectrum(sigma, 70, 30, rng);
  const auto svd = truncated_svd(A, {.rank = 7});
  CHECK((svd.singular_values - sigma.head(7)).norm() <= 1e-14);
  CHECK(svd.certificate.spectral_error == Approx(sigma(7)).epsilon(1e-12));
  CHECK(svd.certificate.frobenius_error == Approx(sigma.tail(13).norm()).epsilon(1e-12));
}

TEST_CASE("truncated_svd: any storage order, stride, block, expression and compile-time size") {
  lora::Rng rng(4);
  const Eigen::MatrixXd A = lora_test::normal(7, 5, rng);
  for (const SvdMethod method : {SvdMethod::exact, SvdMethod::randomized}) {
    const lora::SvdOptions options{.rank = 2, .method = method};
    const Eigen::MatrixXd expected = truncated_svd(A, options).matrix();
    const auto same = [&](const auto& given) {
      return (truncated_svd(given, options).matrix() - expected).norm() <= 1e-13;
    };
    const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> row_major = A;
    CHECK(same(row_major));
    CHECK(same(Eigen::Matrix<double, 7, 5>(A)));
    CHECK(same(A.transpose().eval().transpose()));
    CHECK(same(0.5 * A + 0.5 * A));
    Eigen::MatrixXd larger = Eigen::MatrixXd::Constant(20, 11, std::nan(""));
    larger.block(3, 4, 7, 5) = A;
    CHECK(same(larger.block(3, 4, 7, 5)));
    Eigen::MatrixXd padded = Eigen::MatrixXd::Constant(14, 5, std::nan(""));
    Eigen::Map<Eigen::MatrixXd, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> strided(
        padded.data(), 7, 5, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(14, 2));
    strided = A;
    CHECK(same(strided));
  }
  CHECK(truncated_svd(A.row(2), {.rank = 1}).singular_values(0) == Approx(A.row(2).norm()));
  CHECK(truncated_svd(A.col(2), {.rank = 1}).singular_values(0) == Approx(A.col(2).norm()));
}

TEST_CASE("truncated_svd: a power of two before the matrix changes nothing but the singular values") {
  lora::Rng rng(5);
  const Eigen::MatrixXf A = lora_test::normal(30, 20, rng).cast<float>();
  for (const SvdMethod method : {SvdMethod::exact, SvdMethod::randomized}) {
    for (const float factor : {0x1p-110f, 0x1p100f}) {
      const auto plain = truncated_svd(A, {.rank = 4, .method = method});
      const auto scaled = truncated_svd(factor * A, {.rank = 4, .method = method});
      CHECK(scaled.U == plain.U);
      CHECK(scaled.V == plain.V);
      CHECK(scaled.singular_values == factor * plain.singular_values);
      CHECK(scaled.certificate.frobenius_error == static_cast<double>(factor) * plain.certificate.frobenius_error);
      CHECK(scaled.certificate.spectral_error == static_cast<double>(factor) * plain.certificate.spectral_error);
    }
  }
}

TEMPLATE_TEST_CASE("truncated_svd: randomized, reproducible and near the best", "", float, double) {
  using S = TestType;
  lora::Rng rng(6);
  Eigen::VectorXd sigma(100);
  for (Index i = 0; i < 100; ++i) sigma(i) = std::pow(0.9, static_cast<double>(i));
  const lora::Matrix<S> A = lora_test::with_spectrum(sigma, 150, 100, rng).cast<S>();
  const lora::SvdOptions options{.rank = 8, .method = SvdMethod::randomized, .seed = 9};
  const auto first = truncated_svd(A, options);
  const auto second = truncated_svd(A, options);
  CHECK(first.method == SvdMethod::randomized);
  CHECK(first.U == second.U);
  CHECK(first.V == second.V);
  CHECK(first.certificate.spectral_error == second.certificate.spectral_error);
  CHECK(truncated_svd(A, {.rank = 8, .method = SvdMethod::randomized, .seed = 10}).U != first.U);
  CHECK(first.certificate.frobenius_error <= 1.001 * sigma.tail(92).norm());
  CHECK(first.certificate.spectral_error >= sigma(8) * (1 - 1e-6));
  CHECK(first.certificate.spectral_error <= 3 * sigma(8));
  CHECK(first.certificate.probability == 1 - 1e-10);
  const auto small = truncated_svd(A, {.rank = 60, .method = SvdMethod::randomized}).certificate;
  CHECK(small.spectral_error >= sigma(60) * (1 - 1e-3));
  CHECK(small.spectral_error <= 3 * sigma(60));
  // 1 - 0.81^r is the energy of the first r
  CHECK(truncated_svd(A, {.energy = 0.99, .method = SvdMethod::randomized}).rank() == 22);
  CHECK(truncated_svd(A, {.energy = 0.99, .method = SvdMethod::randomized}).method == SvdMethod::randomized);
  CHECK(truncated_svd(A, {.energy = 0.99}).rank() == 22);
  CHECK(truncated_svd(A, {.energy = 0.99}).method == SvdMethod::exact);
  // too small an error for a sketch
  const auto all = truncated_svd(A, {.error = 0, .method = SvdMethod::randomized});
  CHECK(all.method == SvdMethod::exact);
  CHECK(all.fell_back);
  CHECK(all.rank() == 100);
}

TEMPLATE_TEST_CASE("truncated_svd: randomized, an error below the rounding of the norms is not claimed", "", float,
                   double) {
  using S = TestType;
  // ten equal values and a flat tail of a size that the difference of two norms cannot tell from none
  const double small = std::is_same_v<S, float> ? 1e-5 : 1e-10;
  Eigen::VectorXd sigma = Eigen::VectorXd::Constant(150, small);
  sigma.head(10).setOnes();
  lora::Rng rng(11);
  const lora::Matrix<S> A = lora_test::with_spectrum(sigma, 150, 160, rng).template cast<S>();
  const double left = small * std::sqrt(14.0);  // relative, of the first ten
  for (const double part : {0.5, 0.8}) {
    const auto svd = truncated_svd(A, {.error = part * left, .method = SvdMethod::randomized});
    CHECK(svd.certificate.relative_error() <= part * left + 4 * static_cast<double>(std::numeric_limits<S>::epsilon()));
    CHECK(svd.rank() > 10);
  }
}

TEST_CASE("truncated_svd: any number of directions above the rank") {
  lora::Rng rng(12);
  const Eigen::MatrixXd A = lora_test::normal(20, 15, rng);
  const auto svd =
      truncated_svd(A, {.rank = 2, .method = SvdMethod::randomized, .oversampling = std::numeric_limits<Index>::max()});
  check<double>(A, svd, 2);
  CHECK((svd.singular_values - truncated_svd(A, {.rank = 2}).singular_values).norm() <= 1e-13);
}

TEST_CASE("truncated_svd: the automatic choice") {
  CHECK(lora::detail::randomized_pays({.rank = 32}, 512, 512));
  CHECK_FALSE(lora::detail::randomized_pays({.rank = 33}, 512, 512));
  CHECK_FALSE(lora::detail::randomized_pays({.rank = 1}, 511, 512));
  CHECK_FALSE(lora::detail::randomized_pays({.energy = 0.5}, 4096, 4096));
  const Eigen::MatrixXf A = Eigen::MatrixXf::Identity(512, 512);
  CHECK(truncated_svd(A, {.rank = 1}).method == SvdMethod::randomized);
}

TEST_CASE("truncated_svd: the difference of two matrices, without forming it") {
  lora::Rng rng(7);
  const Eigen::MatrixXf before = lora_test::normal(40, 300, rng).cast<float>();
  const Eigen::MatrixXf change = lora_test::with_spectrum(Eigen::Vector2d(1e-3, 5e-4), 40, 300, rng).cast<float>();
  const Eigen::MatrixXf after = before + change;
  const Eigen::MatrixXd exact = (after - before).cast<double>();
  lora::detail::with_view(after, [&](const auto& a) {
    lora::detail::with_view(before, [&](const auto& b) {
      const lora::DifferenceOperator<float> difference(a, b);
      check<float>(exact, truncated_svd(difference, {.rank = 2, .method = SvdMethod::randomized}), 2);
      check<float>(exact, truncated_svd(difference, {.rank = 2, .method = SvdMethod::exact}), 2);
    });
  });
}

TEST_CASE("truncated_svd: an operator of one's own") {
  const Shift A{30};
  Eigen::MatrixXd exact = Eigen::MatrixXd::Zero(30, 30);
  exact.diagonal(1).setOnes();
  for (const auto method : {SvdMethod::exact, SvdMethod::randomized}) {
    const auto svd = truncated_svd(A, {.rank = 5, .method = method});
    CHECK(svd.method == method);
    check<double>(exact, svd, 5);
    CHECK(svd.certificate.frobenius_error == Approx(std::sqrt(24)).epsilon(1e-12));
    CHECK(truncated_svd(A, {.energy = 0.5, .method = method}).rank() == 15);
  }
}

TEST_CASE("truncated_svd: what it refuses, and how it says so") {
  using Eigen::MatrixXd;
  const MatrixXd A = MatrixXd::Ones(5, 3);
  const auto config = [&](const lora::SvdOptions& options) {
    return message<lora::ConfigError>([&] { truncated_svd(A, options); });
  };
  CHECK(config({.rank = 0}) == "truncated_svd: rank is 0, expected 1 to 3");
  CHECK(config({.rank = 4}) == "truncated_svd: rank is 4, expected 1 to 3");
  CHECK(config({}) == "truncated_svd: 0 of rank, energy and error are given, expected exactly one");
  CHECK(config({.rank = 1, .energy = 1}) ==
        "truncated_svd: 2 of rank, energy and error are given, expected exactly one");
  CHECK(config({.energy = 0}) == "truncated_svd: energy is 0, expected above 0 and at most 1");
  CHECK(config({.energy = 1.5}) == "truncated_svd: energy is 1.5, expected above 0 and at most 1");
  CHECK(config({.energy = std::nan("")}) == "truncated_svd: energy is nan, expected above 0 and at most 1");
  CHECK(config({.error = -1}) == "truncated_svd: error is -1, expected 0 or more");
  CHECK(config({.rank = 1, .oversampling = -1}) == "truncated_svd: oversampling is -1, expected 0 or more");
  CHECK(config({.rank = 1, .power_iterations = -2}) == "truncated_svd: power_iterations is -2, expected 1 or more");

  CHECK(message<lora::ShapeError>([] { truncated_svd(MatrixXd(0, 7), {.rank = 1}); }) ==
        "truncated_svd: A is empty (0 x 7), expected at least 1 x 1");
  MatrixXd bad = A;
  bad(3, 1) = std::nan("");
  const auto value = [](const auto& matrix) {
    return message<lora::ValueError>([&] { truncated_svd(matrix, {.rank = 1}); });
  };
  CHECK(value(bad) == "truncated_svd: A(3, 1) is nan, expected a finite number");
  CHECK(value(bad.transpose()) == "truncated_svd: A(1, 3) is nan, expected a finite number");
  bad(3, 1) = -std::numeric_limits<double>::infinity();
  CHECK(value(bad) == "truncated_svd: A(3, 1) is -inf, expected a finite number");
  CHECK(value(Eigen::MatrixXf::Constant(9, 9, 3e38f).eval()) ==
        "truncated_svd: the largest singular value overflows the matrix's scalar type");
  CHECK(message<lora::ValueError>([] {
          truncated_svd(Eigen::MatrixXf::Constant(9, 9, 3e38f), {.rank = 1, .method = SvdMethod::randomized});
        }) == "truncated_svd: the largest singular value overflows the matrix's scalar type");
  // every singular value is a double, the norm is not: no certificate could be given
  const Eigen::Matrix2d large = Eigen::Vector2d::Constant(1.7e308).asDiagonal();
  for (const auto method : {SvdMethod::exact, SvdMethod::randomized}) {
    for (const lora::SvdOptions& options :
         {lora::SvdOptions{.rank = 1, .method = method}, lora::SvdOptions{.energy = 0.9, .method = method}}) {
      CHECK(message<lora::ValueError>([&] { truncated_svd(large, options); }) ==
            "truncated_svd: the Frobenius norm overflows");
    }
  }
}
