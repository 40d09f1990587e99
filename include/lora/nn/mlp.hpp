#pragma once
/// A multilayer perceptron:   h_0 = x,   h_l = f(W_l h_{l-1} + b_l),   the last layer without f.

#include "lora/nn/activations.hpp"
#include "lora/nn/layer.hpp"
#include "lora/nn/linear.hpp"

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Layer_: Linear<S>, or any other Layer. Activation: Relu, Gelu, GeluTanh, Silu, Sigmoid, Tanh, Identity. The layers
/// are named fc1, fc2, ...
///
/// ```cpp
/// #include <lora/lora.hpp>
/// #include <vector>
///
/// int main() {
///   lora::Rng rng(1);
///   lora::Mlp<lora::Linear<float>> net({64, 128, 128, 10}, rng);  // widths: inputs, hidden, ..., outputs
///   lora::Mlp<lora::Linear<float>>::Cache cache;
///   lora::AdamW<float> optimizer;
///   const Eigen::MatrixXf x = Eigen::MatrixXf::Random(64, 4);
///   const std::vector<int> labels = {3, 1, 4, 1};
///   Eigen::MatrixXf dlogits;
///   for (int step = 0; step < 20; ++step) {
///     lora::softmax_cross_entropy(net.forward(x, cache), labels, &dlogits);
///     lora::zero_gradients(net);
///     net.backward(x, dlogits, cache, lora::no_gradient);
///     optimizer.step(net);
///   }
///   return lora::accuracy(net(x), labels) > 0.5 ? 0 : 1;
/// }
/// ```
///
/// A pass keeps h_l of every hidden layer, and W_l h_{l-1} + b_l too if f' needs it; all gradients share two buffers of
/// the scratch, as wide as the widest layer.
template <Layer Layer_, class Activation = Relu>
class Mlp : public detail::CachedPass<Mlp<Layer_, Activation>, typename Layer_::Scalar> {
  using Thin = detail::CachedPass<Mlp, typename Layer_::Scalar>;

 public:
  using Scalar = typename Layer_::Scalar;
  using Columns = Eigen::Ref<const Matrix<Scalar>>;
  using MutableColumns = Eigen::Ref<Matrix<Scalar>, 0, Eigen::OuterStride<>>;

  struct Kept {
    std::vector<typename Layer_::Kept> layers;
    std::vector<Buffer<Scalar>> hidden;  ///< h_l, (width, samples)
    std::vector<Buffer<Scalar>> unbent;  ///< the input of f, if f' needs it
    Index samples = -1;                  ///< -1: no pass that backward could follow

    Index bytes() const {
      Index sum = 0;
      for (const auto& layer : layers) sum += layer.bytes();
      for (const auto& buffer : hidden) sum += buffer.bytes();
      for (const auto& buffer : unbent) sum += buffer.bytes();
      return sum;
    }
  };
  using Cache = detail::LayerCache<Scalar, Dynamic, Dynamic, Dynamic, Kept, Scratch>;
  template <int>
  using CacheFor = Cache;

  /// New layers with PyTorch's default initialization. Throws ConfigError for fewer than two widths, ShapeError for one
  /// below 1.
  Mlp(std::initializer_list<Index> widths, Rng& rng) : Mlp(std::vector<Index>(widths), rng) {}
  Mlp(const std::vector<Index>& widths, Rng& rng) {
    if (widths.size() < 2) {
      throw ConfigError("Mlp: " + std::to_string(widths.size()) +
                        " widths given, expected at least inputs and outputs");
    }
    for (std::size_t l = 0; l + 1 < widths.size(); ++l)
      layers_.emplace_back(LinearShape{.in = widths[l], .out = widths[l + 1]}, rng);
  }

  /// Existing layers. Throws ConfigError if there are none, ShapeError if one does not fit the next.
  explicit Mlp(std::vector<Layer_> layers) : layers_(std::move(layers)) {
    if (layers_.empty()) throw ConfigError("Mlp: no layers given, expected at least one");
    for (std::size_t l = 1; l < layers_.size(); ++l) {
      detail::check_extent("Mlp", "layer fc" + std::to_string(l + 1), layers_[l].in_features(), "inputs",
                           "outputs of fc" + std::to_string(l), layers_[l - 1].out_features());
    }
  }

  using Thin::backward;
  using Thin::forward;

  /// Writes the outputs of the last layer, (out, samples). Throws ShapeError, and what the layers throw.
  void forward(const Columns& x, MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass) const {
    detail::check_pass_input("Mlp::forward", x, in_features());
    if (kept == nullptr) return infer(x, y, scratch, pass);
    const std::size_t last = layers_.size() - 1;
    kept->samples = -1;
    kept->layers.resize(layers_.size());
    kept->hidden.resize(last);
    kept->unbent.resize(needs_input ? last : 0);
    for (std::size_t l = 0; l < last; ++l) {
      auto hidden = kept->hidden[l].resize(layers_[l].out_features(), x.cols());
      if constexpr (needs_input) {
        auto unbent = kept->unbent[l].resize(hidden.rows(), hidden.cols());
        layers_[l].forward(input_of(l, x, *kept), unbent, &kept->layers[l], scratch, pass);
        Activation::forward(unbent, hidden);
      } else {
        layers_[l].forward(input_of(l, x, *kept), hidden, &kept->layers[l], scratch, pass);
        Activation::forward(hidden, hidden);
      }
    }
    layers_[last].forward(input_of(last, x, *kept), y, &kept->layers[last], scratch, pass);
    kept->samples = x.cols();
  }

