#pragma once

#include "lora/testing/law.hpp"
#include "support/catch.hpp"

namespace lora_test {

/// Each law holds, and there is one at least.
inline void check(const lora::testing::LawResults& results) {
  CHECK_FALSE(results.empty());
  for (const auto& result : results) {
    if (!result.passed) FAIL_CHECK(result);
  }
}
/// The same of so many results.
inline void check(const lora::testing::LawResults& results, std::size_t count) {
  CHECK(results.size() == count);
  check(results);
}
inline void check(const lora::testing::LawResult& result) { check(lora::testing::LawResults{result}); }

}  // namespace lora_test
