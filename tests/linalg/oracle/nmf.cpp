/// Reads non-negative matrices with a start, factorizes each, writes what came out. nmf_oracle.py compiles and runs it,
/// and judges.
///
///   nmf REQUESTS RESULTS      REQUESTS: a pipe or file, RESULTS: likewise; one answer for each request, at once
///
/// A request, all little-endian and column-major: int64 is_float, loss (0 Frobenius, 1 Kullback-Leibler), sweeps,
/// max_iterations, m, n, k, double tolerance, then X, W0, H0 as doubles. An answer: int64 iterations, converged, double
/// loss, residual, seconds, then W and H as doubles.

#include "lora/linalg/factorizations/nmf.hpp"
#include "support/svd.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>

namespace {

Eigen::MatrixXd read(std::istream& input, Eigen::Index rows, Eigen::Index cols) {
  Eigen::MatrixXd matrix(rows, cols);
  input.read(reinterpret_cast<char*>(matrix.data()), matrix.size() * static_cast<std::streamsize>(sizeof(double)));
  return matrix;
}

void write(std::ostream& output, const auto* values, Eigen::Index count) {
  output.write(reinterpret_cast<const char*>(values), count * static_cast<std::streamsize>(sizeof *values));
}

template <class S>
void run(const Eigen::MatrixXd& X0, const lora::NmfOptions& options, const Eigen::MatrixXd& W0,
         const Eigen::MatrixXd& H0, std::ostream& output) {
  const lora::Matrix<S> X = X0.cast<S>(), W = W0.cast<S>(), H = H0.cast<S>();
  const auto begin = std::chrono::steady_clock::now();
  const auto found = lora::nmf(X, options, W, H);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  const std::array<std::int64_t, 2> head = {found.iterations, found.converged};
  const std::array<double, 3> figures = {found.loss, found.residual, time.count()};
  const Eigen::MatrixXd W1 = found.W.template cast<double>(), H1 = found.H.template cast<double>();
  write(output, head.data(), 2);
  write(output, figures.data(), 3);
  write(output, W1.data(), W1.size());
  write(output, H1.data(), H1.size());
  output.flush();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: nmf REQUESTS RESULTS\n";
    return 2;
  }
  std::ifstream input(argv[1], std::ios::binary);
  std::ofstream output(argv[2], std::ios::binary);
  std::array<std::int64_t, 7> head{};
  while (input.read(reinterpret_cast<char*>(head.data()), sizeof head)) {
    const auto [is_float, loss, sweeps, max_iterations, m, n, k] = head;
    const double tolerance = read(input, 1, 1)(0, 0);
    const Eigen::MatrixXd X = read(input, m, n), W0 = read(input, m, k), H0 = read(input, k, n);
    const lora::NmfOptions options{.rank = k,
                                   .loss = loss == 0 ? lora::NmfLoss::frobenius : lora::NmfLoss::kullback_leibler,
                                   .tolerance = tolerance,
                                   .max_iterations = static_cast<int>(max_iterations),
                                   .sweeps = static_cast<int>(sweeps)};
    if (is_float != 0) {
      run<float>(X, options, W0, H0, output);
    } else {
      run<double>(X, options, W0, H0, output);
    }
  }
  return output.good() ? 0 : 1;
}
