#pragma once
/// Paths in the plane of two shares, such as the accuracies on two tasks while one of them is learned, as SVG.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "svg.hpp"

namespace examples {

/// One way through the plane: x and y from 0 to 1, from the start, which all paths share, to a dot at the end; an arrow
/// half way says in which direction.
struct PlanePath {
  std::string name, color;
  std::vector<double> x, y;                            // as many of one as of the other
  double x_spread = 0, y_spread = 0;                   // arms of the end, to both sides
  bool strong = false;                                 // drawn broader and on top
  std::optional<std::pair<double, double>> goal = {};  // a place reached in another way: a ring, dashed to the end
};

struct PlanePanel {
  std::string title;
  std::vector<PlanePath> paths = {};
};

struct PlaneChart {
  std::string title, x_label, y_label, start_label, goal_label;
  std::vector<PlanePanel> panels;  // from left to right, over the same axes
};

namespace detail {

inline void draw_ring(Svg& svg, double x, double y, const std::string& color) {
  svg.dot(x, y, color, 8);
  svg.dot(x, y, "#ffffff", 5);
  svg.dot(x, y, color, 2);
}

/// A head at the place that is half of the path's length away from its beginning.
inline void draw_arrow(Svg& svg, const std::vector<std::pair<double, double>>& points, const std::string& color) {
  const auto length = [&](std::size_t i) {
    return std::hypot(points[i].first - points[i - 1].first, points[i].second - points[i - 1].second);
  };
  double left = 0;
  for (std::size_t i = 1; i < points.size(); ++i) left += length(i) / 2;
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (left > length(i) || length(i) == 0) {
      left -= length(i);
      continue;
    }
    const double along_x = (points[i].first - points[i - 1].first) / length(i);
    const double along_y = (points[i].second - points[i - 1].second) / length(i);
    const double x = points[i - 1].first + left * along_x, y = points[i - 1].second + left * along_y;
    for (const double side : {-4.5, 4.5}) {
      svg.line(x - 9 * along_x - side * along_y, y - 9 * along_y + side * along_x, x, y, color, 2.5);
    }
    return;
  }
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
  draw_arrow(svg, points, path.color);
  svg.line(to_x(path.x.back() - path.x_spread), y, to_x(path.x.back() + path.x_spread), y, path.color, 1.5);
  svg.line(x, to_y(path.y.back() - path.y_spread), x, to_y(path.y.back() + path.y_spread), path.color, 1.5);
  svg.dot(x, y, path.color, path.strong ? 6 : 5);
}

}  // namespace detail

/// The legend names the paths of the first panel.
/// Throws std::invalid_argument for a path without points, or with more of one coordinate than of the other.
inline std::string plane_chart(const PlaneChart& chart) {
  constexpr double left = 84, side = 364, gap = 56;
  const auto count = static_cast<double>(std::max<std::size_t>(chart.panels.size(), 1));
  const double right = left + count * side + (count - 1) * gap;

  Svg svg;
  Legend legend(svg, 24, right, 64);
  if (!chart.panels.empty()) {
    for (const PlanePath& path : chart.panels[0].paths) {
      legend.add(path.name, [&](double x, double y) {
        svg.line(x, y, x + 17, y, path.color, path.strong ? 4 : 2.5);
        svg.dot(x + 17, y, path.color, path.strong ? 5 : 4);
      });
      if (!path.goal) continue;
      legend.add(chart.goal_label, [&](double x, double y) { detail::draw_ring(svg, x + 11, y, path.color); });
    }
  }

  const double top = legend.y() + 56, bottom = top + side;
  for (std::size_t p = 0; p < chart.panels.size(); ++p) {
    const PlanePanel& panel = chart.panels[p];
    const double from = left + static_cast<double>(p) * (side + gap);
    const auto to_x = [&](double x) { return from + side * std::clamp(x, 0.0, 1.0); };
    const auto to_y = [&](double y) { return bottom - side * std::clamp(y, 0.0, 1.0); };
    svg.heading(from, top - 16, panel.title);
    for (int tick = 0; tick <= 100; tick += 20) {
      const double share = tick / 100.0;
      svg.line(from, to_y(share), from + side, to_y(share), grid_color);
      svg.line(to_x(share), top, to_x(share), bottom, grid_color);
      svg.text(to_x(share), bottom + 20, std::to_string(tick) + " %", "middle", 12, faint);
      if (p == 0) svg.text(from - 10, to_y(share) + 4, std::to_string(tick) + " %", "end", 12, faint);
    }
    for (const bool strong : {false, true}) {
      for (const PlanePath& path : panel.paths) {
        if (path.strong == strong) detail::draw_path(svg, path, to_x, to_y);
      }
    }
    if (panel.paths.empty()) continue;
    const double x = to_x(panel.paths[0].x[0]), y = to_y(panel.paths[0].y[0]);
    svg.dot(x, y, ink, 6);
    svg.text(x + 12, y, chart.start_label, "start", 12, faint);
  }
  svg.text((left + right) / 2, bottom + 48, chart.x_label, "middle", 13, ink);
  svg.upwards(32, (top + bottom) / 2, chart.y_label);
  return svg.document(right + 24, bottom + 68, chart.title);
}

}  // namespace examples
