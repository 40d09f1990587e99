#include "lora/kernels/elementwise.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "lora/core/random.hpp"
#include "lora/kernels/packet_math.hpp"
#include "lora/testing/dual.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

using lora::Index;
using lora::Matrix;
using lora::detail::map_matrix;
using lora::detail::PacketMath;
using lora::detail::Simd;

namespace {

/// A function with many roundings, whose packet and scalar forms differ.
struct GeluTimes {
  template <class V>
  static auto packet(const typename V::Packet& x, const typename V::Packet& z) {
    return V::multiply(PacketMath<V>::gelu(x), z);
  }
  template <class S>
  static S scalar(const S& x, const S& z) {
    return x * z;
  }
};

/// That of one element, which stands alone.
template <class S>
S alone(S x, S z) {
  using V = Simd<S>;
  std::vector<S> result(V::lanes);
  V::store(result.data(), GeluTimes::packet<V>(V::constant(x), V::constant(z)));
  return result[0];
}

template <class S>
bool same_bits(const S& a, const S& b) {
  using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
  return std::bit_cast<Bits>(a) == std::bit_cast<Bits>(b);
}

template <class S>
Matrix<S> random(Index rows, Index cols, lora::Rng& rng) {
  return Matrix<S>::NullaryExpr(rows, cols, [&] { return static_cast<S>(rng.uniform(-4., 4.)); });
}

/// Whether y is the function of each element of x and z, bit by bit.
template <class S>
bool is_elementwise(const Matrix<S>& y, const Matrix<S>& x, const Matrix<S>& z) {
  for (Index j = 0; j < x.cols(); ++j) {
    for (Index i = 0; i < x.rows(); ++i) {
      if (!same_bits(y(i, j), alone(x(i, j), z(i, j)))) return false;
    }
  }
  return true;
}

}  // namespace

TEMPLATE_TEST_CASE("elementwise: the bits of an element do not depend on where it is", "", float, double) {
  using M = Matrix<TestType>;
  lora::Rng rng(1);
  for (Index rows = 1; rows <= 40; ++rows) {
    CAPTURE(rows);
    const M x = random<TestType>(rows, 3, rng), z = random<TestType>(rows, 3, rng);
    M y;
    map_matrix<GeluTimes>(y, x, z);
    CHECK(is_elementwise(y, x, z));

    M in_place = x;
    map_matrix<GeluTimes>(in_place, in_place, z);
    CHECK(in_place == y);
    M other_in_place = z;
    map_matrix<GeluTimes>(other_in_place, x, other_in_place);
    CHECK(other_in_place == y);

    bool same = true;
    for (Index offset = 0; offset < 17; ++offset) {  // any alignment, as a block whose columns are apart
      M wide = M::Constant(rows + 20, 5, 7), wide_x = wide;
      wide_x.block(offset, 1, rows, 3) = x;
      map_matrix<GeluTimes>(wide.block(offset, 1, rows, 3), wide_x.block(offset, 1, rows, 3), z);
      same &= wide.block(offset, 1, rows, 3) == y;
      wide.block(offset, 1, rows, 3).setConstant(7);
      same &= (wide.array() == 7).all();  // nothing beyond it
    }
    CHECK(same);
  }
}

TEMPLATE_TEST_CASE("elementwise: rows, strides and expressions have the same bits", "", float, double) {
  using M = Matrix<TestType>;
  lora::Rng rng(2);
  const M x = random<TestType>(19, 7, rng), z = random<TestType>(19, 7, rng);
  M y;
  map_matrix<GeluTimes>(y, x, z);

  using Rows = Eigen::Matrix<TestType, lora::Dynamic, lora::Dynamic, Eigen::RowMajor>;
  const Rows row_x = x, row_z = z;
  Rows row_y;
  map_matrix<GeluTimes>(row_y, row_x, row_z);
  CHECK(row_y == y);
  map_matrix<GeluTimes>(row_y, x, row_z);
  CHECK(row_y == y);

  M transposed(7, 19);
  map_matrix<GeluTimes>(transposed.transpose(), x, z);
  CHECK(transposed.transpose() == y);

  M apart = M::Constant(2 * 19, 7, 7);
  using Apart = Eigen::Map<M, 0, Eigen::Stride<lora::Dynamic, 2>>;
  Apart every_other(apart.data(), 19, 7, Eigen::Stride<lora::Dynamic, 2>(2 * 19, 2));
  map_matrix<GeluTimes>(every_other, x, z);
  CHECK(every_other == y);
  M from_apart, from_expression;
  every_other = x;
  map_matrix<GeluTimes>(from_apart, every_other, z);
  CHECK(from_apart == y);
  map_matrix<GeluTimes>(from_expression, x + M::Zero(19, 7), z);
  CHECK(from_expression == y);
  every_other.setConstant(7);
  CHECK((apart.array() == 7).all());

  M row(1, 7);
  map_matrix<GeluTimes>(row, x.row(4), z.row(4));
  CHECK(row == y.row(4));
  lora::Vector<TestType, 19> fixed;
  map_matrix<GeluTimes>(fixed, x.col(2), z.col(2));
  CHECK(fixed == y.col(2));

  M empty(3, 0);
  map_matrix<GeluTimes>(empty, M(0, 5), M(0, 5));
  CHECK((empty.rows() == 0 && empty.cols() == 5));
}

TEST_CASE("elementwise: other scalars take the scalar form") {
  using lora::testing::Dual;
  const Matrix<Dual> x = Matrix<Dual>::Constant(5, 2, Dual(3, 1)), z = Matrix<Dual>::Constant(5, 2, Dual(2, 0));
  Matrix<Dual> y;
  map_matrix<GeluTimes>(y, x, z);
  CHECK((y(4, 1).value == 6 && y(4, 1).derivative == 2));
  const Matrix<long double> wide = Matrix<long double>::Constant(2, 2, 3);
  Matrix<long double> wide_y;
  map_matrix<GeluTimes>(wide_y, wide, wide);
  CHECK(wide_y(1, 1) == 9);
}

TEST_CASE("elementwise: nothing allocates") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(3);
  const Matrix<float> x = random<float>(19, 7, rng), z = random<float>(19, 7, rng);
  Matrix<float> y(19, 7), transposed(7, 19);
  CHECK(lora_test::heap_allocations_in([&] {
          map_matrix<GeluTimes>(y, x, z);
          map_matrix<GeluTimes>(y.topRows(5), x.topRows(5), z.bottomRows(5));
          map_matrix<GeluTimes>(transposed.transpose(), x, z);
        }) == 0);
}
