/// What sweep.py compiles once for each candidate and loads: the products of a packed weight, the multiply-add peak.

#include <time.h>

#include <map>
#include <memory>
#include <utility>

#include "benchmarks/support/roof.hpp"
#include "lora/base/packed.hpp"

namespace {

using lora::Index;
using lora::Matrix;

#ifdef LORA_SWEEP_DOUBLE
using Scalar = double;
#else
using Scalar = float;
#endif

struct Samples {
  Matrix<Scalar> x, y, dy, dx;
};

const lora::Packed<Scalar>& weight(Index d) {
  static std::map<Index, std::unique_ptr<lora::Packed<Scalar>>> weights;
  auto& held = weights[d];
  if (held == nullptr) held = std::make_unique<lora::Packed<Scalar>>(Matrix<Scalar>(Matrix<Scalar>::Random(d, d)));
  return *held;
}

Samples& samples_of(Index d, Index count) {
  static std::map<std::pair<Index, Index>, Samples> all;
  Samples& some = all[{d, count}];
  if (some.x.size() == 0) {
    some.x.setRandom(d, count);
    some.dy.setRandom(d, count);
    some.y.resize(d, count);
    some.dx.resize(d, count);
  }
  return some;
}

/// Of this thread: what other programs take does not count.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

extern "C" {

int registers() { return lora::detail::Simd<Scalar>::registers; }
int bytes_of_packet() { return lora::detail::Simd<Scalar>::lanes * static_cast<int>(sizeof(Scalar)); }
int is_tight() { return lora::detail::Simd<Scalar>::tight ? 1 : 0; }

/// Multiply-adds per second, times two, that registers alone reach.
double peak() {
  // measured in float, of which a packet holds sizeof(Scalar) / sizeof(float) times as many
  return benchmarks::multiply_add_peak(5) * sizeof(float) / sizeof(Scalar);
}

/// Processor seconds of y = W0 x, or of dx = W0^T dy, of a d x d weight: the mean of `calls`.
double seconds(int transposed, int d, int count, int calls) {
  const auto& W0 = weight(d);
  Samples& some = samples_of(d, count);
  const auto once = [&] { transposed != 0 ? W0.apply_transposed(some.dy, some.dx) : W0.apply(some.x, some.y); };
  once();
  const double start = processor_seconds();
  for (int k = 0; k < calls; ++k) once();
  return (processor_seconds() - start) / calls;
}
}
