#pragma once
/// Elements of an SVG picture. The background is white, so that it reads well on a dark page too.

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../support/text.hpp"

namespace examples {

/// A character's width at font size 13, generously: SVG does not tell how wide a text becomes.
inline constexpr double character_width = 7.2;

/// Muted colors; where a difference matters, a dash says it as well.
inline constexpr const char* ink = "#2b2f36";
inline constexpr const char* faint = "#6b7280";
inline constexpr const char* grid_color = "#e5e7eb";
inline constexpr std::array<const char*, 6> palette = {"#3b6ea5", "#d98032", "#2a8c7f",
                                                       "#b5485d", "#7d5ba6", "#8a8d91"};

/// Text for element content and attributes; control characters, which XML has no way to write, become spaces.
inline std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default: result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

/// Collects elements; coordinates are in pixels, to a hundredth.
class Svg {
 public:
  void line(double x1, double y1, double x2, double y2, const std::string& color, double width = 1,
            bool dashed = false) {
    body_ +=
        "<line" + at("x1", x1) + at("y1", y1) + at("x2", x2) + at("y2", y2) + stroke(color, width, dashed) + "/>\n";
  }

  void polyline(const std::vector<std::pair<double, double>>& points, const std::string& color, bool dashed = false,
                double width = 2) {
    std::string path;
    for (const auto& [x, y] : points) path += (path.empty() ? "" : " ") + fixed(x, 2) + "," + fixed(y, 2);
    body_ += "<polyline points=\"" + path + "\" fill=\"none\" stroke-linejoin=\"round\"" +
             stroke(color, width, dashed) + "/>\n";
  }

  void dot(double x, double y, const std::string& color, int radius = 3) {
    body_ += "<circle" + at("cx", x) + at("cy", y) + " r=\"" + std::to_string(radius) + "\" fill=\"" + color + "\"/>\n";
  }

  void rectangle(double x, double y, double width, double height, const std::string& color) {
    body_ += "<rect" + at("x", x) + at("y", y) + at("width", width) + at("height", height) + " rx=\"3\" fill=\"" +
             color + "\"/>\n";
  }

  void frame(double x, double y, double size, const std::string& color, double width, bool dashed) {
    body_ += "<rect" + at("x", x) + at("y", y) + at("width", size) + at("height", size) + " rx=\"2\" fill=\"none\"" +
             stroke(color, width, dashed) + "/>\n";
  }

  void text(double x, double y, std::string_view text, const std::string& anchor, double size, const std::string& color,
            const std::string& more = "") {
    if (text.empty()) return;
    body_ += "<text" + at("x", x) + at("y", y) + " text-anchor=\"" + anchor + "\"" + at("font-size", size) +
             " fill=\"" + color + "\"" + more + ">" + escaped(text) + "</text>\n";
  }

  void heading(double x, double y, std::string_view text, double size = 14) {
    this->text(x, y, text, "start", size, ink, " font-weight=\"600\"");
  }

  /// Read from below to above; its middle is at (x, y).
  void upwards(double x, double y, std::string_view text) {
    this->text(0, 0, text, "middle", 13, ink,
               " transform=\"translate(" + fixed(x, 2) + " " + fixed(y, 2) + ") rotate(-90)\"");
  }

  /// A picture of pixels: for every color a path of horizontal strokes, in units of a pixel.
  void mosaic(double x, double y, double scale, const std::map<std::string, std::string>& paths) {
    body_ += "<g transform=\"translate(" + fixed(x, 2) + " " + fixed(y + scale / 2, 2) + ") scale(" + fixed(scale, 4) +
             ")\" fill=\"none\" shape-rendering=\"crispEdges\">\n";
    for (const auto& [color, path] : paths) body_ += "<path stroke=\"" + color + "\" d=\"" + path + "\"/>\n";
    body_ += "</g>\n";
  }

  /// The whole picture, with its title above what was drawn.
  std::string document(double width, double height, std::string_view title, double left = 24) const {
    const std::string w = fixed(width, 0), h = fixed(height, 0);
    Svg head;
    head.heading(left, 36, title, 17);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h + "\" viewBox=\"0 0 " + w +
           " " + h +
           "\" role=\"img\" font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, "
           "sans-serif\">\n<title>" +
           escaped(title) + "</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n" +
           head.body_ + body_ + "</svg>\n";
  }

 private:
  static std::string at(const std::string& name, double value) { return " " + name + "=\"" + fixed(value, 2) + "\""; }

  static std::string stroke(const std::string& color, double width, bool dashed) {
    return " stroke=\"" + color + "\"" + at("stroke-width", width) + (dashed ? " stroke-dasharray=\"5 4\"" : "");
  }

  std::string body_;
};

/// Names from left to right, in as many lines as they need.
class Legend {
 public:
  Legend(Svg& svg, double left, double right, double y) : svg_(svg), left_(left), right_(right), x_(left), y_(y) {}

  /// symbol(x, y) draws what stands before the name: 22 wide from x, and y is its middle.
  void add(std::string_view name, const auto& symbol) {
    const double width = 28 + character_width * static_cast<double>(width_of(name));
    if (x_ > left_ && x_ + width > right_) {
      x_ = left_;
      y_ += 22;
    }
    symbol(x_, y_);
    svg_.text(x_ + 28, y_ + 4, name, "start", 13, ink);
    x_ += width + 22;
  }

  /// The middle of the last line.
  double y() const { return y_; }

 private:
  Svg& svg_;
  double left_, right_, x_, y_;
};

}  // namespace examples
