#pragma once
/// A table of shares as SVG, the darker the larger, with the percentages written in.

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "svg.hpp"
#include "text.hpp"

namespace examples {

struct ShareTable {
  std::string title, row_title, column_title;
  std::vector<std::string> rows, columns;
  Eigen::MatrixXd shares;  // 0 to 1, (rows, columns)
};

/// Throws std::invalid_argument unless there is one share for every row and column.
inline std::string share_table(const ShareTable& table) {
  constexpr double margin = 24, cell_width = 100, cell_height = 46, top = 112;
  constexpr std::array<double, 3> full = {24, 78, 140};  // blue
  const auto rows = std::ssize(table.rows), columns = std::ssize(table.columns);
  if (table.shares.rows() != rows || table.shares.cols() != columns) {
    throw std::invalid_argument("share_table: " + std::to_string(table.shares.rows()) + " x " +
                                std::to_string(table.shares.cols()) + " shares, expected " + std::to_string(rows) +
                                " x " + std::to_string(columns));
  }
  std::size_t widest = width_of(table.row_title);
  for (const std::string& row : table.rows) widest = std::max(widest, width_of(row));
  const double left = margin + character_width * static_cast<double>(widest) + 16;

  Svg svg;
  svg.text(margin, 36, table.title, "start", 17, ink, " font-weight=\"600\"");
  svg.text(left + 1, 72, table.column_title, "start", 13, faint);
  svg.text(margin, top - 14, table.row_title, "start", 13, faint);
  for (std::ptrdiff_t j = 0; j < columns; ++j) {
    const double middle = left + (static_cast<double>(j) + 0.5) * cell_width;
    svg.text(middle, top - 14, table.columns[static_cast<std::size_t>(j)], "middle", 13, ink);
  }
  for (std::ptrdiff_t i = 0; i < rows; ++i) {
    const double y = top + static_cast<double>(i) * cell_height;
    svg.text(margin, y + cell_height / 2 + 5, table.rows[static_cast<std::size_t>(i)], "start", 13, ink);
    for (std::ptrdiff_t j = 0; j < columns; ++j) {
      const double x = left + static_cast<double>(j) * cell_width, share = table.shares(i, j);
      std::string color;
      for (const double channel : full) {
        color += (color.empty() ? "rgb(" : ",") +
                 std::to_string(std::lround(255 - std::clamp(share, 0.0, 1.0) * (255 - channel)));
      }
      svg.rectangle(x + 1, y + 1, cell_width - 2, cell_height - 2, color + ")");
      svg.text(x + cell_width / 2, y + cell_height / 2 + 5, percent(share), "middle", 13,
               share > 0.55 ? "#ffffff" : ink);
    }
  }
  return svg.document(left + static_cast<double>(columns) * cell_width + margin,
                      top + static_cast<double>(rows) * cell_height + margin, table.title);
}

}  // namespace examples
