#pragma once
/// Choices as rows of colored tiles, and what each of them reached as a dot with arms, as SVG.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "svg.hpp"

namespace examples {

struct Tile {
  std::string text, color;
};

struct ChoiceRow {
  std::vector<Tile> tiles = {};  // one for each column
  double share = 0;              // what was reached
  double spread = 0;             // arms to both sides
};

struct ChoicePanel {
  std::string title;
  std::vector<ChoiceRow> rows = {};
};

struct ChoiceChart {
  std::string title, x_label;
  std::vector<std::string> columns;
  std::vector<Tile> legend;
  std::vector<ChoicePanel> panels = {};  // from left to right
};

/// The axis of shares begins below the lowest.
/// Throws std::invalid_argument for a row without a tile for every column.
inline std::string choice_chart(const ChoiceChart& chart) {
  constexpr double margin = 24, tile_width = 58, height = 22, gap = 22, axis = 210, step = 26;
  const double tiles = tile_width * static_cast<double>(chart.columns.size()), top = 148;
  const double panel_width = tiles + 20 + axis + 62;
  const double right = margin + static_cast<double>(chart.panels.size()) * (panel_width + gap) - gap;
  std::size_t most = 0;
  double lowest = 0.95;
  for (const ChoicePanel& panel : chart.panels) {
    most = std::max(most, panel.rows.size());
    for (const ChoiceRow& row : panel.rows) lowest = std::min(lowest, row.share - row.spread);
  }
  const int low = 5 * static_cast<int>(std::floor(20 * std::max(lowest, 0.0))), tick = low < 50 ? 10 : 5;
  const double bottom = top + step * static_cast<double>(most);

  Svg svg;
  Legend legend(svg, margin, right, 63);
  for (const Tile& tile : chart.legend) {
    legend.add(tile.text, [&](double x, double y) { svg.rectangle(x, y - 8, 22, 16, tile.color); });
  }
  for (std::size_t p = 0; p < chart.panels.size(); ++p) {
    const ChoicePanel& panel = chart.panels[p];
    const double left = margin + static_cast<double>(p) * (panel_width + gap), from = left + tiles + 20;
    const auto to_x = [&](double share) {
      return from + axis * std::clamp((100 * share - low) / (100 - low), 0.0, 1.0);
    };
    svg.heading(left, 108, panel.title);
    for (std::size_t c = 0; c < chart.columns.size(); ++c) {
      svg.text(left + tile_width * (static_cast<double>(c) + 0.5), top - 14, chart.columns[c], "middle", 12, faint);
    }
    const double end = top + step * static_cast<double>(panel.rows.size());
    for (int percent = 100; percent >= low; percent -= tick) {
      const double x = to_x(percent / 100.0);
      svg.line(x, top - 6, x, end, grid_color);
      svg.text(x, end + 18, std::to_string(percent) + " %", "middle", 12, faint);
    }
    svg.text(from + axis / 2, end + 42, chart.x_label, "middle", 13, ink);
    for (std::size_t r = 0; r < panel.rows.size(); ++r) {
      const ChoiceRow& row = panel.rows[r];
      if (row.tiles.size() != chart.columns.size()) {
        throw std::invalid_argument("choice_chart: a row has " + std::to_string(row.tiles.size()) +
                                    " tiles, expected " + std::to_string(chart.columns.size()));
      }
      const double y = top + step * static_cast<double>(r);
      for (std::size_t c = 0; c < row.tiles.size(); ++c) {
        const double x = left + tile_width * static_cast<double>(c);
        svg.rectangle(x + 1, y, tile_width - 2, height, row.tiles[c].color);
        svg.text(x + tile_width / 2, y + 15, row.tiles[c].text, "middle", 12, "#ffffff");
      }
      const double middle = y + height / 2;
      svg.line(from, middle, to_x(row.share), middle, grid_color);
      svg.line(to_x(row.share - row.spread), middle, to_x(row.share + row.spread), middle, ink, 1.5);
      svg.dot(to_x(row.share), middle, ink, 4);
      svg.text(from + axis + 62, middle + 4, percent(row.share), "end", 12, ink);
    }
  }
  return svg.document(right + margin, bottom + 64, chart.title);
}

}  // namespace examples
