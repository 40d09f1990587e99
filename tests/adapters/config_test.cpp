#include "lora/adapters/lora_config.hpp"

#include "support/catch.hpp"

#include <limits>

using lora::LoraConfig;
using lora::Scaling;
using lora::validate;

TEST_CASE("config: the defaults are valid, and a rank above the layer's is a matter for the accounting") {
  CHECK_NOTHROW(validate(LoraConfig{}));
  CHECK_NOTHROW(validate({.rank = 1'000'000, .alpha = -3, .dropout = 0.999999}));
  CHECK_NOTHROW(validate({.rank = 1, .alpha = 0}));
}

TEST_CASE("config: the scale is alpha / rank, or alpha / sqrt(rank)") {
  CHECK(lora::scaling_factor(16, 8, Scaling::alpha_over_rank) == 2);
  CHECK(lora::scaling_factor(16, 64, Scaling::alpha_over_sqrt_rank) == 2);
  CHECK(lora::scaling_factor(1, 3, Scaling::alpha_over_rank) == 1.0 / 3);
  CHECK(lora::scaling_factor(-1, 1, Scaling::alpha_over_sqrt_rank) == -1);
}

TEST_CASE("config: what is out of range is named, with its value and what is allowed") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(validate({.rank = 0}), "LoraConfig: rank is 0, expected at least 1");
  CHECK_THROWS_WITH(validate({.rank = -4}, {"Linear", "attach"}), "Linear::attach: rank is -4, expected at least 1");
  CHECK_THROWS_WITH(validate({.alpha = infinity}), "LoraConfig: alpha is inf, expected a finite number");
  CHECK_THROWS_WITH(validate({.alpha = -infinity}), "LoraConfig: alpha is -inf, expected a finite number");
  CHECK_THROWS_WITH(validate({.alpha = std::nan("")}), "LoraConfig: alpha is nan, expected a finite number");
  CHECK_THROWS_WITH(validate({.dropout = 1}), "LoraConfig: dropout is 1, expected 0 <= dropout < 1");
  CHECK_THROWS_WITH(validate({.dropout = -0.25}), "LoraConfig: dropout is -0.25, expected 0 <= dropout < 1");
  CHECK_THROWS_AS(validate({.dropout = std::nan("")}), lora::ConfigError);
}
