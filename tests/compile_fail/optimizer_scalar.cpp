// expect: lora: the optimizer's scalar is not the parameters'
#include "lora/nn/linear.hpp"
#include "lora/optim/adam.hpp"

#ifdef LORA_CONTROL
using S = float;
#else
using S = double;
#endif

void run(lora::Linear<float>& layer, lora::AdamW<S>& optimizer) { optimizer.step(layer); }
