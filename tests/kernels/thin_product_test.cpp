#include "lora/kernels/thin_product.hpp"

#include "lora/testing/generic.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <cmath>

namespace {

using lora::Index;
using lora::Matrix;
using lora::RowMajorMatrix;

/// Small integers, whose products and sums are exact in any order.
template <class S>
Matrix<S> integers(Index rows, Index cols, lora::Rng& rng) {
  return lora::testing::random_matrix<S>(rows, cols, rng).unaryExpr([](S value) { return std::round(value * S(8)); });
}

template <class S>
void check_exact(Index size, Index rank, Index samples, lora::Rng& rng) {
  CAPTURE(size, rank, samples);
  // As they lie in a layer: A row by row, B column by column; X and Z are parts of larger matrices.
  const RowMajorMatrix<S> A = integers<S>(rank, size, rng);
  const Matrix<S> B = integers<S>(size, rank, rng), X = integers<S>(size + 1, samples, rng);
  const auto part = X.bottomRows(size);
  Matrix<S> Z = Matrix<S>::Constant(rank + 2, samples, S(7));
  lora::detail::thin_product(A.transpose(), part, Z.middleRows(1, rank));
  CHECK(Z.middleRows(1, rank) == A.lazyProduct(part));
  CHECK((Z.row(0).array() == S(7)).all());
  CHECK((Z.row(rank + 1).array() == S(7)).all());
  Matrix<S> G(rank, samples);
  lora::detail::thin_product(B, part, G);
  CHECK(G == B.transpose().lazyProduct(part));

  Matrix<S> sum = Matrix<S>::Constant(size + 2, samples, S(7));
  lora::detail::add_low_rank(A.transpose(), G, sum.middleRows(1, size));
  CHECK(sum.middleRows(1, size) == Matrix<S>(A.transpose().lazyProduct(G)) + Matrix<S>::Constant(size, samples, S(7)));
  CHECK((sum.row(0).array() == S(7)).all());
  CHECK((sum.row(size + 1).array() == S(7)).all());

  RowMajorMatrix<S> dA = A;
  Matrix<S> dB = B;
  lora::detail::add_thin_outer(part, G, dA.transpose());
  CHECK(dA == A + Matrix<S>(G.lazyProduct(part.transpose())));
  lora::detail::add_thin_outer(part, G, dB);
  CHECK(dB == B + Matrix<S>(part.lazyProduct(G.transpose())));
}

template <class S>
void check_shapes() {
  lora::Rng rng(1);
  for (const Index size : {1, 2, 7, 16, 17, 33, 48, 100, 259, 530}) {
    for (const Index rank : {1, 2, 3, 7, 8, 9, 16, 33, 64}) {
      for (const Index samples : {1, 2, 3, 8, 16, 17, 65}) check_exact<S>(size, rank, samples, rng);
    }
  }
}

}  // namespace

TEST_CASE("thin: products of integers are exact at every edge, in float") { check_shapes<float>(); }
TEST_CASE("thin: products of integers are exact at every edge, in double") { check_shapes<double>(); }

TEST_CASE("thin: no heap") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  for (const Index rank : {1, 8, 32}) {
    for (const Index samples : {1, 20}) {
      const Matrix<float> L = Matrix<float>::Ones(70, rank), X = Matrix<float>::Ones(70, samples);
      Matrix<float> Z(rank, samples), D = L, sum = X;
      CHECK(lora_test::heap_allocations_in([&] {
              lora::detail::thin_product(L, X, Z);
              lora::detail::add_thin_outer(X, Z, D);
              lora::detail::add_low_rank(L, Z, sum);
            }) == 0);
      CHECK(Z(rank - 1, 0) == 70);
      CHECK(D(69, 0) == 1 + 70 * static_cast<float>(samples));
      CHECK(sum(69, 0) == 1 + 70 * static_cast<float>(rank));
    }
  }
}

TEST_CASE("thin: compile-time sizes and numbers without packets go through Eigen") {
  const Eigen::Matrix<double, 5, 2> L = Eigen::Matrix<double, 5, 2>::Ones();
  const Eigen::Matrix<double, 5, 3> X = Eigen::Matrix<double, 5, 3>::Ones();
  Eigen::Matrix<double, 2, 3> Z;
  lora::detail::thin_product(L, X, Z);
  CHECK(Z == Eigen::Matrix<double, 2, 3>::Constant(5));
  Eigen::Matrix<double, 5, 2> D = L;
  lora::detail::add_thin_outer(X, Z, D);
  CHECK(D == Eigen::Matrix<double, 5, 2>::Constant(16));
  Eigen::Matrix<double, 5, 3> sum = X;
  lora::detail::add_low_rank(L, Z, sum);
  CHECK(sum == Eigen::Matrix<double, 5, 3>::Constant(11));

  const Matrix<long double> wide = Matrix<long double>::Ones(5, 2);
  Matrix<long double> squares(2, 2);
  lora::detail::thin_product(wide, wide, squares);
  CHECK(squares == Matrix<long double>::Constant(2, 2, 5));
}
