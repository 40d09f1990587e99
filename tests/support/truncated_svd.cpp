#include "support/svd.hpp"

template auto lora::detail::truncated_svd(const DenseOperator<float>&, const SvdOptions&, const Caller&,
                                          std::string_view) -> TruncatedSvd<float>;
template auto lora::detail::truncated_svd(const DenseOperator<double>&, const SvdOptions&, const Caller&,
                                          std::string_view) -> TruncatedSvd<double>;
