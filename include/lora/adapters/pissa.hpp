#pragma once
/// PiSSA: factors that start as the principal part of W0, its nearest matrix of rank r.
///
///   W0 = U diag(sigma) V^T,   B = U_r diag(sigma_r / s)^(1/2),   A = diag(sigma_r / s)^(1/2) V_r^T,   so s B A = W0_r
///
///   layer.attach("pissa", lora::pissa(layer.dense(), {.rank = 8, .alpha = 16}, rng));
///
/// or for every layer of a model:
///
///   lora::visit_adaptable(net, [&](const lora::Path&, auto& layer) {
///     layer.attach("pissa", lora::pissa(layer.dense(), {.rank = 8, .alpha = 16}, rng));
///   });
///
/// Training then moves the directions in which W0 is largest. The decomposition need not be exact, because s B0 A0 as
/// computed is subtracted from W0; large matrices are decomposed by the randomized method.
///
/// Source: Meng, Wang & Zhang 2024, arXiv:2404.02948, equations (2) to (4).
/// Compile time: that of linalg/truncated_svd.hpp, which tells how to pay once in a program.

#include "lora/adapters/residual_lora.hpp"
#include "lora/linalg/truncated_svd.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// W0 (out, in) any matrix or expression of float or double; it is read, not kept. config.init is ignored. options:
/// method, oversampling, power_iterations and seed of truncated_svd, whose cost this is; the rank is config.rank. If W0
/// has lower rank, the remaining directions start at zero in both factors and are never trained, or, if they hold
/// rounding errors, at the square root of those.
/// Throws ConfigError unless 1 <= rank <= min(out, in) and the scale is above 0, or for options that ask for another
/// rank; ShapeError if W0 is empty; ValueError if W0 is zero or so large that a factor overflows, or naming an entry
/// that is not finite. The generator is unchanged then.
template <class Derived>
auto pissa(const Eigen::MatrixBase<Derived>& W0, const LoraConfig& config, Rng& rng, SvdOptions options = {})
    -> ResidualLora<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  const detail::Caller who("pissa");
  detail::check_start<S>(who, config);
  if (options.rank || options.energy || options.error) {
    detail::fail<ConfigError>(who, "options ask for a rank, energy or error, expected none: config.rank is the rank");
  }
  options.rank = config.rank;
  const TruncatedSvd<S> svd = detail::with_view(W0, [&](const detail::MatrixView<S>& view) {
    if (!(detail::largest_magnitude(who, "W0", view) > S(0))) {
      detail::fail<ValueError>(who, "W0 is zero, expected a part to start from: two zero factors are never trained");
    }
    return detail::truncated_svd(DenseOperator<S>(view), options, who);
  });
  const double s = scaling_factor(config.alpha, config.rank, config.scaling);
  const Vector<S> root = (svd.singular_values.template cast<double>() / s).cwiseSqrt().template cast<S>();
  Matrix<S> B = svd.U * root.asDiagonal();
  RowMajorMatrix<S> A = root.asDiagonal() * svd.V.transpose();
  if (!B.allFinite() || !A.allFinite()) {
    detail::fail<ValueError>(who, "the factors overflow: the largest singular value of W0 is " +
                                      detail::text_of(svd.singular_values(0)) + ", the scale " + detail::text_of(s));
  }
  return detail::residual_lora<S>(config, std::move(B), std::move(A), rng);
}

}  // namespace lora::inline LORA_ABI
