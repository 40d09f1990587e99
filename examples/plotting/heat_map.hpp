#pragma once
/// Tables of shares as squares of color with the percentages written in, side by side, as SVG.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "svg.hpp"

namespace examples {

struct HeatPanel {
  std::string title = {}, note = {};        // the note stands below, small
  std::vector<std::vector<double>> values;  // row after row, from 0 (white) to 1; what is not finite is left out
};

struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::string> rows = {}, columns = {};  // the names of all panels' rows and columns
  std::vector<HeatPanel> panels = {};
  int digits = 0;  // of a percentage, after the point
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

inline double widest_of(const std::vector<std::string>& names) {
  std::size_t widest = 0;
  for (const std::string& name : names) widest = std::max(widest, width_of(name));
  return character_width * static_cast<double>(widest);
}

}  // namespace detail

/// Throws std::invalid_argument if a panel has not a row for every name of a row and a value for every column.
inline std::string heat_map(const HeatMap& map) {
  constexpr double cell = 36, gap = 34, top = 96;
  const double column = std::max(cell, detail::widest_of(map.columns) + 12);
  const double left = std::max(92.0, 60 + detail::widest_of(map.rows));
  const double width = column * static_cast<double>(map.columns.size());
  const double bottom = top + cell * static_cast<double>(map.rows.size());
  Svg svg;
  for (std::size_t p = 0; p < map.panels.size(); ++p) {
    const HeatPanel& panel = map.panels[p];
    const double x = left + static_cast<double>(p) * (width + gap);
    svg.heading(x, top - 18, panel.title);
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
        const double value = panel.values[i][j], at = x + column * static_cast<double>(j);
        if (!std::isfinite(value)) continue;
        svg.rectangle(at + 1, y + 1, column - 2, cell - 2, detail::heat_color(value));
        svg.text(at + column / 2, y + cell / 2 + 4, fixed(100 * value, map.digits), "middle", 12,
                 value > 0.4 ? "#ffffff" : ink);
      }
    }
    for (std::size_t j = 0; j < map.columns.size(); ++j) {
      svg.text(x + column * (static_cast<double>(j) + 0.5), bottom + 18, map.columns[j], "middle", 12, faint);
    }
    svg.text(x + width / 2, bottom + 42, map.x_label, "middle", 13, ink);
    svg.text(x + width / 2, bottom + 64, panel.note, "middle", 12, faint);
  }
  svg.upwards(36, (top + bottom) / 2, map.y_label);
  return svg.document(left + static_cast<double>(map.panels.size()) * (width + gap) - gap + 24, bottom + 84, map.title);
}

}  // namespace examples
