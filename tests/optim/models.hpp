#pragma once
/// The model that reference.py trains, and the gradient it gets.

#include "lora/core/parameters.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"

#include <array>
#include <cstddef>
#include <type_traits>

namespace lora_test {

using lora::Index;

/// A (2, 3) row by row and B (4, 2) column by column, as an adapter stores them.
template <class S>
struct Pair {
  lora::RowMajorParameter<S> A;
  lora::Parameter<S> B;

  Pair() {
    A.value.resize(2, 3);
    B.value.resize(4, 2);
    fill(A, 1);
    fill(B, 4);
  }

  static void visit(auto& self, auto&& f) {
    f("A", self.A);
    f("B", self.B);
  }

 private:
  static void fill(auto& parameter, Index offset) {
    for (Index i = 0; i < parameter.value.rows(); ++i) {
      for (Index j = 0; j < parameter.value.cols(); ++j) {
        parameter.value(i, j) = S(static_cast<double>((5 * i + 3 * j + offset) % 11 - 5) / 4);
      }
    }
  }
};

/// A pattern of the step and the position, plus a quarter of the value.
void set_gradient(auto& parameter, Index step, Index offset) {
  using S = typename std::remove_cvref_t<decltype(parameter)>::Scalar;
  auto& gradient = parameter.gradient();
  for (Index i = 0; i < gradient.rows(); ++i) {
    for (Index j = 0; j < gradient.cols(); ++j) {
      const auto pattern = static_cast<double>((7 * i + 4 * j + 11 * step + offset) % 13 - 6) / 8;
      gradient(i, j) = S(pattern) + parameter.value(i, j) / S(4);
    }
  }
}

void set_gradients(auto& pair, Index step) {
  set_gradient(pair.A, step, 0);
  set_gradient(pair.B, step, 5);
}

/// The largest distance of the values to those of reference.py, relative to the larger of 1 and the value.
inline double distance_to(const Pair<double>& pair, const std::array<double, 14>& expected) {
  double largest = 0;
  std::size_t position = 0;
  const auto compare = [&](const auto& value) {
    for (Index i = 0; i < value.rows(); ++i) {
      for (Index j = 0; j < value.cols(); ++j) {
        const double reference = expected[position++];
        largest = std::max(largest, std::abs(value(i, j) - reference) / std::max(1.0, std::abs(reference)));
      }
    }
  };
  compare(pair.A.value);
  compare(pair.B.value);
  return largest;
}

/// Ten steps, with a learning-rate factor for each.
void train(auto& optimizer, auto& pair, auto&& factor) {
  for (Index step = 0; step < 10; ++step) {
    set_gradients(pair, step);
    optimizer.step(pair, factor(step));
  }
}
void train(auto& optimizer, auto& pair) {
  train(optimizer, pair, [](Index) { return 1.0; });
}

}  // namespace lora_test
