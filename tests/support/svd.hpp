#pragma once
// What of the singular value decomposition costs most to compile, and is compiled once for all tests, in svd.cpp.
// Include this in a test that decomposes, also indirectly.

#include "lora/linalg/truncated_svd.hpp"

extern template class lora::ExactSvd<double>;
extern template auto lora::detail::truncated_svd(const DenseOperator<float>&, const SvdOptions&, const Caller&,
                                                 std::string_view) -> TruncatedSvd<float>;
extern template auto lora::detail::truncated_svd(const DenseOperator<double>&, const SvdOptions&, const Caller&,
                                                 std::string_view) -> TruncatedSvd<double>;
