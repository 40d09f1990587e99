// A base shows its elements as one block of bytes, and is the same over a copy of them.

#include "lora/base/any_base.hpp"
#include "lora/testing/generic.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"
#include "support/laws.hpp"

#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace {

using lora::Copies;
using lora::Matrix;
using lora::testing::random_matrix;
using lora::testing::same_bits;
using lora_test::check;

/// The same base over memory of its own, that begins in the midst of a vector and ends with the block.
template <class S>
void check_moves(const lora::AnyBase<S>& base) {
  lora::Rng rng(3);
  const auto x = random_matrix<S>(base.cols(), 5, rng), dy = random_matrix<S>(base.rows(), 5, rng);
  const auto products = [&](const lora::AnyBase<S>& of) {
    Matrix<S> y(of.rows(), 5), dx(of.cols(), 5);
    of.apply(x, y);
    of.apply_transposed(dy, dx);
    return std::pair(y, dx);
  };
  const auto expected = products(base);
  const Matrix<S> dense = base.dense();
  const S rounding = 4 * std::numeric_limits<S>::epsilon() * static_cast<S>(base.rows() + base.cols());
  CHECK((expected.first - dense * x).norm() <= rounding * dense.norm() * x.norm());
  CHECK((expected.second - dense.transpose() * dy).norm() <= rounding * dense.norm() * dy.norm());
  const lora::SharedBytes block = base.storage();
  CHECK(block.size == static_cast<std::size_t>(base.bytes()));
  auto memory = std::make_shared<std::vector<std::byte>>(block.size + sizeof(S));
  std::memcpy(memory->data() + sizeof(S), block.data.get(), block.size);
  const lora::SharedBytes copy{std::shared_ptr<const std::byte>(memory, memory->data() + sizeof(S)), block.size};
  const lora::AnyBase<S> other = base.over(copy);
  const auto given = products(other);
  check(same_bits("y", given.first, expected.first));
  check(same_bits("dx", given.second, expected.second));
  CHECK(other.dense() == base.dense());
  CHECK_FALSE(other.shares_with(base));
  std::weak_ptr<std::vector<std::byte>> watched = memory;
  memory.reset();
  CHECK(other.dense() == base.dense());  // it keeps the memory, or has taken the bytes over

  CHECK_THROWS_AS(base.over({copy.data, copy.size - 1}), lora::ShapeError);
  CHECK_THROWS_AS(base.over({}), lora::StateError);
}

}  // namespace

TEMPLATE_TEST_CASE("storage: bases over another block of the same bytes", "", float, double) {
  using S = TestType;
  lora::Rng rng(1);
  for (const auto& [out, in] : {std::pair<lora::Index, lora::Index>{1, 1}, {16, 17}, {70, 300}}) {
    const Matrix<S> W0 = random_matrix<S>(out, in, rng);
    check_moves<S>(lora::Packed<S>(W0));
    check_moves<S>(lora::Packed<S>(W0, Copies::two));
    check_moves<S>(lora::Dense<S>(W0));
    check_moves<S>(lora_test::Coarse<S>(W0));
  }
}
