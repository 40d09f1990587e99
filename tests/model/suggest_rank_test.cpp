#include "support/svd.hpp"

#include "lora/model/suggest_rank.hpp"
#include "support/catch.hpp"

#include <limits>

using lora_test::contains;
using Spectra = std::vector<Eigen::VectorXd>;

namespace {

Eigen::VectorXd spectrum(std::initializer_list<double> values) {
  Eigen::VectorXd sigma(static_cast<Eigen::Index>(values.size()));
  std::copy(values.begin(), values.end(), sigma.begin());
  return sigma;
}

}  // namespace

TEST_CASE("suggest_rank: the smallest rank for all layers, the fewest directions for each") {
  // energies 16 4 1 1 and 4 1: together 27; direction 1 of both holds 20, direction 2 holds 5, 3 and 4 hold 1 each
  const Spectra spectra = {spectrum({4, 2, 1, 1}), spectrum({2, 1})};
  const auto suggestion = lora::suggest_rank(spectra, 0.9);
  CHECK(suggestion.rank == 2);
  CHECK(suggestion.kept == Approx(25.0 / 27));
  // 16 4 4 of 27 is 0.889, so a fourth direction is needed; of the equal ones the first layer's comes first
  CHECK(suggestion.ranks == std::vector<lora::Index>{3, 1});
  CHECK(lora::suggest_rank(spectra, 24.0 / 27).ranks == std::vector<lora::Index>{2, 1});
  CHECK(lora::suggest_rank(spectra, 20.0 / 27).rank == 1);
  CHECK(lora::suggest_rank(spectra, 20.1 / 27).rank == 2);
  CHECK(lora::suggest_rank(spectra, 1).rank == 4);
  CHECK(lora::suggest_rank(spectra, 1).ranks == std::vector<lora::Index>{4, 2});
  REQUIRE(suggestion.effective_ranks.size() == 2);
  CHECK(suggestion.effective_ranks[0] == lora::effective_rank(spectra[0]));
  CHECK(suggestion.effective_ranks[1] == lora::effective_rank(spectra[1]));
  CHECK(suggestion.reason ==
        "rank 2 keeps 93 % of the change's energy in all layers together (90 % was asked for), "
        "rank 1 only 74 %");
}

TEST_CASE("suggest_rank: every layer gets at least rank 1, also one that did not change") {
  const auto suggestion = lora::suggest_rank({spectrum({1, 1}), spectrum({1e-9}), spectrum({0, 0})}, 1);
  CHECK(suggestion.ranks == std::vector<lora::Index>{2, 1, 1});
  CHECK(suggestion.rank == 2);
  const auto none = lora::suggest_rank({spectrum({0, 0, 0})});
  CHECK(none.rank == 1);
  CHECK(none.kept == 1);
  CHECK(none.ranks == std::vector<lora::Index>{1});
  CHECK_THAT(none.reason, !contains("only"));
}

TEST_CASE("suggest_rank: neither the unit nor its extremes matter") {
  const Spectra spectra = {spectrum({4, 2, 1, 1}), spectrum({2, 1})};
  for (const double unit : {1e-300, 1e300}) {
    const auto scaled = lora::suggest_rank({unit * spectra[0], unit * spectra[1]}, 0.9);
    CHECK(scaled.rank == 2);
    CHECK(scaled.kept == Approx(25.0 / 27));
    CHECK(scaled.ranks == std::vector<lora::Index>{3, 1});
  }
}

TEST_CASE("suggest_rank: what it refuses") {
  CHECK_THROWS_AS(lora::suggest_rank({}), lora::ConfigError);
  CHECK_THROWS_AS(lora::suggest_rank({spectrum({1})}, 0), lora::ConfigError);
  CHECK_THROWS_AS(lora::suggest_rank({spectrum({1})}, 1.01), lora::ConfigError);
  CHECK_THROWS_AS(lora::suggest_rank({spectrum({1})}, std::numeric_limits<double>::quiet_NaN()), lora::ConfigError);
  CHECK_THROWS_AS(lora::suggest_rank({spectrum({1}), Eigen::VectorXd()}), lora::ShapeError);
  try {
    lora::suggest_rank({spectrum({1}), spectrum({1, 2})});
    FAIL("an ascending spectrum was taken");
  } catch (const lora::ValueError& error) {
    CHECK_THAT(error.what(), contains("suggest_rank::spectra[1]: sigma(1) is 2"));
  }
}
