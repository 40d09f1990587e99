#pragma once
/// The memory of this process.

#include <fstream>
#include <string>

namespace examples {

/// The most bytes of physical memory that this process has had at once, files that it has mapped among them; 0 where
/// the system does not tell (VmHWM of Linux). getrusage would count those of the program that started it too.
inline long long peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return 1024 * std::stoll(line.substr(6));
  }
  return 0;
}

}  // namespace examples
