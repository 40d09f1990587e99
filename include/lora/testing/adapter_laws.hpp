#pragma once
/// The laws of adapters, for any Adapted<Base, Adapter>: check custom adapters with them.
///
///   fresh        a new adapter leaves the base's output the same to the bit
///   off          disabled equals the base to the bit, and enabling again restores the first output
///   merge        merged() x equals forward(x) to rounding; merged() is the exact sum, rounded once
///   sum          adapters active together add up, each with its weight
///   weighted     with a weight, backward and merge have it, too; a parameter that is not trained gets no gradient
///   accumulates  a second backward pass doubles the gradients
///   copy         a copy is complete and independent
///   described    an adapter made anew from the settings and tensors that describe lists computes the same to the bit
///   no heap      after the first pass nothing allocates
///   switch       adapter a, then b, then a gives the first output
///   const        concurrent forward passes on one layer give the same bits as one alone
///
/// The gradient law is in gradient.hpp. Layers should have generic parameters (fill_parameters), except for fresh: at
/// zero merge, sum and accumulates would hold for anything, and their results are `vacuous`.

#include "lora/adapters/adapted.hpp"
#include "lora/testing/generic.hpp"
#include "lora/testing/law.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::testing {

namespace detail {

/// Runs forward with a new cache; returns a new matrix.
template <int Samples = Dynamic>
auto output_of(const auto& layer, const auto& x, const Pass& pass = {}) {
  using Layer = std::remove_cvref_t<decltype(layer)>;
  typename Layer::template CacheFor<Samples> cache;
  return Matrix<typename Layer::Scalar>(layer.forward(x, cache, pass));
}

/// W0 x + b with the base's own bias, in the layer's own types, because Eigen sums other types in another order.
auto base_output(const auto& layer, const auto& x) {
  using Layer = std::remove_cvref_t<decltype(layer)>;
  using S = typename Layer::Scalar;
  Buffer<S, Layer::Out> buffer;
  auto y = buffer.resize(layer.out_features(), x.cols());
  layer.base().apply(Eigen::Ref<const Matrix<S, Layer::In>>(x), y);
  std::vector<Layer> disabled(1, layer);
  disabled[0].enable(false);
  if (const auto* b = disabled[0].bias()) y.colwise() += *b;
  return Matrix<S>(y);
}

template <class S>
double epsilon() {
  return static_cast<double>(Eigen::NumTraits<S>::epsilon());
}

/// Whether the adapter could change anything: one without parameters, or with a bias alone, has no delta by design.
bool has_parameters(const auto& layer) {
  bool any = false;
  visit_parameters(layer.adapter(), [&](const Path&, const auto&) { any = true; });
  return any;
}

}  // namespace detail

/// A new adapter, with a zero factor, changes nothing: neither in inference nor in training with dropout.
template <class Layer>
LawResults check_fresh(const Layer& layer, const Matrix<typename Layer::Scalar>& x) {
  const auto expected = detail::base_output(layer, x);
  return {same_bits("fresh: inference", detail::output_of(layer, x), expected),
          same_bits("fresh: training", detail::output_of(layer, x, {.training = true, .seed = 1}), expected),
          same_bits("fresh: merged weight", layer.merged(), lora::dense(layer.base()))};
}

/// Off equals the base, and on again equals the first output. Takes the layer by value, because it switches it.
template <class Layer>
LawResults check_off(Layer layer, const Matrix<typename Layer::Scalar>& x) {
  const auto adapted = detail::output_of(layer, x);
  const auto expected = detail::base_output(layer, x);
  layer.enable(false);
  LawResults results = {same_bits("off: output", detail::output_of(layer, x), expected),
                        same_bits("off: merged weight", layer.merged(), lora::dense(layer.base()))};
  layer.enable();
  results.push_back(same_bits("off: on again", detail::output_of(layer, x), adapted));
  return results;
}

