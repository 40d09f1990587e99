// Every member of the public templates compiles for both scalars, used or not.

#include "lora/core/buffer.hpp"
#include "lora/core/parameters.hpp"
#include "support/catch.hpp"

template class lora::Buffer<float>;
template class lora::Buffer<double>;
template class lora::Buffer<float, 3, 5>;
template class lora::Buffer<double, 1, lora::Dynamic>;
template class lora::Buffer<float, lora::Dynamic, 1>;
template struct lora::Parameter<float>;
template struct lora::Parameter<double>;
template struct lora::Parameter<float, 3, 5>;
template struct lora::Parameter<double, 1, 5, lora::RowMajorMatrix<double, 1, 5>>;
template struct lora::ParameterView<float>;
template struct lora::ParameterView<double>;

TEST_CASE("instantiate: core") { SUCCEED(); }
