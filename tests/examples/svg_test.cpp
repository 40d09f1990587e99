#include "examples/plotting/svg.hpp"

#include "support/catch.hpp"

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "examples/plotting/line_chart.hpp"
#include "examples/plotting/picture_grid.hpp"

using namespace examples;
using lora_test::contains;

namespace {

std::size_t count(const std::string& text, std::string_view part) {
  std::size_t number = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++number;
  return number;
}

/// Every element is closed in order, every attribute is quoted, no < is left in text.
bool well_formed(const std::string& svg) {
  std::vector<std::string> open;
  std::size_t at = 0;
  while ((at = svg.find('<', at)) != std::string::npos) {
    const std::size_t end = svg.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = svg.substr(at + 1, end - at - 1);
    if (tag.find('<') != std::string::npos || count(tag, "\"") % 2 != 0) return false;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return false;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end;
  }
  return open.empty();
}

LineChart diagonal() {
  LineChart chart;
  chart.series = {{"line", {0, 5, 10}, {0, 0.5, 1}}};
  chart.y_low = 0;
  chart.y_high = 1;
  return chart;
}

}  // namespace

TEST_CASE("svg: text is escaped") {
  LineChart chart = diagonal();
  chart.title = "a < b & \"c\" \x01 é";
  const std::string svg = line_chart(chart);
  CHECK(well_formed(svg));
  CHECK_THAT(svg, contains("<title>a &lt; b &amp; &quot;c&quot;   é</title>"));
  CHECK(escaped("'") == "&#39;");
}

TEST_CASE("line chart: points and ticks are where the axes say") {
  LineChart chart = diagonal();
  chart.percent_y = true;
  const std::string svg = line_chart(chart);
  CHECK_THAT(svg, contains("points=\"72.00,364.00 384.00,224.00 696.00,84.00\""));
  for (const std::string label : {"0 %", "20 %", "40 %", "60 %", "80 %", "100 %", "0", "2", "4", "6", "8", "10"}) {
    CHECK_THAT(svg, contains(">" + label + "</text>"));
  }
  CHECK(count(svg, "<text") == 12 + 1);  // and one name: a title and labels that are empty are left out

  chart = diagonal();
  chart.log_y = true;
  chart.y_low = 0.01;
  chart.series[0].y = {0.01, 0.1, 1};
  const std::string log = line_chart(chart);
  CHECK_THAT(log, contains("points=\"72.00,364.00 384.00,224.00 696.00,84.00\""));
  for (const std::string label : {"0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"}) {
    CHECK_THAT(log, contains(">" + label + "</text>"));
  }
}

TEST_CASE("line chart: logarithmic x, and dots without a line") {
  LineChart chart = diagonal();
  chart.log_x = true;
  chart.series[0].x = {1, 10, 100};
  const std::string svg = line_chart(chart);
  CHECK_THAT(svg, contains("points=\"72.00,364.00 384.00,224.00 696.00,84.00\""));
  for (const std::string label : {"1", "2", "5", "10", "20", "50", "100"})
    CHECK_THAT(svg, contains(">" + label + "</text>"));
  chart.series[0].x[0] = 0;
  CHECK_THAT(line_chart(chart), contains("points=\"72.00,224.00 696.00,84.00\""));  // 0 is left out

  chart = diagonal();
  chart.series[0].dots = true;
  const std::string dots = line_chart(chart);
  CHECK(count(dots, "<polyline") == 0);
  CHECK(count(dots, "<circle") == 3 + 1);  // and the legend's
  CHECK_THAT(dots, contains("<circle cx=\"384.00\" cy=\"224.00\""));
}

TEST_CASE("line chart: what cannot be drawn leaves a gap") {
  LineChart chart = diagonal();
  chart.series[0] = {"gap", {0, 1, 2, 3, 4, 5}, {0.1, 0.2, std::nan(""), 0.4, 0.5, 0.6}, true};
  CHECK(count(line_chart(chart), "<polyline") == 2);
  chart.y_low.reset();
  chart.y_high.reset();
  chart.log_y = true;
  chart.series[0].y = {0, -1, 1, 2, 0, 3};
  const std::string log = line_chart(chart);
  CHECK(count(log, "<polyline") == 1);
  CHECK(count(log, "<circle") == 2);  // the end of the line, and the single point

  LineChart cut = diagonal();
  cut.y_low = 0.0;
  cut.y_high = 1.0;
  cut.series[0] = {"in, out and in again", {0, 1, 2, 3}, {0.5, -0.5, -0.5, 0.5}};
  CHECK_THAT(line_chart(cut), contains("points=\"72.00,224.00 176.00,364.00\""));   // it leaves half way
  CHECK_THAT(line_chart(cut), contains("points=\"592.00,364.00 696.00,224.00\""));  // and comes back half way
  CHECK(count(line_chart(cut), "<circle") == 1);                                    // the end alone

  const auto drawn = [](LineChart c) {
    const std::string svg = line_chart(c);
    return well_formed(svg) && svg.find("nan") == std::string::npos && svg.find("inf") == std::string::npos;
  };
  CHECK(drawn({}));
  for (const bool logarithmic : {false, true}) {
    LineChart odd;
    odd.log_y = logarithmic;
    odd.series = {{"single", {3}, {1e-5}}};
    CHECK(drawn(odd));
    odd.series = {{"constant", {0, 1}, {7, 7}}};
    CHECK(drawn(odd));
    CHECK_THAT(line_chart(odd), contains("points=\"72.00,224.00 696.00,224.00\""));  // at half height
    odd.series = {{"nothing", {0, 1}, {std::nan(""), INFINITY}}};
    CHECK(drawn(odd));
    odd.series = {{"huge", {0, 1e9}, {1e-12, 1e12}}};
    CHECK(drawn(odd));
  }
}

