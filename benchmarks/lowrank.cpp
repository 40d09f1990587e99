/// What a matrix of low rank costs, and how near it is: the truncated SVD, and an adapter cut down without its product.
///
///   lowrank [--out DIR] [--quick]
///
/// Peer: Eigen's BDCSVD in float, whose first r singular vectors are the nearest matrix of rank r. One thread;
/// processor time; medians, of 15 repetitions for what is fast and 3 for dense decompositions (one for that of the 4096
/// x 4096 product). Before anything is timed, every certificate is compared with the error of the factors in double; a
/// difference ends the program.

#include <Eigen/SVD>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/interleaved.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/lora.hpp"
#include "lora/model/surgery.hpp"

namespace {

using benchmarks::Effort;
using Eigen::MatrixXd;
using Eigen::MatrixXf;
using Eigen::VectorXd;
using lora::Index;
using lora::SvdMethod;

MatrixXf random_matrix(Index rows, Index cols, lora::Rng& rng) {
  MatrixXf matrix(rows, cols);
  lora::fill_uniform(matrix, 0.5, rng);
  return matrix;
}

/// Q1 diag(sigma) Q2^T with random orthogonal Q1 and Q2.
MatrixXf with_spectrum(const VectorXd& sigma, lora::Rng& rng) {
  const Index n = sigma.size();
  const MatrixXf left = lora::detail::orthonormal<float>(random_matrix(n, n, rng));
  const MatrixXf right = lora::detail::orthonormal<float>(random_matrix(n, n, rng));
  return left * sigma.cast<float>().asDiagonal() * right.transpose();
}

/// Throws unless the certificate is the error of the factors to 1e-5 of the matrix.
void check(const std::string& what, const MatrixXf& A, const lora::TruncatedSvd<float>& svd) {
  const MatrixXd product =
      svd.U.cast<double>() * svd.singular_values.cast<double>().asDiagonal() * svd.V.cast<double>().transpose();
  const double error = (A.cast<double>() - product).norm();
  if (std::abs(error - svd.certificate.frobenius_error) <= 1e-5 * A.cast<double>().norm()) return;
  throw std::runtime_error(what + ": certified error " + examples::significant(svd.certificate.frobenius_error, 8) +
                           ", the factors' is " + examples::significant(error, 8));
}

MatrixXf bdcsvd(const MatrixXf& A, Index rank) {
  const auto svd = lora::detail::divide_and_conquer_svd(A);
  return svd.matrixU().leftCols(rank) * svd.singularValues().head(rank).asDiagonal();
}

std::string milliseconds(double seconds) { return examples::significant(1e3 * seconds, 3); }
std::string times(double ratio) { return examples::significant(ratio, 3) + "x"; }

struct Report {
  nlohmann::ordered_json json;
  bool quick = false;

