#include "lora/adapters/dropout.hpp"
// Deliberately wrong adapters and bases: each must be caught by the law it breaks, and by no accident kept.

#include "lora/adapters/dropout.hpp"
#include "lora/testing/adapter_laws.hpp"
#include "lora/testing/base_laws.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <memory>

namespace {

using lora::Index;
using lora::Matrix;
using lora::Pass;
using lora::testing::LawResults;
using lora::testing::random_matrix;

enum class Fault {
  none,
  wrong_scale,         ///< dA with s twice
  scale_off_slightly,  ///< dB off by a millionth
  missing_transpose,   ///< dx with W0 instead of W0^T, which a square layer lets pass
  swapped_factors,     ///< dx with B A instead of (B A)^T, likewise
  undropped_input,     ///< dA from x instead of mask .* x
  unmasked_dx,         ///< dx without the mask
  forgotten_base,      ///< dx of the adapter alone
  overwritten,         ///< dA = instead of dA +=
  merge_without_scale,
  not_fresh,  ///< B starts at one
  shared,     ///< copies share B
};

/// LoRA once more, as plainly as possible, with one fault. Square: out = in.
template <class S>
struct Plain {
  using Scalar = S;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  Fault fault;
  lora::Parameter<S> A, B;
  std::shared_ptr<lora::Parameter<S>> common;  // B of every copy, for Fault::shared
  double dropout = 0.5;
  S s = S(0.75);

  template <int>
  struct Kept {
    Matrix<S> mask, z, g, masked;
    Index bytes() const { return 0; }
  };
  template <int>
  struct Scratch {
    Index bytes() const { return 0; }
  };

  Plain(Fault which, Index size, Index rank) : fault(which) {
    lora::Rng rng(4);
    A.value = random_matrix<S>(rank, size, rng);
    B.value = Matrix<S>::Constant(size, rank, S(fault == Fault::not_fresh ? 1 : 0));
    if (fault == Fault::shared) common = std::make_shared<lora::Parameter<S>>(B.value);
  }

  const lora::Parameter<S>& b() const { return fault == Fault::shared ? *common : B; }
  lora::Parameter<S>& b() { return fault == Fault::shared ? *common : B; }

  template <int N>
  void forward(const auto& base, const auto& x, auto& y, Kept<N>& cache, Scratch<N>&, const Pass& pass) const {
    cache.mask.setOnes(x.rows(), x.cols());
    if (pass.training) lora::DropoutMask(dropout, 1, pass).fill(cache.mask, 0);
    cache.masked = cache.mask.cwiseProduct(x);
    cache.z.noalias() = A.value * cache.masked;
    base.apply(x, y);
    y.noalias() += s * b().value * cache.z;
  }

  template <int N>
  void backward(const auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& cache, Scratch<N>&, const Pass&) {
    cache.g.noalias() = s * b().value.transpose() * dy;
    const S twice = fault == Fault::wrong_scale ? s : S(1);
    if (fault == Fault::overwritten) A.gradient().setZero();
    if (fault == Fault::undropped_input) {
      A.gradient().noalias() += cache.g * x.transpose();
    } else {
      A.gradient().noalias() += twice * cache.g * cache.masked.transpose();
    }
    b().gradient().noalias() += s * S(fault == Fault::scale_off_slightly ? 1 + 1e-6 : 1) * dy * cache.z.transpose();
    if constexpr (lora::wants_gradient<decltype(dx)>) {
      if (fault == Fault::swapped_factors) {
        dx.noalias() = s * (b().value * (A.value * dy));
      } else {
        dx.noalias() = A.value.transpose() * cache.g;
      }
      if (fault != Fault::unmasked_dx) dx = cache.mask.cwiseProduct(dx).eval();
      if (fault == Fault::forgotten_base) return;
      if (fault == Fault::missing_transpose) {
        dx += base.dense() * dy;
      } else {
        dx += base.dense().transpose() * dy;
      }
    }
  }

  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto&) const {
    const W factor = fault == Fault::merge_without_scale ? W(1) : W(s);
    block += factor * b().value.template cast<W>() * A.value.middleCols(first, block.cols()).template cast<W>();
  }

  static void visit(auto& self, auto&& f) {
    f("A", self.A);
    f("B", self.b());
  }
};

template <class S>
using Layer = lora::Adapted<lora::Dense<S>, Plain<S>>;

constexpr Index size = 6;

template <class S>
Layer<S> make(Fault fault, bool generic = true) {
  lora::Rng rng(5);
  Layer<S> layer(Matrix<S>(random_matrix<S>(size, size, rng)), Plain<S>(fault, size, 2));
  if (generic) lora::testing::fill_parameters(layer, rng);
  return layer;
}

Matrix<double> input() {
  lora::Rng rng(6);
  return random_matrix(size, 9, rng);
}

/// The laws that were broken, by name.
std::vector<std::string> broken(const LawResults& results) {
  std::vector<std::string> names;
  for (const auto& result : results) {
    if (!result.passed) names.push_back(result.law);
  }
  return names;
}
std::vector<std::string> broken(const lora::testing::LawResult& result) { return broken(LawResults{result}); }

