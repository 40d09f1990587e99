#include "lora/adapters/dropout.hpp"

#include "support/catch.hpp"

#include <cmath>

namespace {

using lora::DropoutMask;
using lora::Index;
using lora::Pass;

Eigen::MatrixXd mask(double probability, std::uint64_t stream, const Pass& pass, Index features, Index samples,
                     Index first = 0) {
  Eigen::MatrixXd result(features, samples);
  DropoutMask(probability, stream, pass).fill(result, first);
  return result;
}

double dropped(const Eigen::MatrixXd& mask) {
  return static_cast<double>((mask.array() == 0.0).count()) / static_cast<double>(mask.size());
}

}  // namespace

TEST_CASE("dropout: an entry is a function of seed, stream, step, feature and absolute sample alone") {
  const Pass pass{.training = true, .seed = 0x0123456789abcdef, .step = 0x1122334455667788, .first_sample = 5};
  const std::uint64_t stream = 0xfedcba9876543210;
  const auto given = mask(0.3, stream, pass, 9, 4, 2);
  // Written out again from the published generator.
  const auto key = lora::philox4x32({0x76543210, 0xfedcba98, 0x55667788, 0x11223344}, {0x89abcdef, 0x01234567});
  for (std::uint32_t sample = 0; sample < 4; ++sample) {
    for (std::uint32_t feature = 0; feature < 9; ++feature) {
      const auto bits = lora::philox4x32({feature / 4, 0, 5 + 2 + sample, 0}, {key[0], key[1]})[feature % 4];
      const double expected = static_cast<double>(bits) < std::floor(0.3 * 0x1p32) ? 0.0 : 1 / (1 - 0.3);
      CHECK(given(feature, sample) == expected);
    }
  }
}

TEST_CASE("dropout: the bits are pinned") {
  const Pass pass{.training = true, .seed = 1, .step = 2, .first_sample = 3};
  std::string bits;
  const auto given = mask(0.5, 7, pass, 8, 5);
  for (Index k = 0; k < given.size(); ++k) bits += given.data()[k] == 0 ? '.' : 'x';
  CHECK(bits == "xx..xx....x..xx.xxx..xxx.xxxxxxxxx......");
  CHECK((given.array() == 0.0 || given.array() == 2.0).all());
}

TEST_CASE("dropout: the share of dropped entries is the probability, and the mean stays") {
  for (const double p : {0.1, 0.3, 0.5, 0.9}) {
    CAPTURE(p);
    const auto given = mask(p, 1, {.training = true, .seed = 42}, 257, 1000);
    const double deviation = std::sqrt(p * (1 - p) / static_cast<double>(given.size()));
    CHECK(std::abs(dropped(given) - p) < 3 * deviation);
    CHECK(std::abs(given.mean() - 1) < 3 * deviation / (1 - p));
    CHECK((given.array() == 0.0 || given.array() == 1 / (1 - p)).all());
    // Neither features nor samples lean: every row and column mean is that of its size, within 5 standard deviations.
    CHECK(((given.rowwise().mean().array() - 1).abs() < 5 * std::sqrt(p / (1 - p) / 1000)).all());
    CHECK(((given.colwise().mean().array() - 1).abs() < 5 * std::sqrt(p / (1 - p) / 257)).all());
  }
  CHECK(mask(0, 1, {.training = true}, 20, 20) == Eigen::MatrixXd::Ones(20, 20));
}

TEST_CASE("dropout: a batch may be filled in any blocks, and split into micro-batches") {
  const Pass pass{.training = true, .seed = 9, .step = 4};
  const auto whole = mask(0.4, 3, pass, 11, 130);
  for (const Index block : {1, 7, 64, 129}) {
    CAPTURE(block);
    for (Index first = 0; first < 130; first += block) {
      const Index count = std::min<Index>(block, 130 - first);
      CHECK(mask(0.4, 3, pass, 11, count, first) == whole.middleCols(first, count));
      Pass micro = pass;
      micro.first_sample = first;
      CHECK(mask(0.4, 3, micro, 11, count) == whole.middleCols(first, count));
    }
  }
  CHECK(mask(0.4, 3, pass, 10, 130) == whole.topRows(10));  // nor does an entry depend on how many features follow
}

TEST_CASE("dropout: seeds, steps, layers and samples have unrelated masks") {
  const Pass pass{.training = true, .seed = 9, .step = 4};
  const auto reference = mask(0.5, 3, pass, 64, 64);
  const auto related = [&](const Eigen::MatrixXd& other) {
    // Two independent masks of p = 1/2 agree in half of the 4096 entries, within 5 standard deviations of 1/128.
    const double agree = static_cast<double>((reference.array() == other.array()).count()) / 4096.0;
    return std::abs(agree - 0.5) > 5.0 / 128;
  };
  CHECK(related(mask(0.5, 3, pass, 64, 64)));
  CHECK_FALSE(related(mask(0.5, 4, pass, 64, 64)));
  CHECK_FALSE(related(mask(0.5, 3 | std::uint64_t{1} << 40, pass, 64, 64)));
  CHECK_FALSE(related(mask(0.5, 3, {.training = true, .seed = 10, .step = 4}, 64, 64)));
  CHECK_FALSE(related(mask(0.5, 3, {.training = true, .seed = 9, .step = 5}, 64, 64)));
  CHECK_FALSE(related(mask(0.5, 3, {.training = true, .seed = 9, .step = 4, .first_sample = 64}, 64, 64)));
}

TEST_CASE("dropout: float masks drop the same entries as double ones") {
  const Pass pass{.training = true, .seed = 1};
  Eigen::MatrixXf single(17, 9);
  DropoutMask(0.3, 2, pass).fill(single, 0);
  const auto twice = mask(0.3, 2, pass, 17, 9);
  CHECK(((single.array() == 0.0f) == (twice.array() == 0.0)).all());
  CHECK(single.maxCoeff() == static_cast<float>(1 / (1 - 0.3)));
}
