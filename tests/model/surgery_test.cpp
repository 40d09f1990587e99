#include "lora/model/surgery.hpp"

#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/svd.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

using lora::Index;
using lora::Lora;

namespace {

template <class S>
Lora<S> random_adapter(Index out, Index rank, Index in, double alpha, lora::Scaling scaling, std::uint64_t seed) {
  lora::Rng rng(seed);
  Lora<S> adapter(out, in, {.rank = rank, .alpha = alpha, .scaling = scaling}, rng);
  lora::fill_normal(adapter.A.value, 1, rng);
  lora::fill_normal(adapter.B.value, 1, rng);
  return adapter;
}

template <class S>
Eigen::MatrixXd delta(const Lora<S>& adapter) {
  return static_cast<double>(adapter.scale()) * adapter.B.value.template cast<double>() *
         adapter.A.value.template cast<double>();
}

template <class E>
std::string message(auto&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

constexpr auto over_rank = lora::Scaling::alpha_over_rank;
constexpr auto over_root = lora::Scaling::alpha_over_sqrt_rank;

}  // namespace

TEMPLATE_TEST_CASE("surgery: resize loses what the dense truncation loses, and says how much", "", float, double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;
  auto adapter = random_adapter<S>(30, 8, 20, 12, over_root, 1);
  adapter.dropout.probability = 0.25;
  const Eigen::MatrixXd before = delta(adapter);
  const auto best = lora::truncated_svd(before, {.rank = 3});
  const auto resized = lora::resize(adapter, {.rank = 3});
  CHECK(resized.converged);
  CHECK(resized.adapter.rank() == 3);
  CHECK(resized.adapter.scale() == S(1));
  CHECK(resized.adapter.dropout.probability == 0.25);
  CHECK(resized.adapter.dropout.stream == adapter.dropout.stream);
  CHECK((delta(resized.adapter) - best.matrix()).norm() <= tolerance * before.norm());
  CHECK(std::abs(resized.certificate.frobenius_error - (before - delta(resized.adapter)).norm()) <=
        tolerance * before.norm());
  CHECK(resized.certificate.frobenius_error == Approx(best.certificate.frobenius_error).epsilon(1e-5));
  CHECK((resized.singular_values - best.singular_values).norm() <= tolerance * before.norm());
  CHECK(resized.effective_rank_before == Approx(lora::effective_rank(best.spectrum)).epsilon(1e-4));
  CHECK(resized.effective_rank_before > resized.effective_rank_after);
  CHECK(resized.effective_rank_after <= 3);
  CHECK(lora::resize(adapter, {.energy = 0.8}).certificate.energy() >= 0.8);
  CHECK(lora::resize(adapter, {.error = 0.5}).certificate.relative_error() <= 0.5);
  // to its own rank: nothing is lost
  const auto same = lora::resize(adapter, {.rank = 8});
  CHECK((delta(same.adapter) - before).norm() <= tolerance * before.norm());
  CHECK(same.certificate.frobenius_error <= tolerance * before.norm());
}

TEMPLATE_TEST_CASE("surgery: combine is the weighted sum, of any ranks and scales, without cross terms", "", float,
                   double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 1e-6 : 1e-15;
  const auto first = random_adapter<S>(9, 2, 7, 16, over_rank, 2);
  const auto second = random_adapter<S>(9, 5, 7, 3, over_root, 3);
  const auto third = random_adapter<S>(9, 1, 7, 1, over_rank, 4);
  const Eigen::MatrixXd wanted = 0.7 * delta(first) - 0.4 * delta(second) + 2 * delta(third);
  const Lora<S> sum = lora::combine<S>({{first, 0.7}, {second, -0.4}, {third, 2}});
  CHECK(sum.rank() == 8);
  CHECK((delta(sum) - wanted).norm() <= tolerance * wanted.norm());
  const auto cut = lora::combine<S>({{first, 0.7}, {second, -0.4}, {third, 2}}, {.rank = 4});
  const auto best = lora::truncated_svd(wanted, {.rank = 4});
  CHECK(cut.adapter.rank() == 4);
  CHECK((delta(cut.adapter) - best.matrix()).norm() <= 10 * tolerance * wanted.norm());
  CHECK(cut.certificate.frobenius_error == Approx(best.certificate.frobenius_error).epsilon(1e-5));
}

TEST_CASE("surgery: combine of one adapter with weight 1 is the identity, to the bit") {
  const auto adapter = random_adapter<float>(9, 3, 7, 5, over_root, 5);
  const auto same = lora::combine<float>({{adapter, 1}});
  CHECK(same.A.value == adapter.A.value);
  CHECK(same.B.value == adapter.B.value);
  CHECK(same.scale() == adapter.scale());
  // equal factors throughout are folded too
  const auto twice = lora::combine<float>({{adapter, 0.5}, {adapter, 0.5}});
  CHECK((delta(twice) - delta(adapter)).norm() <= 1e-6 * delta(adapter).norm());
}

TEMPLATE_TEST_CASE("surgery: extract finds the adapter that a weight was merged with", "", float, double) {
  using S = TestType;
  lora::Rng rng(6);
  lora::Matrix<S> before(24, 300);
  lora::fill_normal(before, 1, rng);
  const auto adapter = random_adapter<S>(24, 3, 300, 0.03, over_rank, 7);
  const lora::RowMajorMatrix<S> after = (before.template cast<double>() + delta(adapter)).template cast<S>();
  const Eigen::MatrixXd change = after.template cast<double>() - before.template cast<double>();
  for (const auto method : {lora::SvdMethod::exact, lora::SvdMethod::randomized}) {
    const auto found = lora::extract(before, after, {.rank = 3, .method = method});
    CHECK(found.method == method);
    CHECK(std::abs((delta(found.adapter) - change).norm() - found.certificate.frobenius_error) <=
          4 * static_cast<double>(std::numeric_limits<S>::epsilon()) * change.norm());
    CHECK(found.certificate.relative_error() <= (std::is_same_v<S, float> ? 2e-5 : 1e-13));
    CHECK(found.effective_rank_after <= 3);
  }
}

TEMPLATE_TEST_CASE("surgery: norms, distances, overlaps and sums of adapters, without their products", "", float,
                   double) {
  using S = TestType;
  const double tolerance = std::is_same_v<S, float> ? 2e-6 : 1e-14;
  const auto first = random_adapter<S>(12, 3, 9, 5, over_root, 10);
  const auto second = random_adapter<S>(12, 2, 9, 4, over_rank, 11);
  const Eigen::MatrixXd M = delta(first), N = delta(second);
  const auto m = lora::delta_of(first);
  const auto n = lora::delta_of(second);
  CHECK(lora::norm(m) == Approx(M.norm()).epsilon(tolerance));
  CHECK((lora::singular_values(m) - lora::singular_values(M).head(3)).norm() <= tolerance * M.norm());
  CHECK(std::abs(lora::inner_product(m, n) - M.cwiseProduct(N).sum()) <= tolerance * M.norm() * N.norm());
  CHECK(lora::distance(m, n) == Approx((M - N).norm()).epsilon(tolerance));
  CHECK((lora::balanced(m).matrix().template cast<double>() - M).norm() <= tolerance * M.norm());
  const auto U = lora::truncated_svd(M, {.rank = 2}).U, V = lora::truncated_svd(N, {.rank = 1}).U;
  CHECK(std::abs(lora::subspace_overlap(m, n, 2, 1, lora::Side::left) - (U.transpose() * V).squaredNorm()) <=
        10 * tolerance);
  CHECK((lora::weighted_sum<S>({{m, 2}, {n, -1}}).matrix().template cast<double>() - (2 * M - N)).norm() <=
        tolerance * (2 * M - N).norm());
}

TEMPLATE_TEST_CASE("surgery: resize needs at most twice the memory of the factors more", "", float, double) {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  using S = TestType;
  // at a sixteenth of the width, as 4096 to 256; the product alone would be 8 times the factors
  const auto adapter = random_adapter<S>(1024, 64, 1024, 64, over_rank, 12);
  const auto factors = static_cast<std::ptrdiff_t>(2 * 1024 * 64 * sizeof(S));
  Index rank = 0;
  const std::ptrdiff_t peak =
      lora_test::heap_peak_in([&] { rank = lora::resize(adapter, {.rank = 16}).adapter.rank(); });
  CHECK(rank == 16);
  CHECK(peak <= 2 * factors);
  CHECK(peak > factors);  // the two QR decompositions: otherwise nothing was measured
}

TEST_CASE("field, awkward: one rank for layers of all sizes is clamped to what a layer can have, and reported") {
  const auto adapter = random_adapter<double>(9, 3, 7, 5, over_rank, 8),
             second = random_adapter<double>(9, 2, 7, 5, over_rank, 9);
  const auto wide = lora::resize(adapter, {.rank = 64});
  CHECK(wide.clamped);
  CHECK(wide.adapter.rank() == 3);
  CHECK((delta(wide.adapter) - delta(adapter)).norm() <= 1e-14 * delta(adapter).norm());
  CHECK_FALSE(lora::resize(adapter, {.rank = 3}).clamped);
  CHECK_FALSE(lora::resize(adapter, {.energy = 1.0}).clamped);
  const auto sum = lora::combine<double>({{adapter, 1}, {second, 1}}, {.rank = 6});
  CHECK(sum.clamped);
  CHECK(sum.adapter.rank() == 5);
  const Eigen::MatrixXd before = Eigen::MatrixXd::Zero(9, 7), after = delta(adapter);
  for (const auto method : {lora::SvdMethod::automatic, lora::SvdMethod::exact, lora::SvdMethod::randomized}) {
    const auto whole = lora::extract(before, after, {.rank = 64, .method = method});
    CHECK(whole.clamped);
    CHECK(whole.adapter.rank() == 7);
    CHECK((delta(whole.adapter) - after).norm() <= 1e-14 * after.norm());
    CHECK_FALSE(lora::extract(before, after, {.rank = 7, .method = method}).clamped);
  }
  CHECK(message<lora::ConfigError>([&] { lora::extract(before, after, {.rank = -1}); }) ==
        "extract: rank is -1, expected 1 to 7");
  CHECK(message<lora::ConfigError>([&] { lora::truncated_svd(after, {.rank = 8}); }) ==
        "truncated_svd: rank is 8, expected 1 to 7");  // a decomposition of one matrix is asked for what it can give
}

TEST_CASE("surgery: what it refuses, and how it says so") {
  auto adapter = random_adapter<double>(9, 3, 7, 5, over_rank, 8);
  const auto other = random_adapter<double>(9, 3, 6, 5, over_rank, 9);
  CHECK(message<lora::ConfigError>([&] { lora::resize(adapter, {.rank = 0}); }) ==
        "resize: rank is 0, expected 1 to 3");
  CHECK(message<lora::ShapeError>([&] { lora::combine<double>({{adapter, 1}, {other, 1}}); }) ==
        "combine: term 1 is 9 x 6, expected 9 x 7 as term 0");
  CHECK(message<lora::ConfigError>([&] { lora::combine<double>({}); }) ==
        "combine: there are no terms, expected at least one");
  CHECK(message<lora::ShapeError>([&] {
          lora::extract(Eigen::MatrixXd::Zero(3, 4), Eigen::MatrixXd::Zero(3, 5), {.rank = 1});
        }) == "extract: W_after has 5 columns, expected W_before.cols() = 4");
  Eigen::MatrixXf before = Eigen::MatrixXf::Zero(3, 200), after = before;
  before(2, 130) = 3e38f;
  after(2, 130) = -3e38f;
  CHECK(message<lora::ValueError>([&] { lora::extract(before, after, {.rank = 1}); }) ==
        "extract: (W_after - W_before)(2, 130) is -inf, expected a finite number");
  const auto whole = adapter;
  adapter.B.value(2, 1) = std::nan("");
  CHECK(message<lora::ValueError>([&] { lora::resize(adapter, {.rank = 1}); }) ==
        "resize: B(2, 1) is nan, expected a finite number");
  CHECK(message<lora::ValueError>([&] { lora::combine<double>({{adapter, 1}}); }) ==
        "combine: in term 0, B(2, 1) is nan, expected a finite number");
  for (const bool cut : {false, true}) {
    CHECK(message<lora::ValueError>([&] {
            cut ? void(lora::combine<double>({{whole, 1}, {adapter, 1}}, {.rank = 1}))
                : void(lora::combine<double>({{whole, 1}, {adapter, 1}}));
          }) == "combine: in term 1, B(2, 1) is nan, expected a finite number");
  }
  // equal weights become one scale
  auto large = random_adapter<float>(4, 1, 3, 1, over_rank, 13);
  large.A.value.setConstant(1e20f);
  CHECK(message<lora::ValueError>([&] { lora::combine<float>({{large, 1e25}, {large, 1e25}}); }) ==
        "combine: the weights take an entry of A beyond its scalar's range");
}
