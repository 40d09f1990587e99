#include "examples/support/text.hpp"

#include "support/catch.hpp"

#include <bit>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/support/json.hpp"
#include "examples/support/table.hpp"
#include "lora/core/random.hpp"

using namespace examples;

TEST_CASE("text: numbers") {
  CHECK(fixed(3.14159, 2) == "3.14");
  CHECK(fixed(-0.5, 0) == "-0");  // to the even neighbor, and the sign is kept
  CHECK(fixed(std::numeric_limits<double>::max(), 2).size() == 312);
  CHECK(significant(0.0021, 6) == "0.0021");
  CHECK(significant(1e-9, 6) == "1e-09");
  CHECK(significant(0.1 + 0.2, 6) == "0.3");
  CHECK(shortest(0.1) == "0.1");
  CHECK(shortest(0.1f) == "0.1");
  CHECK(shortest(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
  CHECK(with_commas(0) == "0");
  CHECK(with_commas(999) == "999");
  CHECK(with_commas(-1000) == "-1,000");
  CHECK(with_commas(1229581312) == "1,229,581,312");
  CHECK(with_commas(-123456) == "-123,456");
  CHECK(percent(0.9732) == "97.3 %");
  CHECK(percent(0.001915, 4) == "0.1915 %");
  CHECK(width_of("naïve ✓") == 7);

  lora::Rng rng(3);
  for (int i = 0; i < 1000; ++i) {
    const double value = rng.normal() * 1e-7;
    CHECK(std::stod(shortest(value)) == value);
  }
}

TEST_CASE("json: members in order, numbers that read back, text escaped") {
  JsonObject object;
  CHECK(object.text() == "{}\n");
  object.set("rank", 8)
      .set("accuracy", 0.1 + 0.2)
      .set("rate", 0.1f)
      .set("exact", true)
      .set("bytes", std::int64_t{-9007199254740993})
      .set("nan", std::numeric_limits<double>::quiet_NaN())
      .set("infinity", -std::numeric_limits<float>::infinity())
      .set("literal", "text")
      .set("say \"hi\"", std::string("a\\b\n\t\x01\x1f é"))
      .set("ranks", std::vector<int>{1, 2, 4})
      .set("errors", std::vector<double>{0.1, std::numeric_limits<double>::infinity()})
      .set("names", std::vector<std::string>{"a", "\""})
      .set("none", std::vector<bool>{})
      .set("flags", std::vector<bool>{true, false})
      .set("rank", 16);
  CHECK(object.text() ==
        "{\n"
        "  \"rank\": 16,\n"
        "  \"accuracy\": 0.30000000000000004,\n"
        "  \"rate\": 0.1,\n"
        "  \"exact\": true,\n"
        "  \"bytes\": -9007199254740993,\n"
        "  \"nan\": null,\n"
        "  \"infinity\": null,\n"
        "  \"literal\": \"text\",\n"
        "  \"say \\\"hi\\\"\": \"a\\\\b\\n\\t\\u0001\\u001f é\",\n"
        "  \"ranks\": [1, 2, 4],\n"
        "  \"errors\": [0.1, null],\n"
        "  \"names\": [\"a\", \"\\\"\"],\n"
        "  \"none\": [],\n"
        "  \"flags\": [true, false]\n"
        "}\n");
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
