#include "lora/core/error.hpp"

#include "support/catch.hpp"

#include <type_traits>

namespace {

template <class E>
constexpr bool is_error = std::is_base_of_v<lora::Error, E> && std::is_base_of_v<std::runtime_error, E>;
static_assert(is_error<lora::ShapeError> && is_error<lora::ConfigError> && is_error<lora::NameError>);
static_assert(is_error<lora::StateError> && is_error<lora::ValueError>);
static_assert(!std::is_base_of_v<lora::ShapeError, lora::ConfigError>);

template <class E>
std::string message(auto&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("error: a message says who, what was given and what was expected") {
  namespace detail = lora::detail;
  CHECK(message<lora::ConfigError>([] { detail::fail<lora::ConfigError>("Lora", "rank is 0"); }) == "Lora: rank is 0");
  CHECK(message<lora::ShapeError>([] {
          detail::check_rows({"LoraLinear", "forward"}, "x", 512, "in_features", 768);
        }) == "LoraLinear::forward: x has 512 rows, expected in_features = 768");
  CHECK(message<lora::ShapeError>([] { detail::check_cols("Mlp", "dy", 3, "samples", 4); }) ==
        "Mlp: dy has 3 columns, expected samples = 4");
  CHECK(message<lora::ShapeError>([] { detail::check_extent("Lora", "the adapter", 3, "outputs", "Out", 4); }) ==
        "Lora: the adapter has 3 outputs, expected Out = 4");
  CHECK(message<lora::ShapeError>([] { detail::check_not_empty("Dense", "W0", 0, 7); }) ==
        "Dense: W0 is empty (0 x 7), expected at least 1 x 1");
  CHECK(message<lora::ShapeError>([] { detail::check_not_empty("Dense", "W0", 7, 0); }) ==
        "Dense: W0 is empty (7 x 0), expected at least 1 x 1");
  CHECK(detail::in_quotes("q_proj") == "\"q_proj\"");
}

TEST_CASE("error: what fits is let through") {
  CHECK_NOTHROW(lora::detail::check_rows("f", "x", 768, "in_features", 768));
  CHECK_NOTHROW(lora::detail::check_cols("f", "x", 0, "samples", 0));
  CHECK_NOTHROW(lora::detail::check_not_empty("f", "x", 1, 1));
}

TEST_CASE("error: every kind is caught as lora::Error and as std::runtime_error") {
  CHECK_THROWS_AS(lora::detail::fail<lora::ShapeError>("f", "x"), lora::Error);
  CHECK_THROWS_AS(lora::detail::fail<lora::NameError>("f", "x"), std::runtime_error);
}
