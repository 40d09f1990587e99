// expect: lora: the scalar must be float, double, or a real number type
#include "lora/base/dense.hpp"

#ifdef LORA_CONTROL
using S = float;
#else
using S = Eigen::half;
#endif

Eigen::Index bytes(const lora::Dense<S>& base) { return base.bytes(); }
