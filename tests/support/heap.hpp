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

/// Bytes that this thread holds, as the allocator counts them (more than was asked for, by rounding up), and the most
/// it has held at once. Memory that another thread gives back stays counted here.
std::ptrdiff_t heap_bytes() noexcept;
std::ptrdiff_t heap_peak() noexcept;
/// Starts heap_peak() anew from what is held now.
void reset_heap_peak() noexcept;

/// The most bytes that f() holds at any time on this thread, beyond those that were held before it.
template <class Function>
std::ptrdiff_t heap_peak_in(Function&& f) {
  reset_heap_peak();
  const std::ptrdiff_t before = heap_bytes();
  f();
  return heap_peak() - before;
}

}  // namespace lora_test
