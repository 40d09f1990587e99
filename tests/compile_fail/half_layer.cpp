// expect: lora: the scalar must be float, double, or a real number type
#include "lora/nn/lora_linear.hpp"

#ifdef LORA_CONTROL
using S = double;
#else
using S = Eigen::bfloat16;
#endif

void run(const lora::LoraLinear<S>& layer, const lora::Matrix<S>& x, lora::LoraLinear<S>::Cache& cache) {
  layer.forward(x, cache);
}
