#include "support/heap.hpp"

#include <cerrno>
#include <cstdlib>

#if defined(__GLIBC__) && !defined(LORA_TEST_SANITIZED)
#include <malloc.h>
#endif

namespace {
thread_local std::size_t count = 0;
thread_local std::ptrdiff_t bytes = 0;
thread_local std::ptrdiff_t peak = 0;
}  // namespace

std::size_t lora_test::heap_allocations() noexcept { return count; }
std::ptrdiff_t lora_test::heap_bytes() noexcept { return bytes; }
std::ptrdiff_t lora_test::heap_peak() noexcept { return peak; }
void lora_test::reset_heap_peak() noexcept { peak = bytes; }

#if defined(__GLIBC__) && !defined(LORA_TEST_SANITIZED)

// glibc lets a program define the allocator's functions itself and keeps the originals under these names.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t number, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* memory);

static std::ptrdiff_t size_of(void* memory) { return static_cast<std::ptrdiff_t>(malloc_usable_size(memory)); }

static void* counted(void* memory) {
  ++count;
  bytes += size_of(memory);
  if (bytes > peak) peak = bytes;
  return memory;
}

void* malloc(std::size_t size) noexcept { return counted(__libc_malloc(size)); }

void* calloc(std::size_t number, std::size_t size) noexcept { return counted(__libc_calloc(number, size)); }

void* realloc(void* memory, std::size_t size) noexcept {
  const std::ptrdiff_t before = size_of(memory);
  void* const moved = __libc_realloc(memory, size);
  if (moved != nullptr || size == 0) bytes -= before;
  return counted(moved);
}

void* memalign(std::size_t alignment, std::size_t size) noexcept { return counted(__libc_memalign(alignment, size)); }

void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return counted(__libc_memalign(alignment, size));
}

int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  void* const allocated = counted(__libc_memalign(alignment, size));
  if (allocated == nullptr) return ENOMEM;
  *memory = allocated;
  return 0;
}

void free(void* memory) noexcept {
  bytes -= size_of(memory);
  __libc_free(memory);
}
}

#endif
