#pragma once
/// Tables of shares as squares of color, side by side, as SVG.

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

struct HeatPanel {
  std::string title, note;                  // the note stands below, small
  std::vector<std::vector<double>> values;  // row after row, from 0 (white) to 1; what is not finite is left out
};

struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::string> rows, columns;  // the names of all panels' rows and columns
  std::vector<HeatPanel> panels;
};

namespace detail {

/// From white over blue to dark blue.
inline std::string heat_color(double share) {
  constexpr std::array<std::array<double, 3>, 3> stops = {{{248, 250, 252}, {86, 137, 188}, {23, 52, 94}}};
  const double place = 2 * std::clamp(share, 0.0, 1.0);
  const std::size_t low = place < 1 ? 0 : 1;
  std::string color = "rgb(";
  for (std::size_t c = 0; c < 3; ++c) {
    const double value = stops[low][c] + (place - static_cast<double>(low)) * (stops[low + 1][c] - stops[low][c]);
    color += (c == 0 ? "" : ",") + fixed(value, 0);
  }
  return color + ")";
}

}  // namespace detail

/// Throws std::invalid_argument if a panel has not a row for every name of a row and a value for every column.
inline std::string heat_map(const HeatMap& map) {
  constexpr double margin = 24, left = 92, cell = 36, gap = 34, top = 96;
  const double width = cell * static_cast<double>(map.columns.size());
  const double height = cell * static_cast<double>(map.rows.size());
  Svg svg;
  svg.text(margin, 36, map.title, "start", 17, ink, " font-weight=\"600\"");
  for (std::size_t p = 0; p < map.panels.size(); ++p) {
    const HeatPanel& panel = map.panels[p];
    const double x = left + static_cast<double>(p) * (width + gap);
    svg.text(x, top - 18, panel.title, "start", 14, ink, " font-weight=\"600\"");
    if (panel.values.size() != map.rows.size()) {
      throw std::invalid_argument("heat_map: panel \"" + panel.title + "\" has " + std::to_string(panel.values.size()) +
                                  " rows, expected " + std::to_string(map.rows.size()));
    }
    for (std::size_t i = 0; i < map.rows.size(); ++i) {
      const double y = top + cell * static_cast<double>(i);
      if (p == 0) svg.text(x - 10, y + cell / 2 + 4, map.rows[i], "end", 12, faint);
      if (panel.values[i].size() != map.columns.size()) {
        throw std::invalid_argument("heat_map: a row of panel \"" + panel.title + "\" has " +
                                    std::to_string(panel.values[i].size()) + " values, expected " +
                                    std::to_string(map.columns.size()));
      }
      for (std::size_t j = 0; j < map.columns.size(); ++j) {
        const double value = panel.values[i][j];
        if (!std::isfinite(value)) continue;
        const double at = x + cell * static_cast<double>(j);
        svg.rectangle(at + 1, y + 1, cell - 2, cell - 2, detail::heat_color(value));
        svg.text(at + cell / 2, y + cell / 2 + 4, fixed(100 * value, 0), "middle", 12, value > 0.4 ? "#ffffff" : ink);
      }
    }
    for (std::size_t j = 0; j < map.columns.size(); ++j) {
      svg.text(x + cell * (static_cast<double>(j) + 0.5), top + height + 18, map.columns[j], "middle", 12, faint);
    }
    svg.text(x + width / 2, top + height + 42, map.x_label, "middle", 13, ink);
    svg.text(x + width / 2, top + height + 64, panel.note, "middle", 12, faint);
  }
  svg.text(0, 0, map.y_label, "middle", 13, ink,
           " transform=\"translate(36 " + fixed(top + height / 2, 2) + ") rotate(-90)\"");
  const double right = left + static_cast<double>(map.panels.size()) * (width + gap) - gap;
  return svg.document(right + margin, top + height + 84, map.title);
}

}  // namespace examples
