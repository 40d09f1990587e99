#pragma once
/// A line chart as SVG: curves over a common axis, linear or logarithmic.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "svg.hpp"

namespace examples {

/// One line of a chart, or dots. Points that cannot be drawn (not finite; not positive on a logarithmic axis) leave a
/// gap.
struct Series {
  std::string name;
  std::vector<double> x = {}, y = {};  // as many of one as of the other
  bool dashed = false;
  bool dots = false;                // no line between the points, which else is cut where it leaves the axes
  std::vector<double> spread = {};  // arms above and below each point; none, or as many as points
  std::string color = {};           // the palette's next where empty
};

struct LineChart {
  std::string title, x_label, y_label;
  std::vector<Series> series = {};
  bool log_x = false;
  bool log_y = false;
  bool percent_y = false;                         // 0.5 is labelled 50 %
  std::optional<double> y_low = {}, y_high = {};  // the data's own range where absent
  std::vector<double> x_ticks = {};               // round numbers where empty
};

namespace detail {

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }

  /// 0 at the low end, 1 at the high end.
  double share(double value) const { return (value - low) / (high - low); }
  bool contains(double value) const { return value >= low && value <= high; }

  /// Room at the ends that are not `kept`, and some length in any case.
  Range padded(bool keep_low, bool keep_high) const {
    const double room = high > low ? 0.05 * (high - low) : std::max(0.5 * std::abs(low), 0.5);
    Range result{keep_low ? low : low - room, keep_high ? high : high + room};
    if (!(result.high > result.low)) result.high = result.low + 1;
    return result;
  }
};

struct Tick {
  double position;
  std::string label;
};

/// Ticks at whole multiples of 1, 2 or 5 times a power of ten, four to ten of them.
inline std::vector<Tick> linear_ticks(Range range, bool percent_sign) {
  const double length = (range.high - range.low) / 5;
  const double power = std::pow(10.0, std::floor(std::log10(length)));
  const double ratio = length / power;
  const double step = power * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
  std::vector<Tick> ticks;
  for (double k = std::ceil(range.low / step - 1e-9); k * step <= range.high + 1e-9 * step; ++k) {
    const double value = k == 0 ? 0 : k * step;  // -0 is labelled 0
    ticks.push_back({value, percent_sign ? significant(100 * value, 6) + " %" : significant(value, 6)});
  }
  return ticks;
}

/// Ticks for a range of decimal logarithms: at 1, 2 and 5 times the powers of ten, at 1 alone where there are many.
inline std::vector<Tick> log_ticks(Range range) {
  std::vector<Tick> ticks;
  for (double exponent = std::floor(range.low); exponent <= range.high; ++exponent) {
    for (const int factor : {1, 2, 5}) {
      const double position = exponent + std::log10(factor);
      const bool wanted = factor == 1 || range.high - range.low < 2.7;
      if (wanted && position >= range.low - 1e-9 && position <= range.high + 1e-9) {
        ticks.push_back({position, significant(factor * std::pow(10.0, exponent), 6)});
      }
    }
  }
  return ticks;
}

}  // namespace detail