TEST_CASE("line chart: wrong input is refused") {
  LineChart chart = diagonal();
  chart.series[0].y.pop_back();
  CHECK_THROWS_WITH(line_chart(chart), contains("series \"line\" has 3 x and 2 y"));
  chart = diagonal();
  chart.y_high = 0;
  CHECK_THROWS_AS(line_chart(chart), std::invalid_argument);
  chart = diagonal();
  chart.log_y = true;  // and y_low is 0
  CHECK_THROWS_AS(line_chart(chart), std::invalid_argument);
}

TEST_CASE("picture grid: pixels, captions and frames") {
  const Picture right{.pixels = {0, 1, 0.5f, 1}, .caption = "7", .note = "a <note>", .frame = Frame::right};
  const Picture wrong{.pixels = {1, 1, 1, 1}, .caption = "1, not 7", .frame = Frame::wrong};
  const std::string svg = picture_grid({"Digits", {{"first", {right, wrong}}, {"second", {right}}}});
  CHECK(well_formed(svg));
  CHECK_THAT(svg, contains("scale(32.0000)"));
  CHECK_THAT(svg, contains("<path stroke=\"rgb(0,0,0)\" d=\"m1 0h1m-1 1h1\"/>\n<path stroke=\"rgb(128,128,128)\" "
                           "d=\"m0 1h1\"/>"));
  CHECK(count(svg, ">7</text>") == 2);
  CHECK(count(svg, ">1, not 7</text>") == 1);
  CHECK(count(svg, ">a &lt;note&gt;</text>") == 2);
  CHECK(count(svg, wrong_color) == 3);  // the frame, its caption, the legend
  CHECK(count(picture_grid({"", {{"", {{.pixels = {0, 0, 0, 0}}}}}}), wrong_color) == 0);
  CHECK(well_formed(picture_grid({})));
  CHECK_THROWS_AS(picture_grid({"", {{"", {{.pixels = {0, 1}}}}}}), std::invalid_argument);
  CHECK_THROWS_AS(picture_grid({"", {{"", {{.pixels = {}}}}}}), std::invalid_argument);
}

TEST_CASE("picture grid: neighbors in a row of one color are one stroke, at any size") {
  const Picture picture{.pixels = {0, 0.5f, 0.501f, 1, 1, 1, 1, 0, 1}};
  const std::string svg = picture_grid({.title = "", .rows = {{.pictures = {picture}}}, .size = 150});
  CHECK_THAT(svg, contains("scale(50.0000)"));
  CHECK_THAT(svg, contains("d=\"m1 0h2\""));               // two of nearly the same grey
  CHECK_THAT(svg, contains("d=\"m0 1h3m-3 1h1m1 0h1\""));  // the second row ends where it ends
}

TEST_CASE("picture grid: signed pictures are blue and orange") {
  Picture picture{.pixels = {0, 1, -1, -0.5f}, .has_sign = true};
  const std::string svg = picture_grid({"", {{"", {picture}}}});
  CHECK_THAT(svg, contains("<path stroke=\"rgb(24,78,140)\" d=\"m1 0h1\"/>"));
  CHECK_THAT(svg, contains("<path stroke=\"rgb(200,90,20)\" d=\"m0 1h1\"/>"));
  CHECK_THAT(svg, contains("<path stroke=\"rgb(228,173,138)\" d=\"m1 1h1\"/>"));
  CHECK(count(svg, "<path") == 3);  // 0 is white
  picture.has_sign = false;         // then what is negative is white
  CHECK(count(picture_grid({"", {{"", {picture}}}}), "<path") == 1);
}

TEST_CASE("picture grid: columns become pictures, each scaled to itself") {
  PictureGrid grid;
  Eigen::MatrixXd columns(4, 3);
  columns << 0, 0, 0, 2, -4, 0, 4, 2, 0, 1, 1, 0;
  add_columns(grid, "label", columns, 2, true);
  REQUIRE(grid.rows.size() == 2);
  CHECK(grid.rows[0].label == "label");
  CHECK(grid.rows[1].label.empty());
  REQUIRE(grid.rows[0].pictures.size() == 2);
  REQUIRE(grid.rows[1].pictures.size() == 1);
  CHECK(grid.rows[0].pictures[0].pixels == std::vector<float>{0, 0.5f, 1, 0.25f});
  CHECK(grid.rows[0].pictures[1].pixels == std::vector<float>{0, -1, 0.5f, 0.25f});
  CHECK(grid.rows[1].pictures[0].pixels == std::vector<float>{0, 0, 0, 0});
  CHECK(grid.rows[1].pictures[0].has_sign);
  CHECK_THROWS_AS(add_columns(grid, "", columns, 0), std::invalid_argument);

  // without captions the rows are closer
  CHECK_THAT(picture_grid(grid), contains("height=\"236\""));
  grid.rows[0].pictures[0].caption = "7";
  CHECK_THAT(picture_grid(grid), contains("height=\"256\""));
}
