/// The packed weight beside Eigen's products of the same matrix: both directions alone, and a whole training step. Also
/// y = W x of a weight that is not packed, as a layer that is trained in full computes it.
///
///   packed [--out DIR] [--quick] [--size D]
///
/// W0 is d x d, float, the rank 8, one thread. Both ways take turns; times are medians of this thread's processor time.
/// Before a case is timed the results of both must agree. `of peak` is the share of the multiply-adds that registers
/// alone reach in the same run, `of reading` that of the bytes of W0 which a sum over a buffer of its size reads: with
/// few samples that is the limit. Another compiler or kind of processor:
///
///   CXX=clang++ LORA_ARCH=x86-64-v3 benchmarks/run.sh packed

#include <filesystem>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/interleaved.hpp"
#include "benchmarks/support/roof.hpp"
#include "benchmarks/support/trainer.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"

namespace {

using lora::Index;
using lora::Matrix;

constexpr Index rank = 8;

void check_same(const char* what, const Matrix<float>& packed, const Matrix<float>& dense) {
  if ((packed - dense).norm() <= 1e-4F * dense.norm()) return;
  throw std::runtime_error(std::string(what) + " of the packed weight is not that of the plain one");
}

/// Seconds of each, packed and plain.
struct Row {
  double y = 0, plain_y = 0, dx = 0, plain_dx = 0, step = 0, plain_step = 0, unpacked_y = 0;
};

Row measure(const lora::Packed<float>& packed, const lora::Dense<float>& dense, Index samples, lora::Rng& rng,
            const benchmarks::Effort& effort) {
  const Matrix<float> x = benchmarks::random(dense.cols(), samples, rng);
  const Matrix<float> dy = benchmarks::random(dense.rows(), samples, rng);
  Matrix<float> y(dense.rows(), samples), plain_y = y, unpacked_y = y, dx(dense.cols(), samples), plain_dx = dx;
  benchmarks::Trainer<lora::Packed<float>> trainer(packed, rank, x, dy, rng);
  benchmarks::Trainer<lora::Dense<float>> plain_trainer(dense, rank, x, dy, rng);
  const std::vector<std::function<void()>> ways = {[&] { packed.apply(x, y); },
                                                   [&] { dense.apply(x, plain_y); },
                                                   [&] { packed.apply_transposed(dy, dx); },
                                                   [&] { dense.apply_transposed(dy, plain_dx); },
                                                   [&] { trainer.step(); },
                                                   [&] { plain_trainer.step(); },
                                                   [&] { packed.multiply(dense.dense(), x, unpacked_y); }};
  for (const auto& way : ways) way();
  check_same("y", y, plain_y);
  check_same("dx", dx, plain_dx);
  if (unpacked_y != y) throw std::runtime_error("a weight that is not packed gives other bits");
  check_same("the y of a step", trainer.y(), plain_trainer.y());
  check_same("the dx of a step", trainer.dx(), plain_trainer.dx());
  const auto seconds = benchmarks::measure(ways, effort);
  return {seconds[0].median, seconds[1].median, seconds[2].median, seconds[3].median,
          seconds[4].median, seconds[5].median, seconds[6].median};
}

void run(const std::filesystem::path& out, bool quick, Index size) {
  const benchmarks::Effort effort = {.repetitions = quick ? 3 : 9, .seconds = quick ? 1e-3 : 1e-2};
  lora::Rng rng(1);
  nlohmann::ordered_json json;
  examples::Table table({"d", "samples", "step, us", "Eigen / packed", "of peak", "y: Eigen / packed", "of peak",
                         "of reading", "dx: Eigen / packed", "of peak", "of reading", "not packed: Eigen / ours"});
  std::vector<Index> sizes = quick ? std::vector<Index>{64} : std::vector<Index>{64, 256, 768, 1024, 2048, 4096};
  if (size > 0) sizes = {size};
  for (const Index d : sizes) {
    const Matrix<float> W0 = benchmarks::random(d, d, rng, 0.02F);
    const lora::Dense<float> dense(W0);
    const lora::Packed<float> packed(W0);
    for (const Index samples : quick ? std::vector<Index>{1, 32} : std::vector<Index>{1, 8, 32, 128, 512}) {
      const Row row = measure(packed, dense, samples, rng, effort);
      const double peak = benchmarks::multiply_add_peak();
      const double reading = benchmarks::read_bandwidth(static_cast<std::size_t>(packed.bytes()));
      const auto product = static_cast<double>(2 * d * d * samples);
      const double step_share = benchmarks::step_operations(d, d, rank, samples) / row.step / peak;
      const auto bytes = static_cast<double>(packed.bytes());
      const auto share = [](double part) { return examples::percent(part, 0); };
      table.add({std::to_string(d), std::to_string(samples), examples::significant(1e6 * row.step, 3),
                 examples::fixed(row.plain_step / row.step, 2), share(step_share),
                 examples::fixed(row.plain_y / row.y, 2), share(product / row.y / peak), share(bytes / row.y / reading),
                 examples::fixed(row.plain_dx / row.dx, 2), share(product / row.dx / peak),
                 share(bytes / row.dx / reading), examples::fixed(row.plain_y / row.unpacked_y, 2)});
      const std::string key = "d" + std::to_string(d) + "_n" + std::to_string(samples) + "_";
      json[key + "step_us"] = 1e6 * row.step;
      json[key + "step_ratio"] = row.plain_step / row.step;
      json[key + "share_of_peak"] = step_share;
      json[key + "peak_gflops"] = peak / 1e9;
      json[key + "y_ratio"] = row.plain_y / row.y;
      json[key + "y_share_of_peak"] = product / row.y / peak;
      json[key + "dx_ratio"] = row.plain_dx / row.dx;
      json[key + "dx_share_of_peak"] = product / row.dx / peak;
      json[key + "unpacked_y_ratio"] = row.plain_y / row.unpacked_y;
      json[key + "y_share_of_reading"] = bytes / row.y / reading;
      json[key + "dx_share_of_reading"] = bytes / row.dx / reading;
    }
  }
  std::cout << "A packed weight beside Eigen's products, float, rank " << rank << ", packets of "
            << lora::detail::Simd<float>::lanes << "\n\n"
            << table.text();
  if (out.empty()) return;
  examples::write_file(out / "packed.json", json.dump(2) + "\n");
  std::cout << "\nWrote packed.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  Index size = 0;
  examples::Program program("packed", "A packed weight beside Eigen's products of the same matrix.");
  program.add_option("--out", out, "folder for packed.json; without it none is written");
  program.add_flag("--quick", quick, "few cases and repetitions, to see that everything runs");
  program.add_option("--size", size, "d, if not those of the table")->check(examples::not_negative);
  benchmarks::initialize(argc, argv);
  return program.run(argc, argv, [&] { run(out, quick, size); });
}
