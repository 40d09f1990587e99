// Every member of the public templates compiles for both scalars and for fixed sizes, used or not.

#include "lora/adapters/adapted.hpp"
#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/base/frozen.hpp"
#include "support/catch.hpp"

template class lora::Dense<float>;
template class lora::Dense<double>;
template struct lora::Lora<float>;
template struct lora::Lora<double>;
template struct lora::Lora<double, 4, 3, 2>;
template struct lora::FullWeight<float>;
template struct lora::FullWeight<double, 4, 3>;
template struct lora::NoAdapter<float>;
template struct lora::NoAdapter<double, 4, 3>;
template class lora::Adapted<lora::Dense<float>, lora::Lora<float>>;
template class lora::Adapted<lora::Dense<double>, lora::Lora<double>>;
template class lora::Adapted<lora::Packed<float>, lora::Lora<float>>;
template class lora::Adapted<lora::Packed<double>, lora::Lora<double>>;
template class lora::Adapted<lora::Dense<float, 4, 3>, lora::Lora<float, 4, 3, 2>>;

TEST_CASE("instantiate: bases and adapters") { SUCCEED(); }
