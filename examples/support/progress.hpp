#pragma once
/// A progress bar on a terminal, plain lines anywhere else.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "text.hpp"

#if __has_include(<sys/ioctl.h>) && __has_include(<unistd.h>)
#include <sys/ioctl.h>
#include <unistd.h>
#endif

namespace examples {

/// What the other end of a stream can show.
struct Terminal {
  bool interactive = false;  // a line can be drawn again
  bool color = false;
  int width = 80;  // in characters

  /// Asks the system about stderr (2) or stdout (1). NO_COLOR (no-color.org) and TERM=dumb are honoured.
  static Terminal of(int descriptor) {
    Terminal terminal;
#if __has_include(<sys/ioctl.h>) && __has_include(<unistd.h>)
    const char* term = std::getenv("TERM");
    const char* no_color = std::getenv("NO_COLOR");
    terminal.interactive = isatty(descriptor) == 1 && term != nullptr && std::string_view(term) != "dumb";
    terminal.color = terminal.interactive && (no_color == nullptr || *no_color == '\0');
    winsize size{};
    if (ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) terminal.width = size.ws_col;
#else
    static_cast<void>(descriptor);
#endif
    return terminal;
  }
};

/// Reports how much of `total` is done.
///
///   Progress progress("LoRA", epochs);
///   progress.update(epoch, "loss 0.123");     // as often as you like
///   progress.finish("97.3 %");
///
/// On a terminal one line is drawn again, at most ten times a second; elsewhere every quarter of the way is a line.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  Progress(std::string label, long long total, std::ostream& out = std::cerr, Terminal terminal = Terminal::of(2),
           Clock::duration interval = std::chrono::milliseconds(100))
      : label_(std::move(label)), total_(std::max(total, 1LL)), out_(out), terminal_(terminal), interval_(interval) {}

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Leaves a bar that was not finished, as after an exception, on a line of its own.
  ~Progress() {
    if (drawn_ && !finished_) out_ << '\n' << std::flush;
  }

  void update(long long done, std::string_view note = {}) {
    done = std::clamp(done, 0LL, total_);
    if (terminal_.interactive) {
      const auto now = Clock::now();
      if (drawn_ && now - last_drawn_ < interval_) return;
      last_drawn_ = now;
      draw(done, note);
    } else if (const long long quarter = 4 * done / total_; quarter > last_quarter_ && quarter < 4) {
      last_quarter_ = quarter;  // the fourth is finish
      line(done, note);
    }
  }

  /// The last word: a full bar, or the last line, with the time taken.
  void finish(std::string_view note = {}) {
    if (finished_) return;
    finished_ = true;
    const std::string text = std::string(note) + (note.empty() ? "" : ", ") + fixed(seconds(), 1) + " s";
    if (terminal_.interactive) {
      draw(total_, text);
      out_ << '\n' << std::flush;
    } else {
      line(total_, text);
    }
  }

  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  static constexpr int bar_width = 24, min_bar_width = 8;

  std::string share(long long done) const {
    const std::string number = std::to_string(100 * done / total_);
    return std::string(3 - std::min<std::size_t>(number.size(), 3), ' ') + number + " %";
  }

  void line(long long done, std::string_view note) {
    out_ << label_ << "  " << share(done) << "  " << note << std::endl;
  }

  void draw(long long done, std::string_view note) {
    // What does not fit would wrap, and a wrapped line cannot be drawn again: first the bar gives way, then the note.
    const int room = terminal_.width - 1 - static_cast<int>(width_of(label_)) - 11;
    const int width = std::clamp(room - static_cast<int>(width_of(note)), min_bar_width, bar_width);
    const auto filled = static_cast<int>(width * done / total_);
    std::string bar;
    for (int i = 0; i < width; ++i) {
      if (i == 0 && terminal_.color) bar += "\x1b[36m";
      if (i == filled && terminal_.color) bar += "\x1b[90m";
      bar += i < filled ? "\u2588" : "\u2591";
    }
    if (terminal_.color) bar += "\x1b[0m";
    std::string tail(note);
    while (!tail.empty() && static_cast<int>(width_of(tail)) > std::max(room - width, 0)) {
      while ((static_cast<unsigned char>(tail.back()) & 0xC0) == 0x80) tail.pop_back();
      tail.pop_back();
    }
    out_ << '\r' << label_ << "  " << bar << "  " << share(done) << "  " << tail << "\x1b[K" << std::flush;
    drawn_ = true;
  }

  std::string label_;
  long long total_;
  std::ostream& out_;
  Terminal terminal_;
  Clock::duration interval_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_drawn_{};
  long long last_quarter_ = 0;
  bool drawn_ = false;
  bool finished_ = false;
};

}  // namespace examples
