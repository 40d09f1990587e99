// Any bytes as a safetensors file: a FormatError, or a file of which everything can be read and written again.
#include <lora/io.hpp>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
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
    if (lora::is_real(tensor.dtype)) {
      try {
        opened->read<double>(tensor.name);
        if (tensor.dtype == lora::Dtype::f32) opened->tensor<float>(tensor.name);
      } catch (const lora::ShapeError&) {
        continue;  // more than two dimensions
      }
    }
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
