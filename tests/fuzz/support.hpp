#pragma once
// What the targets share: how much of the heap an input may take, inputs of several files, a folder in memory, a model
// to load into, and changes of safetensors files that do not stop at their length.

#include "io/peft_models.hpp"
#include "lora/io.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/linear.hpp"

#include <malloc.h>
#include <sanitizer/allocator_interface.h>
#include <nlohmann/json.hpp>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace fuzz {

/// As long as it lives, the program stops when more than 256 MB beyond the input are held at once: what libFuzzer
/// itself keeps does not count.
class HeapLimit {
 public:
  explicit HeapLimit(std::size_t input) {
#ifndef FUZZ_FAST
    static const int hooks = __sanitizer_install_malloc_and_free_hooks(allocated, freed);
    if (hooks == 0) std::abort();
#endif
    held_ = 0;
    most_ = (std::ptrdiff_t{256} << 20) + static_cast<std::ptrdiff_t>(input);
  }
  HeapLimit(const HeapLimit&) = delete;
  ~HeapLimit() { most_ = 0; }

  static void allocated(const volatile void*, std::size_t size) {
    if (most_ == 0) return;
    held_ += static_cast<std::ptrdiff_t>(size);
    if (held_ <= most_) return;
    most_ = 0;
    std::fputs("more than 256 MB beyond the input\n", stderr);
    std::abort();
  }
  static void freed(const volatile void* memory) {
    if (most_ == 0 || memory == nullptr) return;
#ifdef FUZZ_FAST
    held_ -= static_cast<std::ptrdiff_t>(malloc_usable_size(const_cast<void*>(memory)));
#else
    held_ -= static_cast<std::ptrdiff_t>(__sanitizer_get_allocated_size(memory));
#endif
  }

 private:
  inline static std::ptrdiff_t held_ = 0, most_ = 0;  // 0: nothing is counted
};

}  // namespace fuzz

#ifdef FUZZ_FAST
// Without a sanitizer there are no hooks, so the program has an allocator of its own: that of glibc, counted.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);

void* malloc(std::size_t size) {
  void* const memory = __libc_malloc(size);
  fuzz::HeapLimit::allocated(memory, malloc_usable_size(memory));
  return memory;
}
void* calloc(std::size_t count, std::size_t size) {
  void* const memory = __libc_calloc(count, size);
  fuzz::HeapLimit::allocated(memory, malloc_usable_size(memory));
  return memory;
}
void* realloc(void* memory, std::size_t size) {
  fuzz::HeapLimit::freed(memory);
  memory = __libc_realloc(memory, size);
  fuzz::HeapLimit::allocated(memory, malloc_usable_size(memory));
  return memory;
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  void* const memory = __libc_memalign(alignment, size);
  fuzz::HeapLimit::allocated(memory, malloc_usable_size(memory));
  return memory;
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  *memory = aligned_alloc(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}
void free(void* memory) {
  fuzz::HeapLimit::freed(memory);
  __libc_free(memory);
}
}
#endif

