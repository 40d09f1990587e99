// expect: lora: labels are integers in memory
#include "lora/losses/softmax_cross_entropy.hpp"

#include <vector>

#ifdef LORA_CONTROL
using Label = long;
#else
using Label = float;
#endif

double run(const Eigen::MatrixXd& logits, const std::vector<Label>& labels) {
  return lora::softmax_cross_entropy(logits, labels);
}
