#include "lora/losses/softmax_cross_entropy.hpp"

#include "lora/testing/dual.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

template float lora::softmax_cross_entropy(const Eigen::MatrixBase<Eigen::MatrixXf>&, const lora::Labels&,
                                           Eigen::MatrixXf*, const lora::LossOptions&);
template double lora::softmax_cross_entropy(const Eigen::MatrixBase<Eigen::MatrixXd>&, const lora::Labels&,
                                            Eigen::Map<Eigen::MatrixXd>*, const lora::LossOptions&);
template std::vector<int> lora::predictions(const Eigen::MatrixBase<Eigen::MatrixXf>&);
template std::vector<int> lora::predictions(const Eigen::MatrixBase<Eigen::MatrixXd>&);
template double lora::accuracy(const Eigen::MatrixBase<Eigen::MatrixXf>&, const lora::Labels&, std::int64_t);
template double lora::accuracy(const Eigen::MatrixBase<Eigen::MatrixXd>&, const lora::Labels&, std::int64_t);

namespace {

using Eigen::MatrixXd;
using Eigen::MatrixXf;
using lora::softmax_cross_entropy;
using lora_test::contains;

/// The input of reference.py.
MatrixXd reference_logits() {
  return MatrixXd::NullaryExpr(
      4, 5, [](Eigen::Index i, Eigen::Index j) { return static_cast<double>((9 * i + 5 * j) % 17 - 8) / 3; });
}
const std::vector<int> reference_labels = {1, 0, 3, 2, 3};

double largest_difference(const MatrixXd& a, const MatrixXd& b) { return (a - b).cwiseAbs().maxCoeff(); }

}  // namespace

TEST_CASE("softmax_cross_entropy: loss and derivative are PyTorch's") {
  const MatrixXd logits = reference_logits();
  MatrixXd dlogits;
  const double loss = softmax_cross_entropy(logits, reference_labels, &dlogits);
  CHECK(std::abs(loss - reference::cross_entropy_loss) <= 1e-15 * loss);
  const Eigen::Map<const MatrixXd> expected(reference::cross_entropy_gradient.data(), 4, 5);
  CHECK(largest_difference(dlogits, expected) <= 1e-16);
  CHECK(std::abs(softmax_cross_entropy(logits, reference_labels) - loss) <= 1e-15 * loss);
}

TEST_CASE("softmax_cross_entropy: the derivative is that of the loss") {
  const MatrixXd logits = reference_logits();
  MatrixXd dlogits;
  softmax_cross_entropy(logits, reference_labels, &dlogits);

  SECTION("exactly, by dual numbers") {
    using lora::testing::Dual;
    lora::Matrix<Dual> dual = logits.cast<Dual>();
    for (Eigen::Index k = 0; k < logits.size(); ++k) {
      dual(k).derivative = 1;
      CHECK(std::abs(softmax_cross_entropy(dual, reference_labels).derivative - dlogits(k)) <= 1e-16);
      dual(k).derivative = 0;
    }
  }
  SECTION("by central differences") {
    MatrixXd moved = logits;
    const double h = 1e-5;
    for (Eigen::Index k = 0; k < logits.size(); ++k) {
      moved(k) = logits(k) + h;
      const double above = softmax_cross_entropy(moved, reference_labels);
      moved(k) = logits(k) - h;
      const double below = softmax_cross_entropy(moved, reference_labels);
      moved(k) = logits(k);
      CHECK(std::abs((above - below) / (2 * h) - dlogits(k)) <= 1e-10);
    }
  }
  SECTION("so its columns sum to zero: a shift of all logits of a sample changes nothing") {
    CHECK(dlogits.colwise().sum().cwiseAbs().maxCoeff() <= 1e-16);
    const MatrixXd shifted = logits.rowwise() + Eigen::RowVectorXd::LinSpaced(5, -4, 4);  // exact in binary
    CHECK(std::abs(softmax_cross_entropy(shifted, reference_labels) -
                   softmax_cross_entropy(logits, reference_labels)) <= 1e-15);
  }
}

TEMPLATE_TEST_CASE("softmax_cross_entropy: logits of 1e4 neither overflow nor lose the loss", "", float, double) {
  using S = TestType;
  lora::Matrix<S> logits(3, 2);
  logits << S(1e4), S(-1e4),  //
      S(0), S(1e4),           //
      S(-1e4), S(1e4);
  lora::Matrix<S> dlogits;

  const std::array<int, 2> right = {0, 1};
  CHECK(softmax_cross_entropy(logits, right, &dlogits) == S(std::log(2.0) / 2));
  CHECK(dlogits(0, 0) == 0);
  CHECK(dlogits(1, 1) == S(-0.25));
  CHECK(dlogits(2, 1) == S(0.25));
  CHECK(dlogits(0, 1) <= std::numeric_limits<S>::min());  // exp(-2e4), or the smallest number that Eigen's exp returns

  const std::array<int, 2> wrong = {2, 0};
  CHECK(softmax_cross_entropy(logits, wrong, &dlogits) == S(2e4 + std::log(2.0) / 2));
  CHECK(dlogits(0, 0) == S(0.5));
  CHECK(dlogits(2, 0) == S(-0.5));
}

