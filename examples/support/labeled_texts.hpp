#pragma once
/// Texts with the kind that each belongs to: WordNet's definitions of nouns, or a file of one's own.

#include <lora/core/random.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace examples {

struct LabeledText {
  std::string text;
  int kind;
};

struct LabeledTexts {
  std::vector<std::string> kinds;  // in alphabetical order
  std::vector<LabeledText> train, held_out;
};

/// The kinds of WordNet that have many nouns, and their numbers in its files ("lexicographer files").
inline constexpr std::array<std::pair<int, const char*>, 20> wordnet_kinds = {{
    {4, "act"},       {5, "animal"},         {6, "artifact"}, {7, "attribute"},  {8, "body"},
    {9, "cognition"}, {10, "communication"}, {11, "event"},   {13, "food"},      {14, "group"},
    {15, "location"}, {17, "object"},        {18, "person"},  {20, "plant"},     {21, "possession"},
    {22, "process"},  {23, "quantity"},      {26, "state"},   {27, "substance"}, {28, "time"},
}};

/// Definitions from data.noun: 60 held out and `train` to train of each kind, drawn with a fixed seed.
///
///   00021265 03 n 02 food 0 nutrient 0 ... | any substance that can be metabolized by an animal; "the food was good"
///
/// The second field is the kind; the text is what follows " | " up to the first example. Within a kind, each text is
/// taken once. Throws std::runtime_error.
inline LabeledTexts read_wordnet(const std::filesystem::path& data_noun, std::size_t train, std::size_t held_out = 60) {
  std::ifstream file(data_noun);
  if (!file) throw std::runtime_error("read_wordnet: cannot read " + data_noun.string());
  std::map<std::string, std::set<std::string>> of_kind;  // sorted by bytes
  for (std::string line; std::getline(file, line);) {
    const std::size_t bar = line.find(" | ");
    if (line.starts_with(' ') || bar == line.npos) continue;  // the licence, at the top
    const int number = std::stoi(line.substr(line.find(' ') + 1, 2));
    const auto kind =
        std::find_if(wordnet_kinds.begin(), wordnet_kinds.end(), [&](const auto& one) { return one.first == number; });
    if (kind == wordnet_kinds.end()) continue;
    std::string text = line.substr(bar + 3);
    text = text.substr(0, text.find("; \""));
    while (text.ends_with(' ')) text.pop_back();
    of_kind[kind->second].insert(text);
  }
  LabeledTexts texts;
  lora::Rng rng(0);
  for (const auto& [name, all] : of_kind) {
    if (all.size() < train + held_out) {
      throw std::runtime_error("read_wordnet: " + name + " has " + std::to_string(all.size()) + " texts, expected " +
                               std::to_string(train + held_out));
    }
    std::vector<std::string> order(all.begin(), all.end());
    rng.shuffle(order);
    const int kind = static_cast<int>(texts.kinds.size());
    for (std::size_t k = 0; k < held_out + train; ++k) {
      (k < held_out ? texts.held_out : texts.train).push_back({std::move(order[k]), kind});
    }
    texts.kinds.push_back(name);
  }
  if (texts.kinds.size() != wordnet_kinds.size()) {
    throw std::runtime_error("read_wordnet: " + data_noun.string() + " has " + std::to_string(texts.kinds.size()) +
                             " of the kinds, expected " + std::to_string(wordnet_kinds.size()));
  }
  return texts;
}

/// A table of lines "train<TAB>kind<TAB>text" and "test<TAB>kind<TAB>text". Throws std::runtime_error, naming the line.
inline LabeledTexts read_labeled_texts(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("read_labeled_texts: cannot read " + path.string());
  struct Line {
    bool train;
    std::string kind, text;
  };
  std::vector<Line> lines;
  std::set<std::string> kinds;
  std::size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    const std::size_t first = line.find('\t'), second = line.find('\t', first + 1);
    const std::string part = line.substr(0, first);
    if (second == line.npos || (part != "train" && part != "test")) {
      throw std::runtime_error("read_labeled_texts: " + path.string() + ", line " + std::to_string(number) +
                               ": expected \"train\" or \"test\", a tab, the kind, a tab and the text");
    }
    lines.push_back({part == "train", line.substr(first + 1, second - first - 1), line.substr(second + 1)});
    kinds.insert(lines.back().kind);
  }
  LabeledTexts texts;
  texts.kinds.assign(kinds.begin(), kinds.end());
  for (Line& line : lines) {
    const auto kind = std::lower_bound(texts.kinds.begin(), texts.kinds.end(), line.kind) - texts.kinds.begin();
    (line.train ? texts.train : texts.held_out).push_back({std::move(line.text), static_cast<int>(kind)});
  }
  if (texts.train.empty() || texts.held_out.empty()) {
    throw std::runtime_error("read_labeled_texts: " + path.string() + " has " + std::to_string(texts.train.size()) +
                             " texts to train and " + std::to_string(texts.held_out.size()) +
                             " to test, expected some of both");
  }
  return texts;
}

/// The same as text.
inline std::string labeled_table(const LabeledTexts& texts) {
  std::string table;
  const auto add = [&](const char* part, const std::vector<LabeledText>& some) {
    for (const LabeledText& one : some) {
      table += std::string(part) + '\t' + texts.kinds[static_cast<std::size_t>(one.kind)] + '\t' + one.text + '\n';
    }
  };
  add("train", texts.train);
  add("test", texts.held_out);
  return table;
}

}  // namespace examples
