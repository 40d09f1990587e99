#include "examples/support/labeled_texts.hpp"

#include "io/files.hpp"
#include "support/catch.hpp"

#include <set>
#include <string>

using lora_test::contains;
using lora_test::TemporaryFolder;
using lora_test::write_file;

namespace {

/// Five nouns of each kind, each twice, in WordNet's format, and what the reader has to leave out.
std::string wordnet() {
  std::string text = "  1 This software and database | is being provided\n";
  int number = 0;
  for (const auto& [kind, name] : examples::wordnet_kinds) {
    for (int k = 0; k < 10; ++k) {
      const std::string two = (kind < 10 ? "0" : "") + std::to_string(kind);
      text += std::to_string(10000000 + number++) + " " + two + " n 01 word 0 000 | " + name + " number " +
              std::to_string(k % 5) + "; \"an example\"; \"another\"  \n";
    }
  }
  return text + "10000000 03 n 01 entity 0 000 | that which is\n";
}

}  // namespace

TEST_CASE("labeled texts: WordNet's definitions, each once, by kind, drawn alike every time") {
  const TemporaryFolder folder;
  const auto path = write_file(folder / "data.noun", wordnet());
  const auto texts = examples::read_wordnet(path, 3, 2);
  REQUIRE(texts.kinds.size() == 20);
  CHECK((texts.kinds.front() == "act" && texts.kinds.back() == "time"));
  CHECK((texts.train.size() == 60 && texts.held_out.size() == 40));
  std::set<std::string> all;
  for (const auto* some : {&texts.train, &texts.held_out}) {
    for (const auto& [text, kind] : *some) {
      CHECK(text.starts_with(texts.kinds[std::size_t(kind)] + " number "));
      CHECK(text.find('"') == text.npos);
      all.insert(text);
    }
  }
  CHECK(all.size() == 100);
  CHECK(examples::labeled_table(texts) == examples::labeled_table(examples::read_wordnet(path, 3, 2)));
  CHECK_THROWS_WITH(examples::read_wordnet(path, 4, 2), contains("act has 5 texts, expected 6"));
  CHECK_THROWS_WITH(examples::read_wordnet(folder / "none", 3, 2), contains("cannot read"));
}

TEST_CASE("labeled texts: a table of one's own, as it is written") {
  const TemporaryFolder folder;
  const std::string table = "train\tcat\ta small\tfurry pet\ntest\tbird\tflies\ntrain\tbird\tsings\n";
  const auto texts = examples::read_labeled_texts(write_file(folder / "a.tsv", table));
  CHECK(texts.kinds == std::vector<std::string>{"bird", "cat"});
  CHECK((texts.train.size() == 2 && texts.train[0].text == "a small\tfurry pet" && texts.train[0].kind == 1));
  CHECK((texts.held_out.size() == 1 && texts.held_out[0].kind == 0));
  CHECK(examples::labeled_table(texts) == "train\tcat\ta small\tfurry pet\ntrain\tbird\tsings\ntest\tbird\tflies\n");
  CHECK_THROWS_WITH(examples::read_labeled_texts(write_file(folder / "b.tsv", "train\tcat\tx\nlearn\tcat\ty\n")),
                    contains("line 2: expected \"train\" or \"test\", a tab"));
  CHECK_THROWS_WITH(examples::read_labeled_texts(write_file(folder / "c.tsv", "train\tcat\tx\n")),
                    contains("has 1 texts to train and 0 to test"));
}
