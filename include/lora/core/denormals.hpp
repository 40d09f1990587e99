#pragma once
/// A scope in which denormal numbers count as zero (FTZ and DAZ of the processor).
///
/// Below 1.2e-38 a float loses digits instead of vanishing, and some processors need a hundred cycles for each
/// operation that meets one. Training makes them: moments of Adam that decay, gradients of weights that no longer
/// matter. A step inside this scope runs at full speed, and a denormal among its inputs or results counts as zero.

#if defined(__SSE2__) || defined(_M_X64) || (defined(_M_IX86_FP) && _M_IX86_FP >= 2)
#include "lora/abi.hpp"

#include <xmmintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)
#include <cstdint>
#endif

namespace lora::inline LORA_ABI {

/// From construction to destruction, in this thread alone; then everything is as it was. May be nested.
///
///   const lora::DenormalsAsZero scope;
///
/// Put it around a loop of steps, not around one expression: a compiler knows nothing of the flags and may take for an
/// expression the value that it had on the other side of the scope's end.
///
/// Changes the flags FTZ and DAZ of MXCSR on x86, FZ of FPCR on AArch64, and nothing elsewhere: see supported. Threads
/// that exist already keep their own flags.
class DenormalsAsZero {
 public:
#if defined(__SSE2__) || defined(_M_X64) || (defined(_M_IX86_FP) && _M_IX86_FP >= 2)
  static constexpr bool supported = true;

  DenormalsAsZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040U); }  // FTZ is bit 15, DAZ bit 6
  ~DenormalsAsZero() { _mm_setcsr((_mm_getcsr() & ~0x8040U) | (before_ & 0x8040U)); }

 private:
  unsigned before_;
#elif defined(__aarch64__) && defined(__GNUC__)
  static constexpr bool supported = true;

  DenormalsAsZero() : before_(read()) { write(before_ | flag); }
  ~DenormalsAsZero() { write((read() & ~flag) | (before_ & flag)); }

 private:
  static constexpr std::uint64_t flag = std::uint64_t(1) << 24;  // FZ
  static std::uint64_t read() {
    std::uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(std::uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }

  std::uint64_t before_;
#else
  static constexpr bool supported = false;

  DenormalsAsZero() = default;
  ~DenormalsAsZero() {}  // NOLINT(modernize-use-equals-default): so that nobody is warned of an unused variable
#endif

 public:
  DenormalsAsZero(const DenormalsAsZero&) = delete;
  DenormalsAsZero& operator=(const DenormalsAsZero&) = delete;
};

}  // namespace lora::inline LORA_ABI
