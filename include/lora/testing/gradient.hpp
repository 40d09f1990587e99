#pragma once
/// Three independent checks that a hand-written backward pass is the derivative of its forward pass.
///
/// The loss is L = sum(R .* forward(x)) with a fixed random R, so backward is given dy = R and every gradient follows:
///   central differences   dL/dp = (L(p + h) - L(p - h)) / 2h, entry by entry
///   Taylor remainder      |L(p + t D) - L(p) - t <dL/dp, D>| falls by 100 when t falls by 10, along some D
///   dual numbers          <dL/dp, D> exactly, from a second model of the same shape over lora::testing::Dual
///
/// A layer is anything with `forward(x, cache[, pass])`, `backward(x, dy, cache)` and a nested Cache; its trained
/// parameters are found through its listing. The layer's values are the same afterwards, its gradients are those of
/// this pass. Give every parameter a generic value first (fill_parameters): where B is zero, dA is zero, and any
/// backward pass that leaves it out would do. A gradient that is zero throughout, by both ways of computing it, is
/// therefore not passed but `vacuous`, unless options.allow_zero.

#include "lora/core/parameters.hpp"
#include "lora/core/pass.hpp"
#include "lora/testing/dual.hpp"
#include "lora/testing/generic.hpp"
#include "lora/testing/law.hpp"

#include <algorithm>
#include <array>
#include <iomanip>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::testing {

struct GradientOptions {
  /// h of the central differences; the rounding error grows as 1/h, the truncation error as h^2.
  double step = 1e-5;
  /// Bound on max|numeric - analytic| / max|analytic| of each tensor.
  double tolerance = 1e-7;
  /// At most this many entries of a tensor are compared, evenly spaced; 0 compares all.
  Index entries = 0;
  /// Given to forward if it takes one: training passes and dropout masks.
  Pass pass = {};
  /// Accepts gradients that are zero throughout, where that is right: behind a ReLU that never fires, for example.
  bool allow_zero = false;
  /// The seed of R and of the directions.
  std::uint64_t seed = 1;
};

namespace detail {

template <class Layer, int Samples>
struct CacheOf {
  using type = typename Layer::Cache;
};
template <class Layer, int Samples>
  requires requires { typename Layer::template CacheFor<Samples>; }
struct CacheOf<Layer, Samples> {
  using type = typename Layer::template CacheFor<Samples>;
};

/// A layer and its cache as two functions of a model: forward(layer, x) and backward(layer, x, dy).
template <class Layer, int Samples>
struct LayerPass {
  typename CacheOf<Layer, Samples>::type cache;
  Pass pass;

  auto forward(Layer& layer, const auto& x) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    if constexpr (requires { layer.forward(x, cache, pass); }) {
      return Matrix<S>(layer.forward(x, cache, pass));
    } else {
      return Matrix<S>(layer.forward(x, cache));
    }
  }
  auto backward(Layer& layer, const auto& x, const auto& dy) {
    using S = typename std::remove_cvref_t<decltype(x)>::Scalar;
    return Matrix<S>(layer.backward(x, dy, cache));
  }
  auto functions() {
    return std::pair([this](Layer& layer, const auto& x) { return this->forward(layer, x); },
                     [this](Layer& layer, const auto& x, const auto& dy) { return this->backward(layer, x, dy); });
  }
};

/// Calls f(path, parameter) for every parameter that backward must fill; a model without a listing has none.
void visit_trained(auto& model, auto&& f) {
  using Model = std::remove_reference_t<decltype(model)>;
  if constexpr (Visitable<Model> || ParameterLike<Model> || lora::detail::Indirect<Model> ||
                lora::detail::Range<Model>) {
    visit_parameters(model, [&](const Path& path, auto& parameter) {
      if (is_trained(path, parameter)) f(path, parameter);
    });
  }
}

inline double inner(const Matrix<double>& a, const Matrix<double>& b) { return a.cwiseProduct(b).sum(); }

/// L at one point: R, y and the name, value and gradient of each tensor; x comes last.
struct Linearized {
  Matrix<double> R, y;
  std::vector<std::string> names;
  std::vector<Matrix<double>> values, gradients;
};

Linearized linearize(auto& model, const Matrix<double>& x, auto&& forward, auto&& backward, Rng& rng) {
  Linearized at;
  at.y = forward(model, x);
  at.R = random_matrix(at.y.rows(), at.y.cols(), rng);
  visit_trained(model, [](const Path&, auto& parameter) { parameter.grad.setZero(); });
  const Matrix<double> dx = backward(model, x, at.R);
  visit_trained(model, [&](const Path& path, auto& parameter) {
    at.names.push_back(path.str());
    at.values.push_back(parameter.value);
    at.gradients.push_back(parameter.gradient());
  });
  at.names.push_back("x");
  at.values.push_back(x);
  at.gradients.push_back(dx);
  return at;
}

