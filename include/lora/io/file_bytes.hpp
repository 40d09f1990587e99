#pragma once
/// The bytes of a file, read-only: mapped into memory, or read into it.
///
/// map    opening costs the same for a megabyte and a terabyte; pages are read when they are touched and shared with
///        other processes. If somebody truncates the file in place, touching what is gone kills the process (SIGBUS):
///        no check can prevent that. Programs that replace files by renaming, as AtomicFile does, are harmless.
/// read   the bytes are a private copy: for network folders and files that others may change meanwhile.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/posix.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

enum class FileAccess { map, read };

/// The bytes stay where they are when a FileBytes is moved.
class FileBytes {
 public:
  FileBytes() = default;
  FileBytes(FileBytes&& other) noexcept : bytes_(std::exchange(other.bytes_, {})), memory_(std::move(other.memory_)) {}
  FileBytes& operator=(FileBytes&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~FileBytes() {
    if (!memory_ && !bytes_.empty()) PosixFiles::unmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  /// Throws FileError with the path and the system's reason; also for anything but a regular file (a folder, a pipe, a
  /// device), without reading from it or waiting for it. Symbolic links are followed.
  template <class System = PosixFiles>
  static FileBytes open(const std::filesystem::path& path, FileAccess access = FileAccess::map) {
    detail::check_path(path);
    // Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    constexpr int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    const detail::Descriptor<System> file(
        detail::uninterrupted([&] { return System::open_at(AT_FDCWD, path.c_str(), flags, 0); }));
    if (!file) detail::fail_system(path, "open it", errno);
    struct ::stat status;
    if (System::status(file.get(), &status) != 0) detail::fail_system(path, "ask for its size", errno);
    if (!S_ISREG(status.st_mode)) {
      const std::string text = path.string();
      detail::fail<FileError>(std::string_view(text), "is " + kind(status.st_mode) + ", expected a regular file");
    }
    FileBytes result;
    if (status.st_size == 0) return result;
    if (static_cast<std::uintmax_t>(status.st_size) > static_cast<std::uintmax_t>(PTRDIFF_MAX)) {
      detail::fail_system(path, "hold so many bytes", EFBIG);
    }
    const auto size = static_cast<std::size_t>(status.st_size);
    if (access == FileAccess::map) {
      void* const address = System::map(file.get(), size);
      if (address == MAP_FAILED) detail::fail_system(path, "map it into memory", errno);
      result.bytes_ = {static_cast<const std::byte*>(address), size};
    } else {
      result.memory_.reset(new (std::nothrow) std::byte[size]);
      if (!result.memory_) detail::fail_system(path, "read its " + std::to_string(size) + " bytes", ENOMEM);
      read_all<System>(path, file.get(), {result.memory_.get(), size});
      result.bytes_ = {result.memory_.get(), size};
    }
    return result;
  }

  std::span<const std::byte> bytes() const { return bytes_; }

  /// Gives the memory of a part of a mapped file back to the system, as far as it fills pages; it is read again when it
  /// is touched. Does nothing for other bytes.
  void release(std::span<const std::byte> part) const {
    if (memory_ || part.empty() || part.data() < bytes_.data() || part.size() > bytes_.size() ||
        part.data() - bytes_.data() > static_cast<std::ptrdiff_t>(bytes_.size() - part.size())) {
      return;
    }
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const auto first = static_cast<std::size_t>(part.data() - bytes_.data());  // a mapping begins with a page
    const std::size_t from = (first + page - 1) / page * page, to = (first + part.size()) / page * page;
    if (from < to) PosixFiles::release(const_cast<std::byte*>(bytes_.data() + from), to - from);
  }

 private:
  static std::string kind(mode_t mode) {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
  }

  template <class System>
  static void read_all(const std::filesystem::path& path, int file, std::span<std::byte> to) {
    const std::size_t size = to.size();
    while (!to.empty()) {
      const std::size_t wanted = std::min(to.size(), detail::largest_transfer);
      const ssize_t got = detail::uninterrupted([&] { return System::read(file, to.data(), wanted); });
      if (got < 0) detail::fail_system(path, "read it", errno);
      if (got == 0) {
        const std::string text = path.string();
        detail::fail<FileError>(std::string_view(text), "ends after " + std::to_string(size - to.size()) +
                                                            " bytes, expected " + std::to_string(size) +
                                                            ": it was cut off while it was read");
      }
      to = to.subspan(static_cast<std::size_t>(got));
    }
  }

  std::span<const std::byte> bytes_;
  std::unique_ptr<std::byte[]> memory_;  // empty if the bytes are mapped
};

LORA_IO_INSTANCE(FileBytes FileBytes::open<PosixFiles>(const std::filesystem::path&, FileAccess))

}  // namespace lora::inline LORA_ABI
