#include "examples/support/arguments.hpp"

#include "support/catch.hpp"

#include <array>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

using lora_test::contains;

namespace {

struct Settings {
  int rank = 8;
  float rate = 1e-3f;
  double alpha = 16;
  std::uint64_t seed = 1;
  std::string out = "results";
  bool quiet = false;
  examples::Arguments arguments{"program", "What it does."};

  Settings() {
    arguments.add("rank", rank, "rank of the update")
        .add("learning-rate", rate, "step size")
        .add("alpha", alpha, "scale")
        .add("seed", seed, "seed")
        .add("out", out, "folder")
        .add("quiet", quiet, "no progress");
  }
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;
};

}  // namespace

TEST_CASE("arguments: both ways to give a value, defaults otherwise") {
  Settings s;
  CHECK(s.arguments.parse(std::vector<std::string>{}));
  CHECK(s.rank == 8);
  CHECK(s.arguments.parse({"--rank", "4", "--learning-rate=3e-4", "--alpha", "-2.5", "--quiet", "--out=a=b", "--seed",
                           "18446744073709551615", "--rank=5"}));
  CHECK(s.rank == 5);
  CHECK(s.rate == 3e-4f);
  CHECK(s.alpha == -2.5);
  CHECK(s.seed == 18446744073709551615U);
  CHECK(s.out == "a=b");
  CHECK(s.quiet);
}

TEST_CASE("arguments: what is not understood is named") {
  const auto error = [](std::vector<std::string> arguments) {
    Settings s;
    try {
      s.arguments.parse(arguments);
    } catch (const examples::ArgumentError& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  CHECK(error({"--rnak", "4"}) == "unknown flag --rnak");
  CHECK(error({"--rnak=4"}) == "unknown flag --rnak");
  CHECK(error({"4"}) == "unexpected argument 4");
  CHECK(error({"--rank"}) == "--rank needs a value");
  CHECK(error({"--out", "--quiet"}) == "--out needs a value");
  CHECK(error({"--quiet=1"}) == "--quiet takes no value");
  CHECK(error({"--rank", "4x"}) == "--rank: \"4x\" is not a whole number");
  CHECK(error({"--rank="}) == "--rank: \"\" is not a whole number");
  CHECK(error({"--rank", "2.5"}) == "--rank: \"2.5\" is not a whole number");
  CHECK(error({"--rank", "3000000000"}) == "--rank: \"3000000000\" is out of range");
  CHECK(error({"--seed", "-1"}) == "--seed: \"-1\" is not a whole number of 0 or more");
  for (const std::string bad : {"", "x", "1x", " 1", "1,5", "nan", "1e999"}) {
    CHECK(error({"--alpha=" + bad}) == "--alpha: \"" + bad + "\" is not a number");
  }
}

TEST_CASE("arguments: help is made from the flags, errors end with status 2") {
  Settings s;
  const auto run = [&](std::vector<const char*> argv, std::ostream& out, std::ostream& errors) {
    return s.arguments.parse(static_cast<int>(argv.size()), argv.data(), out, errors);
  };
  std::ostringstream out;
  std::ostringstream errors;
  CHECK_FALSE(run({"program", "--rank", "2"}, out, errors).has_value());
  CHECK_FALSE(run({}, out, errors).has_value());
  CHECK(out.str().empty());
  CHECK(run({"program", "--help"}, out, errors) == 0);
  CHECK(out.str() ==
        "Usage: program [options]\n\nWhat it does.\n\nOptions:\n"
        "  --rank VALUE            rank of the update (default: 8)\n"
        "  --learning-rate VALUE   step size (default: 0.001)\n"
        "  --alpha VALUE           scale (default: 16)\n"
        "  --seed VALUE            seed (default: 1)\n"
        "  --out VALUE             folder (default: results)\n"
        "  --quiet                 no progress\n"
        "  --help                  show this text\n");
  CHECK(errors.str().empty());
  CHECK(run({"program", "--rank", "two"}, out, errors) == 2);
  CHECK(errors.str() == "program: --rank: \"two\" is not a whole number\nTry: program --help\n");
}
