// Files written by the reference implementation (reference.py), read, and written again: the same bytes.
#include "io/files.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "support/catch.hpp"

#include <cstdlib>
#include <fstream>
#include <vector>

using lora::Dtype;
using lora_test::read_file;

namespace {

std::string written(const std::vector<lora::TensorToSave>& tensors, const lora::Metadata& metadata) {
  std::string file;
  lora::write_safetensors(
      [&](std::span<const std::byte> bytes) { file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); },
      tensors, metadata);
  return file;
}

/// All tensors as bytes, last name first.
std::string written_again(const lora::Safetensors& file) {
  std::vector<lora::TensorToSave> tensors;
  for (auto tensor = file.tensors().rbegin(); tensor != file.tensors().rend(); ++tensor) {
    tensors.emplace_back(tensor->name, tensor->dtype, tensor->shape, tensor->bytes);
  }
  return written(tensors, file.metadata());
}

std::string fixture(const std::string& name) { return read_file(lora_test::fixtures / (name + ".safetensors")); }

long check_all(const std::filesystem::path& folder) {
  long count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.is_regular_file() || entry.path().extension() != ".safetensors") continue;
    INFO(entry.path());
    CHECK(written_again(lora::Safetensors::open(entry.path())) == read_file(entry.path()));
    ++count;
  }
  return count;
}

}  // namespace

TEST_CASE("Every file of the reference is written again byte for byte") {
  CHECK(check_all(lora_test::fixtures) >= 9);
  if (const char* folder = std::getenv("LORA_REFERENCE_FILES")) CHECK(check_all(folder) > 0);
}

TEST_CASE("The reference's own vectors, from matrices") {
  const Eigen::Matrix2i zeros = Eigen::Matrix2i::Zero();
  const Eigen::Matrix2f halves = Eigen::Matrix2f::Zero();
  CHECK(written({{"test", zeros}}, {}) == fixture("int32_zeros"));
  CHECK(written({{"test2", halves, Dtype::f16}, {"test1", zeros}}, {}) == fixture("two_types"));
  CHECK(written({{"test1", zeros}, {"test2", halves, Dtype::f16}}, {}) == fixture("two_types"));
  CHECK(written({{"test", zeros}}, {{"framework", "pt"}}) == fixture("with_metadata"));
  CHECK(written({}, {}) == fixture("empty"));
  CHECK(written({}, {{"format", "pt"}}) == fixture("empty_metadata"));
  CHECK(fixture("int32_zeros")[0] == 0x40);
  CHECK(static_cast<unsigned char>(fixture("two_types")[0]) == 0x80);
  CHECK(fixture("with_metadata")[0] == 0x60);
}

TEST_CASE("The reference's files hold what their script put in") {
  const auto file = lora::Safetensors::open(lora_test::fixtures / "every_dtype.safetensors");
  CHECK(file.tensors().size() == 20);
  for (const auto& tensor : file.tensors()) {
    INFO(tensor.name);
    CHECK(tensor.shape == std::vector<std::uint64_t>{2, tensor.dtype == Dtype::f4 ? 2u : 3u});
    bool counts = true;
    for (std::size_t i = 0; i < tensor.bytes.size(); ++i) counts = counts && tensor.bytes[i] == std::byte(i % 251);
    CHECK(counts);
  }
  CHECK(file.at("t.float8_e8m0fnu").dtype == Dtype::f8_e8m0);
  CHECK(file.at("t.float8_e4m3fn").dtype == Dtype::f8_e4m3);
  CHECK(file.read<std::uint16_t>("t.uint16") ==
        Eigen::Matrix<std::uint16_t, 2, 3>{{0x100, 0x302, 0x504}, {0x706, 0x908, 0xb0a}});
}

TEST_CASE("The verdict on damaged files, for the reference to compare with") {
  const char* const folder = std::getenv("LORA_DAMAGED_FILES");
  const char* const accepted = std::getenv("LORA_ACCEPTED");
  if (!folder || !accepted) LORA_TEST_SKIP("only from reference.py --test");
  std::ofstream out(accepted);
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".bad") continue;
    try {
      lora::Safetensors::open(entry.path());
      out << entry.path().stem().string() << '\n';
    } catch (const lora::FormatError&) {
      continue;
    }
  }
}
