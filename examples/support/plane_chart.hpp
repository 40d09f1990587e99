#pragma once
/// Paths in the plane of two shares, such as the accuracies on two tasks while one of them is learned, as SVG.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "svg.hpp"
#include "text.hpp"

namespace examples {

/// One way through the plane: x and y from 0 to 1, from the start, which all paths share, to a dot at the end.
struct PlanePath {
  std::string name, color;
  std::vector<double> x, y;                            // as many of one as of the other
  double x_spread = 0, y_spread = 0;                   // arms of the end, to both sides
  bool strong = false;                                 // drawn broader and on top
  std::optional<std::pair<double, double>> goal = {};  // a place reached in another way: a ring, dashed to the end
};

struct PlanePanel {
  std::string title;
  std::vector<PlanePath> paths;
};

/// A remark on a place of every panel.
struct PlaneNote {
  double x, y;
  std::string text, anchor = "start";
};

struct PlaneChart {
  std::string title, x_label, y_label, goal_label;
  std::vector<PlanePanel> panels;  // from left to right, over the same axes
  std::vector<PlaneNote> notes;
};

namespace detail {

inline void draw_ring(Svg& svg, double x, double y, const std::string& color) {
  svg.dot(x, y, color, 8);
  svg.dot(x, y, "#ffffff", 5);
  svg.dot(x, y, color, 2);
}

inline void draw_path(Svg& svg, const PlanePath& path, const auto& to_x, const auto& to_y) {
  if (path.x.empty() || path.x.size() != path.y.size()) {
    throw std::invalid_argument("plane_chart: path \"" + path.name + "\" has " + std::to_string(path.x.size()) +
                                " x and " + std::to_string(path.y.size()) + " y, expected at least one of each");
  }
  std::vector<std::pair<double, double>> points;
  for (std::size_t i = 0; i < path.x.size(); ++i) points.emplace_back(to_x(path.x[i]), to_y(path.y[i]));
  const auto [x, y] = points.back();
  if (path.goal) {
    svg.line(x, y, to_x(path.goal->first), to_y(path.goal->second), path.color, 2, true);
    draw_ring(svg, to_x(path.goal->first), to_y(path.goal->second), path.color);
  }
  svg.polyline(points, path.color, false, path.strong ? 3.5 : 2);
  svg.line(to_x(path.x.back() - path.x_spread), y, to_x(path.x.back() + path.x_spread), y, path.color, 1.5);
  svg.line(x, to_y(path.y.back() - path.y_spread), x, to_y(path.y.back() + path.y_spread), path.color, 1.5);
  svg.dot(x, y, path.color, path.strong ? 6 : 5);
}

}  // namespace detail

/// The legend names the paths of the first panel.   Throws std::invalid_argument for a path without points, or with
/// more of one coordinate than of the other.
inline std::string plane_chart(const PlaneChart& chart) {
  constexpr double margin = 24, left = 84, side = 364, gap = 56, legend_line = 22;
  const auto count = static_cast<double>(std::max<std::size_t>(chart.panels.size(), 1));
  const double right = left + count * side + (count - 1) * gap, width = right + margin;

  Svg svg;
  svg.text(margin, 36, chart.title, "start", 17, ink, " font-weight=\"600\"");
  double entry = margin, legend_y = 64;
  const auto name = [&](const std::string& text, const auto& symbol) {
    const double entry_width = 30 + character_width * static_cast<double>(width_of(text));
    if (entry > margin && entry + entry_width > width - margin) {
      entry = margin;
      legend_y += legend_line;
    }
    symbol(entry, legend_y);
    svg.text(entry + 30, legend_y + 4, text, "start", 13, ink);
    entry += entry_width + 18;
  };
  if (!chart.panels.empty()) {
    for (const PlanePath& path : chart.panels[0].paths) {
      name(path.name, [&](double x, double y) {
        svg.line(x, y, x + 22, y, path.color, path.strong ? 4 : 2.5);
        svg.dot(x + 22, y, path.color, path.strong ? 5 : 4);
      });
      if (!path.goal) continue;
      name(chart.goal_label, [&](double x, double y) { detail::draw_ring(svg, x + 14, y, path.color); });
    }
  }

  const double top = legend_y + 56, bottom = top + side;
  for (std::size_t p = 0; p < chart.panels.size(); ++p) {
    const PlanePanel& panel = chart.panels[p];
    const double from = left + static_cast<double>(p) * (side + gap);
    const auto to_x = [&](double x) { return from + side * std::clamp(x, 0.0, 1.0); };
    const auto to_y = [&](double y) { return bottom - side * std::clamp(y, 0.0, 1.0); };
    svg.text(from, top - 16, panel.title, "start", 14, ink, " font-weight=\"600\"");
    for (int tick = 0; tick <= 100; tick += 20) {
      const double share = tick / 100.0;
      svg.line(from, to_y(share), from + side, to_y(share), grid_color);
      svg.line(to_x(share), top, to_x(share), bottom, grid_color);
      svg.text(to_x(share), bottom + 20, std::to_string(tick) + " %", "middle", 12, faint);
      if (p == 0) svg.text(from - 10, to_y(share) + 4, std::to_string(tick) + " %", "end", 12, faint);
    }
    for (const PlaneNote& note : chart.notes) svg.text(to_x(note.x), to_y(note.y), note.text, note.anchor, 12, faint);
    for (const bool strong : {false, true}) {
      for (const PlanePath& path : panel.paths) {
        if (path.strong == strong) detail::draw_path(svg, path, to_x, to_y);
      }
    }
    if (!panel.paths.empty()) svg.dot(to_x(panel.paths[0].x[0]), to_y(panel.paths[0].y[0]), ink, 6);
  }
  svg.text((left + right) / 2, bottom + 48, chart.x_label, "middle", 13, ink);
  svg.text(0, 0, chart.y_label, "middle", 13, ink,
           " transform=\"translate(32 " + fixed((top + bottom) / 2, 2) + ") rotate(-90)\"");
  return svg.document(width, bottom + 68, chart.title);
}

}  // namespace examples
