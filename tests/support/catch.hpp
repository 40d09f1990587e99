#pragma once

// Catch2 2.13 and 3.x under one name. Their differences are settled here; tests include only this.

// An exception in a CHECK ends the test case instead of this one check: a fifth less to compile.
#define CATCH_CONFIG_FAST_COMPILE

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
using Catch::Approx;  // version 2 does so itself
#else
#include <catch2/catch.hpp>
#endif

#include <string>

namespace lora_test {

/// Matches a text that contains the given one: REQUIRE_THROWS_WITH(f(), contains("rank")).
inline auto contains(const std::string& text) {
#if __has_include(<catch2/catch_test_macros.hpp>)
  return Catch::Matchers::ContainsSubstring(text);
#else
  return Catch::Matchers::Contains(text);
#endif
}

}  // namespace lora_test

/// Leaves the test case, saying why it cannot be run here.
#define LORA_TEST_SKIP(reason)   \
  do {                           \
    WARN("skipped: " << reason); \
    return;                      \
  } while (false)
