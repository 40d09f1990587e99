#include "lora/core/denormals.hpp"

#include "lora/core/scalar.hpp"
#include "support/catch.hpp"

#include <limits>
#include <optional>

namespace {

// Read through volatile, so that the product is computed where it stands.
template <class S>
S halved(S value) {
  volatile S from = value, half = S(0.5);
  volatile S product = from * half;
  return product;
}

template <class S>
bool vanish() {
  constexpr S smallest = std::numeric_limits<S>::min();
  const bool result = halved(smallest) == S(0);                                    // a denormal result
  const bool input = halved(std::numeric_limits<S>::denorm_min() * S(4)) == S(0);  // a denormal input
  volatile S tiny = smallest / 2, large = S(1) / std::numeric_limits<S>::epsilon();
  volatile S product = tiny * large;  // would be normal if the input did not count as zero
  CHECK(result == input);
  CHECK(result == (product == S(0)));
  return result;
}

lora::Vector<float> twice(const lora::Vector<float>& x) { return x * 2; }

}  // namespace

TEST_CASE("denormals: vanish inside the scope and nowhere else, in float and double") {
  if (!lora::DenormalsAsZero::supported) LORA_TEST_SKIP("this processor has no such mode that is known here");
  CHECK_FALSE(vanish<float>());
  CHECK_FALSE(vanish<double>());
  {
    const lora::DenormalsAsZero scope;
    CHECK(vanish<float>());
    CHECK(vanish<double>());
    {
      const lora::DenormalsAsZero inner;
      CHECK(vanish<float>());
    }
    CHECK(vanish<float>());
    CHECK(halved(1.0F) == 0.5F);
    CHECK(halved(4 * std::numeric_limits<float>::min()) == 2 * std::numeric_limits<float>::min());
  }
  CHECK_FALSE(vanish<float>());
  CHECK_FALSE(vanish<double>());
}

TEST_CASE("denormals: vanish in packets as in single numbers") {
  if (!lora::DenormalsAsZero::supported) LORA_TEST_SKIP("this processor has no such mode that is known here");
  volatile float given = std::numeric_limits<float>::min() / 4;
  const float tiny = given;
  const lora::Vector<float> x = lora::Vector<float>::Constant(37, tiny);
  // Volatile, so that each call computes: a compiler knows nothing of the flags and would take one product for both.
  lora::Vector<float> (*volatile product)(const lora::Vector<float>&) = twice;
  lora::Vector<float> y;
  {
    const lora::DenormalsAsZero scope;
    y = product(x);
  }
  CHECK((y.array() == 0.0F).all());
  y = product(x);
  CHECK((y.array() > 0.0F).all());
}

TEST_CASE("denormals: the scope ends with an exception too") {
  if (!lora::DenormalsAsZero::supported) LORA_TEST_SKIP("this processor has no such mode that is known here");
  try {
    const lora::DenormalsAsZero scope;
    throw 1;
  } catch (int) {
  }
  CHECK_FALSE(vanish<float>());
}