/// c of the merge law: |merged() x + b - forward(x)| <= c sqrt(in) epsilon | (|W0| + |delta|) |x| |, Frobenius norms,
/// where |delta| is |s| |B| |A| for an adapter of factors, whose sum over the rank may be far smaller. Nothing cancels
/// on the right-hand side; rounding errors add up as random signs, hence sqrt(in). The largest seen is 1.4.
inline constexpr double merge_constant = 2;

namespace detail {

/// |delta|, entry by entry; for factors s B A the sum of the magnitudes of its terms.
template <class Layer>
Matrix<double> magnitude_of_delta(const Layer& layer) {
  const auto& adapter = layer.adapter();
  if constexpr (requires { adapter.A.value, adapter.B.value, adapter.scale(); }) {
    return std::abs(static_cast<double>(adapter.scale())) * adapter.B.value.template cast<double>().cwiseAbs() *
           adapter.A.value.template cast<double>().cwiseAbs();
  } else {
    return layer.delta().cwiseAbs().template cast<double>();
  }
}

}  // namespace detail

template <class Layer>
LawResult check_merged_output(const Layer& layer, const Matrix<typename Layer::Scalar>& x) {
  using S = typename Layer::Scalar;
  Matrix<S> merged = layer.merged() * x;
  if (const auto* b = layer.bias()) merged.colwise() += *b;
  const double difference = (merged - detail::output_of(layer, x)).template cast<double>().norm();
  const Matrix<double> size =
      lora::dense(layer.base()).cwiseAbs().template cast<double>() + detail::magnitude_of_delta(layer);
  const double scale = (size * x.cwiseAbs().template cast<double>()).norm();
  const double bound = merge_constant * std::sqrt(static_cast<double>(layer.in_features())) * detail::epsilon<S>();
  if (difference == 0 && detail::magnitude_of_delta(layer).norm() == 0 && detail::has_parameters(layer)) {
    return nothing_checked("merge: output", "the delta", bound);
  }
  return judge("merge: output", difference / scale, bound);
}

/// merged() against `exact` (out, in), the sum in more precision than the layer's, relative to it or to W0, the larger,
/// in Frobenius norm. A sum that is accumulated in a wider type and rounded once stays well within 1 epsilon at any
/// rank; one accumulated in S itself, as for double, within about max(1, sqrt(rank) / 4).
template <class Layer>
LawResult check_merged_weight(const Layer& layer, const Matrix<long double>& exact, double epsilons = 1) {
  const Matrix<long double> difference = layer.merged().template cast<long double>() - exact;
  const long double scale = std::max(exact.norm(), lora::dense(layer.base()).template cast<long double>().norm());
  return judge("merge: weight", static_cast<double>(difference.norm() / scale),
               epsilons * detail::epsilon<typename Layer::Scalar>());
}

/// For Lora's parametrisation: W0 + s B A, entry by entry in long double.
template <class Base, class A>
  requires requires(const A& adapter) {
    adapter.A.value;
    adapter.B.value;
    adapter.scale();
  }
Matrix<long double> exact_weight(const Adapted<Base, A>& layer) {
  const auto& A_ = layer.adapter().A.value;
  const auto& B_ = layer.adapter().B.value;
  const auto W0 = lora::dense(layer.base());
  Matrix<long double> exact(layer.out_features(), layer.in_features());
  for (Index i = 0; i < exact.rows(); ++i) {
    for (Index j = 0; j < exact.cols(); ++j) {
      long double sum = 0;
      for (Index k = 0; k < A_.rows(); ++k) {
        sum += static_cast<long double>(B_(i, k)) * static_cast<long double>(A_(k, j));
      }
      exact(i, j) = static_cast<long double>(W0(i, j)) + static_cast<long double>(layer.adapter().scale()) * sum;
    }
  }
  return exact;
}

