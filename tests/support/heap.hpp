#pragma once

#include <cstddef>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define LORA_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LORA_TEST_SANITIZED 1
#endif

namespace lora_test {

/// Whether allocations are counted in this build: with glibc, whose allocator can be interposed, and without a
/// sanitizer, which interposes it itself. A test that counts starts with
///   if (!heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
#if defined(__GLIBC__) && !defined(LORA_TEST_SANITIZED)
inline constexpr bool heap_is_counted = true;
#else
inline constexpr bool heap_is_counted = false;
#endif

/// How often this thread has asked the C allocator for memory since it began: malloc, calloc, realloc and the aligned
/// forms, and with them operator new and Eigen's own allocations, which end there.
std::size_t heap_allocations() noexcept;

/// The number of allocations f() makes on this thread. Assert outside: Catch2's own macros allocate.
template <class Function>
std::size_t heap_allocations_in(Function&& f) {
  const std::size_t before = heap_allocations();
  f();
  return heap_allocations() - before;
}

}  // namespace lora_test
