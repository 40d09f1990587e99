#pragma once
/// A grid of pictures as SVG, grey or signed, with captions and frames for right and wrong.

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "svg.hpp"

namespace examples {

enum class Frame { none, right, wrong };

inline constexpr const char* right_color = "#2a8c7f";
inline constexpr const char* wrong_color = "#c8553d";

/// A square picture, row after row from the top left, 0 (white) to 1 (black); or signed, -1 (orange) over 0 (white) to
/// 1 (blue).
struct Picture {
  std::vector<float> pixels;
  std::string caption = {}, note = {};  // below it
  Frame frame = Frame::none;
  bool has_sign = false;
};

struct PictureRow {
  std::string label = {};
  std::vector<Picture> pictures = {};
};

struct PictureGrid {
  std::string title;
  std::vector<PictureRow> rows = {};
  double size = 64;  // of a picture
};

namespace detail {

/// The color of a pixel, of 32 levels from white on: the fewer, the longer are the strokes of one color. Nothing where
/// it is white, as the background is.
inline std::string color_of(float value, bool has_sign) {
  constexpr std::array<float, 3> black = {0, 0, 0}, blue = {24, 78, 140}, orange = {200, 90, 20};
  const float level = std::round(32 * std::clamp(has_sign ? std::abs(value) : value, 0.0f, 1.0f));
  if (level == 0) return {};
  std::string color;
  for (const float full : !has_sign ? black : value < 0 ? orange : blue) {
    color += (color.empty() ? "rgb(" : ",") + std::to_string(std::lround(255 - level / 32 * (255 - full)));
  }
  return color + ")";
}

/// For every color a path of strokes through its pixels, each `m` relative to the end of the one before.
inline std::map<std::string, std::string> color_paths(const Picture& picture, std::size_t side) {
  struct Pen {
    long x = 0, y = 0;
  };
  std::map<std::string, std::string> paths;
  std::map<std::string, Pen> pens;
  for (std::size_t first = 0, last = 0; first < picture.pixels.size(); first = last) {
    const std::string color = color_of(picture.pixels[first], picture.has_sign);
    do ++last;
    while (last % side != 0 && color_of(picture.pixels[last], picture.has_sign) == color);
    if (color.empty()) continue;
    const auto x = static_cast<long>(first % side), y = static_cast<long>(first / side);
    const auto length = static_cast<long>(last - first);
    Pen& pen = pens[color];
    paths[color] += "m" + std::to_string(x - pen.x) + " " + std::to_string(y - pen.y) + "h" + std::to_string(length);
    pen = {x + length, y};
  }
  return paths;
}

}  // namespace detail

/// Adds the columns as pictures, `per_row` in a row, each scaled to its own largest entry; the label is that of the
/// first row.
/// Throws std::invalid_argument if per_row is below 1.
inline void add_columns(PictureGrid& grid, const std::string& label, const Eigen::MatrixXd& columns,
                        Eigen::Index per_row, bool has_sign = false) {
  if (per_row < 1) throw std::invalid_argument("add_columns: per_row is not 1 or more");
  for (Eigen::Index k = 0; k < columns.cols(); ++k) {
    if (k % per_row == 0) grid.rows.push_back({.label = k == 0 ? label : "", .pictures = {}});
    const double largest = columns.col(k).cwiseAbs().maxCoeff();
    const Eigen::VectorXf pixels = (columns.col(k) / (largest > 0 ? largest : 1)).cast<float>();
    grid.rows.back().pictures.push_back(
        {.pixels = std::vector<float>(pixels.begin(), pixels.end()), .has_sign = has_sign});
  }
}

/// Throws std::invalid_argument if a picture is not square.
inline std::string picture_grid(const PictureGrid& grid) {
  constexpr double margin = 24, gap = 20;
  std::size_t columns = 0, widest = 0;
  bool framed = false;
  for (const PictureRow& row : grid.rows) {
    columns = std::max(columns, row.pictures.size());
    widest = std::max(widest, width_of(row.label));
    for (const Picture& picture : row.pictures) framed = framed || picture.frame != Frame::none;
  }
  const double left = margin + (widest == 0 ? 0 : character_width * static_cast<double>(widest) + 16);
  const double right =
      std::max(left + static_cast<double>(columns) * (grid.size + gap) - gap,
               margin + 1.3 * character_width * static_cast<double>(width_of(grid.title)) + (framed ? 170 : 0));

  Svg svg;
  if (framed) {
    svg.frame(right - 130, 24, 13, right_color, 2.5, false);
    svg.text(right - 111, 35, "right", "start", 13, ink);
    svg.frame(right - 62, 24, 13, wrong_color, 2.5, true);
    svg.text(right - 43, 35, "wrong", "start", 13, ink);
  }
  double y = 62;
  for (const PictureRow& row : grid.rows) {
    svg.text(margin, y + grid.size / 2 + 5, row.label, "start", 13, ink);
    double x = left, below = 0;
    for (const Picture& picture : row.pictures) {
      const auto side = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(picture.pixels.size()))));
      if (side == 0 || side * side != picture.pixels.size()) {
        throw std::invalid_argument("picture_grid: " + std::to_string(picture.pixels.size()) +
                                    " pixels, expected a square");
      }
      svg.mosaic(x, y, grid.size / static_cast<double>(side), detail::color_paths(picture, side));
      const bool plain = picture.frame == Frame::none;
      const std::string color = plain ? grid_color : picture.frame == Frame::right ? right_color : wrong_color;
      svg.frame(x - 3, y - 3, grid.size + 6, color, plain ? 1 : 2.5, picture.frame == Frame::wrong);
      const double middle = x + grid.size / 2, end = y + grid.size;
      svg.text(middle, end + 20, picture.caption, "middle", 13, plain ? ink : color);
      svg.text(middle, end + 37, picture.note, "middle", 12, faint);
      below = std::max(below, !picture.note.empty() ? 37.0 : !picture.caption.empty() ? 20.0 : 0.0);
      x += grid.size + gap;
    }
    y += grid.size + gap + below;
  }
  return svg.document(right + margin, y + 6, grid.title);
}

}  // namespace examples