/// Two adapters active together, with the weights 0.5 and -2, against W0 + 0.5 delta_first - 2 delta_second.
/// Needs adapters of an additive kind (AdditiveAdapter). The bound is that of the merge law.
template <class Base, AdditiveAdapter A>
LawResult check_sum(const Adapted<Base, A>& first, const Adapted<Base, A>& second,
                    const Matrix<typename A::Scalar>& x) {
  using S = typename A::Scalar;
  typename A::template Kept<Dynamic> kept[2];
  typename A::template Scratch<Dynamic> scratch;
  Matrix<S> y(first.out_features(), x.cols());
  first.adapter().forward(first.base(), x, y, kept[0], scratch, {}, S(0.5));
  second.adapter().add(x, y, kept[1], scratch, {}, S(-2));
  const Matrix<double> W0 = lora::dense(first.base()).template cast<double>();
  const Matrix<double> a = 0.5 * first.delta().template cast<double>();
  const Matrix<double> b = -2 * second.delta().template cast<double>();
  const Matrix<double> input = x.template cast<double>();
  const double difference = (y.template cast<double>() - (W0 + a + b) * input).norm();
  const Matrix<double> size =
      W0.cwiseAbs() + 0.5 * detail::magnitude_of_delta(first) + 2 * detail::magnitude_of_delta(second);
  const double scale = (size * input.cwiseAbs()).norm();
  const double bound = merge_constant * std::sqrt(static_cast<double>(first.in_features())) * detail::epsilon<S>();
  if (difference == 0 && (a.norm() == 0 || b.norm() == 0)) return nothing_checked("sum", "a delta", bound);
  return judge("sum", difference / scale, bound);
}

/// With the weight 1/4, an adapter gives a quarter of what it gives with 1, within 8 epsilon: its gradients, its part
/// of dx, its delta. And a parameter that is not trained gets no gradient. Takes the layer by value.
template <class Base, AdditiveAdapter A>
LawResults check_weighted(Adapted<Base, A> layer, const Matrix<typename A::Scalar>& x) {
  using S = typename A::Scalar;
  constexpr auto weight = S(0.25);
  const double bound = 8 * detail::epsilon<S>();
  const Pass pass{.training = true, .seed = 1};
  A& adapter = layer.adapter();
  const Matrix<S> dy = Matrix<S>::Ones(layer.out_features(), x.cols());

  // The gradients of all parameters, then the adapter's part of dx, then its delta.
  const auto given = [&](S by) {
    typename A::template Kept<Dynamic> kept;
    typename A::template Scratch<Dynamic> scratch;
    std::vector<Matrix<S>> all;
    Matrix<S> y = Matrix<S>::Zero(layer.out_features(), x.cols()), dx = Matrix<S>::Zero(x.rows(), x.cols());
    visit_parameters(adapter, [](const Path&, auto& parameter) { parameter.grad.setZero(); });
    adapter.add(x, y, kept, scratch, pass, by);
    adapter.add_backward(x, dy, dx, kept, scratch, pass);
    visit_parameters(adapter, [&](const Path&, auto& parameter) { all.push_back(parameter.grad); });
    all.push_back(dx);
    Matrix<S> delta = Matrix<S>::Zero(layer.out_features(), layer.in_features());
    std::as_const(adapter).add_delta(delta, 0, layer.base(), by);
    all.push_back(delta);
    return all;
  };
  std::vector<std::string> names;
  visit_parameters(adapter, [&](const Path& path, auto&) { names.push_back("weighted: gradient of " + path.str()); });
  names.insert(names.end(), {"weighted: dx", "weighted: delta"});
  const auto whole = given(S(1)), part = given(weight);
  LawResults results;
  for (std::size_t k = 0; k < names.size(); ++k) {
    if (whole[k].size() == 0) continue;  // of a parameter that is not trained
    const double size = static_cast<double>(weight * whole[k].norm());
    const double difference = static_cast<double>((part[k] - weight * whole[k]).norm());
    if (size == 0 && difference == 0) {
      results.push_back(nothing_checked(names[k], "what it gives", bound));
    } else {
      results.push_back(judge(names[k], size == 0 ? difference : difference / size, bound));
    }
  }

  visit_parameters(adapter, [](const Path&, auto& parameter) { parameter.trainable = false; });
  const auto frozen = given(S(1));
  double written = 0;
  for (std::size_t k = 0; k + 2 < frozen.size(); ++k) written += static_cast<double>(frozen[k].norm());
  results.push_back(judge("weighted: no gradient of what is not trained", written, 0));
  return results;
}

