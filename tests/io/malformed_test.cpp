// Damaged files end in a FormatError or in a file that is valid: nothing else is thrown, and no byte outside is read
// (which the sanitizers see: each file lies in memory of exactly its size).
#include "io/files.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

using lora_test::safetensors;

namespace {

/// Whether the file is valid; then everything in it has been touched.
bool is_valid(std::string_view file) {
  const auto exact = std::make_unique<std::byte[]>(file.size());
  std::copy_n(reinterpret_cast<const std::byte*>(file.data()), file.size(), exact.get());
  try {
    const auto opened = lora::Safetensors::in_memory({exact.get(), file.size()});
    unsigned sum = 0;
    for (const auto& tensor : opened.tensors()) {
      for (const std::byte byte : opened.bytes(tensor.name)) sum += std::to_integer<unsigned>(byte);
      if (tensor.shape.size() <= 2 && lora::is_real(tensor.dtype)) {
        try {
          sum += opened.read<float>(tensor.name).size() > 0;
        } catch (const lora::ShapeError&) {
          sum += 1;  // 0 x 2^64 - 1
        }
      }
    }
    volatile unsigned keep = sum;
    static_cast<void>(keep);
    return true;
  } catch (const lora::FormatError&) {
    return false;
  }
}

std::string written(const std::vector<lora::TensorToSave>& tensors, const lora::Metadata& metadata) {
  std::string file;
  lora::write_safetensors(
      [&](std::span<const std::byte> bytes) { file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); },
      tensors, metadata);
  return file;
}

/// What the reference implementation has written.
std::vector<std::string> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> files;
  for (const auto& path : paths) files.push_back(lora_test::read_file(path));
  return files;
}

std::vector<std::string> valid_files() {
  const Eigen::MatrixXf A = Eigen::MatrixXf::Constant(2, 3, 1.5f);
  const Eigen::VectorXd b = Eigen::VectorXd::Constant(3, -2);
  const std::string raw(6, 'r');
  std::vector<std::string> files{
      written({{"a", A}, {"b", b}, {"c", A, lora::Dtype::f16}}, {{"format", "pt"}}),
      written({{"q", lora::Dtype::u8, {3, 1, 2}, lora_test::as_bytes(raw)}, {"w", A, lora::Dtype::bf16}}, {}),
      safetensors(
          R"( {"a":{"x":[1,{"y":null}],"dtype":"F4","shape":[2,0],"data_offsets":[0,0]},"__metadata__":null}  )"),
      safetensors("{}"),
  };
  for (auto& file : files_in(lora_test::fixtures)) files.push_back(std::move(file));
  return files;
}

}  // namespace

TEST_CASE("Every prefix of a valid file is refused, and so is every longer file") {
  auto files = valid_files();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(lora_test::fixtures / "peft")) {
    if (!entry.is_directory()) continue;
    for (auto& file : files_in(entry.path())) files.push_back(std::move(file));
  }
  CHECK(files.size() > 70);
  for (const auto& file : files) {
    CHECK(is_valid(file));
    std::size_t accepted = 0;
    for (std::size_t size = 0; size < file.size(); ++size) accepted += is_valid(std::string_view(file).substr(0, size));
    CHECK(accepted == 0);
    CHECK_FALSE(is_valid(file + "x"));
    CHECK_FALSE(is_valid(file + std::string(8, '\0')));
  }
}

TEST_CASE("Every flip of one bit of a header is refused or gives a valid file") {
  for (const auto& file : valid_files()) {
    std::size_t header = 8;
    for (int i = 0; i < 8; ++i)
      header += static_cast<std::size_t>(static_cast<unsigned char>(file[static_cast<std::size_t>(i)])) << (8 * i);
    std::size_t accepted = 0;
    for (std::size_t bit = 0; bit < 8 * header; ++bit) {
      std::string flipped = file;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
      const bool valid = is_valid(flipped);
      accepted += valid;
      if (bit < 64) CHECK_FALSE(valid);  // every other length is wrong
    }
    CHECK(accepted < 8 * header);
  }
}

TEST_CASE("Random flips, cuts and insertions are refused or give a valid file") {
  std::mt19937_64 random(5);
  const auto files = valid_files();
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  std::size_t accepted = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string file = files[below(files.size())];
    for (std::size_t flips = below(3) + 1; flips > 0; --flips) {
      char& letter = file[below(file.size())];
      letter = static_cast<char>(letter ^ (1 << below(8)));
    }
    if (i % 4 == 1) file.erase(below(file.size()), below(4));
    if (i % 4 == 2) file.insert(below(file.size()), 1, "0123456789{}[]\",:\\e.-\0\xff"[below(22)]);
    if (i % 4 == 3 && file.size() > 12) {  // a piece of the header twice, and a length that fits
      const std::size_t from = 8 + below(file.size() - 8);
      file.insert(8 + below(file.size() - 8), file.substr(from, below(30)));
      const std::uint64_t claimed = below(file.size());
      file.replace(0, 8, lora_test::length(claimed));
    }
    accepted += is_valid(file);
  }
  CHECK(accepted > 0);
  CHECK(accepted < 100'000);
}
