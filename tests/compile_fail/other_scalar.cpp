// expect: lora: x and dy must have the layer's own scalar
#include "lora/nn/lora_linear.hpp"

#ifdef LORA_CONTROL
using Input = Eigen::MatrixXf;
#else
using Input = Eigen::MatrixXd;
#endif

void run(const lora::LoraLinear<float>& layer, const Input& x, lora::LoraLinear<float>::Cache& cache) {
  layer.forward(x, cache);
}
