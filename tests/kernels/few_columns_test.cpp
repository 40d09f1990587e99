#include "lora/kernels/few_columns.hpp"

#include "support/catch.hpp"

#include <cmath>

using lora::Index;

// Whole numbers, so that every order of summation gives the same bits. The extents leave remainders of every kind.
TEMPLATE_TEST_CASE("FewColumns: A X and A^T X, to the bit, for all remainders", "", float, double) {
  using S = TestType;
  using Product = lora::detail::FewColumns<S>;
  const auto whole = [](Index rows, Index cols, int step) {
    lora::Matrix<S> matrix(rows, cols);
    for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<S>((i * step) % 7 - 3);
    return matrix;
  };
  for (const Index rows : {1, 3, 4, 16, 17, 63, 1024, 1100, 2100}) {
    for (const Index cols : {1, 4, 7, 8, 16, 21}) {
      const lora::Matrix<S> larger = whole(rows + 5, cols + 1, 5);
      const auto A = larger.block(2, 1, rows, cols);
      for (const Index count : {1, 2, 3, 4, 5, 6, 65}) {
        CAPTURE(rows, cols, count);
        const lora::Matrix<S> X = whole(cols, count, 3);
        lora::Matrix<S> Y = whole(rows, count, 2);
        const lora::Matrix<S> expected = Y + A.lazyProduct(X);
        Product::add(A, X, Y);
        CHECK(Y == expected);
        const lora::Matrix<S> T = whole(rows, count, 4);
        lora::Matrix<S> Z = lora::Matrix<S>::Constant(cols, count, static_cast<S>(std::nan("")));
        Product::transposed(A, T, Z);
        CHECK(Z == A.transpose().lazyProduct(T));
      }
    }
  }
}
