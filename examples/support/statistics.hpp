#pragma once
/// Mean and spread of what several seeds gave.

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "text.hpp"

namespace examples {

/// 0 without values.
inline double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

/// The standard deviation of the population that the values are a sample of (n - 1); 0 for fewer than two.
inline double spread(const std::vector<double>& values) {
  double sum = 0;
  const double middle = mean(values);
  for (const double value : values) sum += (value - middle) * (value - middle);
  return values.size() < 2 ? 0 : std::sqrt(sum / static_cast<double>(values.size() - 1));
}

/// "96.5 ± 0.3 %" of shares.
inline std::string percent_with_spread(const std::vector<double>& shares) {
  return fixed(100 * mean(shares), 1) + " ± " + percent(spread(shares));
}

}  // namespace examples