TEST_CASE("softmax_cross_entropy: a class ruled out by -infinity gets no probability; NaN and +infinity show") {
  const double infinity = std::numeric_limits<double>::infinity();
  MatrixXd logits = MatrixXd::Zero(7, 1);
  const std::array<int, 1> label = {0};
  logits(3) = -infinity;
  CHECK(std::abs(softmax_cross_entropy(logits, label) - std::log(6.0)) <= 1e-15);
  for (Eigen::Index i = 0; i < 7; ++i) {  // each place in a vector register
    for (const double bad : {infinity, std::numeric_limits<double>::quiet_NaN()}) {
      MatrixXd broken = MatrixXd::Zero(7, 1);
      broken(i) = bad;
      CHECK(std::isnan(softmax_cross_entropy(broken, label)));
      const MatrixXf single = broken.cast<float>();
      CHECK(std::isnan(softmax_cross_entropy(single, label)));
    }
  }
}

TEST_CASE("softmax_cross_entropy: the mean over many samples keeps float's precision") {
  const Eigen::Index samples = 100000;
  const MatrixXf logits = MatrixXf::Zero(10, samples);
  const std::vector<int> labels(static_cast<std::size_t>(samples), 3);
  CHECK(softmax_cross_entropy(logits, labels) == std::log(10.0f));
}

TEST_CASE("softmax_cross_entropy: any storage, in place, and expressions") {
  const MatrixXd logits = reference_logits();
  MatrixXd expected;
  const double loss = softmax_cross_entropy(logits, reference_labels, &expected);

  SECTION("in place") {
    MatrixXd both = logits;
    CHECK(softmax_cross_entropy(both, reference_labels, &both) == loss);
    CHECK(both == expected);
  }
  // Which entries Eigen computes four at a time depends on their place in memory, and with it the last bit of exp.
  SECTION("into a map and a block") {
    MatrixXd memory = MatrixXd::Constant(6, 8, 7.0);
    auto block = memory.block(1, 2, 4, 5);
    CHECK(std::abs(softmax_cross_entropy(logits, reference_labels, &block) - loss) <= 1e-15);
    CHECK(largest_difference(block, expected) <= 1e-16);
    block.setConstant(7.0);
    CHECK(memory == MatrixXd::Constant(6, 8, 7.0));
    std::vector<double> flat(20);
    Eigen::Map<MatrixXd> map(flat.data(), 4, 5);
    CHECK(std::abs(softmax_cross_entropy(logits, reference_labels, &map) - loss) <= 1e-15);
    CHECK(largest_difference(map, expected) <= 1e-16);
  }
  SECTION("row-major and computed logits, sizes known at compile time") {
    const lora::RowMajorMatrix<double> rows = logits;
    CHECK(std::abs(softmax_cross_entropy(rows, reference_labels) - loss) <= 1e-15);
    CHECK(std::abs(softmax_cross_entropy(2 * logits - logits, reference_labels) - loss) <= 1e-15);
    const lora::Matrix<double, 4, 5> fixed = logits;
    lora::Matrix<double, 4, 5> derivative;
    CHECK(std::abs(softmax_cross_entropy(fixed, reference_labels, &derivative) - loss) <= 1e-15);
    CHECK(largest_difference(derivative, expected) <= 1e-16);
  }
}

