#pragma once
/// Where the layers of a published model come from: new ones, or those of a file (io/pretrained.hpp).

#include "lora/nn/embedding.hpp"
#include "lora/nn/layer_norm.hpp"
#include "lora/nn/linear.hpp"

#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

/// A model constructs its layers by their paths: "encoder.layer.0.attention.self.query".
template <class S>
class LayerSource {
 public:
  LayerSource() = default;
  LayerSource(const LayerSource&) = delete;
  LayerSource& operator=(const LayerSource&) = delete;
  virtual ~LayerSource() = default;

  virtual Linear<S> linear(const std::string& path, const LinearShape& shape) = 0;
  virtual LayerNorm<S> layer_norm(const std::string& path, Index features, double epsilon) = 0;
  virtual Embedding<S> embedding(const std::string& path, Index vocabulary, Index features) = 0;
  /// Whether the layer is there; a new one always is.
  virtual bool has(const std::string& path) const = 0;
};

/// New layers, all trainable but the tables and norms: weights normal, biases 0, norms 1 and 0, as transformers makes
/// them.
template <class S>
class NewLayers : public LayerSource<S> {
 public:
  /// deviation: of the weights, the config's initializer_range. rng must outlive this object.
  NewLayers(Rng& rng, double deviation) : rng_(rng), deviation_(deviation) {}

  Linear<S> linear(const std::string&, const LinearShape& shape) override {
    detail::check_not_empty("Linear", "the weight", shape.out, shape.in);
    Matrix<S> weight(shape.out, shape.in);
    for (Index k = 0; k < weight.size(); ++k) weight.data()[k] = S(deviation_) * rng_.template normal<S>();
    if (!shape.bias) return Linear<S>(std::move(weight));
    return Linear<S>(std::move(weight), Vector<S>(Vector<S>::Zero(shape.out)));
  }
  LayerNorm<S> layer_norm(const std::string&, Index features, double epsilon) override {
    return LayerNorm<S>(features, epsilon);
  }
  Embedding<S> embedding(const std::string&, Index vocabulary, Index features) override {
    return Embedding<S>({.vocabulary = vocabulary, .features = features, .deviation = deviation_}, rng_);
  }
  bool has(const std::string&) const override { return true; }

 private:
  Rng& rng_;
  double deviation_;
};

}  // namespace lora::inline LORA_ABI
