#pragma once
/// A grid of small grey pictures as SVG, with captions and frames for right and wrong.

#include <algorithm>
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

/// A square picture, row after row from the top left, 0 (white) to 1 (black).
struct Picture {
  std::vector<float> pixels;
  std::string caption;
  Frame frame = Frame::none;
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

/// One path for every grey; white is the background.
inline std::map<std::string, std::string> grey_paths(const std::vector<float>& pixels, std::size_t side) {
  std::map<std::string, std::string> paths;
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    const std::string level = std::to_string(std::lround(255 * (1 - std::clamp(pixels[i], 0.0f, 1.0f))));
    if (level == "255") continue;
    paths["rgb(" + level + "," + level + "," + level + ")"] +=
        "M" + std::to_string(i % side) + " " + std::to_string(i / side) + "h1v1h-1z";
  }
  return paths;
}

}  // namespace detail

/// Throws std::invalid_argument if a picture is not square.
inline std::string picture_grid(const PictureGrid& grid) {
  constexpr double margin = 24, size = 64, gap = 20, row_height = size + 40;
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
    svg.frame(right - 130, 24, 13, right_colour, 2.5, false);
    svg.text(right - 111, 35, "right", "start", 13, ink);
    svg.frame(right - 62, 24, 13, wrong_colour, 2.5, true);
    svg.text(right - 43, 35, "wrong", "start", 13, ink);
  }
  double y = 62;
  for (const PictureRow& row : grid.rows) {
    svg.text(margin, y + size / 2 + 5, row.label, "start", 13, ink);
    double x = left;
    for (const Picture& picture : row.pictures) {
      const auto side = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(picture.pixels.size()))));
      if (side == 0 || side * side != picture.pixels.size()) {
        throw std::invalid_argument("picture_grid: " + std::to_string(picture.pixels.size()) +
                                    " pixels, expected a square");
      }
      svg.mosaic(x, y, size / static_cast<double>(side), detail::grey_paths(picture.pixels, side));
      const std::string colour = picture.frame == Frame::right   ? right_colour
                                 : picture.frame == Frame::wrong ? wrong_colour
                                                                 : grid_colour;
      const bool plain = picture.frame == Frame::none;
      svg.frame(x - 3, y - 3, size + 6, colour, plain ? 1 : 2.5, picture.frame == Frame::wrong);
      svg.text(x + size / 2, y + size + 20, picture.caption, "middle", 13, plain ? faint : colour);
      x += size + gap;
    }
    y += row_height;
  }
  return svg.document(right + margin, y + 6, grid.title);
}

}  // namespace examples
