#pragma once
/// Grey pictures of any size in rows, each with two lines of caption, as SVG.

#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "png.hpp"
#include "svg.hpp"

namespace examples {

struct Panel {
  Eigen::MatrixXd grey;  // 0 (black) to 1 (white)
  std::string caption;   // in bold
  std::string note;
};

struct Gallery {
  std::string title;
  std::vector<Panel> panels;  // from left to right, row after row
  std::size_t columns = 4;
};

/// Every picture is drawn pixel for pixel; the first one's size is that of its place, the others are fitted to it.
/// Throws std::invalid_argument without columns or if a picture is empty.
inline std::string gallery(const Gallery& gallery) {
  constexpr double margin = 24, gap = 16, title_height = 58, caption_height = 54;
  if (gallery.columns == 0) throw std::invalid_argument("gallery: 0 columns, expected at least 1");
  if (gallery.panels.empty()) return Svg().document(2 * margin, 2 * margin, gallery.title);
  const auto width = static_cast<double>(gallery.panels[0].grey.cols());
  const auto height = static_cast<double>(gallery.panels[0].grey.rows());
  const std::size_t columns = std::min(gallery.columns, gallery.panels.size());
  const std::size_t rows = (gallery.panels.size() + columns - 1) / columns;

  Svg svg;
  svg.text(margin, 36, gallery.title, "start", 17, ink, " font-weight=\"600\"");
  for (std::size_t i = 0; i < gallery.panels.size(); ++i) {
    const Panel& panel = gallery.panels[i];
    const double x = margin + static_cast<double>(i % columns) * (width + gap);
    const double y = title_height + static_cast<double>(i / columns) * (height + caption_height);
    svg.image(x, y, width, height, "data:image/png;base64," + base64(png(panel.grey)));
    svg.text(x, y + height + 18, panel.caption, "start", 13, ink, " font-weight=\"600\"");
    svg.text(x, y + height + 35, panel.note, "start", 12, faint);
  }
  return svg.document(2 * margin + static_cast<double>(columns) * (width + gap) - gap,
                      title_height + static_cast<double>(rows) * (height + caption_height), gallery.title);
}

}  // namespace examples
