#pragma once
// Non-negative factorization, compiled once for the tests of it; see svd.hpp.

#include "lora/linalg/factorizations/nmf.hpp"
#include "support/svd.hpp"

#define LORA_TEST_NMF(INSTANCE, S)                                                                            \
  INSTANCE lora::Nmf<S> lora::detail::nmf(const lora::detail::MatrixView<S>&, S, lora::detail::NmfFactors<S>, \
                                          const lora::NmfOptions&);                                           \
  INSTANCE lora::detail::NmfFactors<S> lora::detail::nndsvd_start(                                            \
      const lora::detail::MatrixView<S>&, S, const lora::NmfOptions&, const lora::detail::Caller&);

LORA_TEST_NMF(extern template, float)
LORA_TEST_NMF(extern template, double)
