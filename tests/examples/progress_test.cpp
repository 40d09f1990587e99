#include "examples/support/progress.hpp"

#include "support/catch.hpp"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <string>

#if __has_include(<sys/ioctl.h>) && __has_include(<unistd.h>)
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#endif

using examples::Progress;
using examples::Terminal;
using lora_test::contains;

namespace {

auto count(const std::string& text, char c) { return std::count(text.begin(), text.end(), c); }

}  // namespace

TEST_CASE("progress: elsewhere than on a terminal, every quarter is a plain line") {
  std::ostringstream out;
  {
    Progress progress("LoRA", 8, out, Terminal{});
    for (int i = 0; i <= 8; ++i) progress.update(i, "step " + std::to_string(i));
    progress.finish("done");
    progress.finish("ignored");
  }
  const std::string lines = "LoRA   25 %  step 2\nLoRA   50 %  step 4\nLoRA   75 %  step 6\nLoRA  100 %  done, ";
  CHECK(out.str().substr(0, lines.size()) == lines);
  CHECK(count(out.str(), '\n') == 4);
  CHECK(count(out.str(), '\r') == 0);
  CHECK(count(out.str(), '\x1b') == 0);
}

TEST_CASE("progress: on a terminal one line is drawn again") {
  const auto drawn = [](bool color, int width, std::chrono::hours interval) {
    std::ostringstream out;
    Progress progress("LoRA", 24, out, Terminal{true, color, width}, interval);
    for (int i = 0; i < 24; ++i) progress.update(i, "losß 0.5");
    progress.finish();
    return out.str();
  };
  using std::chrono::hours;
  const std::string plain = drawn(false, 80, hours(0));
  CHECK(count(plain, '\r') == 25);
  CHECK(count(plain, '\n') == 1);
  CHECK_THAT(plain, contains("\rLoRA  █░░░░░░░░░░░░░░░░░░░░░░░    4 %  losß 0.5\x1b[K\r"));
  CHECK_THAT(plain, contains("\rLoRA  ████████████████████████  100 %  0."));
  CHECK(plain.find('m') == std::string::npos);  // no color
  CHECK_THAT(drawn(true, 80, hours(0)), contains("\rLoRA  \x1b[36m█\x1b[90m░"));
  // The last column stays free. First the bar gives way, down to 8 characters, then the note.
  CHECK_THAT(drawn(false, 33, hours(0)), contains("\rLoRA  ░░░░░░░░░    4 %  losß 0.5\x1b[K\r"));
  CHECK_THAT(drawn(false, 27, hours(0)), contains("\rLoRA  ░░░░░░░░    4 %  los\x1b[K\r"));
  CHECK_THAT(drawn(false, 28, hours(0)), contains("  4 %  losß\x1b[K\r"));  // a character is kept or dropped whole
  CHECK_THAT(drawn(false, 10, hours(0)), contains("  4 %  \x1b[K\r"));
  CHECK(count(drawn(false, 80, hours(1)), '\r') == 2);  // the first and the last
}

TEST_CASE("progress: an interrupted bar is left on a line of its own") {
  std::ostringstream out;
  {
    Progress progress("LoRA", 0, out, Terminal{true, false, 80});
  }
  CHECK(out.str().empty());
  {
    Progress progress("LoRA", 0, out, Terminal{true, false, 80});
    progress.update(7);
  }
  CHECK(out.str().back() == '\n');
}

#if __has_include(<sys/ioctl.h>) && __has_include(<unistd.h>)
TEST_CASE("progress: NO_COLOR and dumb terminals are honoured") {
  const int controller = posix_openpt(O_RDWR | O_NOCTTY);
  if (controller < 0 || grantpt(controller) != 0 || unlockpt(controller) != 0) {
    LORA_TEST_SKIP("no pseudo-terminals here");
  }
  const int terminal = open(ptsname(controller), O_RDWR | O_NOCTTY);
  const auto with = [&](const char* term, const char* no_color) {
    setenv("TERM", term, 1);
    no_color == nullptr ? unsetenv("NO_COLOR") : setenv("NO_COLOR", no_color, 1);
    return Terminal::of(terminal);
  };
  CHECK((with("xterm", nullptr).interactive && with("xterm", nullptr).color));
  CHECK((with("xterm", "1").interactive && !with("xterm", "1").color));
  CHECK(with("xterm", "").color);  // no-color.org: present and not empty
  CHECK_FALSE(with("dumb", nullptr).interactive);
  CHECK(Terminal::of(terminal).width == 80);
  CHECK_FALSE(Terminal::of(-1).interactive);
  close(terminal);
  close(controller);
}
#endif
