// expect: discards qualifiers|marked const
#include "lora/nn/lora_linear.hpp"

using Layer = lora::LoraLinear<float>;
#ifdef LORA_CONTROL
using Trained = Layer;
#else
using Trained = const Layer;  // gradients belong to the layer, so one that is shared const cannot be trained
#endif

void run(Trained& layer, const Eigen::MatrixXf& x, const Eigen::MatrixXf& dy, Layer::Cache& cache) {
  layer.backward(x, dy, cache);
}
