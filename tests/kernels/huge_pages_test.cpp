#include "lora/kernels/huge_pages.hpp"

#include "support/catch.hpp"

#include <algorithm>
#include <vector>

TEST_CASE("huge pages: are advice, which changes no number, wherever the memory begins and ends") {
  std::vector<unsigned char> bytes(std::size_t(9) << 20, 7);
  for (const std::size_t first : {0U, 1U, 63U, 4095U, 4097U}) {
    for (const std::size_t size :
         {std::size_t(0), std::size_t(100), std::size_t(4) << 20, (std::size_t(8) << 20) + 5}) {
      lora::detail::prefer_huge_pages(bytes.data() + first, size);
    }
  }
  CHECK(std::all_of(bytes.begin(), bytes.end(), [](unsigned char byte) { return byte == 7; }));
}
