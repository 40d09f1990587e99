#pragma once
/// A Markdown table that also lines up in a terminal.

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "text.hpp"

namespace examples {

/// The first column is aligned to the left, the others, which hold numbers, to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : columns_(header.size()) { rows_.push_back(std::move(header)); }

  /// Throws std::invalid_argument unless there is one cell for every column.
  Table& add(std::vector<std::string> cells) {
    if (cells.size() != columns_) {
      throw std::invalid_argument("Table::add: " + std::to_string(cells.size()) + " cells, expected " +
                                  std::to_string(columns_));
    }
    rows_.push_back(std::move(cells));
    return *this;
  }

  std::string text() const {
    std::vector<std::size_t> widths(columns_, 3);  // a Markdown rule has at least three characters
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < columns_; ++i) widths[i] = std::max(widths[i], width_of(row[i]));
    }
    std::string result;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      for (std::size_t i = 0; i < columns_; ++i) {
        const std::string padding(widths[i] - width_of(rows_[r][i]), ' ');
        result += "| " + (i == 0 ? rows_[r][i] + padding : padding + rows_[r][i]) + " ";
      }
      result += "|\n";
      if (r > 0) continue;
      for (std::size_t i = 0; i < columns_; ++i) {
        result += i == 0 ? "| " + std::string(widths[i], '-') + " " : "| " + std::string(widths[i] - 1, '-') + ": ";
      }
      result += "|\n";
    }
    return result;
  }

 private:
  std::size_t columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace examples
