/// This library as peers/mixed.py calls it: matrices by address, in the order in which PyTorch holds them.
///
/// PyTorch's X (samples, features), row after row, are this library's (features, samples), column after column: the
/// same bytes. make() leaves a handle that the others take. Every function returns 0, or 1 after printing what was
/// thrown.

#include "benchmarks/peers/run.hpp"
#include "lora/lora.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using lora::Index;
using peers::run;
using Given = Eigen::Map<const lora::RowMajorMatrix<float>>;

/// A layer with adapters "user0", "user1", ..., and a batch that names one for each of its columns.
class Case {
 public:
  Case(lora::Linear<float> layer, lora::Matrix<float> x, std::vector<std::string> names)
      : layer_(std::move(layer)), x_(std::move(x)), names_(std::move(names)) {
    divide(segments_);
  }

  /// With handles that are kept from pass to pass.
  void mixed() { layer_.forward(x_, cache_, {.segments = segments_}); }
  /// Told the names alone: looks each adapter up anew.
  void named() {
    divide(found_);
    layer_.forward(x_, cache_, {.segments = found_});
  }
  void base() { layer_.forward(x_, base_cache_, {.adapter = lora::base_alone}); }

  void outputs(float* mixed, float* base) const {
    std::copy_n(cache_.y.view().data(), cache_.y.view().size(), mixed);
    std::copy_n(base_cache_.y.view().data(), base_cache_.y.view().size(), base);
  }

 private:
  /// A segment for neighbors of the same name.
  void divide(std::vector<lora::Segment>& segments) const {
    segments.clear();
    for (std::size_t k = 0; k < names_.size(); ++k) {
      if (k == 0 || names_[k] != names_[k - 1]) {
        segments.push_back({.adapter = lora::adapter(layer_, names_[k]), .first = static_cast<Index>(k)});
      }
      ++segments.back().count;
    }
  }

  lora::Linear<float> layer_;
  lora::Matrix<float> x_;
  std::vector<std::string> names_;
  std::vector<lora::Segment> segments_, found_;
  lora::Linear<float>::Cache cache_, base_cache_;
};

Case& of(Index handle) { return *reinterpret_cast<Case*>(handle); }

}  // namespace

extern "C" {

/// ranks, alphas: of the adapters. factors: A (rank, d) and B (d, rank) of each, one after the other. owners: the
/// adapter of each sample of x.
int make(Index* handle, Index d, Index adapters, Index samples, const Index* ranks, const double* alphas,
         const float* W0, const float* factors, const float* x, const Index* owners) {
  return run([&] {
    lora::Linear<float> layer(lora::AnyBase<float>(lora::Matrix<float>(Given(W0, d, d))));
    lora::Rng unused(0);
    const auto name = [](Index k) { return "user" + std::to_string(k); };
    for (Index k = 0; k < adapters; ++k) {
      lora::Lora<float> adapter(d, d, {.rank = ranks[k], .alpha = alphas[k]}, unused);
      adapter.A.value = Given(std::exchange(factors, factors + ranks[k] * d), ranks[k], d);
      adapter.B.value = Given(std::exchange(factors, factors + ranks[k] * d), d, ranks[k]);
      layer.attach(name(k), std::move(adapter));
    }
    std::vector<std::string> names;
    for (Index k = 0; k < samples; ++k) names.push_back(name(owners[k]));
    *handle = reinterpret_cast<Index>(
        new Case(std::move(layer), Eigen::Map<const lora::Matrix<float>>(x, d, samples), std::move(names)));
  });
}

int mixed(Index handle, Index count) {
  return run([&] {
    for (Index k = 0; k < count; ++k) of(handle).mixed();
  });
}

int named(Index handle, Index count) {
  return run([&] {
    for (Index k = 0; k < count; ++k) of(handle).named();
  });
}

int base(Index handle, Index count) {
  return run([&] {
    for (Index k = 0; k < count; ++k) of(handle).base();
  });
}

/// What the last passes of both kinds have left, (samples, d), row-major.
int outputs(Index handle, float* mixed, float* base) {
  return run([&] { of(handle).outputs(mixed, base); });
}

int release(Index handle) {
  return run([&] { delete &of(handle); });
}

}  // extern "C"
