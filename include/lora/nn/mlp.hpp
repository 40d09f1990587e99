#pragma once
/// A multilayer perceptron:   h_0 = x,   h_l = f(W_l h_{l-1} + b_l),   the last layer without f.

#include "lora/core/parameters.hpp"
#include "lora/nn/activations.hpp"
#include "lora/nn/linear.hpp"

#include <initializer_list>

namespace lora {

/// Layer: Linear<S>, or any layer with its forward, backward and Cache. Activation: Relu, Gelu, GeluTanh, Tanh,
/// Identity. The layers are named fc1, fc2, ...
///
///   lora::Mlp<lora::Linear<float>> net({64, 128, 128, 10}, rng);   // widths: inputs, hidden, ..., outputs
template <class Layer, class Activation = Relu>
class Mlp {
 public:
  using Scalar = typename Layer::Scalar;

  template <int Samples = Dynamic>
  struct Cache {
    std::vector<typename Layer::template Cache<Samples>> layers;
    std::vector<Buffer<Scalar, Dynamic, Samples>> hidden;  ///< hidden[l] = f(layers[l].y), (width, samples)

    Index bytes() const {
      Index sum = 0;
      for (const auto& layer : layers) sum += layer.bytes();
      for (const auto& buffer : hidden) sum += buffer.bytes();
      return sum;
    }
  };

  /// New layers with PyTorch's default start. Throws ConfigError for fewer than two widths, ShapeError for one below 1.
  Mlp(std::initializer_list<Index> widths, Rng& rng) : Mlp(std::vector<Index>(widths), rng) {}
  Mlp(const std::vector<Index>& widths, Rng& rng) {
    if (widths.size() < 2) {
      throw ConfigError("Mlp: " + std::to_string(widths.size()) +
                        " widths given, expected at least inputs and outputs");
    }
    for (std::size_t l = 0; l + 1 < widths.size(); ++l)
      layers_.emplace_back(LinearShape{.in = widths[l], .out = widths[l + 1]}, rng);
  }

  /// Layers made elsewhere. Throws ConfigError without any, ShapeError if one does not fit the next.
  explicit Mlp(std::vector<Layer> layers) : layers_(std::move(layers)) {
    if (layers_.empty()) throw ConfigError("Mlp: no layers given, expected at least one");
    for (std::size_t l = 1; l < layers_.size(); ++l) {
      detail::check_extent("Mlp", "layer fc" + std::to_string(l + 1), layers_[l].in_features(), "inputs",
                           "outputs of fc" + std::to_string(l), layers_[l - 1].out_features());
    }
  }

  /// Returns the outputs of the last layer, (out, samples), a view into the cache. Throws ShapeError.
  template <class X, int N>
  auto forward(const Eigen::MatrixBase<X>& x, Cache<N>& cache, const Pass& pass = {}) const {
    cache.layers.resize(layers_.size());
    cache.hidden.resize(layers_.size() - 1);
    layers_[0].forward(x, cache.layers[0], pass);
    for (std::size_t l = 1; l < layers_.size(); ++l) {
      const auto y = std::as_const(cache.layers[l - 1].y).view();
      auto hidden = cache.hidden[l - 1].resize(y.rows(), y.cols());
      Activation::forward(y, hidden);
      layers_[l].forward(hidden, cache.layers[l], pass);
    }
    return std::as_const(cache.layers.back().y).view();
  }

  /// Gradients accumulate; returns dx (in, samples). x is the input of the last forward pass with this cache. Throws
  /// StateError without a forward pass, ShapeError.
  template <class X, class Dy, int N>
  auto backward(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy, Cache<N>& cache) {
    check_backward("Mlp::backward", x, dy, cache);
    const Input<N> input(x.derived());
    const Input<N> top = backward_to<N>(0, Input<N>(dy.derived()), cache);
    return layers_[0].backward(input, top, cache.layers[0]);
  }

  /// backward without dx. It stops at the lowest layer that has something to train.
  template <class X, class Dy, int N>
  void backward_parameters(const Eigen::MatrixBase<X>& x, const Eigen::MatrixBase<Dy>& dy, Cache<N>& cache) {
    check_backward("Mlp::backward_parameters", x, dy, cache);
    const std::size_t lowest = lowest_trained();
    if (lowest == layers_.size()) return;
    const Input<N> top = backward_to<N>(lowest, Input<N>(dy.derived()), cache);
    const Input<N> input = lowest == 0 ? Input<N>(x.derived()) : Input<N>(cache.hidden[lowest - 1].view());
    layers_[lowest].backward_parameters(input, top, cache.layers[lowest]);
  }

  /// The outputs as a new matrix, (out, samples).
  template <class X>
  Matrix<Scalar, Dynamic, X::ColsAtCompileTime> operator()(const Eigen::MatrixBase<X>& x) const {
    Cache<X::ColsAtCompileTime> cache;
    return forward(x, cache);
  }

  std::vector<Layer>& layers() { return layers_; }
  const std::vector<Layer>& layers() const { return layers_; }
  Index in_features() const { return layers_.front().in_features(); }
  Index out_features() const { return layers_.back().out_features(); }

  static void visit(auto& self, auto&& f) {
    for (std::size_t l = 0; l < self.layers_.size(); ++l) f(Name("fc", static_cast<Index>(l) + 1), self.layers_[l]);
  }

 private:
  template <int N>
  using Input = Eigen::Ref<const Matrix<Scalar, Dynamic, N>>;

  /// Before any layer adds to its gradients.
  template <int N>
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Cache<N>& cache) const {
    const Index samples = cache.layers.size() == layers_.size() ? cache.layers.back().samples : -1;
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), samples);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const auto y = cache.layers[l].y.view();  // of the size of its gradient
      if (l == 0) layers_[l].check_backward(who, x, y, cache.layers[l]);
      if (l > 0) layers_[l].check_backward(who, cache.hidden[l - 1].view(), y, cache.layers[l]);
    }
  }

  /// Backward through the layers above `lowest`; returns the gradient of that layer's output, (width, samples).
  template <int N>
  Input<N> backward_to(std::size_t lowest, const Input<N>& dy, Cache<N>& cache) {
    for (std::size_t l = layers_.size() - 1; l > lowest; --l) {
      const auto hidden = std::as_const(cache.hidden[l - 1]).view();
      const bool outermost = l + 1 == layers_.size();
      layers_[l].backward(hidden, outermost ? dy : Input<N>(cache.layers[l + 1].dx.view()), cache.layers[l]);
      // forward: h = f(y)   =>   dy = f'(y) .* dh, in place
      auto gradient = cache.layers[l].dx.view();
      Activation::backward(cache.layers[l - 1].y.view(), hidden, gradient, gradient);
    }
    return lowest + 1 == layers_.size() ? dy : Input<N>(cache.layers[lowest + 1].dx.view());
  }

  std::size_t lowest_trained() const {
    std::size_t l = 0;
    while (l < layers_.size() && count_parameters(layers_[l]).trainable == 0) ++l;
    return l;
  }

  std::vector<Layer> layers_;
};

}  // namespace lora
