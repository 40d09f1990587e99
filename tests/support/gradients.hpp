#pragma once

#include "lora/core/visit.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace lora_test {

/// The gradients of all parameters that have one, in listing order.
template <class Model>
std::vector<lora::Matrix<double>> gradients(const Model& model) {
  std::vector<lora::Matrix<double>> all;
  lora::visit_parameters(model, [&](const lora::Path&, const auto& parameter) {
    if (parameter.grad.size() > 0) all.emplace_back(parameter.grad);
  });
  return all;
}

/// The largest distance of two of them, Frobenius; infinite where they are not as many.
inline double difference(const std::vector<lora::Matrix<double>>& a, const std::vector<lora::Matrix<double>>& b) {
  if (a.size() != b.size()) return 1e300;
  double worst = 0;
  for (std::size_t k = 0; k < a.size(); ++k) worst = std::max(worst, (a[k] - b[k]).norm());
  return worst;
}

}  // namespace lora_test
