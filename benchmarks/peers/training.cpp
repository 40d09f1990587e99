/// This library as peers/training.py calls it: matrices by address, in the order in which PyTorch holds them.
///
/// PyTorch's X (samples, features), row after row, are this library's (features, samples), column after column: the
/// same bytes. A weight (out, in) is row-major there and is copied. make_...() leaves a handle that steps(),
/// results() and release() take. Every function returns 0, or 1 after printing what was thrown.

#include "benchmarks/peers/run.hpp"
#include "benchmarks/support/roof.hpp"
#include "lora/base/packed.hpp"
#include "lora/lora.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using lora::Index;
using peers::run;
using Given = Eigen::Map<const lora::RowMajorMatrix<float>>;
using Columns = Eigen::Map<const lora::Matrix<float>>;
using Base = lora::Packed<float>;
using Layer = lora::Adapted<Base, lora::Lora<float>>;

constexpr double lr = 1e-3;  // as in training.py

/// Something that is timed, again and again.
class Case {
 public:
  Case() = default;
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;
  virtual ~Case() = default;
  virtual void step() = 0;
  /// Results for comparison, one after the other.
  virtual std::vector<lora::Matrix<float>> results() const = 0;
};

Layer make_layer(Index out, Index in, Index rank, Index copies, const float* W0, const float* b, const float* A,
                 const float* B) {
  lora::Rng unused(0);
  lora::Lora<float> adapter(out, in, {.rank = rank, .alpha = 2.0 * static_cast<double>(rank)}, unused);
  adapter.A.value = Given(A, rank, in);
  adapter.B.value = Given(B, out, rank);
  std::optional<lora::Vector<float>> bias;
  if (b != nullptr) bias = Given(b, out, 1);
  const lora::Copies held = copies == 2 ? lora::Copies::two : lora::Copies::one;
  return {Base(lora::Matrix<float>(Given(W0, out, in)), held), std::move(adapter), std::move(bias)};
}

/// One adapted layer whose dy is given: zero gradients, forward, dx, dA, dB, AdamW.
class Linear : public Case {
 public:
  Linear(Layer layer, Columns x, Columns dy) : layer_(std::move(layer)), x_(x), dy_(dy) {}
  void step() override {
    lora::zero_gradients(layer_);
    layer_.forward(x_, cache_);
    layer_.backward(x_, dy_, cache_);
    optimizer_.step(layer_);
  }
  std::vector<lora::Matrix<float>> results() const override {
    const auto& adapter = layer_.adapter();
    return {cache_.y.view(), cache_.dx.view(), adapter.A.value.transpose(), adapter.B.value.transpose()};
  }

 private:
  Layer layer_;
  lora::Matrix<float> x_, dy_;
  Layer::Cache cache_;
  lora::AdamW<float> optimizer_{{.lr = lr}};
};

/// Forward alone.
class Unmerged : public Case {
 public:
  Unmerged(Layer layer, Columns x) : layer_(std::move(layer)), x_(x) {}
  void step() override { layer_.forward(x_, cache_); }
  std::vector<lora::Matrix<float>> results() const override { return {cache_.y.view()}; }

 private:
  Layer layer_;
  lora::Matrix<float> x_;
  Layer::Cache cache_;
};

/// Forward alone, with W0 + s B A.
class Merged : public Case {
 public:
  Merged(const Layer& layer, Columns x) : layer_(Base(layer.merged()), lora::NoAdapter<float>()), x_(x) {}
  void step() override { layer_.forward(x_, cache_); }
  std::vector<lora::Matrix<float>> results() const override { return {cache_.y.view()}; }

 private:
  using Frozen = lora::Adapted<Base, lora::NoAdapter<float>>;
  Frozen layer_;
  lora::Matrix<float> x_;
  Frozen::Cache cache_;
};

