#include "examples/support/digits.hpp"

#include "support/catch.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

using examples::Digits;

/// A file that is gone with the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) { std::ofstream(path_, std::ios::binary) << text; }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("lora_digits_test_" + std::to_string(std::random_device{}()) + ".txt");
};

const std::string first_line = "005D910000DFAF5003F20B8004C008800580098004B01C7002E5AC00006DA000 0\n";

std::map<int, int> counted(const std::vector<int>& labels) {
  std::map<int, int> counts;
  for (const int label : labels) ++counts[label];
  return counts;
}

}  // namespace

TEST_CASE("digits: the committed pictures are the 1,797 of the UCI test set") {
  const Digits digits = examples::load_digits();
  CHECK(digits.pixels.rows() == 64);
  CHECK(digits.count() == 1797);
  CHECK(digits.labels.size() == 1797);
  CHECK(counted(digits.labels) ==
        std::map<int, int>{
            {0, 178}, {1, 182}, {2, 177}, {3, 183}, {4, 181}, {5, 182}, {6, 181}, {7, 179}, {8, 174}, {9, 180}});
  CHECK(digits.pixels.minCoeff() == 0);
  CHECK(digits.pixels.maxCoeff() == 1);
  // Sums over the original values, a checksum that depends on the order of pictures and of pixels.
  const Eigen::MatrixXd values = 16 * digits.pixels.cast<double>();
  CHECK(values.sum() == 561718);
  CHECK(Eigen::VectorXd::LinSpaced(64, 1, 64).dot(values * Eigen::VectorXd::LinSpaced(1797, 1, 1797)) == 16337198609);
  CHECK(digits.pixels(2, 0) == 5.0f / 16);  // the first picture's first row is 0 0 5 13 9 1 0 0
  CHECK(digits.pixels(3, 0) == 13.0f / 16);
}

TEST_CASE("digits: a turn is counter-clockwise, four are none") {
  Eigen::MatrixXf picture = Eigen::VectorXf::LinSpaced(64, 0, 63);
  const Eigen::MatrixXf once = examples::turned(picture, 1);
  CHECK(once(0) == 7);   // top left was top right
  CHECK(once(7) == 63);  // top right was bottom right
  CHECK(once(56) == 0);  // bottom left was top left
  CHECK(once(1) == 15);  // the right column, downwards, is now the top row
  CHECK(examples::turned(picture, 2) == picture.colwise().reverse());
  CHECK(examples::turned(once, -1) == picture);
  CHECK(examples::turned(picture, -3) == once);
  CHECK(examples::turned(picture, 4) == picture);
  CHECK(examples::turned(picture, 0) == picture);
  CHECK_THROWS_AS(examples::turned(Eigen::MatrixXf(63, 2), 1), std::invalid_argument);
}

TEST_CASE("digits: the split is fixed, complete and without overlap") {
  Digits numbered;
  numbered.pixels.resize(64, 1797);
  for (Eigen::Index i = 0; i < 1797; ++i) {
    numbered.pixels.col(i).setConstant(static_cast<float>(i));
    numbered.labels.push_back(static_cast<int>(i));
  }
  const examples::Split parts = examples::split(numbered);
  CHECK(parts.train.count() == 1200);
  CHECK(parts.held_out.count() == 597);
  std::vector<int> all = parts.train.labels;
  all.insert(all.end(), parts.held_out.labels.begin(), parts.held_out.labels.end());
  for (Eigen::Index i = 0; i < 1200; ++i) {
    CHECK(parts.train.pixels(5, i) == static_cast<float>(parts.train.labels[static_cast<std::size_t>(i)]));
  }
  CHECK(std::vector<int>(all.begin(), all.begin() + 5) == std::vector<int>{408, 459, 569, 1117, 365});
  std::sort(all.begin(), all.end());
  CHECK(all == numbered.labels);

  CHECK_THROWS_AS(examples::split(numbered, 0), std::invalid_argument);
  CHECK_THROWS_AS(examples::split(numbered, 1797), std::invalid_argument);
}

TEST_CASE("digits: a damaged file is refused with its line") {
  using lora_test::contains;
  const auto load = [](const std::string& text, std::size_t count) {
    const TemporaryFile file(text);
    return examples::load_digits(file.path(), count);
  };
  std::string bad_pixel = first_line;
  bad_pixel[9] = 'H';
  std::string bad_label = first_line;
  bad_label[65] = 'x';
  std::string low_label = first_line;
  low_label[65] = '/';  // the character before 0
  std::string no_space = first_line;
  no_space[64] = '0';
  CHECK(load(first_line + first_line, 2).labels == std::vector<int>{0, 0});
  CHECK(load(first_line.substr(0, 66) + "\r\n", 1).labels == std::vector<int>{0});
  CHECK_THROWS_WITH(load(first_line + bad_pixel, 2), contains(":2: pixel 9 is 'H'"));
  CHECK_THROWS_WITH(load(bad_label, 1), contains(":1: label is 'x'"));
  CHECK_THROWS_WITH(load(low_label, 1), contains(":1: label is '/'"));
  CHECK_THROWS_WITH(load(no_space, 1), contains("expected 64 pixels"));
  CHECK_THROWS_WITH(load(first_line.substr(3), 1), contains("expected 64 pixels"));
  CHECK_THROWS_WITH(load(first_line + "\n", 2), contains(":2: expected 64 pixels"));
  CHECK_THROWS_WITH(load(first_line, 2), contains("has 1 pictures, expected 2"));
  CHECK_THROWS_WITH(load(first_line + first_line, 1), contains(":2: expected only 1 pictures"));
  CHECK_THROWS_WITH(examples::load_digits("no/such/file.txt"), contains("cannot open no/such/file.txt"));
}
