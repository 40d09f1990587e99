#include "examples/support/text.hpp"

#include "support/catch.hpp"

#include <limits>
#include <stdexcept>

#include "examples/support/table.hpp"

using namespace examples;

TEST_CASE("text: numbers") {
  CHECK(fixed(3.14159, 2) == "3.14");
  CHECK(fixed(-0.5, 0) == "-0");  // to the even neighbor, and the sign is kept
  CHECK(fixed(std::numeric_limits<double>::max(), 2).size() == 312);
  CHECK(significant(0.0021, 6) == "0.0021");
  CHECK(significant(1e-9, 6) == "1e-09");
  CHECK(significant(0.1 + 0.2, 6) == "0.3");
  CHECK(with_commas(0) == "0");
  CHECK(with_commas(999) == "999");
  CHECK(with_commas(-1000) == "-1,000");
  CHECK(with_commas(1229581312) == "1,229,581,312");
  CHECK(with_commas(-123456) == "-123,456");
  CHECK(percent(0.9732) == "97.3 %");
  CHECK(percent(0.001915, 4) == "0.1915 %");
  CHECK(width_of("naïve ✓") == 7);
}

TEST_CASE("table: lines up, and is Markdown") {
  Table table({"", "accuracy", "n"});
  table.add({"LoRA", "97.3 %", "4,688"}).add({"naïve", "9 %", ""});
  CHECK(table.text() ==
        "|       | accuracy |     n |\n"
        "| ----- | -------: | ----: |\n"
        "| LoRA  |   97.3 % | 4,688 |\n"
        "| naïve |      9 % |       |\n");
  CHECK_THROWS_AS(table.add({"too", "few"}), std::invalid_argument);
}
