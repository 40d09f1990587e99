// expect: read-only|not assignable|const value|lvalue required
#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"

void change(lora::Adapted<lora::Dense<float>, lora::Lora<float>>& layer) {
#ifdef LORA_CONTROL
  layer.adapter().A.value(0, 0) = 1;
#else
  layer.base().dense()(0, 0) = 1;
#endif
}