/// The largest difference so far between numeric and analytic entries, and its position.
class Comparison {
 public:
  void add(Index row, Index col, double analytic, double numeric) {
    largest_analytic_ = std::max(largest_analytic_, std::abs(analytic));
    largest_numeric_ = std::max(largest_numeric_, std::abs(numeric));
    const double difference = std::abs(numeric - analytic);
    if (difference <= worst_) return;  // a NaN becomes the worst and stays it
    if (std::isnan(worst_)) return;
    worst_ = difference;
    where_.str("");
    where_ << std::setprecision(10) << "worst at (" << row << ", " << col << "): analytic " << analytic << ", numeric "
           << numeric;
  }

  LawResult result(std::string law, const GradientOptions& options) const {
    if (!options.allow_zero && largest_analytic_ == 0 && largest_numeric_ == 0 && worst_ == 0) {
      return nothing_checked(std::move(law), "the gradient", options.tolerance);
    }
    const double scale = largest_analytic_ > 0 ? largest_analytic_ : largest_numeric_;
    return judge(std::move(law), worst_ == 0 ? 0.0 : worst_ / scale, options.tolerance, where_.str());
  }

 private:
  double worst_ = 0, largest_analytic_ = 0, largest_numeric_ = 0;
  std::ostringstream where_;
};

/// Central differences of every entry of `tensor` against `analytic`; output() runs the forward pass.
LawResult compare_entries(std::string law, auto& tensor, const auto& analytic, auto&& output, const Matrix<double>& R,
                          const GradientOptions& options) {
  const Index size = tensor.size();
  const Index count = options.entries == 0 ? size : std::min(size, options.entries);
  Comparison comparison;
  for (Index k = 0; k < count; ++k) {
    const Index entry = k * size / count;
    const Index i = entry % tensor.rows(), j = entry / tensor.rows();
    const double value = tensor(i, j);
    tensor(i, j) = value + options.step;
    const double above = tensor(i, j);
    const Matrix<double> y = output();
    tensor(i, j) = value - options.step;
    const double step = above - tensor(i, j);  // as rounded
    const double numeric = inner(R, y - output()) / step;
    tensor(i, j) = value;
    comparison.add(i, j, analytic(i, j), numeric);
  }
  return comparison.result(std::move(law), options);
}

}  // namespace detail

/// Central differences for a whole model given as two functions: forward(model, x) returns y, backward(model, x, dy)
/// returns dx and adds to the gradients. One result per trained tensor, by its name, and one for x.
/// Cost: two forward passes for every entry compared.
template <class Model>
LawResults check_gradients(Model& model, const Matrix<double>& x, auto&& forward, auto&& backward,
                           const GradientOptions& options = {}) {
  Rng rng(options.seed);
  const detail::Linearized at = detail::linearize(model, x, forward, backward, rng);
  LawResults results;
  std::size_t slot = 0;
  const auto compare = [&](auto& tensor, const Matrix<double>& input) {
    results.push_back(detail::compare_entries(
        "gradient of " + at.names[slot], tensor, at.gradients[slot], [&] { return forward(model, input); }, at.R,
        options));
    ++slot;
  };
  detail::visit_trained(model, [&](const Path&, auto& parameter) { compare(parameter.value, x); });
  Matrix<double> moved = x;
  compare(moved, moved);
  return results;
}

/// Central differences for one layer. Samples: those of its cache, compile-time or Dynamic.
template <int Samples = Dynamic, class Layer>
LawResults check_gradients(Layer& layer, const Matrix<double>& x, const GradientOptions& options = {}) {
  detail::LayerPass<Layer, Samples> run{{}, options.pass};
  const auto [forward, backward] = run.functions();
  return check_gradients(layer, x, forward, backward, options);
}

