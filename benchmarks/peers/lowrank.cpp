/// This library as peers/lowrank.py calls it: matrices by address, row-major as NumPy and PyTorch hold them.
///
/// Every function returns 0, or 1 after printing what was thrown. certificate: Frobenius error, spectral error, norm.

#include "benchmarks/peers/run.hpp"
#include "lora/linalg/factorizations/nmf.hpp"
#include "lora/linalg/factorizations/pca.hpp"
#include "lora/linalg/truncated_svd.hpp"
#include "lora/model/surgery.hpp"

#include <vector>

namespace {

using lora::Index;
using peers::run;
template <class S>
using Given = Eigen::Map<const lora::RowMajorMatrix<S>>;
template <class S>
using Result = Eigen::Map<lora::RowMajorMatrix<S>>;

void write(const lora::Certificate& certificate, double* to) {
  to[0] = certificate.frobenius_error;
  to[1] = certificate.spectral_error;
  to[2] = certificate.frobenius_norm;
}

template <class S>
int svd(const S* A, Index rows, Index cols, Index rank, bool randomized, S* U, S* sigma, S* V, double* certificate) {
  return run([&] {
    const auto method = randomized ? lora::SvdMethod::randomized : lora::SvdMethod::exact;
    const auto found = lora::truncated_svd(Given<S>(A, rows, cols), {.rank = rank, .method = method});
    Result<S>(U, rows, rank) = found.U;
    Result<S>(sigma, rank, 1) = found.singular_values;
    Result<S>(V, cols, rank) = found.V;
    write(found.certificate, certificate);
  });
}

lora::Lora<float> adapter(const float* B, const float* A, Index out, Index in, Index rank, double alpha) {
  lora::Rng unused(0);
  lora::Lora<float> made(out, in, {.rank = rank, .alpha = alpha}, unused);
  made.B.value = Given<float>(B, out, rank);
  made.A.value = Given<float>(A, rank, in);
  return made;
}

}  // namespace

extern "C" {

int truncated_svd_float(const float* A, Index rows, Index cols, Index rank, Index randomized, float* U, float* sigma,
                        float* V, double* certificate) {
  return svd(A, rows, cols, rank, randomized != 0, U, sigma, V, certificate);
}

int truncated_svd_double(const double* A, Index rows, Index cols, Index rank, Index randomized, double* U,
                         double* sigma, double* V, double* certificate) {
  return svd(A, rows, cols, rank, randomized != 0, U, sigma, V, certificate);
}

/// An adapter of scale 1, (out, from) and (from, in), cut down to (out, to) and (to, in).
int resize(const float* B, const float* A, Index out, Index in, Index from, Index to, float* new_B, float* new_A,
           double* certificate) {
  return run([&] {
    const auto found = lora::resize(adapter(B, A, out, in, from, static_cast<double>(from)), {.rank = to});
    Result<float>(new_B, out, to) = found.adapter.B.value;
    Result<float>(new_A, to, in) = found.adapter.A.value;
    write(found.certificate, certificate);
  });
}

/// The delta of the weighted sum of two adapters of the same rank and alpha: exact for rank 0, else the nearest of that
/// rank.
int combine(const float* B1, const float* A1, const float* B2, const float* A2, Index out, Index in, Index rank,
            double alpha, double weight1, double weight2, Index to, float* delta) {
  return run([&] {
    const lora::Lora<float> first = adapter(B1, A1, out, in, rank, alpha);
    const lora::Lora<float> second = adapter(B2, A2, out, in, rank, alpha);
    const std::vector<lora::WeightedLora<float>> terms = {{first, weight1}, {second, weight2}};
    const lora::Lora<float> sum = to == 0 ? lora::combine(terms) : lora::combine(terms, {.rank = to}).adapter;
    Result<float>(delta, out, in) = sum.scale() * sum.B.value * sum.A.value;
  });
}

/// Exact principal components of X (samples, features), which is this library's (features, samples): components (rank,
/// features), and of as many their variances.
int pca(const double* X, Index samples, Index features, Index rank, double* components, double* variance) {
  return run([&] {
    const Eigen::Map<const lora::Matrix<double>> columns(X, features, samples);
    const auto found = lora::pca(columns, {.rank = rank, .method = lora::SvdMethod::exact});
    Result<double>(components, rank, features) = found.components.transpose();
    Result<double>(variance, rank, 1) = found.explained_variance;
  });
}

/// X (samples, features), which is this library's (features, samples), as H^T W^T from a start that W (features, rank)
/// and H (rank, samples), both column by column, hold and are replaced in. summary: loss, iterations, converged.
int nmf(const double* X, Index samples, Index features, Index rank, double tolerance, Index max_iterations, double* W,
        double* H, double* summary) {
  return run([&] {
    const Eigen::Map<const lora::Matrix<double>> columns(X, features, samples);
    Eigen::Map<lora::Matrix<double>> parts(W, features, rank), amounts(H, rank, samples);
    const auto found =
        lora::nmf(columns, {.rank = rank, .tolerance = tolerance, .max_iterations = static_cast<int>(max_iterations)},
                  parts, amounts);
    parts = found.W;
    amounts = found.H;
    summary[0] = found.loss;
    summary[1] = found.iterations;
    summary[2] = found.converged ? 1 : 0;
  });
}

}  // extern "C"