/// Gradients accumulate: a second backward pass after the same forward pass doubles every one of them, within 8
/// epsilon. dx is of the last pass alone. Takes the layer by value.
template <class Layer>
LawResults check_accumulates(Layer layer, const Matrix<typename Layer::Scalar>& x,
                             const Matrix<typename Layer::Scalar>& dy, const Pass& pass = {}) {
  using S = typename Layer::Scalar;
  typename Layer::Cache cache;
  layer.forward(x, cache, pass);
  visit_parameters(layer, [](const Path&, auto& parameter) { parameter.grad.setZero(); });
  const Matrix<S> once_dx = layer.backward(x, dy, cache);
  std::vector<Matrix<S>> once;
  visit_parameters(layer, [&](const Path&, auto& parameter) { once.push_back(parameter.gradient()); });
  LawResults results = {same_bits("accumulates: not dx", layer.backward(x, dy, cache), once_dx)};
  std::size_t slot = 0;
  visit_parameters(layer, [&](const Path& path, auto& parameter) {
    const double size = static_cast<double>(once[slot].norm());
    const double difference = static_cast<double>((parameter.gradient() - S(2) * once[slot]).norm());
    ++slot;
    const double bound = 8 * detail::epsilon<S>();
    if (size == 0 && difference == 0 && is_trained(path, parameter)) {
      results.push_back(nothing_checked("accumulates: " + path.str(), "the gradient", bound));
      return;
    }
    results.push_back(judge("accumulates: " + path.str(), size == 0 ? difference : difference / size, bound));
  });
  return results;
}

/// Changing every parameter of the copy does not change the original, and vice versa; the copy outlives the original.
template <class Layer>
LawResults check_copy(const Layer& layer, const Matrix<typename Layer::Scalar>& x) {
  using S = typename Layer::Scalar;
  const auto change = [](Layer& changed) {
    visit_parameters(changed, [](const Path&, auto& parameter) { parameter.value.array() += S(1); });
  };
  const auto expected = detail::output_of(layer, x);
  Layer copy = layer;
  LawResults results = {same_bits("copy: complete", detail::output_of(copy, x), expected)};
  change(copy);
  results.push_back(same_bits("copy: the original stays", detail::output_of(layer, x), expected));

  std::vector<Layer> original(1, layer);
  Layer survivor = original.front();
  change(original.front());
  results.push_back(same_bits("copy: the copy stays", detail::output_of(survivor, x), expected));
  original.clear();
  results.push_back(same_bits("copy: outlives the original", detail::output_of(survivor, x), expected));
  Layer assigned = std::move(copy);
  assigned = survivor;
  results.push_back(same_bits("copy: assigned", detail::output_of(assigned, x), expected));
  return results;
}

