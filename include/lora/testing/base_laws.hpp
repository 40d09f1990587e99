#pragma once
/// The laws of frozen bases, for any FrozenBase: check custom storage with them.
///
///   apply             y = W0 x agrees with dense() x
///   apply_transposed  is the transpose of apply: <dy, W0 x> = <W0^T dy, x>
///   fused             apply(x, y, U, Z) agrees with W0 x + U Z, and the transposed form likewise
///   bytes             bytes() is what the caller expects

#include "lora/base/frozen_base.hpp"
#include "lora/testing/generic.hpp"
#include "lora/testing/law.hpp"

namespace lora::inline LORA_ABI::testing {

/// Agreement to rounding: | given - expected | <= base_constant sqrt(terms) epsilon | |W0| |x| |, Frobenius norms,
/// where `terms` is the length of the sums.
inline constexpr double base_constant = 1;

namespace detail {

template <class S>
LawResult agrees(std::string law, const Matrix<S>& given, const Matrix<double>& expected, const Matrix<double>& size,
                 Index terms) {
  const double difference = (given.template cast<double>() - expected).norm();
  const double epsilon = static_cast<double>(Eigen::NumTraits<S>::epsilon());
  return judge(std::move(law), difference / size.norm(),
               base_constant * std::sqrt(static_cast<double>(terms)) * epsilon);
}

}  // namespace detail

/// All laws above, with `samples` random columns. expected_bytes: the memory that the storage takes.
template <FrozenBase B>
LawResults base_laws(const B& base, Index samples, Index expected_bytes, std::uint64_t seed = 1) {
  using S = typename B::Scalar;
  constexpr Index rank = 3;
  Rng rng(seed);
  const Index out = base.rows(), in = base.cols();
  const Matrix<S> x = random_matrix<S>(in, samples, rng), dy = random_matrix<S>(out, samples, rng);
  const Matrix<S> U = random_matrix<S>(out, rank, rng), V = random_matrix<S>(in, rank, rng);
  const Matrix<S> Z = random_matrix<S>(rank, samples, rng);
  const auto wide = [](const auto& matrix) { return Matrix<double>(matrix.template cast<double>()); };
  const Matrix<double> W0 = wide(lora::dense(base)), absolute = W0.cwiseAbs();

  // The results hold garbage beforehand: they must be overwritten, not added to.
  Matrix<S> y = Matrix<S>::Constant(out, samples, S(7)), dx = Matrix<S>::Constant(in, samples, S(7));
  base.apply(x, y);
  base.apply_transposed(dy, dx);
  const Matrix<double> size_y = absolute * wide(x).cwiseAbs(), size_dx = absolute.transpose() * wide(dy).cwiseAbs();
  LawResults results = {
      detail::agrees<S>("base: apply", y, W0 * wide(x), size_y, in),
      detail::agrees<S>("base: apply_transposed", dx, W0.transpose() * wide(dy), size_dx, out),
  };

  const double forward = wide(dy).cwiseProduct(wide(y)).sum(), backward = wide(dx).cwiseProduct(wide(x)).sum();
  const double size = wide(dy).cwiseAbs().cwiseProduct(size_y).sum();
  results.push_back(judge(
      "base: <dy, W0 x> = <W0^T dy, x>", std::abs(forward - backward) / size,
      base_constant * std::sqrt(static_cast<double>(in + out)) * static_cast<double>(Eigen::NumTraits<S>::epsilon())));

  y.setConstant(S(7));
  dx.setConstant(S(7));
  lora::apply(base, x, y, U, Z);
  lora::apply_transposed(base, dy, dx, V, Z);
  results.push_back(detail::agrees<S>("base: fused apply", y, W0 * wide(x) + wide(U) * wide(Z),
                                      size_y + wide(U).cwiseAbs() * wide(Z).cwiseAbs(), in + rank));
  results.push_back(detail::agrees<S>("base: fused apply_transposed", dx, W0.transpose() * wide(dy) + wide(V) * wide(Z),
                                      size_dx + wide(V).cwiseAbs() * wide(Z).cwiseAbs(), out + rank));

  results.push_back(judge("base: bytes", std::abs(static_cast<double>(base.bytes() - expected_bytes)), 0,
                          std::to_string(base.bytes()) + " bytes"));
  return results;
}

}  // namespace lora::inline LORA_ABI::testing
