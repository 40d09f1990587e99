#pragma once
/// The laws of optimizers, for any update formula:
///
///   move         the model may be anywhere in memory at every step
///   separate     each parameter of a model changes as if alone: steps are counted once per step, not per parameter
///   untouched    a parameter that is frozen, not selected or without gradient keeps its bits; gradients are only read
///   return       a parameter that is left out for some steps continues as if they had not happened
///   copy         a copy of an optimizer is independent and complete
///   factor 0     a step with learning-rate factor 0 changes no value
///
///   for (const auto& result : optimizer_laws([] { return AdamW<double>({.lr = 0.1}); })) { ... }

#include "lora/core/parameter.hpp"
#include "lora/optim/optimizer.hpp"
#include "lora/testing/law.hpp"

#include <cmath>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace lora::inline LORA_ABI::testing {

/// Two parameters of different shape and storage order; the second can be listed as one of an adapter that is not
/// selected.
template <class S>
struct TwoParameters {
  RowMajorParameter<S> first{RowMajorMatrix<S>(start(3, 5))};
  Parameter<S> second{start(7, 2)};
  bool second_selected = true;

  static void visit(auto& self, auto&& f) {
    f("first", self.first);
    f("second", self.second, self.second_selected);
  }

  /// f(p) = 1/2 sum_i c_i (p_i - t_i)^2: the curvatures c go from 1 to 10, the optimum t is the same pattern as the
  /// start, shifted. Writes dL/dp.
  static void write_gradient(auto& parameter) {
    auto& gradient = parameter.gradient();
    for (Index i = 0; i < gradient.rows(); ++i) {
      for (Index j = 0; j < gradient.cols(); ++j) {
        const auto position = static_cast<double>(i * gradient.cols() + j);
        const auto curvature = S(1 + 9 * position / static_cast<double>(gradient.size() - 1));
        gradient(i, j) = curvature * (parameter.value(i, j) - optimum(i, j));
      }
    }
  }
  void write_gradients() {
    write_gradient(first);
    write_gradient(second);
  }

  static S optimum(Index i, Index j) { return entry(i + 1, j); }
  double distance_to_optimum() const {
    double largest = 0;
    const auto compare = [&](const auto& value) {
      for (Index i = 0; i < value.rows(); ++i) {
        for (Index j = 0; j < value.cols(); ++j) {
          const double distance = std::abs(static_cast<double>(value(i, j) - optimum(i, j)));
          if (!(distance <= largest)) largest = distance;
        }
      }
    };
    compare(first.value);
    compare(second.value);
    return largest;
  }

 private:
  static S entry(Index i, Index j) { return S(static_cast<double>((5 * i + 3 * j) % 11 - 5) / 8); }
  static Matrix<S> start(Index rows, Index cols) {
    return Matrix<S>::NullaryExpr(rows, cols, [](Index i, Index j) { return entry(i, j); });
  }
};

namespace detail {

inline constexpr int law_steps = 6;

void take_steps(auto& optimizer, auto& model, int count) {
  for (int k = 0; k < count; ++k) {
    model.write_gradients();
    optimizer.step(model);
  }
}

/// The model after law_steps undisturbed steps.
template <class S>
TwoParameters<S> undisturbed(auto& make) {
  auto optimizer = make();
  TwoParameters<S> model;
  take_steps(optimizer, model, law_steps);
  return model;
}

template <class S>
LawResults same_values(const std::string& law, const TwoParameters<S>& given, const TwoParameters<S>& expected) {
  return {same_bits(law + ": first parameter", given.first.value, expected.first.value),
          same_bits(law + ": second parameter", given.second.value, expected.second.value)};
}

}  // namespace detail

/// move: between any two steps the model moves; its old memory stays alive with other values, so that an optimizer with
/// pointers to it computes wrong values instead of crashing.
template <class S = double>
LawResults check_move(auto&& make) {
  auto optimizer = make();
  std::vector<std::unique_ptr<TwoParameters<S>>> places;
  places.push_back(std::make_unique<TwoParameters<S>>());
  for (int k = 0; k < detail::law_steps; ++k) {
    places.push_back(std::make_unique<TwoParameters<S>>(*places.back()));
    auto& left = *places[places.size() - 2];
    left.first.value.setConstant(S(7));
    left.second.value.setConstant(S(7));
    detail::take_steps(optimizer, *places.back(), 1);
  }
  return detail::same_values("move", *places.back(), detail::undisturbed<S>(make));
}

