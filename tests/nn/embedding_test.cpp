#include "lora/nn/embedding.hpp"

#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "lora/core/parameters.hpp"
#include "lora/testing/gradient.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

using lora::Embedding;
using lora::Index;
using lora::Matrix;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;

namespace {

const std::vector<int> ids = {3, 0, 4, 3, 3};

/// A table as a layer, whose x is added to the vectors of the ids.
template <class S>
struct Table {
  Embedding<S> table;

  struct Cache {};
  static void visit(auto& self, auto&& f) { f("table", self.table); }
  Matrix<S> forward(const Matrix<S>& x, Cache&) const {
    Matrix<S> y = x;
    table.add(ids, y);
    return y;
  }
  Matrix<S> backward(const Matrix<S>&, const Matrix<S>& dy, Cache&) {
    table.backward(ids, dy);
    return dy;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("Embedding: a column is a row of the table", "", float, double) {
  lora::Rng rng(1);
  const Embedding<TestType> table(lora::RowMajorMatrix<TestType>(random_matrix<TestType>(5, 7, rng)));
  CHECK((table.vocabulary() == 5 && table.features() == 7));
  const Matrix<TestType> y = table(ids);
  REQUIRE((y.rows() == 7 && y.cols() == 5));
  for (Index t = 0; t < 5; ++t) CHECK(y.col(t).transpose() == table.table().row(ids[std::size_t(t)]));
  Matrix<TestType> sum = y;
  table.add(ids, sum);
  CHECK(sum == 2 * y);
  CHECK(table(std::vector<int>()).cols() == 0);
  // into a part of a larger matrix
  Matrix<TestType> wide = Matrix<TestType>::Constant(9, 6, 3);
  table.forward(ids, wide.block(1, 1, 7, 5));
  CHECK(wide.block(1, 1, 7, 5) == y);
  wide.block(1, 1, 7, 5).setConstant(3);
  CHECK((wide.array() == 3).all());
}

TEST_CASE("Embedding: backward is the derivative of forward") {
  lora::Rng rng(2);
  Table<double> layer{Embedding<double>(lora::RowMajorMatrix<double>(random_matrix(5, 3, rng)))};
  Table<Dual> dual{Embedding<Dual>(lora::RowMajorMatrix<Dual>(random_matrix<Dual>(5, 3, rng)))};
  lora::unfreeze(layer);
  lora::unfreeze(dual);
  const auto x = random_matrix(3, 5, rng);
  check(lora::testing::check_gradients(layer, x), 2);
  check(lora::testing::check_dual(layer, dual, x), 2);
}

TEST_CASE("Embedding: the table is frozen until it is made trainable, and gradients add up") {
  lora::Rng rng(3);
  Embedding<double> table({.vocabulary = 5, .features = 3}, rng);
  CHECK(lora::tensor_names(table) == std::vector<std::string>{"weight"});
  const auto dy = random_matrix(3, 5, rng);
  table.backward(ids, dy);
  CHECK(table.weight().grad.size() == 0);
  table.weight().trainable = true;
  table.backward(ids, dy);
  const Matrix<double> once = table.weight().grad;
  CHECK(once.row(1).norm() == 0);
  CHECK((once.row(3) - (dy.col(0) + dy.col(3) + dy.col(4)).transpose()).norm() <= 1e-15);
  table.backward(ids, dy);
  CHECK((Matrix<double>(table.weight().grad) - 2 * once).norm() <= 1e-15);
}

TEST_CASE("Embedding: what does not fit is refused, and nothing is half done") {
  lora::Rng rng(4);
  Embedding<float> table({.vocabulary = 5, .features = 3}, rng);
  table.weight().trainable = true;
  const std::vector<int> above = {0, 4, 5}, below = {2, -1};
  Matrix<float> y = Matrix<float>::Constant(3, 3, 7);
  CHECK_THROWS_AS(table.forward(above, y), lora::ValueError);
  CHECK_THROWS_WITH(table.forward(above, y), "Embedding::forward: id 2 is 5, expected 0 to vocabulary - 1 = 4");
  CHECK_THROWS_WITH(table.add(below, y.leftCols(2)), "Embedding::add: id 1 is -1, expected 0 to vocabulary - 1 = 4");
  CHECK_THROWS_WITH(table.backward(above, y), "Embedding::backward: id 2 is 5, expected 0 to vocabulary - 1 = 4");
  CHECK_THROWS_WITH(table.forward(ids, y), "Embedding::forward: y has 3 columns, expected the number of ids = 5");
  Matrix<float> higher(4, 5);
  CHECK_THROWS_WITH(table.forward(ids, higher), "Embedding::forward: y has 4 rows, expected features = 3");
  CHECK_THROWS_AS(table(above), lora::ValueError);
  CHECK((y.array() == 7).all());
  CHECK(table.weight().grad.size() == 0);
  CHECK_THROWS_AS(Embedding<float>({.vocabulary = 0, .features = 3}, rng), lora::ShapeError);
  CHECK_THROWS_WITH(Embedding<float>(lora::RowMajorMatrix<float>(5, 0)),
                    "Embedding: the weight is empty (5 x 0), expected at least 1 x 1");
}

TEST_CASE("Embedding: a new table has the deviation that was asked for") {
  lora::Rng rng(5), again(5);
  const Embedding<double> table({.vocabulary = 300, .features = 40, .deviation = 0.5}, rng);
  CHECK(std::abs(table.table().norm() / std::sqrt(12000.0) - 0.5) < 0.02);
  const Embedding<double> same({.vocabulary = 300, .features = 40, .deviation = 0.5}, again);
  CHECK((table.table() == same.table()));
}

TEST_CASE("Embedding: nothing allocates, and threads may look up at once", "[threads]") {
  lora::Rng rng(6);
  const Embedding<float> table({.vocabulary = 50, .features = 16}, rng);
  const Matrix<float> expected = table(ids);
  std::vector<Matrix<float>> y(3, Matrix<float>(16, 5));
  std::vector<std::thread> threads;
  for (auto& each : y) threads.emplace_back([&table, &each] { table.forward(ids, each); });
  for (auto& thread : threads) thread.join();
  for (const auto& each : y) CHECK(each == expected);

  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  Embedding<float> trained = table;
  trained.weight().trainable = true;
  trained.backward(ids, expected);
  CHECK(lora_test::heap_allocations_in([&] {
          table.forward(ids, y[0]);
          table.add(ids, y[0]);
          trained.backward(ids, expected);
        }) == 0);
}

TEST_CASE("Embedding: as in PyTorch") {
  Embedding<double> table(lora::RowMajorMatrix<double>(lora::RowMajorMatrix<double>::NullaryExpr(
      5, 4, [](Index i, Index j) { return double((9 * j + 5 * i) % 19 - 9) / 2; })));
  table.weight().trainable = true;
  const Matrix<double> dy =
      Matrix<double>::NullaryExpr(4, 5, [](Index i, Index j) { return double((4 * i + 7 * j) % 9 - 4) / 3; });
  const Matrix<double> y = table(ids);
  table.backward(ids, dy);
  for (Index k = 0; k < 20; ++k) {
    CHECK(y(k) == reference::embedding[std::size_t(k)]);
    CHECK(std::abs(table.weight().grad.data()[k] - reference::embedding_weight[std::size_t(k)]) <= 1e-15);
  }
}

TEST_CASE("Embedding: a table in shared memory is read there, and copied only to be trained") {
  const auto rows = std::make_shared<lora::RowMajorMatrix<float>>(4, 3);
  rows->setRandom();
  lora::Embedding<float> table(lora::SharedBytes::of(rows), 4, 3);
  CHECK(table.table().data() == rows->data());
  CHECK((table.vocabulary() == 4 && table.features() == 3));
  const std::vector<int> ids = {3, 0, 3};
  const Matrix<float> y = table(ids);
  CHECK((y.col(0) == rows->row(3).transpose() && y.col(1) == rows->row(0).transpose()));
  table.backward(ids, y);  // frozen: nothing happens
  CHECK_FALSE(table.trains());
  CHECK(lora::tensor_names(table) == std::vector<std::string>{"weight"});
  CHECK(lora::count_parameters(table).trainable == 0);

  lora::Embedding<float> copy = table;
  copy.weight().trainable = true;
  CHECK(copy.table().data() != rows->data());
  CHECK(copy(ids) == y);
  copy.backward(ids, y);
  CHECK(copy.weight().grad.row(3) == 2 * y.col(0).transpose());
  CHECK(table.table().data() == rows->data());
  CHECK_THROWS_WITH(lora::Embedding<float>(lora::SharedBytes::of(rows), 5, 3),
                    "Embedding: the block has 48 bytes, expected 60");
}
