#include "examples/support/program.hpp"

#include "support/catch.hpp"

#include <sstream>
#include <stdexcept>
#include <vector>

using lora_test::contains;

namespace {

/// What a program with these flags leaves.
struct Ran {
  int status = 0, rank = 8;
  std::string out, errors;
};

Ran run(std::vector<const char*> flags) {
  Ran ran;
  std::ostringstream out, errors;
  std::streambuf *const old_out = std::cout.rdbuf(out.rdbuf()), *const old_errors = std::cerr.rdbuf(errors.rdbuf());
  examples::Program program("program", "What it does.");
  program.add_option("--rank", ran.rank, "rank of the update")->check(examples::positive);
  flags.insert(flags.begin(), "path/to/it");
  ran.status = program.run(static_cast<int>(flags.size()), flags.data(), [&] {
    if (ran.rank == 13) throw std::runtime_error("13 is too many");
    std::cout << "rank " << ran.rank;
  });
  std::cout.rdbuf(old_out);
  std::cerr.rdbuf(old_errors);
  ran.out = out.str();
  ran.errors = errors.str();
  return ran;
}

}  // namespace

TEST_CASE("program: it runs with the values given, the last of each, else with the defaults") {
  CHECK(run({}).out == "rank 8");
  CHECK(run({"--rank", "4"}).out == "rank 4");
  CHECK(run({"--rank=4", "--rank", "5"}).out == "rank 5");
  CHECK(run({"--rank=4"}).status == 0);
}

TEST_CASE("program: the help shows defaults, and nothing is run") {
  const Ran help = run({"--help"});
  CHECK(help.status == 0);
  CHECK_THAT(help.out, contains("What it does.") && contains("--rank") && contains("8") && contains("of the update"));
  CHECK_THAT(help.out, !contains("rank 8"));
}

TEST_CASE("program: what is not understood is named, with status 2; what fails ends with 1") {
  for (const char* bad : {"--rank=0", "--rank=-1", "--rank=two", "--rank=2.5", "--rank=4x", "--rank", "--rnak=4"}) {
    INFO(bad);
    const Ran ran = run({bad});
    CHECK(ran.status == 2);
    CHECK(ran.out.empty());
    CHECK_THAT(ran.errors, contains(std::string(bad).substr(0, 6)));
  }
  CHECK_THAT(run({"--rank=0"}).errors, contains("--rank: Value 0 not in range"));
  CHECK(run({"--rank=13"}).status == 1);
  CHECK(run({"--rank=13"}).errors == "program: 13 is too many\n");
}