  /// Gradients accumulate; writes dx (in, samples). x is the input of the forward pass. Throws what check_backward
  /// does.
  void backward(const Columns& x, const Columns& dy, MutableColumns dx, Kept& kept, Scratch& scratch) {
    check_backward("Mlp::backward", x, dy, kept);
    propagate(x, dy, 0, &dx, kept, scratch);
  }
  /// Without dx, stops at the lowest layer with parameters to train.
  void backward(const Columns& x, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    check_backward("Mlp::backward", x, dy, kept);
    std::size_t lowest = 0;
    while (lowest < layers_.size() && !layers_[lowest].trains(kept.layers[lowest])) ++lowest;
    if (lowest < layers_.size()) propagate(x, dy, lowest, nullptr, kept, scratch);
  }

  /// Throws what backward would throw, before any layer has added to its gradients.
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    const Index samples = kept.layers.size() == layers_.size() ? kept.samples : -1;
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), samples);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const bool first = l == 0, last = l + 1 == layers_.size();
      const auto check = [&](const auto& in, const auto& out) {
        layers_[l].check_backward(who, in, out, kept.layers[l]);
      };
      if (first && last) check(x, dy);
      if (first && !last) check(x, kept.hidden[l].view());  // of the size of its gradient
      if (!first && last) check(kept.hidden[l - 1].view(), dy);
      if (!first && !last) check(kept.hidden[l - 1].view(), kept.hidden[l].view());
    }
  }
  bool trains(const Kept& kept) const {
    for (std::size_t l = 0; l < layers_.size() && l < kept.layers.size(); ++l) {
      if (layers_[l].trains(kept.layers[l])) return true;
    }
    return false;
  }

  std::vector<Layer_>& layers() & { return layers_; }
  const std::vector<Layer_>& layers() const& { return layers_; }
  const std::vector<Layer_>& layers() const&& = delete;
  Index in_features() const { return layers_.front().in_features(); }
  Index out_features() const { return layers_.back().out_features(); }

  static constexpr const char* layer_name() { return "Mlp"; }

  static void visit(auto& self, auto&& f) {
    for (std::size_t l = 0; l < self.layers_.size(); ++l) f(Name("fc", static_cast<Index>(l) + 1), self.layers_[l]);
  }

 private:
  static constexpr bool needs_input = Activation::needs_input;

  static Columns input_of(std::size_t l, const Columns& x, const Kept& kept) {
    return l == 0 ? x : Columns(kept.hidden[l - 1].view());
  }

  /// Forward without backward: keeps nothing, and alternates between two buffers.
  void infer(const Columns& x, MutableColumns& y, Scratch& scratch, const Pass& pass) const {
    const auto first = scratch.borrow<Scalar>(), second = scratch.borrow<Scalar>();
    const std::size_t last = layers_.size() - 1;
    Buffer<Scalar>*in = &*first, *out = &*second;
    typename Layer_::Kept* const nothing = nullptr;
    for (std::size_t l = 0; l < last; ++l, std::swap(in, out)) {
      auto hidden = out->resize(layers_[l].out_features(), x.cols());
      layers_[l].forward(l == 0 ? x : Columns(in->view()), hidden, nothing, scratch, pass);
      Activation::forward(hidden, hidden);
    }
    layers_[last].forward(last == 0 ? x : Columns(in->view()), y, nothing, scratch, pass);
  }

  /// Backward through the layers down to `lowest`, and through it to dx unless that is null.
  void propagate(const Columns& x, const Columns& dy, std::size_t lowest, MutableColumns* dx, Kept& kept,
                 Scratch& scratch) {
    const auto first = scratch.borrow<Scalar>(), second = scratch.borrow<Scalar>();
    Buffer<Scalar>*in = &*first, *out = &*second;
    for (std::size_t l = layers_.size() - 1; l > lowest; --l, std::swap(in, out)) {
      const Columns hidden(kept.hidden[l - 1].view());
      auto gradient = out->resize(hidden.rows(), hidden.cols());
      layers_[l].backward(hidden, l + 1 == layers_.size() ? dy : Columns(in->view()), gradient, kept.layers[l],
                          scratch);
      // forward: h = f(y)   =>   dy = f'(y) .* dh, in place
      if constexpr (needs_input) {
        Activation::backward(kept.unbent[l - 1].view(), hidden, gradient, gradient);
      } else {
        Activation::backward(hidden, hidden, gradient, gradient);
      }
    }
    const Columns top = lowest + 1 == layers_.size() ? dy : Columns(in->view());
    const Columns input = input_of(lowest, x, kept);
    if (dx != nullptr) {
      layers_[lowest].backward(input, top, *dx, kept.layers[lowest], scratch);
    } else {
      layers_[lowest].backward(input, top, no_gradient, kept.layers[lowest], scratch);
    }
  }

  std::vector<Layer_> layers_;
};

}  // namespace lora::inline LORA_ABI
