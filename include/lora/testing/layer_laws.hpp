#pragma once
/// The laws of layers, for any Layer: check custom layers with them.
///
///   kept         a pass with kept computes what one without it computes, to the bit; so do the calls
///                with a cache
///   scratch      other layers may use the shared scratch between two calls of a pass
///   no_gradient  without dx the parameters get the same gradients, to the bit
///   accumulates  a second backward pass doubles them
///   executor     an executor changes no bit
///   const        concurrent forward passes on one layer, each with its own memory, give the same bits as one alone
///   copy         a copy is complete and independent, and refuses the pass of its original
///   refusal      backward without a forward pass, or of another size, throws and adds nothing
///
/// The gradient law is in gradient.hpp. Give the layer generic parameters first (fill_parameters).

#include "lora/core/parameters.hpp"
#include "lora/nn/layer.hpp"
#include "lora/testing/generic.hpp"
#include "lora/testing/law.hpp"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::testing {

namespace detail {

/// Runs the rounds backwards, on this thread.
struct Backwards final : Executor {
  int threads() const override { return 2; }
  bool share(Index count, lora::detail::FunctionRef<void(Index)> f, double) override {
    for (Index k = count; k-- > 0;) f(k);
    return true;
  }
};

/// The results of a forward and backward pass with its own memory: y, dx and the gradients of all parameters.
template <Layer L>
struct PassResult {
  using S = typename L::Scalar;
  using Input = Eigen::Ref<const Matrix<S>>;
  Matrix<S> y, dx;
  std::vector<Matrix<S>> gradients;

  PassResult(L& layer, const Matrix<S>& x, const Matrix<S>& dy, const Pass& pass, Scratch& scratch, const auto& between,
             bool wants_dx = true)
      : y(layer.out_features(), x.cols()), dx(layer.in_features(), x.cols()) {
    visit_parameters(layer, [](const Path&, auto& parameter) { parameter.grad.setZero(); });
    typename L::Kept kept;
    layer.forward(Input(x), Eigen::Ref<Matrix<S>, 0, Eigen::OuterStride<>>(y), &kept, scratch, pass);
    between();
    if (wants_dx) {
      layer.backward(Input(x), Input(dy), Eigen::Ref<Matrix<S>, 0, Eigen::OuterStride<>>(dx), kept, scratch);
    } else {
      layer.backward(Input(x), Input(dy), no_gradient, kept, scratch);
    }
    visit_parameters(layer, [&](const Path&, auto& parameter) { gradients.emplace_back(parameter.grad); });
  }
};

template <Layer L>
void compare(LawResults& results, const std::string& law, const PassResult<L>& given, const PassResult<L>& expected,
             bool compares_dx = true) {
  results.push_back(same_bits(law + ": y", given.y, expected.y));
  if (compares_dx) results.push_back(same_bits(law + ": dx", given.dx, expected.dx));
  for (std::size_t k = 0; k < expected.gradients.size(); ++k) {
    results.push_back(same_bits(law + ": gradient " + std::to_string(k), given.gradients[k], expected.gradients[k]));
  }
}

}  // namespace detail

