#pragma once
/// Which way through a training step takes the fewest operations, and how much memory it needs.
///
///                  forward                          backward                       multiply-adds of a step
///   two-step       z = s A x,  y = W0 x + B z       g = s B^T dy,                  samples rank (out + in)
///                                                   dx = W0^T dy + A^T g
///   materialized   W = W0 + s B A,  y = W x         dx = W^T dy                    (rank + touch) in out
///
/// Counted are those in which the two differ. z and g are computed either way, for the gradients of B and A, so a
/// forward pass that no backward pass follows gains half as much as the rule expects; for inference, merge. `touch` is
/// what reading and writing one number of W0 costs, in multiply-adds. Without it the rule is that of RunLoRA:
/// samples (in + out) > in out, whatever the rank.
///
/// Source: Cherniuk et al. 2023, arXiv:2312.03415. What the choices are worth: benchmarks/plan.cpp.

#include "lora/core/scalar.hpp"

#include <string>

namespace lora {

/// One copy of W0 serves both directions. A second one, of its transpose, takes as much memory again.
enum class Copies { one, two };

/// Whether W0 + s B A is formed: never, in every pass, or in those that the rule above gives it.
enum class Delta { two_step, materialized, whichever_is_faster };

/// Memory: W0 is held once. Speed: as much again where it makes a step faster.
enum class Prefer { memory, speed };

/// W0 (out, in), A (rank, in), B (out, rank), x (in, samples).
struct PassShape {
  Index out = 0;
  Index in = 0;
  Index rank = 0;
  Index samples = 0;
};

struct Plan {
  Copies copies = Copies::one;
  Delta delta = Delta::two_step;
};

/// The multiply-adds of a training step in which the two ways differ.
struct TermCost {
  static constexpr double touch = 24;  ///< measured: 8 where W0 is in the first cache, 10 to 60 beyond it
  double two_step = 0;
  double materialized = 0;

  explicit constexpr TermCost(const PassShape& shape)
      : two_step(double(shape.samples) * double(shape.rank) * double(shape.in + shape.out)),
        materialized((double(shape.rank) + touch) * double(shape.in) * double(shape.out)) {}
};

namespace detail {

/// Where a step with a second copy of W0 is faster by a twentieth or more.
constexpr bool second_copy_pays(const PassShape& shape) {
  constexpr double small = 96.0 * 96.0;     // two of them leave most of the second cache to x and y
  constexpr double medium = 384.0 * 384.0;  // beyond it two copies take longer than one
  constexpr Index few = 12;  // for which dx of one copy loads and stores its sums; fewer with narrow packets
  const double size = double(shape.out) * double(shape.in);
  return size <= small || (size <= medium && shape.samples <= few);
}

}  // namespace detail

/// The plan for passes of this shape. Costs nothing measurable.
constexpr Plan plan_for(const PassShape& shape, Prefer prefer = Prefer::memory) {
  if (prefer == Prefer::memory) return {};
  const TermCost cost(shape);
  if (cost.materialized < cost.two_step) return {Copies::one, Delta::materialized};
  return {detail::second_copy_pays(shape) ? Copies::two : Copies::one, Delta::two_step};
}

/// Why, in a line: "one copy is as fast; materialized: 360448 multiply-adds for the adapter's term, against ...".
inline std::string explain(const PassShape& shape, Prefer prefer = Prefer::memory) {
  const Plan plan = plan_for(shape, prefer);
  if (prefer == Prefer::memory) return "one copy, two-step: W0 is in memory once";
  const auto text = [](double count) { return std::to_string(static_cast<long long>(count)); };
  const TermCost cost(shape);
  const bool two_step = plan.delta == Delta::two_step;
  return std::string(plan.copies == Copies::two ? "two copies are faster; " : "one copy is as fast; ") +
         (two_step ? "two-step: " : "materialized: ") + text(two_step ? cost.two_step : cost.materialized) +
         " multiply-adds for the adapter's term, against " + text(two_step ? cost.materialized : cost.two_step);
}

}  // namespace lora
