#pragma once
/// Huge pages for large memory, if the system offers them on request.
///
/// A product with few samples reads a weight from memory once, and the hardware prefetcher stops at page boundaries: in
/// pages of 2 MiB instead of 4 KiB one sample of a 4096 x 4096 weight takes half the time.

#include "lora/abi.hpp"

#include <cstddef>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace lora::inline LORA_ABI::detail {

/// Requests huge pages, before the memory is first used. This is only advice and does not change the contents; it does
/// nothing for memory below 4 MiB or on systems without such a request.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < std::size_t(4) << 20) return;
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto before_first = (page - reinterpret_cast<std::uintptr_t>(memory) % page) % page;
  madvise(static_cast<char*>(memory) + before_first, bytes - before_first, MADV_HUGEPAGE);
#endif
}

}  // namespace lora::inline LORA_ABI::detail
