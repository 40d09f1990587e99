#pragma once
/// The system calls that io makes, as one function each, so that a test can replace them.
///
/// Code that touches files is a template on a type with these functions. The default forwards to the system; a test
/// derives from PosixFiles and makes the k-th call fail. POSIX only; another system needs another struct with the same
/// functions.

#if defined(_WIN32)
#error "lora/io needs POSIX files: open, mmap, fsync, renameat"
#endif

#include "lora/abi.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <utility>

namespace lora::inline LORA_ABI {

struct PosixFiles {
  static int open_at(int folder, const char* path, int flags, mode_t mode) {
    return ::openat(folder, path, flags, mode);
  }
  static int status(int descriptor, struct ::stat* result) { return ::fstat(descriptor, result); }
  static int status_at(int folder, const char* path, struct ::stat* result) {
    return ::fstatat(folder, path, result, AT_SYMLINK_NOFOLLOW);
  }
  static ssize_t read(int descriptor, void* to, std::size_t size) { return ::read(descriptor, to, size); }
  static ssize_t write(int descriptor, const void* from, std::size_t size) { return ::write(descriptor, from, size); }
  static int sync(int descriptor) { return ::fsync(descriptor); }
  static int set_mode(int descriptor, mode_t mode) { return ::fchmod(descriptor, mode); }
  static int close(int descriptor) { return ::close(descriptor); }
  static int rename_at(int folder, const char* from, const char* to) { return ::renameat(folder, from, folder, to); }
  static int unlink_at(int folder, const char* path) { return ::unlinkat(folder, path, 0); }
  static int duplicate(int descriptor) { return ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0); }
  /// Locks the file until this descriptor and its duplicates are closed. Fails with EWOULDBLOCK if it is locked
  /// already, or if it has no name any more.
  static int lock(int descriptor) {
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) return -1;
    struct ::stat status;
    if (::fstat(descriptor, &status) != 0 || status.st_nlink > 0) return 0;
    errno = EWOULDBLOCK;
    return -1;
  }
  static void* map(int descriptor, std::size_t size) {
    return ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  }
  /// Gives whole pages of a mapped file back to the system; they are read again when they are touched.
  static int release(void* address, std::size_t size) { return ::madvise(address, size, MADV_DONTNEED); }
  static int unmap(void* address, std::size_t size) { return ::munmap(address, size); }
};

namespace detail {

/// Repeats a call while signals interrupt it; not for close, after which the descriptor is gone either way.
template <class Call>
auto uninterrupted(Call&& call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

/// The max size of one transfer: some systems refuse 2 GiB and more.
inline constexpr std::size_t largest_transfer = std::size_t{1} << 30;

/// Owns an open file; closes it.
template <class System>
class Descriptor {
 public:
  explicit Descriptor(int descriptor = -1) : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() { close(); }

  int get() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }
  /// 0, or -1 with errno set; the descriptor is closed in both cases.
  int close() { return descriptor_ < 0 ? 0 : System::close(std::exchange(descriptor_, -1)); }

 private:
  int descriptor_;
};

}  // namespace detail
}  // namespace lora::inline LORA_ABI
