/// Reads matrices, truncates each, writes what came out. svd_oracle.py runs it and judges.
///
///   truncate INPUT OUTPUT
///
/// Input, all little-endian and column-major, until the file ends: int64 is_float, method (0 exact, 1 randomized),
/// rows, cols, rank, then rows * cols doubles. Output for each: int64 converged, then as doubles U, sigma, V,
/// frobenius_error, spectral_error, frobenius_norm.

#include "lora/linalg/truncated_svd.hpp"
#include "support/svd.hpp"

#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>

namespace {

template <class S>
void run(const Eigen::MatrixXd& A, const lora::SvdOptions& options, std::ofstream& output) {
  const auto svd = lora::truncated_svd(A.cast<S>(), options);
  const auto write = [&](const Eigen::MatrixXd& values) {
    output.write(reinterpret_cast<const char*>(values.data()),
                 values.size() * static_cast<std::streamsize>(sizeof(double)));
  };
  const std::int64_t converged = svd.converged;
  output.write(reinterpret_cast<const char*>(&converged), sizeof converged);
  write(svd.U.template cast<double>());
  write(svd.singular_values.template cast<double>());
  write(svd.V.template cast<double>());
  write(
      Eigen::Vector3d(svd.certificate.frobenius_error, svd.certificate.spectral_error, svd.certificate.frobenius_norm));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: truncate INPUT OUTPUT\n";
    return 2;
  }
  std::ifstream input(argv[1], std::ios::binary);
  std::ofstream output(argv[2], std::ios::binary);
  std::array<std::int64_t, 5> head{};
  while (input.read(reinterpret_cast<char*>(head.data()), sizeof head)) {
    const auto [is_float, method, rows, cols, rank] = head;
    Eigen::MatrixXd A(rows, cols);
    input.read(reinterpret_cast<char*>(A.data()), A.size() * static_cast<std::streamsize>(sizeof(double)));
    const lora::SvdOptions options{.rank = rank,
                                   .method = method == 0 ? lora::SvdMethod::exact : lora::SvdMethod::randomized};
    if (is_float != 0) {
      run<float>(A, options, output);
    } else {
      run<double>(A, options, output);
    }
  }
  return output.good() ? 0 : 1;
}
