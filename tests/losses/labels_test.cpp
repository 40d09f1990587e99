#include "lora/losses/labels.hpp"

#include "lora/losses/softmax_cross_entropy.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace {

Eigen::MatrixXd logits() { return Eigen::MatrixXd::Random(4, 3); }

}  // namespace

TEST_CASE("B7: labels of any integer type, as vector, array, span, list or Eigen vector") {
  const Eigen::MatrixXd z = logits();
  const double expected = lora::softmax_cross_entropy(z, std::vector<int>{2, 0, 3});
  const auto loss = [&](const lora::Labels& labels) { return lora::softmax_cross_entropy(z, labels); };
  CHECK(loss(std::vector<long>{2, 0, 3}) == expected);
  CHECK(loss(std::vector<std::int64_t>{2, 0, 3}) == expected);
  CHECK(loss(std::vector<std::uint8_t>{2, 0, 3}) == expected);
  CHECK(loss(std::vector<std::int16_t>{2, 0, 3}) == expected);
  CHECK(loss(std::vector<std::size_t>{2, 0, 3}) == expected);
  CHECK(loss(std::array<unsigned, 3>{2, 0, 3}) == expected);
  const std::vector<long> kept = {2, 0, 3};
  CHECK(loss(std::span(kept)) == expected);
  CHECK(loss({2, 0, 3}) == expected);
  CHECK(loss(Eigen::Vector3i(2, 0, 3)) == expected);
  const Eigen::VectorXi column = Eigen::Vector3i(2, 0, 3);
  CHECK(lora::softmax_cross_entropy(z, column) == expected);
  CHECK(lora::accuracy(z, column) == lora::accuracy(z, kept));
  CHECK(loss(Eigen::RowVectorXi(column.transpose())) == expected);
  CHECK(loss(column.cast<std::uint8_t>().eval()) == expected);
  CHECK(loss(Eigen::Map<const Eigen::Matrix<long, Eigen::Dynamic, 1>>(kept.data(), 3)) == expected);
  Eigen::MatrixXi table(2, 3);  // labels in a row of a column-major table: a stride between them
  table << 9, 9, 9, 2, 0, 3;
  CHECK(loss(table.row(1)) == expected);
}

TEST_CASE("B7: a label that does not fit is named, and never wraps into a class or into -100") {
  const Eigen::MatrixXd z = logits();
  const auto refused = [&](const lora::Labels& labels) {
    try {
      lora::softmax_cross_entropy(z, labels);
    } catch (const lora::ValueError& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  CHECK_THAT(refused(std::vector<std::uint8_t>{0, 255, 1}), lora_test::contains("the label of sample 1 is 255"));
  CHECK_THAT(refused(std::vector<std::uint32_t>{0, 1, static_cast<std::uint32_t>(-100)}),
             lora_test::contains("the label of sample 2 is 4294967196"));
  CHECK_THAT(refused(std::vector<std::uint64_t>{static_cast<std::uint64_t>(-100), 1, 2}),
             lora_test::contains("the label of sample 0 is 9223372036854775807"));
  CHECK_THAT(refused(std::vector<std::int64_t>{0, std::int64_t(1) << 32, 1}),
             lora_test::contains("the label of sample 1 is 4294967296"));
}

TEST_CASE("B7: labels are read where they are") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  const Eigen::MatrixXd z = logits();
  const std::vector<std::uint8_t> bytes = {2, 0, 3};
  const Eigen::VectorXi column = Eigen::Vector3i(2, 0, 3);
  CHECK(lora_test::heap_allocations_in([&] { lora::softmax_cross_entropy(z, bytes); }) == 0);
  CHECK(lora_test::heap_allocations_in([&] { lora::softmax_cross_entropy(z, column); }) == 0);
  CHECK(lora_test::heap_allocations_in([&] { lora::count_labels({1, -100, 2}); }) == 0);
}

TEST_CASE("labels: how many count") {
  CHECK(lora::count_labels(std::vector<int>{}) == 0);
  CHECK(lora::count_labels({-100, 3, -100}) == 1);
  CHECK(lora::count_labels(std::vector<std::uint8_t>{7, 255, 0}, 255) == 2);
}
