// expect: lora: a matrix with compile-time sizes lives inside its object and may take at most 128 KiB
#include "lora/nn/lora_linear.hpp"

#ifdef LORA_CONTROL
constexpr int size = 128;  // 64 KiB
#else
constexpr int size = 256;  // 256 KiB
#endif

Eigen::Index rows(const lora::LoraLinear<float, size, size, 4>& layer) { return layer.out_features(); }
