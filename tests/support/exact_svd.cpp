#include "support/svd.hpp"

template class lora::ExactSvd<double>;
