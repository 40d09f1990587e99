#pragma once
// What of the low-rank algebra costs most to compile, and is compiled once for all tests: the library test_svd, of two
// files so that two processors share the work. Include this in a test that decomposes, also indirectly;
// tests/CMakeLists.txt says which folders link it.

#include "lora/linalg/factored_svd.hpp"
#include "lora/linalg/leading_qr.hpp"
#include "lora/linalg/truncated_svd.hpp"

#define LORA_TEST_SVD(INSTANCE, S)                                                                                  \
  INSTANCE class lora::detail::FewColumns<S>;                                                                       \
  INSTANCE class lora::detail::ThinQr<S>;                                                                           \
  INSTANCE class lora::detail::Compressed<S>;                                                                       \
  INSTANCE lora::TruncatedSvd<S> lora::detail::truncated_svd(                                                       \
      const lora::detail::AnyOperator<S>&, const lora::SvdOptions&, const lora::detail::Caller&, std::string_view); \
  INSTANCE lora::Factors<S> lora::detail::leading_qr(const lora::detail::Caller&, std::string_view,                 \
                                                     const lora::detail::MatrixView<S>&, lora::Index);              \
  INSTANCE lora::Factors<S> lora::detail::concatenated(const lora::detail::Caller&,                                 \
                                                       const std::vector<lora::WeightedFactors<S>>&);               \
  INSTANCE double lora::detail::inner_product(const lora::FactorView<S>&, const lora::FactorView<S>&);

extern template class lora::ExactSvd<double>;
LORA_TEST_SVD(extern template, float)
LORA_TEST_SVD(extern template, double)

namespace lora_test {

/// An orthonormal basis of the columns' span, by Eigen.
Eigen::MatrixXd orthonormal(const Eigen::MatrixXd& columns);

}  // namespace lora_test
