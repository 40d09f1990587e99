#pragma once
/// The error of an approximation of a matrix, and how certain it is.

#include "lora/abi.hpp"

#include <algorithm>
#include <cmath>

namespace lora::inline LORA_ABI {

/// What is known about E = A - X for a matrix A and an approximation X of it.
///
/// The errors hold for the factors that are returned, up to the rounding of their scalar type (a few epsilon ||A||_F).
struct Certificate {
  double frobenius_error = 0;  ///< ||E||_F: from the tail of the spectrum, or measured block by block
  double spectral_error = 0;   ///< an upper bound of ||E||_2; equal to it where the method is exact
  double frobenius_norm = 0;   ///< ||A||_F
  double probability = 1;      ///< that spectral_error is a bound; frobenius_error always holds

  /// ||E||_F / ||A||_F, and 0 for A = 0.
  double relative_error() const { return frobenius_norm > 0 ? frobenius_error / frobenius_norm : 0; }

  /// The share of ||A||_F^2 that X keeps, 1 - ||E||_F^2 / ||A||_F^2.
  double energy() const { return std::max(0.0, (1 - relative_error()) * (1 + relative_error())); }
};

}  // namespace lora::inline LORA_ABI