using Names = std::vector<std::string>;
const Pass training{.training = true, .seed = 3};

void check_gradient_faults(Fault fault, const Names& differences, const Names& duals, bool taylor) {
  auto layer = make<double>(fault);
  auto dual = make<lora::testing::Dual>(Fault::none);
  CHECK(broken(lora::testing::check_gradients(layer, input(), {.pass = training})) == differences);
  CHECK(broken(lora::testing::check_dual(layer, dual, input(), {.pass = training})) == duals);
  CHECK(lora::testing::check_taylor(layer, input(), {.pass = training}).passed == taylor);
}

}  // namespace

TEST_CASE("negative controls: the plain adapter without a fault keeps every law") {
  check_gradient_faults(Fault::none, {}, {}, true);
  CHECK(broken(lora::testing::adapter_laws(make<double>(Fault::none), input())).empty());
  CHECK(broken(lora::testing::check_fresh(make<double>(Fault::none, false), input())).empty());
}

TEST_CASE("negative controls: wrong gradients are caught, each in its tensor") {
  const Names A = {"gradient of adapter.A"}, B = {"gradient of adapter.B"}, x = {"gradient of x"};
  const Names dual_A = {"dual derivative of adapter.A"}, dual_B = {"dual derivative of adapter.B"};
  const Names dual_x = {"dual derivative of x"};
  check_gradient_faults(Fault::wrong_scale, A, dual_A, false);
  check_gradient_faults(Fault::scale_off_slightly, B, dual_B, true);  // too little for the remainder to show
  check_gradient_faults(Fault::missing_transpose, x, dual_x, false);
  check_gradient_faults(Fault::swapped_factors, x, dual_x, false);
  check_gradient_faults(Fault::undropped_input, A, dual_A, false);
  check_gradient_faults(Fault::unmasked_dx, x, dual_x, false);
  check_gradient_faults(Fault::forgotten_base, x, dual_x, false);
}

TEST_CASE("negative controls: a fault under dropout shows only with dropout on") {
  for (const Fault fault : {Fault::undropped_input, Fault::unmasked_dx}) {
    auto layer = make<double>(fault);
    CHECK(broken(lora::testing::check_gradients(layer, input())).empty());
  }
}

TEST_CASE("negative controls: the other laws catch their faults") {
  using namespace lora::testing;
  CHECK(broken(check_fresh(make<double>(Fault::not_fresh, false), input())).size() == 3);
  CHECK(broken(check_merged_output(make<double>(Fault::merge_without_scale), input())) == Names{"merge: output"});
  const auto dy = input();
  CHECK(broken(check_accumulates(make<double>(Fault::overwritten), input(), dy)) == Names{"accumulates: adapter.A"});
  CHECK_FALSE(broken(check_copy(make<double>(Fault::shared), input())).empty());
  if (!lora_test::heap_is_counted) return;
  auto plain = make<double>(Fault::none);  // its matrices follow the size of every batch
  CHECK(broken(check_no_heap(plain, input(), dy, lora_test::heap_allocations)) == Names{"no heap"});
}

namespace {

/// A base with one fault.
struct WrongBase {
  using Scalar = double;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  lora::Dense<double> inner;
  bool wrong_apply = false, wrong_transpose = false, adds = false, wrong_fused = false;

  void apply(const auto& x, auto& y, lora::Executor* = nullptr) const {
    if (!adds) y.setZero();
    y += (wrong_apply ? 1.0001 : 1.0) * inner.dense() * x;
  }
  void apply_transposed(const auto& dy, auto& dx, lora::Executor* = nullptr) const {
    if (wrong_transpose) {
      dx = inner.dense() * dy;
    } else {
      dx = inner.dense().transpose() * dy;
    }
  }
  void apply(const auto& x, auto& y, const auto& U, const auto& Z, lora::Executor* = nullptr) const {
    y = inner.dense() * x;
    if (!wrong_fused) y += U * Z;
  }
  Index rows() const { return inner.rows(); }
  Index cols() const { return inner.cols(); }
  Index bytes() const { return inner.bytes(); }
  Eigen::MatrixXd columns(Index first, Index count) const { return inner.columns(first, count); }
};

}  // namespace

TEST_CASE("negative controls: wrong bases are caught") {
  lora::Rng rng(7);
  const lora::Dense<double> W0(random_matrix(size, size, rng));
  const auto laws = [&](const WrongBase& base, Index bytes = size* size* 8) {
    return broken(lora::testing::base_laws(base, 5, bytes));
  };
  const std::string pair = "base: <dy, W0 x> = <W0^T dy, x>";
  CHECK(laws({W0}).empty());
  CHECK(laws({.inner = W0, .wrong_apply = true}) == Names{"base: apply", pair});
  CHECK(laws({.inner = W0, .wrong_transpose = true}) ==
        Names{"base: apply_transposed", pair, "base: fused apply_transposed"});
  CHECK(laws({.inner = W0, .adds = true}) == Names{"base: apply", pair});
  CHECK(laws({.inner = W0, .wrong_fused = true}) == Names{"base: fused apply"});
  CHECK(laws({W0}, 1) == Names{"base: bytes"});
}
