#pragma once
/// The config of a new adapter: an aggregate, written with designated initializers, checked by validate().

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// The factor s of y = W0 x + s B (A x).
enum class Scaling {
  alpha_over_rank,       ///< s = alpha / rank (Hu et al. 2021, arXiv:2106.09685, section 4.1)
  alpha_over_sqrt_rank,  ///< s = alpha / sqrt(rank): rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)
};

/// How A is initialized. B starts at zero in every case, so that a new adapter changes nothing.
enum class Init {
  gaussian,         ///< normal, mean 0, standard deviation 1/rank (PEFT's init_lora_weights="gaussian")
  kaiming_uniform,  ///< uniform in (-1/sqrt(in), 1/sqrt(in)) (the default of loralib and PEFT)
};

/// Which biases are trained. A trained bias is a copy that belongs to the adapter; the base's bias is unchanged.
enum class Bias {
  none,
  all,        ///< of every linear layer in the model
  lora_only,  ///< of the layers that receive factors
};

template <class S, int Rows = Dynamic, int Cols = Dynamic, int Rank = Dynamic>
struct Lora;

/// C++ wants the members in this order, .rank before .alpha: g++ refuses another, clang warns.
struct LoraConfig {
  Index rank = 8;
  double alpha = 8;
  /// Probability with which an element of the adapter's input is dropped in training; the base sees the whole input.
  double dropout = 0;
  Scaling scaling = Scaling::alpha_over_rank;
  Init init = Init::gaussian;
  Bias bias = Bias::none;

  /// Ranks and alphas of some layers of a model: {{"fc2", 16}}. The first entry applies whose regular expression
  /// matches a layer's whole name, or its end after a dot.
  std::vector<std::pair<std::string, Index>> rank_pattern = {};
  std::vector<std::pair<std::string, double>> alpha_pattern = {};

  /// The adapter that it configures.
  template <class S>
  using Kind = Lora<S>;
};

/// s = alpha / rank or alpha / sqrt(rank).
inline double scaling_factor(double alpha, Index rank, Scaling scaling) {
  const auto r = static_cast<double>(rank);
  return alpha / (scaling == Scaling::alpha_over_rank ? r : std::sqrt(r));
}

/// Throws ConfigError that names the field, its value and what is allowed. Two settings are allowed because PEFT allows
/// them and files have them, though they are pointless: a rank above min(in, out), and alpha = 0, which switches the
/// factors off for good (both of their gradients are 0). The accounting, and so report, says both.
inline void validate(const LoraConfig& config, const detail::Caller& who = "LoraConfig") {
  if (config.rank < 1) {
    detail::fail<ConfigError>(who, "rank is " + std::to_string(config.rank) + ", expected at least 1");
  }
  if (!std::isfinite(config.alpha)) {
    detail::fail<ConfigError>(who, "alpha is " + detail::text_of(config.alpha) + ", expected a finite number");
  }
  if (!(config.dropout >= 0 && config.dropout < 1)) {
    detail::fail<ConfigError>(who, "dropout is " + detail::text_of(config.dropout) + ", expected 0 <= dropout < 1");
  }
}

namespace detail {

/// Which biases a config trains; none if it has no such setting.
template <class C>
Bias bias_of(const C& config) {
  if constexpr (requires { config.bias; }) return config.bias;
  return Bias::none;
}

/// Whether a setting is a finite number, and stays finite as an S.
template <class S>
bool is_finite_in(double setting) {
  if constexpr (std::is_floating_point_v<S>) {
    return std::abs(setting) <= static_cast<double>(std::numeric_limits<S>::max());
  } else {
    return std::isfinite(setting);
  }
}

/// Throws ConfigError if s is too large for S.
template <class S>
void check_scale(const LoraConfig& config, const Caller& who) {
  const double scale = scaling_factor(config.alpha, config.rank, config.scaling);
  if (is_finite_in<S>(scale)) return;
  fail<ConfigError>(who, "the scale " + text_of(scale) + " overflows the layer's scalar type");
}

[[noreturn]] inline void fail_too_large(Index out, Index in, Index rank, const Caller& who) {
  fail<ConfigError>(who, "rank is " + std::to_string(rank) + " for a layer of " + std::to_string(out) + " x " +
                             std::to_string(in) + ", expected factors that memory can hold");
}

/// Throws ConfigError if factors of this rank have more than 2^40 bytes, far beyond any layer: a typing error is not
/// to fill the memory of a machine that grants what it does not have.
template <class S>
void check_factors_fit(Index out, Index in, Index rank, const Caller& who) {
  const double bytes =
      static_cast<double>(rank) * (static_cast<double>(out) + static_cast<double>(in)) * static_cast<double>(sizeof(S));
  if (bytes > 0x1p40) fail_too_large(out, in, rank, who);
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