  double time(const std::string& name, const Effort& effort, const std::function<void()>& function) {
    const auto timing = benchmarks::measure({function}, quick ? Effort{.repetitions = 1, .seconds = 1e-9} : effort)[0];
    json[name + "_seconds"] = timing.median;
    json[name + "_spread"] = timing.spread;
    return timing.median;
  }
};

constexpr Effort fast{};
constexpr Effort slow{.repetitions = 3, .seconds = 1e-9};
constexpr Effort once{.repetitions = 1, .seconds = 1e-9};

void dense(Report& report, Index n) {
  lora::Rng rng(1);
  const MatrixXf A = random_matrix(n, n, rng);
  const std::string size = std::to_string(n);
  const double peer = report.time("bdcsvd_" + size, slow, [&] { bdcsvd(A, 8); });
  const double exact =
      report.time("exact_" + size, slow, [&] { lora::truncated_svd(A, {.rank = 8, .method = SvdMethod::exact}); });
  examples::Table table({"nearest rank-r matrix, " + size + " x " + size, "ms", "BDCSVD / this"});
  table.add({"Eigen BDCSVD, float", milliseconds(peer), "1x"});
  table.add({"exact, verified, in double", milliseconds(exact), times(peer / exact)});
  for (const Index rank : {8, 64}) {
    const lora::SvdOptions options{.rank = rank, .method = SvdMethod::randomized};
    check("randomized", A, lora::truncated_svd(A, options));
    const std::string name = "randomized_" + size + "_rank_" + std::to_string(rank);
    const double seconds = report.time(name, fast, [&] { lora::truncated_svd(A, options); });
    report.json[name + "_speedup"] = peer / seconds;
    table.add(
        {"randomized with certificate, r = " + std::to_string(rank), milliseconds(seconds), times(peer / seconds)});
  }
  std::cout << table.text() << "\n";
}

void accuracy(Report& report, Index n) {
  lora::Rng rng(2);
  examples::Table table(
      {"error / optimum, " + std::to_string(n) + " x " + std::to_string(n), "r", "Frobenius", "spectral bound"});
  const auto add = [&](const std::string& name, const MatrixXf& A, const VectorXd& sigma) {
    for (const Index rank : {Index(8), n / 32, n / 16, n / 8}) {
      const auto svd = lora::truncated_svd(A, {.rank = rank, .method = SvdMethod::randomized});
      check(name, A, svd);
      const double ratio = svd.certificate.frobenius_error / lora::detail::tail(sigma, rank);
      report.json[name + "_rank_" + std::to_string(rank) + "_ratio"] = ratio;
      table.add({name, std::to_string(rank), examples::fixed(ratio, 5),
                 examples::fixed(svd.certificate.spectral_error / sigma(rank), 2)});
    }
  };
  VectorXd sigma(n);
  for (Index i = 0; i < n; ++i) sigma(i) = std::pow(0.9, static_cast<double>(i)) + 1e-4;
  add("geometric", with_spectrum(sigma, rng), sigma);
  for (Index i = 0; i < n; ++i) sigma(i) = 1 / std::sqrt(static_cast<double>(i + 1));
  add("power_law", with_spectrum(sigma, rng), sigma);
  const MatrixXf flat = random_matrix(n, n, rng);
  add("flat", flat, lora::singular_values(flat));
  std::cout << table.text() << "\n";
}

void resize(Report& report, Index n, Index from, Index to) {
  lora::Rng rng(3);
  lora::Lora<float> adapter(n, n, {.rank = from, .alpha = static_cast<double>(from)}, rng);
  lora::fill_uniform(adapter.B.value, 0.5, rng);
  const auto product = [&]() -> MatrixXf { return adapter.scale() * adapter.B.value * adapter.A.value; };
  const auto resized = lora::resize(adapter, {.rank = to});
  const MatrixXf A = product();
  const double error = (A - resized.adapter.B.value * resized.adapter.A.value).cast<double>().norm();
  if (!(std::abs(error - resized.certificate.frobenius_error) <= 1e-5 * A.cast<double>().norm())) {
    throw std::runtime_error("resize: certified error " +
                             examples::significant(resized.certificate.frobenius_error, 8) + ", the factors' is " +
                             examples::significant(error, 8));
  }
  const auto sketched = lora::truncated_svd(A, {.rank = to, .method = SvdMethod::randomized});
  const double ours = report.time("resize", fast, [&] { lora::resize(adapter, {.rank = to}); });
  const double randomized = report.time("resize_dense_randomized", slow, [&] {
    lora::truncated_svd(product(), {.rank = to, .method = SvdMethod::randomized});
  });
  const double peer = report.time("resize_dense_bdcsvd", once, [&] { bdcsvd(product(), to); });
  report.json["resize_speedup"] = peer / ours;
  examples::Table table({"adapter " + std::to_string(n) + " x " + std::to_string(n) + ", rank " + std::to_string(from) +
                             " to " + std::to_string(to),
                         "ms", "BDCSVD / this", "relative error"});
  table.add({"product, Eigen BDCSVD, float", milliseconds(peer), "1x", "the optimum"});
  table.add({"product, randomized", milliseconds(randomized), times(peer / randomized),
             examples::fixed(sketched.certificate.relative_error(), 6)});
  table.add({"resize: exact, no product", milliseconds(ours), times(peer / ours),
             examples::fixed(resized.certificate.relative_error(), 6)});
  std::cout << table.text() << "\n";
}

void run(const std::filesystem::path& out, bool quick) {
  Report report{{}, quick};
  report.json["threads"] = 1;
  report.json["quick"] = quick;
  dense(report, quick ? 256 : 2048);
  accuracy(report, quick ? 256 : 1024);
  if (quick) {
    resize(report, 256, 32, 4);
  } else {
    resize(report, 4096, 256, 16);
  }
  if (out.empty()) return;
  examples::write_file(out / "lowrank.json", report.json.dump(2) + "\n");
  std::cout << "Wrote lowrank.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  benchmarks::initialize(argc, argv);
  examples::Program program("lowrank",
                            "Compares truncated SVDs and the resizing of adapters with dense decompositions.");
  program.add_option("--out", out, "folder for lowrank.json; without it none is written");
  program.add_flag("--quick", quick, "small matrices and one repetition, to see that everything runs");
  return program.run(argc, argv, [&] { run(out, quick); });
}
