/// This library as peers/files.py calls it: paths as bytes that end with a NUL, results into arrays of double.
///
/// Every function returns 0, or 1 after printing what was thrown. The model of the files is as many square layers as
/// they have, weight.0, weight.1, ...; the model of the adapter is 22 million numbers of a BERT type encoder.

#include "benchmarks/peers/run.hpp"
#include "lora/io.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/linear.hpp"

#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using lora::Index;
using peers::run;

/// Matrices of one storage order, as a model.
template <class P>
struct Weights {
  std::vector<P> layers;
  static void visit(auto& self, auto&& f) {
    for (std::size_t i = 0; i < self.layers.size(); ++i) {
      f(lora::Name("weight." + std::to_string(i)), self.layers[i]);
    }
  }
};

struct Encoder {
  std::vector<std::pair<std::string, lora::Linear<float>>> layers;
  static void visit(auto& self, auto&& f) {
    for (auto& [name, layer] : self.layers) f(lora::Name(name), layer);
  }
};

Weights<lora::Parameter<float>> columns;
Weights<lora::RowMajorParameter<float>> rows;
std::unique_ptr<Encoder> encoder;

/// What the system calls cost without waiting for the disk.
struct Unsynced : lora::PosixFiles {
  static int sync(int) { return 0; }
};

double megabytes_resident() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1 << 20);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

extern "C" {

int make_models(Index count, Index size) {
  return run([&] {
    columns.layers.clear();
    rows.layers.clear();
    for (Index i = 0; i < count; ++i) {
      columns.layers.emplace_back(lora::Matrix<float>::Zero(size, size));
      rows.layers.emplace_back(lora::RowMajorMatrix<float>::Zero(size, size));
    }
  });
}

/// result: seconds, and MiB of memory more while the file is open and one of its tensors looked at.
int open_file(const char* path, double* result) {
  return run([&] {
    const double before = megabytes_resident();
    const auto start = std::chrono::steady_clock::now();
    const auto file = lora::Safetensors::open(path);
    const auto tensor = file.tensor<float>("weight.0");
    result[0] = seconds_since(start);
    result[1] = megabytes_resident() - before;
    if (tensor.is_copy()) throw std::runtime_error("open_file: the tensor is a copy");
  });
}

/// Every tensor as a matrix in the memory of the file.
int view_all(const char* path) {
  return run([&] {
    std::vector<lora::StoredMatrix<float>> views;
    const auto file = lora::Safetensors::open(path);
    for (const auto& tensor : file.tensors()) views.push_back(file.tensor<float>(tensor.name));
    if (views.size() != rows.layers.size()) throw std::runtime_error("view_all: not all tensors are there");
  });
}

int load_columns(const char* path) {
  return run([&] { lora::load_weights(columns, lora::Safetensors::open(path)); });
}

int load_rows(const char* path) {
  return run([&] { lora::load_weights(rows, lora::Safetensors::open(path)); });
}

/// memcpy of the mapped file's tensors to where load_rows puts them.
int copy_rows(const char* path) {
  return run([&] {
    const auto file = lora::Safetensors::open(path);
    for (std::size_t i = 0; i < rows.layers.size(); ++i) {
      const auto bytes = file.bytes("weight." + std::to_string(i));
      std::memcpy(rows.layers[i].value.data(), bytes.data(), bytes.size());
    }
  });
}

int save_columns(const char* path) {
  return run([&] { lora::save_weights(columns, path); });
}

int save_rows(const char* path) {
  return run([&] { lora::save_weights(rows, path); });
}

/// An adapter of this rank on every layer of the encoder, beside a head that has none. result: numbers of the model,
/// of the adapter.
int make_encoder(Index rank, double* result) {
  return run([&] {
    constexpr Index width = 384, inner = 1536, words = 30522, blocks = 6;
    encoder = std::make_unique<Encoder>();
    lora::Rng rng(1);
    const auto add = [&](const std::string& name, Index in, Index out) {
      encoder->layers.emplace_back(name, lora::Linear<float>({.in = in, .out = out, .bias = false}, rng));
      result[0] += static_cast<double>(in * out);
    };
    result[0] = 0;
    for (Index i = 0; i < blocks; ++i) {
      const std::string block = "layer." + std::to_string(i) + ".";
      for (const char* name : {"query", "key", "value", "output"}) add(block + name, width, width);
      add(block + "up", width, inner);
      add(block + "down", inner, width);
    }
    add("head", width, words);
    lora::attach(*encoder, {.rank = rank, .alpha = 16}, {.exclude = std::vector<std::string>{"head"}}, rng);
    result[1] = 0;
    lora::visit_parameters(*encoder, [&](const lora::Path& path, const auto& parameter) {
      if (path.in_adapter()) result[1] += static_cast<double>(parameter.value.size());
    });
  });
}

/// result: seconds by the clock. Without sync, nothing waits for the disk.
int save_encoder(const char* folder, Index sync, double* result) {
  return run([&] {
    const auto start = std::chrono::steady_clock::now();
    if (sync != 0) {
      lora::save_adapter(*encoder, folder);
    } else {
      lora::save_adapter<Encoder, Unsynced>(*encoder, folder);
    }
    result[0] = seconds_since(start);
  });
}

}  // extern "C"
