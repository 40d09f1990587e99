#pragma once
/// A grid of small pictures as SVG, grey or signed, with captions and frames for right and wrong.

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
#include "text.hpp"

namespace examples {

enum class Frame { none, right, wrong };

/// A square picture, row after row from the top left, 0 (white) to 1 (black); or signed, -1 (orange) over 0 (white) to
/// 1 (blue).
struct Picture {
  std::vector<float> pixels;
  std::string caption;
  Frame frame = Frame::none;
  bool has_sign = false;
};

struct PictureRow {
  std::string label;
  std::vector<Picture> pictures;
};

struct PictureGrid {
  std::string title;
  std::vector<PictureRow> rows;
};

namespace detail {

/// The color of a pixel.
inline std::array<long, 3> color_of(float value, bool has_sign) {
  constexpr std::array<float, 3> black = {0, 0, 0}, blue = {24, 78, 140}, orange = {200, 90, 20};
  const float strength = std::clamp(has_sign ? std::abs(value) : value, 0.0f, 1.0f);
  const auto& full = !has_sign ? black : value < 0 ? orange : blue;
  std::array<long, 3> color{};
  for (std::size_t i = 0; i < 3; ++i) color[i] = std::lround(255 - strength * (255 - full[i]));
  return color;
}

/// One path for every color; white is the background.
inline std::map<std::string, std::string> color_paths(const Picture& picture, std::size_t side) {
  std::map<std::string, std::string> paths;
  for (std::size_t i = 0; i < picture.pixels.size(); ++i) {
    const auto [red, green, blue] = color_of(picture.pixels[i], picture.has_sign);
    if (red == 255 && green == 255 && blue == 255) continue;
    paths["rgb(" + std::to_string(red) + "," + std::to_string(green) + "," + std::to_string(blue) + ")"] +=
        "M" + std::to_string(i % side) + " " + std::to_string(i / side) + "h1v1h-1z";
  }
  return paths;
}

}  // namespace detail

/// Adds the columns as pictures, `per_row` in a row, each scaled to its own largest entry; the label is that of the
/// first row.   Throws std::invalid_argument if per_row is below 1.
inline void add_columns(PictureGrid& grid, const std::string& label, const Eigen::MatrixXd& columns,
                        Eigen::Index per_row, bool has_sign = false) {
  if (per_row < 1) throw std::invalid_argument("add_columns: per_row is not 1 or more");
  for (Eigen::Index k = 0; k < columns.cols(); ++k) {
    if (k % per_row == 0) grid.rows.push_back({.label = k == 0 ? label : "", .pictures = {}});
    const double largest = columns.col(k).cwiseAbs().maxCoeff();
    const Eigen::VectorXf pixels = (columns.col(k) / (largest > 0 ? largest : 1)).cast<float>();
    grid.rows.back().pictures.push_back(
        {.pixels = std::vector<float>(pixels.begin(), pixels.end()), .caption = "", .has_sign = has_sign});
  }
}

/// Throws std::invalid_argument if a picture is not square.
inline std::string picture_grid(const PictureGrid& grid) {
  constexpr double margin = 24, size = 64, gap = 20, caption_height = 20;
  std::size_t columns = 0, widest = 0;
  bool framed = false;
  for (const PictureRow& row : grid.rows) {
    columns = std::max(columns, row.pictures.size());
    widest = std::max(widest, width_of(row.label));
    for (const Picture& picture : row.pictures) framed = framed || picture.frame != Frame::none;
  }
  const double left = margin + (widest == 0 ? 0 : character_width * static_cast<double>(widest) + 16);
  const double right =
      std::max(left + static_cast<double>(columns) * (size + gap) - gap,
               margin + 1.3 * character_width * static_cast<double>(width_of(grid.title)) + (framed ? 170 : 0));

  Svg svg;
  svg.text(margin, 36, grid.title, "start", 17, ink, " font-weight=\"600\"");
  if (framed) {
    svg.frame(right - 130, 24, 13, right_color, 2.5, false);
    svg.text(right - 111, 35, "right", "start", 13, ink);
    svg.frame(right - 62, 24, 13, wrong_color, 2.5, true);
    svg.text(right - 43, 35, "wrong", "start", 13, ink);
  }
  double y = 62;
  for (const PictureRow& row : grid.rows) {
    svg.text(margin, y + size / 2 + 5, row.label, "start", 13, ink);
    double x = left;
    bool captioned = false;
    for (const Picture& picture : row.pictures) {
      const auto side = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(picture.pixels.size()))));
      if (side == 0 || side * side != picture.pixels.size()) {
        throw std::invalid_argument("picture_grid: " + std::to_string(picture.pixels.size()) +
                                    " pixels, expected a square");
      }
      svg.mosaic(x, y, size / static_cast<double>(side), detail::color_paths(picture, side));
      const std::string color = picture.frame == Frame::right   ? right_color
                                : picture.frame == Frame::wrong ? wrong_color
                                                                : grid_color;
      const bool plain = picture.frame == Frame::none;
      svg.frame(x - 3, y - 3, size + 6, color, plain ? 1 : 2.5, picture.frame == Frame::wrong);
      svg.text(x + size / 2, y + size + 20, picture.caption, "middle", 13, plain ? faint : color);
      captioned = captioned || !picture.caption.empty();
      x += size + gap;
    }
    y += size + gap + (captioned ? caption_height : 0);
  }
  return svg.document(right + margin, y + 6, grid.title);
}

}  // namespace examples
