#pragma once
/// The temporary files of saves: their names, and the removal of those that a killed process leaves behind.
///
/// They are named .lora-PROCESS-TIME-COUNT.tmp. Their writer holds a lock on them (flock), which ends with its process.
/// The next save in the same folder removes those that are not locked; the files of other users stay, and so do all
/// files if the file system has no such locks. Nothing reads them.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/posix.hpp"

#include <dirent.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Almost always different for every process, thread and call; the caller must check that no file has this name.
std::string temporary_name();

bool is_temporary(std::string_view name);

/// Locks a newly created temporary file. Returns false if another save has taken it for abandoned before it was locked:
/// it is gone, or about to be.
template <class System>
bool hold(int descriptor) {
  return uninterrupted([&] { return System::lock(descriptor); }) == 0 || errno != EWOULDBLOCK;
}

std::vector<std::string> names_in(int folder);

/// Removes from an open folder the temporary files that are not locked.
template <class System>
void remove_left_behind(int folder) {
  for (const std::string& name : names_in(folder)) {
    if (!is_temporary(name)) continue;
    // Never follows links, and removes no file of another user: folders such as /tmp are shared.
    constexpr int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    const Descriptor<System> left(uninterrupted([&] { return System::open_at(folder, name.c_str(), flags, 0); }));
    struct ::stat held;
    if (!left || System::status(left.get(), &held) != 0 || held.st_uid != ::geteuid()) continue;
    if (!S_ISREG(held.st_mode) || uninterrupted([&] { return System::lock(left.get()); }) != 0) continue;
    System::unlink_at(folder, name.c_str());  // a file that was committed since it was opened has another name
  }
}

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE std::string temporary_name() {
  static std::atomic<std::uint32_t> count{0};
  const auto time = std::chrono::steady_clock::now().time_since_epoch().count();
  return ".lora-" + std::to_string(::getpid()) + "-" + std::to_string(time) + "-" + std::to_string(count++) + ".tmp";
}

LORA_IO_INLINE bool is_temporary(std::string_view name) {
  constexpr std::string_view start = ".lora-", end = ".tmp";
  if (!name.starts_with(start) || !name.ends_with(end) || name.size() < start.size() + end.size()) return false;
  name = name.substr(start.size(), name.size() - start.size() - end.size());
  return name.find_first_not_of("0123456789-") == name.npos;
}

LORA_IO_INLINE std::vector<std::string> names_in(int folder) {
  std::vector<std::string> names;
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ::DIR* const entries = copy < 0 ? nullptr : ::fdopendir(copy);
  if (entries == nullptr) {
    if (copy >= 0) ::close(copy);
    return names;
  }
  while (const ::dirent* entry = ::readdir(entries)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(entries);
  return names;
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI::detail
