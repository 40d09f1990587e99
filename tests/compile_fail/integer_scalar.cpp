// expect: lora: the scalar must be float, double, or a real number type
#include "lora/adapters/adapted.hpp"

#ifdef LORA_CONTROL
using S = float;
#else
using S = int;
#endif

using Weight = lora::Parameter<S>;
Eigen::Index size(const Weight& weight) { return weight.value.size(); }
