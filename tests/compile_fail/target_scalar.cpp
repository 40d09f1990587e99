// expect: lora: the target of a loss has the scalar of the prediction
#include "lora/losses/mean_squared_error.hpp"

#ifdef LORA_CONTROL
using Target = Eigen::MatrixXf;
#else
using Target = Eigen::MatrixXd;
#endif

float run(const Eigen::MatrixXf& y, const Target& target, Eigen::MatrixXf& dy) {
  return lora::mean_squared_error(y, target, &dy);
}
