#pragma once
/// A file that is written completely or not at all.
///
/// Writes a temporary file in the same folder; commit() forces it to the disk (fsync), renames it to its name, and
/// forces the folder to the disk. A failure before the rename, including a kill or a power failure, leaves the old file
/// unchanged; a process that has the old file open or mapped keeps it. With two concurrent writers the last to rename
/// wins, and neither file is torn. The next save in the folder removes what a killed process leaves behind; see
/// detail/temporary.hpp.

#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/temporary.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/posix.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// All functions throw FileError with the path, the step and the system's reason. Without commit, the destructor
/// removes the temporary file, so that an exception leaves nothing behind.
///
/// The file gets the permissions of the old file, but not its owner; without an old file, those of the process's umask.
/// A symbolic link stays, and the file that it points to is replaced. Anything but a regular file is refused.
template <class System = PosixFiles>
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path) : path_(path) {
    detail::check_path(path);
    open_folder();
    struct ::stat old;
    bool exists = status(old);
    if (exists && S_ISLNK(old.st_mode)) {
      std::error_code error;
      path_ = std::filesystem::canonical(path, error);
      if (error) detail::fail_system(path, "follow it, a symbolic link", error.value());
      open_folder();
      exists = status(old);
    }
    if (exists && !S_ISREG(old.st_mode)) {
      const std::string text = path_.string();
      detail::fail<FileError>(std::string_view(text), "is not a regular file, and is not replaced by one");
    }
    detail::remove_left_behind<System>(folder_.get());
    create();
    constexpr mode_t permissions = 0777;
    if (exists && System::set_mode(file_.get(), old.st_mode & permissions) != 0) {
      const int reason = errno;
      remove();
      fail("give the new file the old one's permissions", reason);
    }
  }

  AtomicFile(AtomicFile&&) = delete;
  ~AtomicFile() { remove(); }

  /// Appends. Small pieces are buffered, large ones are written directly.
  void write(std::span<const std::byte> bytes) {
    constexpr std::size_t capacity = std::size_t{1} << 16;
    if (buffer_.size() + bytes.size() > capacity) {
      flush();
      if (bytes.size() >= capacity) return write_out(bytes);
    }
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Everything that can fail except the rename: of two files that belong together, prepare both before a commit.
  void prepare() {
    if (!file_) return;
    flush();
    if (detail::uninterrupted([&] { return System::sync(file_.get()); }) != 0) fail("force it to the disk", errno);
    // close is the last call that can report a failed write; if interrupted, it has closed the file all the same.
    if (file_.close() != 0 && errno != EINTR) fail("close it", errno);
  }

  /// Renames the file to its name. If only the last step fails, forcing the folder to the disk, the new file is in
  /// place, whole, and the message says so: after a power failure it may be the old one again.
  void commit() {
    prepare();
    const std::string name = path_.filename().string();
    if (System::rename_at(folder_.get(), temporary_.c_str(), name.c_str()) != 0) {
      fail("rename " + temporary_ + " to it", errno);
    }
    temporary_.clear();
    // Some file systems cannot sync a folder and report EINVAL.
    if (detail::uninterrupted([&] { return System::sync(folder_.get()); }) != 0 && errno != EINVAL) {
      fail("force its folder to the disk; the new file is in place, but may not survive a power failure", errno);
    }
  }

 private:
  [[noreturn]] void fail(std::string_view step, int reason) const { detail::fail_system(path_, step, reason); }

  /// Keeps the folder open, so that the same folder is written to and forced to the disk, even if it is moved.
  void open_folder() {
    const auto parent = path_.parent_path();
    const std::string folder = parent.empty() ? "." : parent.string();
    folder_ = detail::Descriptor<System>(detail::uninterrupted(
        [&] { return System::open_at(AT_FDCWD, folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); }));
    if (!folder_) fail("open its folder", errno);
  }

  bool status(struct ::stat& result) const {
    const std::string name = path_.filename().string();
    if (name.empty()) fail("write to it", EISDIR);
    if (System::status_at(folder_.get(), name.c_str(), &result) == 0) return true;
    if (errno != ENOENT) fail("look at the file that is there", errno);
    return false;
  }

  void create() {
    constexpr int attempts = 100;
    for (int attempt = 1;; ++attempt) {
      temporary_ = detail::temporary_name();
      constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
      constexpr mode_t before_umask = 0666;
      file_ = detail::Descriptor<System>(detail::uninterrupted(
          [&] { return System::open_at(folder_.get(), temporary_.c_str(), flags, before_umask); }));
      const int reason = errno;
      if (file_) {
        if (detail::hold<System>(file_.get())) break;
        remove();
      } else if (reason != EEXIST || attempt == attempts) {
        temporary_.clear();  // if it exists, it is not ours
        fail("create a temporary file beside it", reason);
      }
    }
    // The file is closed before it is renamed, but must stay locked until then.
    lock_ = detail::Descriptor<System>(System::duplicate(file_.get()));
  }

  void flush() {
    write_out(buffer_);
    buffer_.clear();
  }

  void write_out(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const std::size_t size = std::min(bytes.size(), detail::largest_transfer);
      const ssize_t written = detail::uninterrupted([&] { return System::write(file_.get(), bytes.data(), size); });
      if (written <= 0) fail("write to a temporary file beside it", written < 0 ? errno : EIO);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  void remove() noexcept {
    file_.close();
    if (!temporary_.empty()) System::unlink_at(folder_.get(), temporary_.c_str());
    temporary_.clear();
  }

  std::filesystem::path path_;
  detail::Descriptor<System> folder_, file_, lock_;
  std::string temporary_;  // its name while it exists
  std::vector<std::byte> buffer_;
};

LORA_IO_INSTANCE(class AtomicFile<PosixFiles>)

}  // namespace lora::inline LORA_ABI
