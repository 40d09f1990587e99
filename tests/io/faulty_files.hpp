#pragma once
// System calls of which the k-th fails, or all writes are short.

#include "lora/io/posix.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

namespace lora_test {

/// Counts the calls that can fail, names them, and makes the one with number `failing` (from 1) fail with `reason`.
struct FaultyFiles : lora::PosixFiles {
  static inline int calls = 0, failing = 0, reason = EIO;
  static inline std::size_t longest = SIZE_MAX;  // of one read or write
  static inline bool interrupt = false;          // every second call fails with EINTR first
  static inline bool waiting = false;
  static inline std::vector<std::string> names;

  static void reset(int failing_call = 0, int error = EIO) {
    calls = 0;
    failing = failing_call;
    reason = error;
    longest = SIZE_MAX;
    interrupt = waiting = false;
    names.clear();
  }

  static bool fails(const char* name, bool can_be_interrupted = true) {
    if (interrupt && can_be_interrupted) {
      waiting = !waiting;
      if (waiting) {
        errno = EINTR;
        return true;
      }
    }
    names.emplace_back(name);
    if (++calls != failing) return false;
    errno = reason;
    return true;
  }

  static int open_at(int folder, const char* path, int flags, mode_t mode) {
    return fails("open") ? -1 : PosixFiles::open_at(folder, path, flags, mode);
  }
  static int status(int descriptor, struct ::stat* result) {
    return fails("status", false) ? -1 : PosixFiles::status(descriptor, result);
  }
  static int status_at(int folder, const char* path, struct ::stat* result) {
    return fails("status_at", false) ? -1 : PosixFiles::status_at(folder, path, result);
  }
  static ssize_t read(int descriptor, void* to, std::size_t size) {
    return fails("read") ? -1 : PosixFiles::read(descriptor, to, std::min(size, longest));
  }
  static ssize_t write(int descriptor, const void* from, std::size_t size) {
    return fails("write") ? -1 : PosixFiles::write(descriptor, from, std::min(size, longest));
  }
  static int sync(int descriptor) { return fails("sync") ? -1 : PosixFiles::sync(descriptor); }
  static int set_mode(int descriptor, mode_t mode) {
    return fails("set_mode", false) ? -1 : PosixFiles::set_mode(descriptor, mode);
  }
  /// Closes even when it fails, as Linux does.
  static int close(int descriptor) {
    const int result = PosixFiles::close(descriptor);
    return fails("close", false) ? -1 : result;
  }
  static int rename_at(int folder, const char* from, const char* to) {
    return fails("rename", false) ? -1 : PosixFiles::rename_at(folder, from, to);
  }
  static void* map(int descriptor, std::size_t size) {
    return fails("map", false) ? MAP_FAILED : PosixFiles::map(descriptor, size);
  }
};

/// The file descriptors that this process has open.
inline int open_descriptors() {
  int count = 0;
  for (int i = 0; i < 1024; ++i) count += ::fcntl(i, F_GETFD) != -1;
  return count;
}

}  // namespace lora_test
