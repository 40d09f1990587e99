#pragma once
/// Scalars, sizes and the orientation of matrices.
///
///   weight W     (out, in)
///   activation x (features, samples)      samples are columns, so code reads like the paper: y = W0 x + s B (A x)
///
/// A column-major (features, samples) matrix has the same bytes as a row-major (samples, features) tensor of PyTorch or
/// NumPy: an Eigen::Map passes activations between them without a copy.

#include "lora/abi.hpp"

#include <Eigen/Core>

#include <concepts>

namespace lora::inline LORA_ABI {

using Index = Eigen::Index;
inline constexpr int Dynamic = Eigen::Dynamic;

namespace detail {

template <class S>
concept RealArithmetic = std::constructible_from<S, double> && requires(S a, S b) {
  { a + b } -> std::convertible_to<S>;
  { a - b } -> std::convertible_to<S>;
  { a * b } -> std::convertible_to<S>;
  { a / b } -> std::convertible_to<S>;
  { a < b } -> std::convertible_to<bool>;
};

}  // namespace detail

/// A scalar to compute and train with: float, double, or any real type of at least 32 bits that behaves like them, such
/// as a dual number (testing/dual.hpp). Integers cannot be trained; half types are storage: convert first.
template <class S>
concept Scalar = detail::RealArithmetic<S> && !std::integral<S> && sizeof(S) >= sizeof(float) &&
                 !Eigen::NumTraits<S>::IsInteger && !Eigen::NumTraits<S>::IsComplex;

/// W (out, in), activations (features, samples). Column-major, except for a fixed single row, as Eigen requires.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
using Matrix = Eigen::Matrix<S, Rows, Cols, (Rows == 1 && Cols != 1) ? Eigen::RowMajor : Eigen::ColMajor>;

/// The storage of A (rank, in): the long dimension is contiguous, which makes A x and A^T g fast at few samples.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
using RowMajorMatrix = Eigen::Matrix<S, Rows, Cols, (Cols == 1 && Rows != 1) ? Eigen::ColMajor : Eigen::RowMajor>;

template <class S, int Rows = Dynamic>
using Vector = Eigen::Matrix<S, Rows, 1>;

/// The type in which merges are accumulated before they are rounded once to S.
template <class S>
struct WideScalar {
  using type = S;
};
template <>
struct WideScalar<float> {
  using type = double;
};
template <class S>
using Wide = typename WideScalar<S>::type;

namespace detail {

/// Reports a wrong scalar or an oversized fixed matrix in one sentence; used by every class that stores elements.
template <class S, int Rows = Dynamic, int Cols = Dynamic>
consteval bool require_storable() {
  static_assert(
      Scalar<S>,
      "lora: the scalar must be float, double, or a real number type of at least 32 bits (a dual number, for "
      "example). Integers cannot be trained. Half types (Eigen::half, Eigen::bfloat16) are storage: convert to "
      "float and compute there.");
  constexpr bool fixed = Rows != Dynamic && Cols != Dynamic;
  static_assert(!fixed || EIGEN_STACK_ALLOCATION_LIMIT == 0 ||
                    static_cast<unsigned long long>(fixed ? Rows : 0) *
                            static_cast<unsigned long long>(fixed ? Cols : 0) * sizeof(S) <=
                        static_cast<unsigned long long>(EIGEN_STACK_ALLOCATION_LIMIT),
                "lora: a matrix with compile-time sizes lives inside its object and may take at most 128 KiB "
                "(EIGEN_STACK_ALLOCATION_LIMIT). Use run-time sizes for this layer: LoraLinear<float>.");
  return true;
}

}  // namespace detail

static_assert(Scalar<float> && Scalar<double> && !Scalar<int> && !Scalar<Eigen::half> && !Scalar<Eigen::bfloat16>);

}  // namespace lora::inline LORA_ABI