/// The Taylor remainder for steps t = 1e-2, 1e-3, 1e-4 in a random direction of all trained tensors and x together.
///
/// error is how far the remainder's order stays below 2, in powers of ten for each tenfold smaller step; the bound is
/// 0.1. A remainder that is lost in rounding, such as that of a linear function, passes.
template <int Samples = Dynamic, class Layer>
LawResult check_taylor(Layer& layer, const Matrix<double>& x, const GradientOptions& options = {}) {
  detail::LayerPass<Layer, Samples> run{{}, options.pass};
  const auto [forward, backward] = run.functions();
  Rng rng(options.seed);
  const detail::Linearized at = detail::linearize(layer, x, forward, backward, rng);
  constexpr double bound = 0.1;
  const auto is_zero = [](const Matrix<double>& gradient) { return (gradient.array() == 0).all(); };
  if (!options.allow_zero && std::all_of(at.gradients.begin(), at.gradients.end(), is_zero)) {
    return nothing_checked("Taylor remainder", "the gradient", bound);
  }
  std::vector<Matrix<double>> directions;
  double slope = 0;
  for (const Matrix<double>& gradient : at.gradients) {
    directions.push_back(random_matrix(gradient.rows(), gradient.cols(), rng));
    slope += detail::inner(gradient, directions.back());
  }

  const std::array<double, 4> steps = {1e-2, 1e-3, 1e-4, 0};  // the last restores the values
  std::array<double, 4> remainders{};
  for (std::size_t k = 0; k < steps.size(); ++k) {
    std::size_t slot = 0;
    detail::visit_trained(layer, [&](const Path&, auto& parameter) {
      parameter.value = at.values[slot] + steps[k] * directions[slot];
      ++slot;
    });
    const Matrix<double> moved = x + steps[k] * directions.back();
    remainders[k] = std::abs(detail::inner(at.R, forward(layer, moved) - at.y) - steps[k] * slope);
  }

  const double rounding = 1e4 * std::numeric_limits<double>::epsilon() * at.R.cwiseProduct(at.y).cwiseAbs().sum();
  double order = 2;
  for (std::size_t k = 0; k < 2; ++k) {
    if (!(remainders[k + 1] <= rounding)) order = std::log10(remainders[k] / remainders[k + 1]);
  }
  std::ostringstream detail;
  detail << "remainders " << remainders[0] << ", " << remainders[1] << ", " << remainders[2];
  return judge("Taylor remainder", order > 2 ? 0.0 : 2 - order, bound, detail.str());
}

/// Directional derivatives against dual numbers, one random direction for each trained tensor and one for x.
///
/// dual: the same layer over Dual, with the same frozen weights and settings; its parameters are overwritten with the
/// layer's. error is |<dL/dp, D> - dual| / (|dL/dp| |D|).
template <int Samples = Dynamic, class Layer, class DualLayer>
LawResults check_dual(Layer& layer, DualLayer& dual, const Matrix<double>& x, const GradientOptions& options = {},
                      double tolerance = 1e-13) {
  detail::LayerPass<Layer, Samples> run{{}, options.pass};
  detail::LayerPass<DualLayer, Samples> dual_run{{}, options.pass};
  const auto [forward, backward] = run.functions();
  Rng rng(options.seed);
  const detail::Linearized at = detail::linearize(layer, x, forward, backward, rng);
  LawResults results;
  for (std::size_t moved = 0; moved < at.values.size(); ++moved) {
    const Matrix<double> direction = random_matrix(at.values[moved].rows(), at.values[moved].cols(), rng);
    const auto assign = [&](auto& target, std::size_t slot) {
      for (Index j = 0; j < target.cols(); ++j) {
        for (Index i = 0; i < target.rows(); ++i) {
          target(i, j) = Dual(at.values[slot](i, j), slot == moved ? direction(i, j) : 0.0);
        }
      }
    };
    std::size_t slot = 0;
    detail::visit_trained(dual, [&](const Path&, auto& parameter) { assign(parameter.value, slot++); });
    Matrix<Dual> dual_x(x.rows(), x.cols());
    assign(dual_x, slot);

    const Matrix<Dual> dual_y = dual_run.forward(dual, dual_x);
    double exact = 0;
    for (Index k = 0; k < at.R.size(); ++k) exact += at.R.data()[k] * dual_y.data()[k].derivative;
    const double analytic = detail::inner(at.gradients[moved], direction);
    const double scale = at.gradients[moved].norm() * direction.norm();
    const double difference = std::abs(analytic - exact);
    if (!options.allow_zero && scale == 0 && exact == 0) {
      results.push_back(nothing_checked("dual derivative of " + at.names[moved], "the gradient", tolerance));
      continue;
    }
    std::ostringstream detail;
    detail << std::setprecision(17) << "along a direction: analytic " << analytic << ", dual " << exact;
    results.push_back(judge("dual derivative of " + at.names[moved], difference == 0 ? 0.0 : difference / scale,
                            tolerance, detail.str()));
  }
  return results;
}

}  // namespace lora::inline LORA_ABI::testing
