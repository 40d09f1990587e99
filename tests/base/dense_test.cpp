#include "lora/base/dense.hpp"

#include "lora/testing/base_laws.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

#include <memory>

namespace {

using lora::Dense;
using lora::Index;
using lora::testing::random_matrix;
using lora_test::check;

template <class S>
void check_shapes() {
  for (const auto& [out, in] :
       std::vector<std::pair<Index, Index>>{{1, 1}, {1, 9}, {9, 1}, {3, 5}, {16, 17}, {64, 48}, {130, 70}}) {
    for (const Index samples : {1, 7, 64, 130}) {
      CAPTURE(out, in, samples);
      lora::Rng rng(static_cast<std::uint64_t>(out * 1000 + in * 10 + samples));
      check(
          lora::testing::base_laws(Dense<S>(random_matrix<S>(out, in, rng)), samples, out * in * Index(sizeof(S)), 5));
    }
  }
}

/// A base that can fuse: the free functions must pick its own form up.
struct Fused {
  using Scalar = double;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  Dense<double> inner;
  mutable int fused_calls = 0;

  void apply(const auto& x, auto& y, lora::Executor* = nullptr) const { inner.apply(x, y); }
  void apply_transposed(const auto& dy, auto& dx, lora::Executor* = nullptr) const { inner.apply_transposed(dy, dx); }
  void apply(const auto& x, auto& y, const auto& U, const auto& Z, lora::Executor* = nullptr) const {
    ++fused_calls;
    y = U * Z;
    y += inner.dense() * x;
  }
  void apply_transposed(const auto& dy, auto& dx, const auto& U, const auto& Z, lora::Executor* = nullptr) const {
    ++fused_calls;
    dx = U * Z;
    dx += inner.dense().transpose() * dy;
  }
  Index rows() const { return inner.rows(); }
  Index cols() const { return inner.cols(); }
  Index bytes() const { return inner.bytes(); }
  Eigen::MatrixXd columns(Index first, Index count) const { return inner.columns(first, count); }
};
static_assert(lora::FrozenBase<Fused>);

struct NoTranspose {
  using Scalar = double;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  void apply(const auto& x, auto& y, lora::Executor* = nullptr) const { y = x; }
  Index rows() const { return 1; }
  Index cols() const { return 1; }
  Index bytes() const { return 8; }
  Eigen::MatrixXd columns(Index, Index) const { return Eigen::MatrixXd::Ones(1, 1); }
};
static_assert(!lora::FrozenBase<NoTranspose> && !lora::FrozenBase<Eigen::MatrixXd>);

}  // namespace

TEST_CASE("dense: keeps the laws of a base, in double") { check_shapes<double>(); }
TEST_CASE("dense: keeps the laws of a base, in float") { check_shapes<float>(); }

TEST_CASE("dense: keeps the laws with compile-time sizes") {
  lora::Rng rng(1);
  const Eigen::Matrix<double, 3, 5> W0 = random_matrix(3, 5, rng);
  check(lora::testing::base_laws(Dense<double, 3, 5>(W0), 7, 3 * 5 * 8));
  check(lora::testing::base_laws(Dense<float, 3, lora::Dynamic>(random_matrix<float>(3, 4, rng)), 2, 3 * 4 * 4));
}

TEST_CASE("dense: a fused base keeps the laws and is asked for its own form") {
  lora::Rng rng(2);
  const Fused base{Dense<double>(random_matrix(16, 17, rng))};
  check(lora::testing::base_laws(base, 9, 16 * 17 * 8));
  CHECK(base.fused_calls == 2);
}

TEST_CASE("dense: copies share one weight in memory") {
  lora::Rng rng(3);
  const Dense<float> first(random_matrix<float>(20, 30, rng));
  const Dense<float> second = first;  // NOLINT(performance-unnecessary-copy-initialization)
  CHECK(first.dense().data() == second.dense().data());

  const auto shared = std::make_shared<const Eigen::MatrixXf>(Eigen::MatrixXf::Ones(2, 2));
  const Dense<float> third(shared);
  CHECK(third.dense().data() == shared->data());
  CHECK(shared.use_count() == 2);
}

TEST_CASE("dense: a moved matrix is taken over without a copy") {
  Eigen::MatrixXd W0 = Eigen::MatrixXd::Ones(40, 50);
  const double* memory = W0.data();
  const Dense<double> base(std::move(W0));
  CHECK(base.dense().data() == memory);
}

TEST_CASE("dense: with compile-time sizes there is no heap") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  double sum = 0;
  const auto made = lora_test::heap_allocations_in([&] {
    const Eigen::Matrix<double, 3, 5> W0 = Eigen::Matrix<double, 3, 5>::Ones();
    const Dense<double, 3, 5> base(W0);
    const Dense<double, 3, 5> copy = base;
    sum = copy.dense().sum();
  });
  CHECK(made == 0);
  CHECK(sum == 15);
}

TEST_CASE("dense: refuses what is no weight") {
  CHECK_THROWS_WITH(Dense<double>(Eigen::MatrixXd(0, 7)), "Dense: W0 is empty (0 x 7), expected at least 1 x 1");
  CHECK_THROWS_WITH(Dense<double>(Eigen::MatrixXd(7, 0)), "Dense: W0 is empty (7 x 0), expected at least 1 x 1");
  CHECK_THROWS_AS(Dense<double>(Eigen::MatrixXd(0, 0)), lora::ShapeError);
  const Eigen::MatrixXd W0 = Eigen::MatrixXd::Ones(4, 6);
  CHECK_THROWS_WITH((Dense<double, 3, 6>(W0)), "Dense: W0 has 4 rows, expected out_features = 3");
  CHECK_THROWS_WITH((Dense<double, 4, 5>(W0)), "Dense: W0 has 6 columns, expected in_features = 5");
  CHECK_THROWS_AS(Dense<double>(std::shared_ptr<const Eigen::MatrixXd>()), lora::StateError);
  CHECK_THROWS_WITH(Dense<double>(std::shared_ptr<const Eigen::MatrixXd>()),
                    "Dense: W0 is a null pointer, expected a matrix to share");
}
