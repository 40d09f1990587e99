#include "lora/core/scalar.hpp"

#include "lora/testing/dual.hpp"
#include "support/catch.hpp"

#include <complex>
#include <cstdint>
#include <type_traits>

namespace {

using lora::Dynamic;

// What may be trained, and what may not.
static_assert(lora::Scalar<float> && lora::Scalar<double> && lora::Scalar<long double>);
static_assert(lora::Scalar<lora::testing::Dual>);
static_assert(!lora::Scalar<int> && !lora::Scalar<std::int64_t> && !lora::Scalar<unsigned> && !lora::Scalar<bool>);
static_assert(!lora::Scalar<Eigen::half> && !lora::Scalar<Eigen::bfloat16>);
static_assert(!lora::Scalar<std::complex<double>> && !lora::Scalar<std::complex<float>>);
static_assert(!lora::Scalar<void*> && !lora::Scalar<std::string>);

template <class M>
constexpr bool row_major = M::IsRowMajor != 0;

// Eigen demands row-major for one fixed row and column-major for one fixed column; otherwise the alias decides.
static_assert(!row_major<lora::Matrix<float>> && !row_major<lora::Matrix<float, 3, 5>>);
static_assert(!row_major<lora::Matrix<float, 3, 1>> && !row_major<lora::Matrix<float, 1, 1>>);
static_assert(row_major<lora::Matrix<float, 1, 3>> && row_major<lora::Matrix<float, 1, Dynamic>>);
static_assert(row_major<lora::RowMajorMatrix<float>> && row_major<lora::RowMajorMatrix<float, 3, 5>>);
static_assert(row_major<lora::RowMajorMatrix<float, 1, 5>> && !row_major<lora::RowMajorMatrix<float, 5, 1>>);
static_assert(!row_major<lora::RowMajorMatrix<float, Dynamic, 1>>);

// Merges of float are accumulated in double; double has nothing wider at the same speed.
static_assert(std::is_same_v<lora::Wide<float>, double> && std::is_same_v<lora::Wide<double>, double>);
static_assert(std::is_same_v<lora::Wide<lora::testing::Dual>, lora::testing::Dual>);

}  // namespace

TEST_CASE("scalar: an activation has the bytes of a row-major (samples, features) tensor") {
  const float samples_by_features[2][3] = {{1, 2, 3}, {4, 5, 6}};
  const Eigen::Map<const lora::Matrix<float>> x(&samples_by_features[0][0], 3, 2);
  for (int sample = 0; sample < 2; ++sample) {
    for (int feature = 0; feature < 3; ++feature) CHECK(x(feature, sample) == samples_by_features[sample][feature]);
  }
}