namespace fuzz {

/// Between the files of one input.
inline constexpr std::string_view next_file = "\xff\xfe\xff";

inline std::vector<std::string_view> files_in(std::string_view input, std::size_t count) {
  std::vector<std::string_view> files;
  while (files.size() + 1 < count) {
    const std::size_t end = input.find(next_file);
    files.push_back(input.substr(0, end));
    input = end == input.npos ? std::string_view() : input.substr(end + next_file.size());
  }
  files.push_back(input);
  return files;
}

/// In memory if the system has such a place, and removed at the end.
class Folder {
 public:
  Folder() {
    const std::filesystem::path memory = "/dev/shm";
    const bool there = std::filesystem::is_directory(memory);
    std::string name = ((there ? memory : std::filesystem::temp_directory_path()) / "lora-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  Folder(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path write(const char* name, std::string_view bytes) const {
    const auto path = path_ / name;
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size()) std::abort();
    std::fclose(file);
    return path;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Three layers, one without bias, and a parameter that belongs to none.
struct Net {
  lora_test::Layers<float> linear;
  lora::Parameter<float> scale{lora::Matrix<float>::Ones(2, 1)};

  explicit Net(lora::Rng rng = lora::Rng(1))
      : linear({{"model.layers.0.fc1", {.in = 2, .out = 3}},
                {"model.layers.1.fc2", {.in = 3, .out = 3, .bias = false}},
                {"head", {.in = 3, .out = 2}}},
               rng) {}
  static void visit(auto& self, auto&& f) {
    lora_test::Layers<float>::visit(self.linear, f);
    f("scale", self.scale);
  }
};

/// With an adapter in each layer, and one trained copy.
inline Net adapted_net() {
  lora::Rng rng(2);
  Net net(rng);
  const lora::Targets targets{.modules = "model.*", .modules_to_save = {"head"}};
  lora::attach(net, {.rank = 1, .alpha = 3, .bias = lora::Bias::lora_only}, targets, rng);
  lora_test::change_adapters(net);
  return net;
}

/// Runs load(model); if it throws a lora::Error, the model must be as it was.
inline bool loads(Net& model, auto&& load) {
  const std::string before = lora_test::contents(model);
  try {
    load(model);
    return true;
  } catch (const lora::Error&) {
    if (lora_test::contents(model) != before) std::abort();
    return false;
  }
}

using Random = std::minstd_rand;

/// What libFuzzer makes of a text.
inline std::string mutated(std::string text, std::size_t most) {
  const std::size_t size = text.size();
  text.resize(std::max(size, std::min(most, 2 * size + 64)));
  text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
  return text;
}

inline constexpr std::array<std::uint64_t, 13> extents{0,
                                                       1,
                                                       2,
                                                       3,
                                                       6,
                                                       255,
                                                       2147483647,
                                                       2147483648,
                                                       4294967296,
                                                       4611686018427387904,
                                                       9223372036854775807,
                                                       9223372036854775808u,
                                                       18446744073709551615u};

/// Another number for one of a text.
inline std::string with_other_number(std::string text, Random& random) {
  constexpr std::string_view digits = "0123456789";
  std::vector<std::pair<std::size_t, std::size_t>> numbers;
  for (std::size_t at = text.find_first_of(digits); at != text.npos; at = text.find_first_of(digits, at)) {
    const std::size_t end = std::min(text.find_first_not_of(digits, at), text.size());
    numbers.emplace_back(at, end - at);
    at = end;
  }
  if (numbers.empty()) return text;
  const auto [at, size] = numbers[random() % numbers.size()];
  return text.replace(at, size, std::to_string(extents[random() % extents.size()]));
}

/// Gives one tensor of a header another shape, and lays all out again, so that the file is valid.
inline bool reshape(std::string& header, std::string& bytes, std::size_t most, Random& random) {
  auto root = nlohmann::ordered_json::parse(header, nullptr, false);
  if (!root.is_object() || root.empty()) return false;
  std::size_t chosen = random() % root.size(), k = 0;
  std::uint64_t position = 0;
  for (auto& [name, entry] : root.items()) {
    const bool change = k++ == chosen;
    if (name == "__metadata__") continue;
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() || !entry.contains("shape"))
      return false;
    const auto dtype = lora::find_dtype(entry["dtype"].get<std::string>());
    if (!dtype) return false;
    std::vector<std::uint64_t> shape;
    if (change) {
      shape.resize(random() % 4);
      for (auto& extent : shape) extent = extents[random() % extents.size()];
    } else {
      for (const auto& extent : entry["shape"])
        shape.push_back(extent.is_number_unsigned() ? extent.get<std::uint64_t>() : 1);
    }
    auto bits = lora::bit_count(*dtype, shape);
    if (!bits || *bits % 8 != 0 || *bits / 8 > most) {
      if (shape.empty()) return false;
      shape[random() % shape.size()] = 0;
      bits = lora::bit_count(*dtype, shape);
      if (!bits || *bits % 8 != 0) return false;
    }
    entry["shape"] = shape;
    entry["data_offsets"] = {position, position + *bits / 8};
    position += *bits / 8;
  }
  if (position > most) return false;
  bytes.resize(position);
  header = root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return true;
}

/// A safetensors file that is like another: mostly with a header of the length that it says.
inline std::string mutated_safetensors(const std::string& file, std::size_t most, Random& random) {
  if (file.size() < 8 || random() % 8 == 0) return mutated(file, most);
  std::uint64_t size = 0;
  for (std::size_t i = 0; i < 8; ++i) size |= std::uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  size = std::min<std::uint64_t>(size, file.size() - 8);
  std::string header = file.substr(8, size), bytes = file.substr(8 + size);
  switch (random() % 4) {
    case 0: header = mutated(header, most); break;
    case 1: bytes = mutated(bytes, most); break;
    case 2: header = with_other_number(header, random); break;
    default:
      if (!reshape(header, bytes, most, random)) header = with_other_number(header, random);
  }
  std::string result;
  for (int i = 0; i < 8; ++i) result += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return result + header + bytes;
}

/// Stores a text as the input, if it fits.
inline std::size_t store(const std::string& text, std::uint8_t* data, std::size_t most) {
  const std::size_t size = std::min(text.size(), most);
  std::copy_n(text.data(), size, reinterpret_cast<char*>(data));
  return size;
}

}  // namespace fuzz