namespace detail {

/// The table that describe() fills: each entry is given to a function.
template <class OnSetting, class OnTensor>
struct DescribeTable {
  OnSetting on_setting;
  OnTensor on_tensor;
  void setting(std::string_view name, const auto& value) const { on_setting(name, value); }
  void tensor(std::string_view name, auto& value) const { on_tensor(name, value); }
};

/// A kind that files store with a config of its own. LORA is read and written by functions of its own.
template <class A>
concept DescribedKind = AdapterKind<A> && requires { typename A::Config; } && std::string_view(A::peft_type) != "LORA";

/// The config of an adapter from the settings that it describes, and the names that only one of the two has.
template <class A>
std::pair<typename A::Config, std::vector<std::string>> config_of(const A& adapter) {
  using C = typename A::Config;
  C config{};
  std::vector<std::string> described, unmatched;
  A::describe(adapter, DescribeTable{[&](std::string_view name, const auto&) { described.emplace_back(name); },
                                     [](std::string_view, const auto&) {}});
  if constexpr (requires { C::settings(config, [](const char*, auto&) {}); }) {
    C::settings(config, [&](const char* name, auto& value) {
      const auto own = std::find(described.begin(), described.end(), name);
      if (own == described.end()) return unmatched.emplace_back(name), void();
      described.erase(own);
      const auto take = [&](std::string_view given_name, const auto& given) {
        using T = std::remove_cvref_t<decltype(value)>;
        if constexpr (std::is_constructible_v<T, decltype(given)>) {
          if (given_name == name) value = static_cast<T>(given);
        }
      };
      A::describe(adapter, DescribeTable{take, [](std::string_view, const auto&) {}});
    });
  }
  unmatched.insert(unmatched.end(), described.begin(), described.end());
  return {std::move(config), std::move(unmatched)};
}

}  // namespace detail

/// What a file would hold of the adapter is all of it: one that is made from those settings and tensors, with other
/// random numbers, computes the same to the bit. Give every setting of the config a value other than its default, which
/// a kind that forgets the setting would have, too. For kinds that name a Config, other than LORA.
template <class Base, detail::DescribedKind A>
LawResults check_described(const Adapted<Base, A>& layer, const Matrix<typename A::Scalar>& x) {
  using S = typename A::Scalar;
  const auto names = [](const std::vector<std::string>& all) {
    std::string text;
    for (const std::string& name : all) text += (text.empty() ? "" : ", ") + name;
    return text;
  };
  const auto no_setting = [](std::string_view, const auto&) {};
  const A& adapter = layer.adapter();
  auto [config, unmatched] = detail::config_of(adapter);
  LawResults results = {
      judge("described: settings", static_cast<double>(unmatched.size()), 0,
            unmatched.empty() ? "" : "not in both describe and Config::settings: " + names(unmatched))};

  std::vector<std::pair<std::string, Matrix<S>>> tensors;
  std::vector<const S*> places;
  A::describe(adapter, detail::DescribeTable{no_setting, [&](std::string_view name, const auto& tensor) {
                                               tensors.emplace_back(name, tensor.value);
                                               places.push_back(tensor.value.data());
                                             }});
  std::vector<std::string> lost;
  visit_parameters(adapter, [&](const Path& path, const auto& parameter) {
    const S* const own = parameter.value.data();
    if (std::find(places.begin(), places.end(), own) == places.end()) lost.push_back(path.str());
  });
  results.push_back(judge("described: parameters", static_cast<double>(lost.size()), 0,
                          lost.empty() ? "" : "in visit, but not in describe: " + names(lost)));

  Rng other(20240229);
  A anew(layer.base(), config, other);
  A::describe(anew, detail::DescribeTable{no_setting, [&](std::string_view name, auto& tensor) {
                                            if constexpr (!std::is_const_v<std::remove_reference_t<decltype(tensor)>>) {
                                              for (const auto& [key, value] : tensors) {
                                                if (key == name) tensor.value = value;
                                              }
                                            }
                                          }});
  const Adapted<Base, A> plain(layer.base(), adapter), remade(layer.base(), std::move(anew));
  results.push_back(same_bits("described: output", detail::output_of(remade, x), detail::output_of(plain, x)));
  results.push_back(same_bits("described: merged weight", remade.merged(), plain.merged()));
  return results;
}

