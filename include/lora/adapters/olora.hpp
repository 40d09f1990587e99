#pragma once
/// OLoRA: factors that start as the leading part of W0's QR decomposition.
///
///   W0 = Q R,   B = the first `rank` columns of Q,   A = the first `rank` rows of R
///
///   layer.attach("olora", lora::olora(layer.dense(), {.rank = 8, .alpha = 16}, rng));
///
/// The factors do not depend on the scale s: s B0 A0 is subtracted from W0, as in PEFT (init_lora_weights="olora").
/// With s = 1, alpha = rank, that is the projection of W0 onto its first columns.
///
/// Source: Buyukakyuz 2024, arXiv:2406.01775, algorithm 1.   Compile time: that of linalg/leading_qr.hpp.

#include "lora/adapters/residual_lora.hpp"
#include "lora/linalg/leading_qr.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// W0 (out, in) any matrix or expression of float or double; it is read, not kept. config.init is ignored. Cost: 4 out
/// in rank operations.
/// Throws ConfigError unless 1 <= rank <= min(out, in) and the scale is above 0, ShapeError if W0 is empty, ValueError
/// naming an entry that is not finite or if R overflows; the generator is unchanged then.
template <class Derived>
auto olora(const Eigen::MatrixBase<Derived>& W0, const LoraConfig& config, Rng& rng)
    -> ResidualLora<typename Derived::Scalar> {
  using S = typename Derived::Scalar;
  detail::check_start<S>("olora", config);
  Factors<S> start = detail::with_view(
      W0, [&](const detail::MatrixView<S>& view) { return detail::leading_qr<S>("olora", "W0", view, config.rank); });
  return detail::residual_lora<S>(config, std::move(start.B), std::move(start.A), rng);
}

}  // namespace lora::inline LORA_ABI