/// separate: each parameter trained alone, by its own optimizer, gets the same bits.
template <class S = double>
LawResults check_separate(auto&& make) {
  auto optimizer = make();
  TwoParameters<S> only_first;
  only_first.second.trainable = false;
  detail::take_steps(optimizer, only_first, detail::law_steps);
  auto other = make();
  TwoParameters<S> only_second;
  only_second.first.trainable = false;
  detail::take_steps(other, only_second, detail::law_steps);
  only_first.second = only_second.second;
  return detail::same_values("separate", only_first, detail::undisturbed<S>(make));
}

/// untouched, return: the second parameter is left out for some steps, in one of three ways.
template <class S = double>
LawResults check_left_out(auto&& make) {
  enum class Way { frozen, not_selected, without_gradient };
  LawResults results;
  const TwoParameters<S> expected = detail::undisturbed<S>(make);
  for (const Way way : {Way::frozen, Way::not_selected, Way::without_gradient}) {
    const std::string name = way == Way::frozen         ? "frozen"
                             : way == Way::not_selected ? "not selected"
                                                        : "without gradient";
    auto optimizer = make();
    TwoParameters<S> model;
    detail::take_steps(optimizer, model, 2);
    const auto before = model.second.value;
    model.second.trainable = way != Way::frozen;
    model.second_selected = way != Way::not_selected;
    for (int k = 2; k < detail::law_steps; ++k) {
      model.write_gradients();
      if (way == Way::without_gradient) model.second.grad.resize(0, 0);
      optimizer.step(model);
    }
    results.push_back(same_bits("untouched: " + name, model.second.value, before));
    results.push_back(same_bits("untouched: the other beside one " + name, model.first.value, expected.first.value));
    model.second.trainable = true;
    model.second_selected = true;
    detail::take_steps(optimizer, model, detail::law_steps - 2);
    results.push_back(same_bits("return: " + name, model.second.value, expected.second.value));
  }
  return results;
}

/// untouched: a step only reads the gradients.
template <class S = double>
LawResults check_gradients_kept(auto&& make) {
  auto optimizer = make();
  TwoParameters<S> model;
  model.write_gradients();
  const TwoParameters<S> before = model;
  optimizer.step(model);
  return {same_bits("untouched: first gradient", model.first.grad, before.first.grad),
          same_bits("untouched: second gradient", model.second.grad, before.second.grad)};
}

/// copy: halfway, a copy of the optimizer trains a copy of the model, then the original optimizer the original model.
template <class S = double>
LawResults check_optimizer_copy(auto&& make) {
  constexpr int half = detail::law_steps / 2;
  const TwoParameters<S> expected = detail::undisturbed<S>(make);
  auto optimizer = make();
  TwoParameters<S> model;
  detail::take_steps(optimizer, model, half);
  auto copy = optimizer;
  TwoParameters<S> copied_model = model;
  detail::take_steps(copy, copied_model, detail::law_steps - half);
  detail::take_steps(optimizer, model, detail::law_steps - half);
  LawResults results = detail::same_values("copy: complete", copied_model, expected);
  append(results, detail::same_values("copy: independent", model, expected));
  return results;
}

/// factor 0: a step that must change no value.
template <class S = double>
LawResults check_factor_zero(auto&& make) {
  auto optimizer = make();
  TwoParameters<S> model;
  detail::take_steps(optimizer, model, 2);
  const TwoParameters<S> before = model;
  model.write_gradients();
  optimizer.step(model, 0.0);
  return detail::same_values("factor 0", model, before);
}

/// All laws above. make() returns a new optimizer for the scalar S each time; a learning rate of 0.01 to 0.1 suits.
template <class S = double>
LawResults optimizer_laws(auto&& make) {
  static_assert(OptimizerFor<std::decay_t<decltype(make())>, TwoParameters<S>>,
                "lora: an optimizer needs step(model) and step(model, factor).");
  LawResults results = check_move<S>(make);
  append(results, check_separate<S>(make));
  append(results, check_left_out<S>(make));
  append(results, check_gradients_kept<S>(make));
  append(results, check_optimizer_copy<S>(make));
  append(results, check_factor_zero<S>(make));
  return results;
}

/// The optimizer comes within `bound` of the optimum of a convex quadratic with curvatures from 1 to 10, in `steps`
/// steps with the learning rate falling linearly to 0. Use no weight decay, which has another optimum.
template <class S = double>
LawResult check_optimum(auto&& make, int steps, double bound) {
  auto optimizer = make();
  TwoParameters<S> model;
  for (int step = 0; step < steps; ++step) {
    model.write_gradients();
    optimizer.step(model, 1.0 - static_cast<double>(step) / steps);
  }
  return judge("optimum of a quadratic after " + std::to_string(steps) + " steps", model.distance_to_optimum(), bound);
}

}  // namespace lora::inline LORA_ABI::testing
