#pragma once
/// The result of a law: what was checked, its error, and the bound of the error.
///
/// The headers in this folder check what every layer, adapter or frozen base must satisfy. They need no test framework:
/// each check returns LawResults, to be asserted with any framework.
///
///   for (const auto& result : lora::testing::adapter_laws(layer, x)) {
///     INFO(result);
///     CHECK(result.passed);
///   }

#include "lora/core/scalar.hpp"

#include <cmath>
#include <limits>
#include <ostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::testing {

/// passed is error <= bound, and that there was something to check. A NaN never passes. detail says where the error is.
struct LawResult {
  std::string law;
  bool passed = false;
  double error = 0;
  double bound = 0;
  std::string detail;
  bool vacuous = false;  ///< everything that the law compares was zero, so that it would hold for anything
};

using LawResults = std::vector<LawResult>;

inline std::ostream& operator<<(std::ostream& out, const LawResult& result) {
  const char* verdict = result.passed ? "kept:   " : result.vacuous ? "NOTHING CHECKED: " : "BROKEN: ";
  out << verdict << result.law;
  if (!result.vacuous) out << " (error " << result.error << ", bound " << result.bound << ")";
  if (!result.detail.empty()) out << ": " << result.detail;
  return out;
}

inline LawResult judge(std::string law, double error, double bound, std::string detail = {}) {
  return {std::move(law), error <= bound, error, bound, std::move(detail)};
}

/// The result of a law that compared only zeros. `what` was zero.
inline LawResult nothing_checked(std::string law, const std::string& what, double bound) {
  return {std::move(law),
          false,
          0,
          bound,
          what + " is zero throughout, nothing was checked: give every parameter a generic value (fill_parameters)",
          true};
}

inline bool all_passed(const LawResults& results) {
  for (const LawResult& result : results) {
    if (!result.passed) return false;
  }
  return !results.empty();
}

inline void append(LawResults& results, LawResults more) {
  for (LawResult& result : more) results.push_back(std::move(result));
}

/// Two matrices must have the same size and the same bits; values that compare equal but differ, such as 0 and -0,
/// fail. error is the number of entries that differ.
template <class Given, class Expected>
LawResult same_bits(std::string law, const Eigen::MatrixBase<Given>& given,
                    const Eigen::MatrixBase<Expected>& expected) {
  static_assert(std::is_same_v<typename Given::Scalar, typename Expected::Scalar>);
  std::ostringstream detail;
  if (given.rows() != expected.rows() || given.cols() != expected.cols()) {
    detail << "the size is " << given.rows() << " x " << given.cols() << ", expected " << expected.rows() << " x "
           << expected.cols();
    return judge(std::move(law), std::numeric_limits<double>::infinity(), 0, detail.str());
  }
  Index differing = 0;
  for (Index j = 0; j < given.cols(); ++j) {
    for (Index i = 0; i < given.rows(); ++i) {
      const auto a = given.derived().coeff(i, j);
      const auto b = expected.derived().coeff(i, j);
      if (a == b && std::signbit(a) == std::signbit(b)) continue;
      if (differing++ == 0) detail << "first at (" << i << ", " << j << "): " << a << ", expected " << b;
    }
  }
  return judge(std::move(law), static_cast<double>(differing), 0, detail.str());
}

}  // namespace lora::inline LORA_ABI::testing
