// Any bytes as a safetensors file: a FormatError, or a file of which everything can be read and written again.
#include "support.hpp"

#include <memory>
#include <string>
#include <vector>

namespace {

/// Reads it in the ways that go with its dtype, or in every way; what does not go with dtype or shape is a typed error.
/// Throwing takes most of the time, so not every tensor is read in every way.
void read(const lora::Safetensors& file, const lora::StoredTensor& tensor, bool in_every_way) {
  const std::string& name = tensor.name;
  const auto attempt = [](auto&& f) {
    try {
      f();
    } catch (const lora::Error&) {
    }
  };
  volatile double sink = 0;
  const auto sum = [&](const auto& matrix) {
    if (matrix.size() == 0) return;  // of as many as 2^24 rows
    for (lora::Index row = 0; row < matrix.rows(); ++row) {
      for (lora::Index col = 0; col < matrix.cols(); ++col) sink = sink + static_cast<double>(matrix(row, col));
    }
  };
  if (in_every_way || lora::is_real(tensor.dtype)) {
    attempt([&] { sum(file.read<double>(name)); });
    attempt([&] { sum(file.read<float>(name)); });
  }
  if (in_every_way || tensor.dtype == lora::Dtype::f32) attempt([&] { sum(file.tensor<float>(name)); });
  if (in_every_way || tensor.dtype == lora::Dtype::i64) attempt([&] { sum(file.tensor<std::int64_t>(name)); });
  if (in_every_way || tensor.dtype == lora::Dtype::u8) attempt([&] { sum(file.read<std::uint8_t>(name)); });
  if (!in_every_way) return;
  attempt([&] {
    lora::Matrix<float> to(3, 2);
    file.read_into(name, to);
  });
  attempt([&] {
    Eigen::RowVectorXf to(3);
    file.read_into(name, to);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::HeapLimit limit(size);
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto opened = [&]() -> std::unique_ptr<lora::Safetensors> {
    try {
      return std::make_unique<lora::Safetensors>(lora::Safetensors::in_memory(bytes));
    } catch (const lora::FormatError&) {
      return nullptr;
    }
  }();
  if (!opened) return 0;

  std::vector<lora::TensorToSave> tensors;
  for (const auto& tensor : opened->tensors()) {
    // The last byte lies inside, and is there to be read.
    volatile std::uint8_t last =
        tensor.bytes.empty() ? std::uint8_t{0} : std::to_integer<std::uint8_t>(tensor.bytes.back());
    static_cast<void>(last);
    read(*opened, tensor, tensors.empty());
    tensors.emplace_back(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  }
  std::string first, second;
  const auto write = [&](std::string& to, const lora::Metadata& metadata) {
    lora::write_safetensors(
        [&](std::span<const std::byte> piece) { to.append(reinterpret_cast<const char*>(piece.data()), piece.size()); },
        tensors, metadata);
  };
  write(first, opened->metadata());
  const auto again = lora::Safetensors::in_memory(std::as_bytes(std::span(first)));
  if (again.tensors().size() != tensors.size() || again.metadata() != opened->metadata()) std::abort();
  for (auto& tensor : tensors) tensor = {tensor.name(), tensor.dtype(), tensor.shape(), again.bytes(tensor.name())};
  write(second, again.metadata());
  if (first != second) std::abort();
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Random random(seed);
  const std::string file(reinterpret_cast<const char*>(data), size);
  return fuzz::store(fuzz::mutated_safetensors(file, most, random), data, most);
}
