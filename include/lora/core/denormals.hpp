#pragma once
/// Scope guard: flushes denormals to zero (FTZ and DAZ).
///
/// A float below 1.2e-38 is denormal, and some processors take a hundred cycles for each operation on one. Training
/// produces them: decaying moments of Adam, gradients of weights that no longer matter. A step inside this scope runs
/// at full speed, and denormal inputs and results count as zero.

#if defined(__SSE2__) || defined(_M_X64) || (defined(_M_IX86_FP) && _M_IX86_FP >= 2)
#include "lora/abi.hpp"

#include <xmmintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)
#include <cstdint>
#endif

namespace lora::inline LORA_ABI {

/// In effect until its destructor restores the flags, in this thread alone. May be nested.
///
///   const lora::DenormalsAsZero scope;
///
/// Put it around a loop of steps, not around one expression: the compiler does not know about the flags and may move an
/// expression across the end of the scope.
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
  ~DenormalsAsZero() {}  // NOLINT(modernize-use-equals-default): avoids warnings of an unused variable
#endif

 public:
  DenormalsAsZero(const DenormalsAsZero&) = delete;
  DenormalsAsZero& operator=(const DenormalsAsZero&) = delete;
};

}  // namespace lora::inline LORA_ABI