/// Counts the allocations of three training steps (forward, backward) after the first: with the whole batch, with about
/// half the samples, and with the whole batch again.
///
/// allocations() is the number of allocations so far, counted by the caller. allowed: those of Eigen's own products of
/// these sizes for blocking buffers, for each of the three steps. error is the largest excess.
template <class Layer>
LawResult check_no_heap(Layer& layer, const Matrix<typename Layer::Scalar>& x, const Matrix<typename Layer::Scalar>& dy,
                        auto&& allocations, const Pass& pass = {}, std::size_t allowed = 0) {
  typename Layer::Cache cache;
  const auto step = [&](Index samples) {
    const auto input = x.leftCols(samples);
    layer.forward(input, cache, pass);
    layer.backward(input, dy.leftCols(samples), cache);
  };
  step(x.cols());
  double worst = 0;
  for (const Index samples : {x.cols(), (x.cols() + 1) / 2, x.cols()}) {
    const auto before = static_cast<std::size_t>(allocations());
    step(samples);
    const auto made = static_cast<std::size_t>(allocations()) - before;
    worst = std::max(worst, static_cast<double>(made) - static_cast<double>(allowed));
  }
  return judge("no heap", worst, 0, std::to_string(allowed) + " allocations are Eigen's own");
}

/// Switching between two named adapters of a layer, and to none, reproduces each output to the bit. The layer has
/// select(name), select_none(), merged() and dense(), as Linear has. Takes the layer by value, because it switches it.
template <class Layer>
LawResults check_switch(Layer layer, std::string_view first, std::string_view second,
                        const Matrix<typename Layer::Scalar>& x) {
  const auto selected = [&](std::string_view name) {
    name.empty() ? layer.select_none() : layer.select(name);
    return detail::output_of(layer, x);
  };
  const auto none = selected(""), a = selected(first), b = selected(second);
  LawResults results = {same_bits("switch: back to the first", selected(first), a),
                        same_bits("switch: to none", selected(""), none),
                        same_bits("switch: merged weight of none", layer.merged(), layer.dense()),
                        same_bits("switch: to the second", selected(second), b)};
  results.push_back(judge("switch: they differ", a == b ? 1 : 0, 0, "two adapters with the same output show nothing"));
  return results;
}

/// Runs `threads` threads, each with its own cache and `rounds` forward passes, concurrently on one layer.
template <class Layer>
LawResult check_const(const Layer& layer, const Matrix<typename Layer::Scalar>& x, const Pass& pass = {},
                      int threads = 8, int rounds = 10) {
  const auto expected = detail::output_of(layer, x, pass);
  std::vector<Index> differing(static_cast<std::size_t>(threads), 0);
  std::vector<std::thread> running;
  for (Index& count : differing) {
    running.emplace_back([&] {
      typename Layer::Cache cache;
      for (int round = 0; round < rounds; ++round)
        count += (layer.forward(x, cache, pass).array() != expected.array()).count();
    });
  }
  for (std::thread& thread : running) thread.join();
  Index sum = 0;
  for (const Index count : differing) sum += count;
  return judge("const", static_cast<double>(sum), 0, std::to_string(threads) + " threads");
}

/// All of the above that need only one layer: off, merged output, accumulates, copy, const, and described for a kind
/// with a config of its own.
template <class Layer>
LawResults adapter_laws(const Layer& layer, const Matrix<typename Layer::Scalar>& x) {
  LawResults results = check_off(layer, x);
  results.push_back(check_merged_output(layer, x));
  const Matrix<typename Layer::Scalar> dy = Matrix<typename Layer::Scalar>::Ones(layer.out_features(), x.cols());
  append(results, check_accumulates(layer, x, dy, {.training = true, .seed = 1}));
  append(results, check_copy(layer, x));
  results.push_back(check_const(layer, x, {.training = true, .seed = 1}, 3, 2));
  if constexpr (detail::DescribedKind<std::remove_cvref_t<decltype(layer.adapter())>>) {
    append(results, check_described(layer, x));
  }
  return results;
}

}  // namespace lora::inline LORA_ABI::testing
