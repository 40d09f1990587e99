// Opening costs nothing per byte: a sparse file of 1 GB.
#include "io/files.hpp"
#include "lora/io/safetensors.hpp"
#include "support/catch.hpp"

#include <chrono>
#include <fstream>

namespace {

/// Bytes of memory that this process holds now, or -1 where nobody tells.
long resident_bytes() {
  std::ifstream file("/proc/self/statm");
  long total = 0, resident = -1;
  file >> total >> resident;
  return file ? resident * ::sysconf(_SC_PAGESIZE) : -1;
}

std::filesystem::path sparse_file(const lora_test::TemporaryFolder& folder, std::uint64_t floats) {
  std::string header = R"({"t":{"dtype":"F32","shape":[)" + std::to_string(floats / 1024) +
                       R"(,1024],"data_offsets":[0,)" + std::to_string(4 * floats) + "]}}";
  header.resize((header.size() + 7) / 8 * 8, ' ');  // aligned, so that nothing is copied
  const auto text = lora_test::safetensors(header);
  const auto path = lora_test::write_file(folder / "large", text);
  std::filesystem::resize_file(path, text.size() + 4 * floats);
  return path;
}

}  // namespace

TEST_CASE("A file of 1 GB opens in 10 ms and 2 MiB of memory, and its last element can be read") {
  const lora_test::TemporaryFolder folder;
  const auto path = sparse_file(folder, 1'000'000'000 / 4096 * 1024);
  lora::Safetensors::open(path);  // code and libraries are in memory then
  double best = 1e9;
  long grown = 0;
  for (int i = 0; i < 3; ++i) {
    const long before = resident_bytes();
    const auto start = std::chrono::steady_clock::now();
    const auto file = lora::Safetensors::open(path);
    const auto t = file.tensor<float>("t");
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    grown = std::max(grown, resident_bytes() - before);
    CHECK_FALSE(t.is_copy());
    CHECK(t(t.rows() - 1, t.cols() - 1) == 0);
  }
  INFO("opened in " << best << " ms, memory grown by " << grown << " bytes");
  CHECK(best < 10);
  if (resident_bytes() < 0) LORA_TEST_SKIP("no /proc/self/statm");
  CHECK(grown < 2 << 20);
}

TEST_CASE("A file of 6 GB: positions beyond 32 bits") {
  if (sizeof(void*) < 8) LORA_TEST_SKIP("not enough addresses");
  const lora_test::TemporaryFolder folder;
  const std::uint64_t floats = 1'500'000 * 1024ull;
  const auto path = sparse_file(folder, floats);
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(-4, std::ios::end);
    const float last = 42;
    file.write(reinterpret_cast<const char*>(&last), 4);
  }
  const auto file = lora::Safetensors::open(path);
  CHECK(file.bytes("t").size() == 4 * floats);
  CHECK(file.tensor<float>("t")(1'499'999, 1023) == 42);
}
