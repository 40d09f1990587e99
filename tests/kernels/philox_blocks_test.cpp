#include "lora/kernels/philox_blocks.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

#include "support/catch.hpp"

TEST_CASE("philox_blocks: the bits of philox4x32, counters and samples of 64 bits") {
  const std::array<std::uint32_t, 2> key = {0x12345678, 0xFEDCBA98};
  for (const std::uint64_t first : {std::uint64_t(0), std::uint64_t(0xFFFFFFF7), std::uint64_t(0x123456789ABCDEF0)}) {
    for (const std::uint64_t sample : {std::uint64_t(0), std::uint64_t(7), std::uint64_t(0xABCDEF0123456789)}) {
      for (std::size_t count = 1; count <= lora::detail::most_philox_blocks; ++count) {
        lora::detail::PhiloxBits bits{};
        lora::detail::philox_blocks(first, count, sample, key, bits);
        bool same = true;
        for (std::size_t b = 0; b < count; ++b) {
          const std::uint64_t number = first + b;
          const auto half = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
          const auto block =
              lora::philox4x32({half(number), half(number >> 32), half(sample), half(sample >> 32)}, key);
          for (std::size_t k = 0; k < 4; ++k) same &= bits[4 * b + k] == block[k];
        }
        CAPTURE(first, sample, count);
        CHECK(same);
      }
    }
  }
}
