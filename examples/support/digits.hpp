#pragma once
/// The handwritten digits of examples/data: loading, turning and splitting them.

#include <Eigen/Core>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "lora/core/random.hpp"

namespace examples {

inline constexpr int picture_side = 8;
inline constexpr int picture_pixels = picture_side * picture_side;
inline constexpr int digit_classes = 10;

/// n pictures: pixels (64, n) in [0, 1], 0 is paper, row after row from the top left; labels 0 to 9.
struct Digits {
  Eigen::MatrixXf pixels;
  std::vector<int> labels;

  Eigen::Index count() const { return pixels.cols(); }
};

/// Where the digits are: in LORA_EXAMPLE_DATA_DIR if the build defines it, else beside this header's folder.
inline std::filesystem::path digits_path() {
#ifdef LORA_EXAMPLE_DATA_DIR
  const std::filesystem::path folder = LORA_EXAMPLE_DATA_DIR;
#else
  const std::filesystem::path folder = std::filesystem::path(__FILE__).parent_path().parent_path() / "data";
#endif
  return folder / "optdigits.txt";
}

/// Reads the format described in examples/data/README.md. A pixel v of the file becomes v / 16.
/// Throws std::runtime_error naming the file, the line and what is wrong; also unless there are `count` pictures.
inline Digits load_digits(const std::filesystem::path& path = digits_path(), std::size_t count = 1797) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("load_digits: cannot open " + path.string());

  Digits digits;
  digits.pixels.resize(picture_pixels, static_cast<Eigen::Index>(count));
  digits.labels.reserve(count);
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t picture = digits.labels.size();
    const auto fail = [&](const std::string& text) {
      throw std::runtime_error("load_digits: " + path.string() + ":" + std::to_string(picture + 1) + ": " + text);
    };
    if (!line.empty() && line.back() == '\r') line.pop_back();  // a checkout with Windows line endings
    if (picture == count) fail("expected only " + std::to_string(count) + " pictures");
    if (line.size() != picture_pixels + 2 || line[picture_pixels] != ' ') {
      fail("expected 64 pixels, a space and a label, got \"" + line + "\"");
    }
    for (std::size_t i = 0; i < picture_pixels; ++i) {
      const std::size_t value = std::string_view("0123456789ABCDEFG").find(line[i]);
      if (value == std::string_view::npos) {
        fail("pixel " + std::to_string(i) + " is '" + line[i] + "', expected 0-9 or A-G");
      }
      digits.pixels(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(picture)) = static_cast<float>(value) / 16;
    }
    const char label = line.back();
    if (label < '0' || label > '9') fail(std::string("label is '") + label + "', expected 0-9");
    digits.labels.push_back(label - '0');
  }
  if (digits.labels.size() != count) {
    throw std::runtime_error("load_digits: " + path.string() + " has " + std::to_string(digits.labels.size()) +
                             " pictures, expected " + std::to_string(count));
  }
  return digits;
}

/// Every picture (a column of 64) turned counter-clockwise by quarter_turns x 90 degrees; negative turns clockwise.
/// One turn: turned(row, column) = picture(column, 7 - row).
inline Eigen::MatrixXf turned(const Eigen::MatrixXf& pixels, int quarter_turns) {
  if (pixels.rows() != picture_pixels) {
    throw std::invalid_argument("turned: pixels has " + std::to_string(pixels.rows()) + " rows, expected 64");
  }
  Eigen::MatrixXf result = pixels;
  for (int turn = 0; turn < (quarter_turns % 4 + 4) % 4; ++turn) {
    const Eigen::MatrixXf before = result;
    for (Eigen::Index row = 0; row < picture_side; ++row) {
      for (Eigen::Index column = 0; column < picture_side; ++column) {
        result.row(picture_side * row + column) = before.row(picture_side * column + picture_side - 1 - row);
      }
    }
  }
  return result;
}

struct Split {
  Digits train;
  Digits held_out;
};

/// The seed of the fixed split: the year in which the pictures were published.
inline constexpr std::uint64_t split_seed = 1998;

/// Always the same split, whatever the seed of a run: the pictures in the order of lora::Rng(split_seed).shuffle, the
/// first train_count (1,200) to train, the other 597 held out.
inline Split split(const Digits& digits, Eigen::Index train_count = 1200) {
  if (train_count < 1 || train_count >= digits.count()) {
    throw std::invalid_argument("split: train_count is " + std::to_string(train_count) + ", expected 1 to " +
                                std::to_string(digits.count() - 1));
  }
  std::vector<Eigen::Index> order(digits.labels.size());
  std::iota(order.begin(), order.end(), 0);
  lora::Rng(split_seed).shuffle(order);

  const auto selected = [&](Eigen::Index first, Eigen::Index count) {
    Digits part;
    part.pixels.resize(digits.pixels.rows(), count);
    for (Eigen::Index i = 0; i < count; ++i) {
      const Eigen::Index source = order[static_cast<std::size_t>(first + i)];
      part.pixels.col(i) = digits.pixels.col(source);
      part.labels.push_back(digits.labels[static_cast<std::size_t>(source)]);
    }
    return part;
  };
  return {selected(0, train_count), selected(train_count, digits.count() - train_count)};
}

}  // namespace examples
