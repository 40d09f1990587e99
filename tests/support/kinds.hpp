#pragma once
// Two kinds of adapter and a base of the tests' own, without a word about them in the library.

#include "lora/nn/linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>

namespace lora_test {

using lora::Index;
using lora::Matrix;
using lora::Pass;

template <class S>
struct Shift;

/// Additive: y = W0 x + weight strength v (sum of x), v (out) trained.
struct ShiftConfig {
  double strength = 1;
  template <class S>
  using Kind = Shift<S>;
  static void settings(auto& self, auto&& f) { f("strength", self.strength); }
};

template <class S>
struct Shift {
  using Scalar = S;
  using Config = ShiftConfig;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  static constexpr const char* peft_type = "SHIFT";
  static constexpr bool summable = true, shared = false;

  lora::Parameter<S, lora::Dynamic, 1> v;
  double strength;

  Shift(const lora::FrozenBase auto& base, const ShiftConfig& config, lora::Rng&)
      : v(lora::Vector<S>::Zero(base.rows())), strength(config.strength) {}

  template <int>
  struct Kept {
    S s{};
    Index bytes() const { return 0; }
  };
  template <int>
  struct Scratch {
    Index bytes() const { return 0; }
  };
  template <int N>
  void forward(const auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass,
               S weight = S(1)) const {
    base.apply(x, y, pass.executor);
    add(x, y, kept, scratch, pass, weight);
  }
  template <int N>
  void add(const auto& x, auto&& y, Kept<N>& kept, Scratch<N>&, const Pass&, S weight) const {
    kept.s = weight * S(strength);
    for (Index j = 0; j < y.cols(); ++j) y.col(j) += kept.s * x.col(j).sum() * v.value;
  }
  template <int N>
  void backward(const auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch,
                const Pass& pass) {
    if constexpr (lora::wants_gradient<decltype(dx)>) base.apply_transposed(dy, dx, pass.executor);
    add_backward(x, dy, dx, kept, scratch, pass);
  }
  template <int N>
  void add_backward(const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>&, const Pass&) {
    for (Index j = 0; j < dy.cols(); ++j) {
      v.gradient() += kept.s * x.col(j).sum() * dy.col(j);
      if constexpr (lora::wants_gradient<decltype(dx)>) dx.col(j).array() += kept.s * v.value.dot(dy.col(j));
    }
  }
  template <class W>
  void add_delta(Matrix<W>& block, Index, const auto&, S weight = S(1)) const {
    block.colwise() += W(weight * S(strength)) * v.value.template cast<W>();
  }
  static void visit(auto& self, auto&& f) { f("v", self.v); }
  void check_fits(const lora::detail::Caller& who, Index out, Index) const {
    lora::detail::check_rows(who, "v", v.value.rows(), "out_features", out);
  }
  lora::AdapterCount count() const { return {.trained = v.trainable ? v.value.size() : 0}; }
  double max_weight() const { return lora::detail::largest_finite<S>() / std::max(1.0, std::abs(strength)); }
  static void describe(auto& self, auto&& table) {
    table.setting("strength", self.strength);
    table.tensor("shift_v", self.v);
  }
};

template <class S>
struct Norms;

/// Like DoRA: y = diag(m / |rows of W0|) W0 x with m (out) trained, which starts as those norms: not summable, reads
/// W0.
struct NormsConfig {
  template <class S>
  using Kind = Norms<S>;
};

template <class S>
struct Norms {
  using Scalar = S;
  using Config = NormsConfig;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  static constexpr const char* peft_type = "NORMS";
  static constexpr bool summable = false, shared = false;

  lora::Parameter<S, lora::Dynamic, 1> m;
  lora::Vector<S> inverse;

  Norms(const lora::FrozenBase auto& base, const NormsConfig&, lora::Rng&) {
    m.value = base.columns(0, base.cols()).rowwise().norm();
    inverse = m.value.cwiseInverse();
  }
  template <int>
  struct Kept {
    Matrix<S> unscaled;
    Index bytes() const { return unscaled.size() * static_cast<Index>(sizeof(S)); }
  };
  template <int>
  struct Scratch {
    Matrix<S> g;
    Index bytes() const { return g.size() * static_cast<Index>(sizeof(S)); }
  };
  template <int N>
  void forward(const auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>&, const Pass& pass) const {
    base.apply(x, y, pass.executor);
    kept.unscaled = y;
    y = (m.value.cwiseProduct(inverse)).asDiagonal() * kept.unscaled;
  }
  template <int N>
  void backward(const auto& base, const auto&, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch,
                const Pass& pass) {
    m.gradient() += inverse.cwiseProduct(dy.cwiseProduct(kept.unscaled).rowwise().sum());
    if constexpr (lora::wants_gradient<decltype(dx)>) {
      scratch.g = (m.value.cwiseProduct(inverse)).asDiagonal() * dy;
      base.apply_transposed(scratch.g, dx, pass.executor);
    }
  }
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto& base) const {
    block += (m.value.cwiseProduct(inverse) - lora::Vector<S>::Ones(m.value.size())).template cast<W>().asDiagonal() *
             base.columns(first, block.cols()).template cast<W>();
  }
  static void visit(auto& self, auto&& f) {
    f("m", self.m);
    f("inverse", std::as_const(self.inverse));
  }
  void check_fits(const lora::detail::Caller& who, Index out, Index) const {
    lora::detail::check_rows(who, "m", m.value.rows(), "out_features", out);
  }
  lora::AdapterCount count() const { return {.trained = m.value.size(), .constant = inverse.size()}; }
  double max_weight() const { return 1; }
  static void describe(auto& self, auto&& table) { table.tensor("norms_m", self.m); }
};

/// W0 in 16-bit integers and one scale: neither fuses nor holds S.
template <class S>
struct Coarse {
  using Scalar = S;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  using Held = Eigen::Matrix<std::int16_t, Eigen::Dynamic, Eigen::Dynamic>;
  std::shared_ptr<const Held> held;
  S scale;

  explicit Coarse(const Matrix<S>& W0) : scale(W0.cwiseAbs().maxCoeff() / S(32767)) {
    held = std::make_shared<const Held>((W0 / scale).array().round().matrix().template cast<std::int16_t>());
  }
  Index rows() const { return held->rows(); }
  Index cols() const { return held->cols(); }
  Index bytes() const { return 2 * held->size(); }
  Matrix<S> columns(Index first, Index count) const {
    return scale * held->middleCols(first, count).template cast<S>();
  }
  void apply(const auto& x, auto& y, lora::Executor* = nullptr) const { y.noalias() = columns(0, cols()) * x; }
  void apply_transposed(const auto& dy, auto& dx, lora::Executor* = nullptr) const {
    dx.noalias() = columns(0, cols()).transpose() * dy;
  }
  Coarse like(Matrix<S> W) const { return Coarse(W); }
  lora::SharedBytes storage() const { return lora::SharedBytes::of(held); }
  Coarse over(const lora::SharedBytes& block) const {
    Coarse other = *this;
    const auto data = block.as<std::int16_t>("Coarse::over", static_cast<std::size_t>(held->size()));
    other.held = std::make_shared<const Held>(Eigen::Map<const Held>(data.get(), rows(), cols()));
    return other;
  }
};

static_assert(lora::AdapterKind<Shift<float>> && lora::AdapterKind<Norms<double>> && lora::RunTimeBase<Coarse<float>>);

}  // namespace lora_test
