#pragma once
/// The temporary files and folders of saves: what they are called, and what becomes of those that a killed process
/// leaves behind.
///
/// They are named .lora-PROCESS-TIME-COUNT.tmp. Whoever writes one holds a lock on it (flock), which ends with the
/// process. The next save in the same folder removes those that nobody holds; other users' stay, and so do all of them
/// where the file system has no such locks. Nothing reads them.

#include "lora/io/posix.hpp"

#include <dirent.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// Different for every process, thread and call, or nearly: that nothing of this name is there has to be seen to.
inline std::string temporary_name() {
  static std::atomic<std::uint32_t> count{0};
  const auto time = std::chrono::steady_clock::now().time_since_epoch().count();
  return ".lora-" + std::to_string(::getpid()) + "-" + std::to_string(time) + "-" + std::to_string(count++) + ".tmp";
}

inline bool is_temporary(std::string_view name) {
  constexpr std::string_view start = ".lora-", end = ".tmp";
  if (!name.starts_with(start) || !name.ends_with(end) || name.size() < start.size() + end.size()) return false;
  name = name.substr(start.size(), name.size() - start.size() - end.size());
  return name.find_first_not_of("0123456789-") == name.npos;
}

/// Locks a temporary that has just been made. False if a save elsewhere takes it for left behind, in the moment before
/// it was locked: it is gone, or about to be.
template <class System>
bool hold(int descriptor) {
  return uninterrupted([&] { return System::lock(descriptor); }) == 0 || errno != EWOULDBLOCK;
}

inline std::vector<std::string> names_in(int folder) {
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

/// Removes the `own` files of a folder that was left behind, its temporaries, and what has another name elsewhere: it
/// was linked from the folder that was saved to. Anything else stays, and the folders it is in.
template <class System>
void empty_left_folder(int folder, const std::vector<std::string>& own) {
  for (const std::string& name : names_in(folder)) {
    struct ::stat status;
    if (System::status_at(folder, name.c_str(), &status) != 0) continue;
    if (S_ISDIR(status.st_mode)) {
      constexpr int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
      const Descriptor<System> below(uninterrupted([&] { return System::open_at(folder, name.c_str(), flags, 0); }));
      if (below) empty_left_folder<System>(below.get(), {});
      System::remove_folder_at(folder, name.c_str());
    } else if (status.st_nlink > 1 || is_temporary(name) || std::find(own.begin(), own.end(), name) != own.end()) {
      System::unlink_at(folder, name.c_str());
    }
  }
}

/// Removes from an open folder the temporary files that nobody holds; and, if `own` is given, the folders, in which
/// saves write files of these names.
template <class System>
void remove_left_behind(int folder, const std::vector<std::string>* own = nullptr) {
  for (const std::string& name : names_in(folder)) {
    if (!is_temporary(name)) continue;
    // Never through links, and nothing of somebody else's: folders such as /tmp are everyone's.
    constexpr int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    const Descriptor<System> left(uninterrupted([&] { return System::open_at(folder, name.c_str(), flags, 0); }));
    struct ::stat held, named;
    if (!left || System::status(left.get(), &held) != 0 || held.st_uid != ::geteuid()) continue;
    const bool is_folder = S_ISDIR(held.st_mode);
    if (!S_ISREG(held.st_mode) && !(is_folder && own != nullptr)) continue;
    if (uninterrupted([&] { return System::lock(left.get()); }) != 0) continue;
    // What was opened may meanwhile have been put into place, and be held no more.
    if (System::status_at(folder, name.c_str(), &named) != 0 || named.st_ino != held.st_ino) continue;
    if (is_folder) {
      empty_left_folder<System>(left.get(), *own);
      System::remove_folder_at(folder, name.c_str());
    } else {
      System::unlink_at(folder, name.c_str());
    }
  }
}

}  // namespace lora::inline LORA_ABI::detail
