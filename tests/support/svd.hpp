#pragma once
// What of the singular value decomposition costs most to compile, and is compiled once for all tests: the library
// test_svd, of two files so that two processors share the work. Include this in a test that decomposes, also
// indirectly; tests/CMakeLists.txt says which folders link it.

#include "lora/linalg/truncated_svd.hpp"

extern template class lora::ExactSvd<double>;
extern template auto lora::detail::truncated_svd(const DenseOperator<float>&, const SvdOptions&, const Caller&,
                                                 std::string_view) -> TruncatedSvd<float>;
extern template auto lora::detail::truncated_svd(const DenseOperator<double>&, const SvdOptions&, const Caller&,
                                                 std::string_view) -> TruncatedSvd<double>;
