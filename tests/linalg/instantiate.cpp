// Where this program compiles its singular value decomposition; the other files see the declaration in kinds.hpp.
#include "lora/linalg/exact_svd.hpp"

template class lora::ExactSvd<double>;