TEST_CASE("softmax_cross_entropy: bad input is named, and nothing is written") {
  const MatrixXd logits = reference_logits();
  MatrixXd dlogits = MatrixXd::Constant(2, 2, 7.0);

  CHECK_THROWS_AS(softmax_cross_entropy(logits, std::vector<int>{1, 0, 3}, &dlogits), lora::ShapeError);
  CHECK_THROWS_WITH(softmax_cross_entropy(logits, std::vector<int>{1, 0, 3}, &dlogits),
                    "softmax_cross_entropy: 3 labels given, expected one per sample = 5");
  CHECK_THROWS_AS(softmax_cross_entropy(logits, std::vector<int>{1, 0, 3, 4, 3}, &dlogits), lora::ValueError);
  CHECK_THROWS_WITH(softmax_cross_entropy(logits, std::vector<int>{1, 0, 3, 4, 3}, &dlogits),
                    "softmax_cross_entropy: the label of sample 3 is 4, expected 0 to 3, or -100 for one that does not "
                    "count");
  CHECK_THROWS_WITH(softmax_cross_entropy(logits, std::vector<int>{-1, 0, 3, 4, 3}, &dlogits),
                    contains("the label of sample 0 is -1, expected 0 to 3"));
  const MatrixXd no_samples(4, 0);
  CHECK_THROWS_AS(softmax_cross_entropy(no_samples, std::vector<int>{}, &dlogits), lora::ValueError);
  CHECK_THROWS_WITH(softmax_cross_entropy(no_samples, std::vector<int>{}, &dlogits),
                    "softmax_cross_entropy: logits are empty (4 x 0), expected at least one class and one sample");
  CHECK(dlogits == MatrixXd::Constant(2, 2, 7.0));

  auto view = dlogits.block(0, 0, 2, 2);
  CHECK_THROWS_AS(softmax_cross_entropy(logits, reference_labels, &view), lora::ShapeError);
  CHECK_THROWS_WITH(softmax_cross_entropy(logits, reference_labels, &view),
                    "softmax_cross_entropy: dlogits has 2 rows, expected rows of the input = 4");
  lora::Matrix<double, 3> fixed_rows;
  CHECK_THROWS_AS(softmax_cross_entropy(logits, reference_labels, &fixed_rows), lora::ShapeError);
  CHECK(dlogits == MatrixXd::Constant(2, 2, 7.0));
}

TEST_CASE("softmax_cross_entropy: nothing is allocated once the derivative has its size") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  const MatrixXd logits = reference_logits();
  MatrixXd dlogits;
  const auto call = [&] { softmax_cross_entropy(logits, reference_labels, &dlogits); };
  CHECK(lora_test::heap_allocations_in(call) == 1);
  CHECK(lora_test::heap_allocations_in(call) == 0);
  CHECK(lora_test::heap_allocations_in([&] { lora::accuracy(logits, reference_labels); }) == 0);
}

TEST_CASE("predictions and accuracy: the first of the largest logits") {
  MatrixXf logits(3, 4);
  logits << 0, 5, 1, 2,  //
      3, 5, 1, 4,        //
      2, 4, 1, 9;
  CHECK(lora::predictions(logits) == std::vector<int>{1, 0, 0, 2});
  CHECK(lora::accuracy(logits, std::vector<int>{1, 0, 2, 2}) == 0.75);
  CHECK(lora::accuracy(logits, std::vector<int>{0, 1, 2, 0}) == 0);
  CHECK_THROWS_AS(lora::accuracy(logits, std::vector<int>{1, 0, 2}), lora::ShapeError);
  CHECK_THROWS_WITH(lora::accuracy(logits, std::vector<int>{1, 0, 2, 3}), contains("the label of sample 3 is 3"));
  CHECK_THROWS_AS(lora::predictions(MatrixXf(0, 2)), lora::ValueError);
  CHECK(lora::predictions(MatrixXf(3, 0)).empty());
}

TEST_CASE("softmax_cross_entropy: weights per sample make a sum of the samples' own losses") {
  const Eigen::MatrixXd z = Eigen::MatrixXd::Random(4, 3);
  const std::vector<int> labels{1, 3, 0};
  const std::vector<double> weights{0.5, 0, 2};
  Eigen::MatrixXd dz, own;
  double expected = 0;
  const double loss = lora::softmax_cross_entropy(z, labels, &dz, {.weights = weights});
  for (int j = 0; j < 3; ++j) {
    const auto k = static_cast<std::size_t>(j);
    expected += weights[k] * lora::softmax_cross_entropy(z.col(j), std::vector<int>{labels[k]}, &own);
    CHECK((dz.col(j) - weights[k] * own).norm() <= 1e-15);
  }
  CHECK(std::abs(loss - expected) <= 1e-14);
  CHECK(std::abs(lora::softmax_cross_entropy(z, labels, nullptr, {.weights = weights}) - loss) <= 1e-15);
  const std::vector<double> two(2, 1.0);
  CHECK_THROWS_AS(lora::softmax_cross_entropy(z, labels, &dz, {.weights = two}), lora::ShapeError);
}

