#pragma once
/// A layer over any frozen base with all that a training step needs: what the benchmarks time.

#include <utility>

#include "lora/lora.hpp"

namespace benchmarks {

/// Of a step's products: two with W0, and with A and B three each, A x, g x^T, A^T g and B z, dy z^T, B^T dy.
inline double step_operations(lora::Index out, lora::Index in, lora::Index rank, lora::Index samples) {
  return static_cast<double>(samples) * static_cast<double>(4 * out * in + 6 * rank * (out + in));
}

inline lora::Matrix<float> random(lora::Index rows, lora::Index cols, lora::Rng& rng, float deviation = 1) {
  lora::Matrix<float> matrix(rows, cols);
  lora::fill_normal(matrix, deviation, rng);
  return matrix;
}

/// A step sets the gradients to zero and runs forward, backward and AdamW on one batch x whose dy is given.
template <class Base>
class Trainer {
 public:
  Trainer(Base base, lora::Index rank, lora::Matrix<float> x, lora::Matrix<float> dy, lora::Rng rng,
          lora::Executor* executor = nullptr)
      : layer_(std::move(base), {.rank = rank, .alpha = 16}, rng),
        x_(std::move(x)),
        dy_(std::move(dy)),
        executor_(executor) {}

  void step() {
    lora::zero_gradients(layer_);
    layer_.forward(x_, cache_, {.executor = executor_});
    layer_.backward(x_, dy_, cache_);
    optimizer_.step(layer_);
  }

  lora::Matrix<float> y() const { return cache_.y.view(); }
  lora::Matrix<float> dx() const { return cache_.dx.view(); }
  const lora::Lora<float>& adapter() const { return layer_.adapter(); }

 private:
  using Layer = lora::Adapted<Base, lora::Lora<float>>;
  Layer layer_;
  lora::Matrix<float> x_, dy_;
  lora::Executor* executor_;
  typename Layer::Cache cache_;
  lora::AdamW<float> optimizer_{{.lr = 1e-3}};
};

}  // namespace benchmarks
