// What each consumer project builds and runs: the library is found, complete, and of the version its package claims.
#include <cstdio>
#include <string_view>

#include <lora/lora.hpp>

#ifdef WITH_IO
#include <lora/io.hpp>
#endif

#ifdef EXPECTED_VERSION
static_assert(std::string_view(LORA_VERSION_STRING) == EXPECTED_VERSION);
#endif

int main() {
  const Eigen::MatrixXf W0{{1, 2, 3}, {4, 5, 6}};
  lora::Rng rng(1);
  const lora::LoraLinear<float> layer(W0, {.rank = 2, .alpha = 4}, rng);
  const Eigen::Vector2f y = layer(Eigen::Vector3f(1, 10, 100));
  bool right = y == Eigen::Vector2f(321, 654);  // a new adapter changes nothing
#ifdef WITH_IO
  lora::save_safetensors("consumer.safetensors", {{"W0", W0}});
  right = right && lora::Safetensors::open("consumer.safetensors").tensor<float>("W0") == W0;
#endif
  std::printf("lora %s: %s\n", LORA_VERSION_STRING, right ? "W0 x is right" : "W0 x is WRONG");
  return right ? 0 : 1;
}