/// Throws std::invalid_argument if a series has not as many x as y, or if y_low is not below y_high, or if a bound of a
/// logarithmic axis is not positive.
inline std::string line_chart(const LineChart& chart) {
  constexpr double left = 72, right = 696;
  Svg svg;
  Legend legend(svg, left, right, 58);
  std::vector<std::string> colors;
  for (const Series& series : chart.series) {
    const std::string& color =
        colors.emplace_back(series.color.empty() ? palette[colors.size() % palette.size()] : series.color);
    legend.add(series.name, [&](double x, double y) {
      series.dots ? svg.dot(x + 14, y, color, 4) : svg.line(x, y, x + 22, y, color, 3, series.dashed);
    });
  }
  const double top = legend.y() + 26, bottom = top + 280, height = bottom + 56;
  const auto scaled_x = [&](double x) { return chart.log_x ? std::log10(x) : x; };
  const auto scaled = [&](double y) { return chart.log_y ? std::log10(y) : y; };
  const auto drawable = [&](double x, double y) { return std::isfinite(scaled_x(x)) && std::isfinite(scaled(y)); };

  detail::Range x_range, y_range;
  for (const Series& series : chart.series) {
    if (series.x.size() != series.y.size()) {
      throw std::invalid_argument("line_chart: series \"" + series.name + "\" has " + std::to_string(series.x.size()) +
                                  " x and " + std::to_string(series.y.size()) + " y");
    }
    if (!series.spread.empty() && series.spread.size() != series.y.size()) {
      throw std::invalid_argument("line_chart: series \"" + series.name + "\" has " +
                                  std::to_string(series.spread.size()) + " spreads and " +
                                  std::to_string(series.y.size()) + " y");
    }
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!drawable(series.x[i], series.y[i])) continue;
      x_range.include(scaled_x(series.x[i]));
      y_range.include(scaled(series.y[i]));
    }
  }
  if (x_range.low > x_range.high) x_range = y_range = {0, 1};  // nothing to draw
  if (chart.y_low) y_range.low = scaled(*chart.y_low);
  if (chart.y_high) y_range.high = scaled(*chart.y_high);
  if (!std::isfinite(y_range.low) || !std::isfinite(y_range.high) ||
      (chart.y_low && chart.y_high && y_range.low >= y_range.high)) {
    throw std::invalid_argument("line_chart: y_low and y_high are not the ends of an axis");
  }
  x_range = x_range.padded(true, true);
  y_range = y_range.padded(chart.y_low.has_value(), chart.y_high.has_value());
  const auto to_x = [&](double x) { return left + (right - left) * x_range.share(x); };
  const auto to_y = [&](double y) { return bottom - (bottom - top) * y_range.share(y); };

  for (const auto& [y, label] :
       chart.log_y ? detail::log_ticks(y_range) : detail::linear_ticks(y_range, chart.percent_y)) {
    svg.line(left, to_y(y), right, to_y(y), grid_color);
    svg.text(left - 8, to_y(y) + 4, label, "end", 12, faint);
  }
  std::vector<detail::Tick> x_ticks = chart.log_x ? detail::log_ticks(x_range) : detail::linear_ticks(x_range, false);
  if (!chart.x_ticks.empty()) x_ticks.clear();
  for (const double x : chart.x_ticks) x_ticks.push_back({scaled_x(x), significant(x, 6)});
  for (const auto& [x, label] : x_ticks) {
    svg.line(to_x(x), bottom, to_x(x), bottom + 5, faint);
    svg.text(to_x(x), bottom + 20, label, "middle", 12, faint);
  }
  svg.line(left, bottom, right, bottom, faint);
  svg.text((left + right) / 2, height - 14, chart.x_label, "middle", 13, ink);
  svg.upwards(20, (top + bottom) / 2, chart.y_label);

  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Series& series = chart.series[i];
    std::vector<std::pair<double, double>> points;  // since the last gap, or since the line came into the picture
    const auto draw = [&](bool ends_here) {
      if (points.size() > 1 && !series.dots) svg.polyline(points, colors[i], series.dashed);
      if (!points.empty() && !series.dots && ends_here) svg.dot(points.back().first, points.back().second, colors[i]);
      points.clear();
    };
    for (std::size_t k = 0; k < series.x.size(); ++k) {
      if (!drawable(series.x[k], series.y[k])) {
        draw(true);
        continue;
      }
      const double x = scaled_x(series.x[k]), y = scaled(series.y[k]);
      const bool inside = y_range.contains(y);
      if (k > 0 && drawable(series.x[k - 1], series.y[k - 1])) {
        const double x0 = scaled_x(series.x[k - 1]), y0 = scaled(series.y[k - 1]);
        if (y_range.contains(y0) != inside) {
          const double edge = std::min(y, y0) < y_range.low ? y_range.low : y_range.high;
          points.emplace_back(to_x(x0 + (x - x0) * (edge - y0) / (y - y0)), to_y(edge));
        }
        if (!inside) draw(false);
      }
      if (!inside) continue;
      points.emplace_back(to_x(x), to_y(y));
      if (!series.spread.empty()) {
        const auto arm = [&](double sign) {
          const double end = scaled(series.y[k] + sign * series.spread[k]);
          return to_y(std::isfinite(end) ? std::clamp(end, y_range.low, y_range.high) : y_range.low);
        };
        svg.line(to_x(x), arm(-1), to_x(x), arm(1), colors[i], 1.5);
      }
      if (series.dots || !series.spread.empty()) svg.dot(to_x(x), to_y(y), colors[i], series.dots ? 4 : 3);
    }
    draw(true);
  }
  return svg.document(right + 24, height, chart.title, left);
}

}  // namespace examples
