#pragma once
/// What a loss takes the mean over.
///
///   L = 1/N sum_j w_j L_j      over the samples j that count
///
///   L_j    the loss of sample j;   w_j  its weight, 1 if none are given
///   N      normalizer; if it is not given, the number of samples that count, or 1 if there are weights
///
/// Micro-batches. Gradients add up until zero_gradients, so with the N of the whole batch, the losses and gradients of
/// its parts add up to those of the batch, whatever the sizes of the parts; the mean of their means would not be its
/// mean.
///
///   const double all = count_labels(labels);                                    // of the batch, less the ignored ones
///   for (const auto& part : parts) {
///     loss += softmax_cross_entropy(net.forward(part.x, cache), part.labels, &dy, {.normalizer = all});
///     net.backward(part.x, dy, cache);
///   }
///   optimizer.step(net);

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/losses/labels.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI {

struct LossOptions {
  /// One per sample, or none. A sample of weight 0 does not count at all: NaN in it does no harm.
  std::span<const double> weights = {};
  /// N. Finite, and above 0 unless no sample counts.
  std::optional<double> normalizer = {};
  /// Samples of this label do not count, as in PyTorch. Cross-entropy and accuracy only.
  std::int64_t ignored = ignored_label;
};

namespace detail {

/// Throws ShapeError unless there are no weights or one per sample, ValueError for one that is not finite.
inline void check_weights(std::string_view who, std::span<const double> weights, Index samples) {
  if (weights.empty()) return;
  if (std::ssize(weights) != samples) {
    fail<ShapeError>(
        who, std::to_string(weights.size()) + " weights given, expected one per sample = " + std::to_string(samples));
  }
  for (std::size_t j = 0; j < weights.size(); ++j) {
    if (std::isfinite(weights[j])) continue;
    fail<ValueError>(
        who, "the weight of sample " + std::to_string(j) + " is " + text_of(weights[j]) + ", expected a finite number");
  }
}

/// N. Throws ConfigError for one that cannot divide.   counted: the samples that count.
inline double normalizer_of(std::string_view who, const LossOptions& options, Index counted) {
  if (!options.normalizer) return options.weights.empty() && counted > 0 ? static_cast<double>(counted) : 1;
  const double given = *options.normalizer;
  if (counted == 0 && given == 0) return 1;
  if (std::isfinite(given) && given > 0) return given;
  fail<ConfigError>(who, "normalizer is " + text_of(given) + ", expected a finite number above 0");
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
