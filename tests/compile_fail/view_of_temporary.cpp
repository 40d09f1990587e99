// expect: use of deleted function|call to deleted
#include "lora/optim/adam.hpp"

#ifdef LORA_CONTROL
int steps(const lora::AdamW<float>& optimizer) {
  int count = 0;
  for (const auto& slot : optimizer.state().slots()) count += static_cast<int>(slot.steps);
  return count;
}
#else
int steps() {
  int count = 0;
  for (const auto& slot : lora::AdamW<float>().state().slots()) count += static_cast<int>(slot.steps);
  return count;
}
#endif