TEMPLATE_TEST_CASE("field, awkward: labels of -100 do not count, whatever their logits are", "", float, double) {
  using S = TestType;
  const S epsilon = std::numeric_limits<S>::epsilon();
  const lora::Matrix<S> logits = reference_logits().cast<S>();
  const std::vector<int> labels = {1, -100, 3, 2, -100};
  lora::Matrix<S> kept(4, 3), expected, dlogits;
  kept << logits.col(0), logits.col(2), logits.col(3);
  const S loss = softmax_cross_entropy(kept, {1, 3, 2}, &expected);
  CHECK(std::abs(softmax_cross_entropy(logits, labels, &dlogits) - loss) <= 4 * epsilon * loss);
  CHECK(std::abs(softmax_cross_entropy(logits, labels) - loss) <= 4 * epsilon * loss);
  lora::Matrix<S> counted(4, 3);
  counted << dlogits.col(0), dlogits.col(2), dlogits.col(3);
  CHECK((counted - expected).norm() <= 4 * epsilon);
  CHECK((dlogits.col(1).array() == S(0)).all());
  CHECK((dlogits.col(4).array() == S(0)).all());

  lora::Matrix<S> padded = logits;  // what stands at padding may be anything
  padded.col(1).setConstant(std::numeric_limits<S>::quiet_NaN());
  padded(2, 4) = std::numeric_limits<S>::infinity();
  lora::Matrix<S> again;
  CHECK(softmax_cross_entropy(padded, labels, &again) == softmax_cross_entropy(logits, labels, &dlogits));
  CHECK(again == dlogits);

  // another number than -100, also one that is a class
  CHECK(softmax_cross_entropy(padded, {1, 255, 3, 2, 255}, nullptr, {.ignored = 255}) ==
        softmax_cross_entropy(logits, labels));
  CHECK(softmax_cross_entropy(padded, {1, 0, 3, 2, 0}, nullptr, {.ignored = 0}) ==
        softmax_cross_entropy(logits, labels));
  CHECK_THROWS_WITH(softmax_cross_entropy(logits, labels, &dlogits, {.ignored = 255}),
                    contains("the label of sample 1 is -100, expected 0 to 3, or 255 for one that does not count"));

  // a weight of 0 is the same as no sample
  const std::vector<double> weights = {0.5, 0, 1, 2, 0};
  const S weighted = softmax_cross_entropy(padded, {1, 2, 3, 2, 1}, &again, {.weights = weights});
  CHECK(std::isfinite(weighted));
  CHECK(weighted == softmax_cross_entropy(logits, {1, 0, 3, 2, 0}, nullptr, {.weights = weights}));
  CHECK((again.col(1).array() == S(0)).all());
  CHECK(again.allFinite());
}

TEST_CASE("field, awkward: a batch of nothing but -100 has loss 0 and gradient 0, not NaN") {
  const MatrixXd logits = reference_logits();
  const std::vector<long> none(5, -100);
  MatrixXd dlogits = MatrixXd::Constant(4, 5, 7.0);
  CHECK(softmax_cross_entropy(logits, none, &dlogits) == 0);
  CHECK(dlogits == MatrixXd::Zero(4, 5));
  CHECK(softmax_cross_entropy(logits, none, nullptr, {.normalizer = 0}) == 0);  // as count_labels says
  CHECK(softmax_cross_entropy(logits, none, nullptr, {.normalizer = 12}) == 0);
  CHECK_THROWS_AS(lora::accuracy(logits, none), lora::ValueError);
  CHECK_THROWS_WITH(lora::accuracy(logits, none), "accuracy: all 5 labels are -100, expected one that counts");
}

TEST_CASE("field, awkward: micro-batches of unequal size add up to the whole batch") {
  const MatrixXd logits = reference_logits();
  const std::vector<int> labels = {1, -100, 3, 2, 3};
  const std::vector<double> weights = {0.5, 3, 1, 2, 0.25};
  MatrixXd whole, part;
  for (const bool weighted : {false, true}) {
    const auto all = static_cast<double>(lora::count_labels(labels));
    CHECK(all == 4);
    const double loss = softmax_cross_entropy(
        logits, labels, &whole,
        {.weights = weighted ? std::span<const double>(weights) : std::span<const double>(), .normalizer = all});
    if (!weighted) CHECK(loss == softmax_cross_entropy(logits, labels));
    double sum = 0;
    for (const auto& [first, count] : {std::pair(0, 2), std::pair(2, 3)}) {
      const std::span<const int> own(labels.data() + first, static_cast<std::size_t>(count));
      const std::span<const double> some(weights.data() + first, static_cast<std::size_t>(count));
      sum += softmax_cross_entropy(logits.middleCols(first, count), own, &part,
                                   {.weights = weighted ? some : std::span<const double>(), .normalizer = all});
      CHECK(largest_difference(part, whole.middleCols(first, count)) <= 1e-16);
    }
    CHECK(std::abs(sum - loss) <= 1e-15);
  }
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_AS(softmax_cross_entropy(logits, labels, nullptr, {.normalizer = bad}), lora::ConfigError);
  }
  CHECK_THROWS_WITH(softmax_cross_entropy(logits, labels, nullptr, {.normalizer = 0}),
                    "softmax_cross_entropy: normalizer is 0, expected a finite number above 0");
}