/// All of the laws above. Takes the layer by value: its gradients are overwritten.
template <Layer L>
LawResults layer_laws(L layer, const Matrix<typename L::Scalar>& x, const Matrix<typename L::Scalar>& dy,
                      const Pass& pass = {}) {
  using S = typename L::Scalar;
  using Result = detail::PassResult<L>;
  using Columns = Eigen::Ref<Matrix<S>, 0, Eigen::OuterStride<>>;
  using Input = Eigen::Ref<const Matrix<S>>;
  LawResults results;
  const auto nothing = [] {};
  Scratch scratch;
  const Result expected(layer, x, dy, pass, scratch, nothing);

  Matrix<S> y(layer.out_features(), x.cols());
  std::as_const(layer).forward(Input(x), Columns(y), static_cast<typename L::Kept*>(nullptr), scratch, pass);
  results.push_back(same_bits("kept: nothing", y, expected.y));
  if constexpr (requires(typename L::Cache& cache) { layer.forward(x, cache, pass); }) {
    typename L::Cache cache;
    results.push_back(same_bits("kept: cache, y", Matrix<S>(layer.forward(x, cache, pass)), expected.y));
    results.push_back(same_bits("kept: cache, dx", Matrix<S>(layer.backward(x, dy, cache)), expected.dx));
  }

  // Another layer's pass of another size between forward and backward, in the same scratch.
  L other = layer;
  const Matrix<S> fewer = x.leftCols((x.cols() + 1) / 2);
  const auto disturb = [&] {
    Matrix<S> out(other.out_features(), fewer.cols());
    typename L::Kept kept;
    other.forward(Input(fewer), Columns(out), &kept, scratch, pass);
    Matrix<S> in(other.in_features(), fewer.cols());
    other.backward(Input(fewer), Input(out), Columns(in), kept, scratch);
  };
  detail::compare<L>(results, "scratch", Result(layer, x, dy, pass, scratch, disturb), expected);
  detail::compare<L>(results, "no_gradient", Result(layer, x, dy, pass, scratch, nothing, false), expected, false);

  detail::Backwards executor;
  Pass shared = pass;
  shared.executor = &executor;
  detail::compare<L>(results, "executor", Result(layer, x, dy, shared, scratch, nothing), expected);

  // accumulates
  typename L::Kept kept;
  layer.forward(Input(x), Columns(y), &kept, scratch, pass);
  visit_parameters(layer, [](const Path&, auto& parameter) { parameter.grad.setZero(); });
  layer.backward(Input(x), Input(dy), no_gradient, kept, scratch);
  layer.backward(Input(x), Input(dy), no_gradient, kept, scratch);
  std::size_t slot = 0;
  visit_parameters(layer, [&](const Path& path, auto& parameter) {
    const Matrix<S>& once = expected.gradients[slot++];
    if (once.size() == 0) return;
    const double size = static_cast<double>(once.norm());
    const double difference = static_cast<double>((parameter.grad - S(2) * once).norm());
    const double bound = 8 * static_cast<double>(Eigen::NumTraits<S>::epsilon());
    if (size == 0 && difference == 0) {
      results.push_back(nothing_checked("accumulates: " + path.str(), "the gradient", bound));
      return;
    }
    results.push_back(judge("accumulates: " + path.str(), size == 0 ? difference : difference / size, bound));
  });

  // const
  std::vector<Index> differing(3, 0);
  std::vector<std::thread> threads;
  for (Index& count : differing) {
    threads.emplace_back([&] {
      Scratch own;
      typename L::Kept own_kept;
      Matrix<S> out(layer.out_features(), x.cols());
      for (int round = 0; round < 3; ++round) {
        std::as_const(layer).forward(Input(x), Columns(out), &own_kept, own, pass);
        count += (out.array() != expected.y.array()).count();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  results.push_back(judge("const", static_cast<double>(differing[0] + differing[1] + differing[2]), 0, "3 threads"));

  // copy and refusal
  const auto refuses = [&](L& asked, typename L::Kept& given, const Matrix<S>& some_dy) {
    bool gradients_stay = true, thrown = false;
    visit_parameters(asked, [](const Path&, auto& parameter) { parameter.drop_gradient(); });
    try {
      asked.backward(Input(x), Input(some_dy), no_gradient, given, scratch);
    } catch (const Error&) {
      thrown = true;
    }
    visit_parameters(
        asked, [&](const Path&, auto& parameter) { gradients_stay = gradients_stay && parameter.grad.norm() == S(0); });
    return thrown && gradients_stay;
  };
  L copy = layer;
  results.push_back(judge("copy: refuses its original's pass", refuses(copy, kept, dy) ? 0 : 1, 0));
  visit_parameters(copy, [](const Path&, auto& parameter) { parameter.value.array() += S(1); });
  std::as_const(layer).forward(Input(x), Columns(y), &kept, scratch, pass);
  results.push_back(same_bits("copy: the original stays", y, expected.y));
  typename L::Kept none;
  results.push_back(judge("refusal: no forward pass", refuses(layer, none, dy) ? 0 : 1, 0));
  const Matrix<S> wrong = Matrix<S>::Ones(dy.rows(), dy.cols() + 1);
  results.push_back(judge("refusal: another size", refuses(layer, kept, wrong) ? 0 : 1, 0));
  return results;
}

}  // namespace lora::inline LORA_ABI::testing