/// Perceptron with ReLU, softmax cross-entropy of its outputs, everything adapted.
class Network : public Case {
 public:
  Network(std::vector<Layer> layers, Columns x, std::vector<int> labels)
      : net_(std::move(layers)), x_(x), labels_(std::move(labels)) {}
  void step() override {
    lora::zero_gradients(net_);
    lora::softmax_cross_entropy(net_.forward(x_, cache_), labels_, &dy_);
    net_.backward(x_, dy_, cache_, lora::no_gradient);
    optimizer_.step(net_);
  }
  std::vector<lora::Matrix<float>> results() const override {
    std::vector<lora::Matrix<float>> all;
    for (const Layer& layer : net_.layers()) {
      all.push_back(layer.adapter().A.value.transpose());
      all.push_back(layer.adapter().B.value.transpose());
    }
    return all;
  }

 private:
  lora::Mlp<Layer> net_;
  lora::Matrix<float> x_, dy_;
  std::vector<int> labels_;
  lora::Mlp<Layer>::Cache cache_;
  lora::AdamW<float> optimizer_{{.lr = lr}};
};

Case& of(Index handle) { return *reinterpret_cast<Case*>(handle); }

int keep(Index* handle, auto&& make) {
  return run([&] { *handle = reinterpret_cast<Index>(static_cast<Case*>(make().release())); });
}

}  // namespace

extern "C" {

/// inference: 1 unmerged, 2 merged, 0 none but training. copies: of W0, 1 or 2.
int make_linear(Index* handle, Index out, Index in, Index samples, Index rank, Index inference, Index copies,
                const float* W0, const float* A, const float* B, const float* x, const float* dy) {
  return keep(handle, [&]() -> std::unique_ptr<Case> {
    Layer layer = make_layer(out, in, rank, copies, W0, nullptr, A, B);
    const Columns input(x, in, samples);
    if (inference == 1) return std::make_unique<Unmerged>(std::move(layer), input);
    if (inference == 2) return std::make_unique<Merged>(layer, input);
    return std::make_unique<Linear>(std::move(layer), input, Columns(dy, out, samples));
  });
}

/// Widths of `layers` layers and the inputs before them; W0, b, A, B of all layers, one after the other.
int make_network(Index* handle, Index layers, const Index* widths, Index samples, Index rank, const float* weights,
                 const float* x, const Index* labels) {
  return keep(handle, [&]() -> std::unique_ptr<Case> {
    std::vector<Layer> all;
    const auto take = [&](Index count) { return std::exchange(weights, weights + count); };
    for (Index l = 0; l < layers; ++l) {
      const Index in = widths[l], out = widths[l + 1];
      const float* W0 = take(out * in);
      const float* b = take(out);
      const float* A = take(rank * in);
      all.push_back(make_layer(out, in, rank, 1, W0, b, A, take(out * rank)));
    }
    return std::make_unique<Network>(std::move(all), Columns(x, widths[0], samples),
                                     std::vector<int>(labels, labels + samples));
  });
}

int steps(Index handle, Index count) {
  return run([&] {
    for (Index k = 0; k < count; ++k) of(handle).step();
  });
}

/// All results, row-major as PyTorch has them, one after the other.
int results(Index handle, float* to) {
  return run([&] {
    for (const lora::Matrix<float>& result : of(handle).results()) {
      to = std::copy(result.data(), result.data() + result.size(), to);
    }
  });
}

int release(Index handle) {
  return run([&] { delete &of(handle); });
}

/// The name of the compiler, cut to `size` characters.
int compiler(char* to, Index size) {
#ifdef __clang__
  const std::string name = "clang " + std::to_string(__clang_major__);
#else
  const std::string name = "g++ " + std::to_string(__GNUC__);
#endif
  return run([&] { name.copy(to, static_cast<std::size_t>(size)); });
}

/// Operations per second, and bytes per second of reading as many bytes.
int roof(Index bytes, double* to) {
  return run([&] {
    to[0] = benchmarks::multiply_add_peak();
    to[1] = benchmarks::read_bandwidth(static_cast<std::size_t>(bytes));
  });
}

}  // extern "C"
