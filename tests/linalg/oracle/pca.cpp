/// Reads data, finds principal components, writes what came out. pca_oracle.py runs it and judges.
///
///   pca INPUT OUTPUT
///
/// Input, all little-endian and column-major, until the file ends: int64 method (0 exact, 1 randomized), features,
/// samples, rank, then features * samples doubles. Output for each, as doubles: mean (features), components (features,
/// rank), explained variance and its ratio (rank each), transformed and whitened data (rank, samples each), what
/// inverse_transform and inverse_whiten make of these (features, samples each).

#include "lora/linalg/factorizations/pca.hpp"
#include "support/svd.hpp"

#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: pca INPUT OUTPUT\n";
    return 2;
  }
  std::ifstream input(argv[1], std::ios::binary);
  std::ofstream output(argv[2], std::ios::binary);
  const auto write = [&](const Eigen::MatrixXd& values) {
    output.write(reinterpret_cast<const char*>(values.data()),
                 values.size() * static_cast<std::streamsize>(sizeof(double)));
  };
  std::array<std::int64_t, 4> head{};
  while (input.read(reinterpret_cast<char*>(head.data()), sizeof head)) {
    const auto [method, features, samples, rank] = head;
    Eigen::MatrixXd X(features, samples);
    input.read(reinterpret_cast<char*>(X.data()), X.size() * static_cast<std::streamsize>(sizeof(double)));
    const auto found =
        lora::pca(X, {.rank = rank, .method = method == 0 ? lora::SvdMethod::exact : lora::SvdMethod::randomized});
    const Eigen::MatrixXd Z = found.transform(X);
    const Eigen::MatrixXd white = found.whiten(X);
    for (const Eigen::MatrixXd& values :
         {Eigen::MatrixXd(found.mean), Eigen::MatrixXd(found.components), Eigen::MatrixXd(found.explained_variance),
          Eigen::MatrixXd(found.explained_variance_ratio), Z, white, Eigen::MatrixXd(found.inverse_transform(Z)),
          Eigen::MatrixXd(found.inverse_whiten(white))}) {
      write(values);
    }
  }
  return output.good() ? 0 : 1;
}
