#pragma once
// An adapter of which one can see whether its two files belong together.

#include "io/files.hpp"
#include "io/peft_models.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"
#include "lora/model/attach.hpp"

#include <stdexcept>
#include <variant>

namespace lora_test {

inline const char* const config_name = "adapter_config.json";
inline const char* const weights_name = "adapter_model.safetensors";

/// fc (rows, rows) with an adapter whose alpha and numbers are all `number`.
inline Layers<float> numbered(float number, lora::Index rows = 8) {
  lora::Rng rng(1);
  Layers<float> model({{"fc", {.in = rows, .out = rows}}}, rng);
  lora::attach(model, {.rank = 2, .alpha = number}, rng);
  auto& factors = model["fc"].adapter("default").as<lora::Lora<float>>();
  factors.A.value.setConstant(number);
  factors.B.value.setConstant(number);
  return model;
}

/// The number of the adapter in a directory, 0 without one; from_weights: see PeftConfig. Throws if it is not whole.
inline float number_in(const fs::path& directory, lora::Index rows = 8, bool* from_weights = nullptr) {
  if (!fs::exists(directory / weights_name)) return 0;
  lora::Rng rng(1);
  Layers<float> model({{"fc", {.in = rows, .out = rows}}}, rng);
  const auto config = lora::load_adapter(model, directory);
  if (from_weights != nullptr) *from_weights = config.from_weights;
  const auto& factors = model["fc"].adapters().at("default").as<lora::Lora<float>>();
  const auto number = static_cast<float>(factors.alpha);
  if ((factors.A.value.array() != number).any() || (factors.B.value.array() != number).any()) {
    throw std::runtime_error("new weights with an old alpha");
  }
  return number;
}

}  // namespace lora_test
