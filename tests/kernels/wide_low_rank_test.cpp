#include "lora/kernels/wide_low_rank.hpp"

#include <limits>

#include "lora/core/random.hpp"
#include "support/catch.hpp"

using lora::Index;
using lora::Matrix;

namespace {

template <class S>
Matrix<S> random(Index rows, Index cols, lora::Rng& rng) {
  return Matrix<S>::NullaryExpr(rows, cols, [&] { return static_cast<S>(rng.uniform(-4., 4.)); });
}

}  // namespace

TEMPLATE_TEST_CASE("wide low rank: s B A of any rank and height, as in long double", "[kernels]", float, double) {
  using S = TestType;
  lora::Rng rng(3);
  for (const Index rank : {1, 2, 4, 5, 8, 11}) {
    for (const Index rows : {1, 7, 256, 300}) {
      CAPTURE(rank, rows);
      const Matrix<S> B = random<S>(rows, rank, rng);
      const lora::RowMajorMatrix<S> A = random<S>(rank, 9, rng);
      Matrix<double> M = random<double>(rows, 5, rng);
      const Matrix<long double> wanted = M.cast<long double>() + 0.75L * B.template cast<long double>() *
                                                                     A.template cast<long double>().middleCols(3, 5);
      lora::detail::add_wide_low_rank(0.75, B, A, 3, M);
      const auto error = static_cast<double>((M.cast<long double>() - wanted).cwiseAbs().maxCoeff());
      CHECK(error <= 2 * (12 * static_cast<double>(rank) + 4) * std::numeric_limits<double>::epsilon());
    }
  }
}
