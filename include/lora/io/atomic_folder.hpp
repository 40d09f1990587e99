#pragma once
/// A folder of files that belong together, replaced as one.
///
/// The new files are written into a folder beside it. commit() links what else is in the old folder into the new one,
/// and exchanges the two in one step (renameat2 with RENAME_EXCHANGE): whoever opens the folder finds all of the old or
/// all of the new. Then the old files are removed. What a killed process leaves behind, a folder with the old or the
/// new files and links to what else there is, the next save beside it removes; see temporary.hpp.
///
/// Linux; elsewhere commit() says that it cannot, as it does on file systems that cannot exchange or link.

#include "lora/io/file_error.hpp"
#include "lora/io/posix.hpp"
#include "lora/io/temporary.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

namespace lora::inline LORA_ABI {

/// The further system calls that folders need. Links are never followed.
struct PosixFolders : PosixFiles {
  static int make_folder(const char* path, mode_t mode) { return ::mkdir(path, mode); }
  static int remove_folder(const char* path) { return ::rmdir(path); }
  static int remove_file(const char* path) { return ::unlink(path); }
  static int link(const char* from, const char* to) { return ::linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
  static int rename(const char* from, const char* to) { return ::rename(from, to); }
  static int exchange([[maybe_unused]] const char* one, [[maybe_unused]] const char* other) {
#if defined(SYS_renameat2)
    constexpr unsigned exchange_flag = 2;  // RENAME_EXCHANGE
    return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, exchange_flag));
#else
    errno = ENOSYS;
    return -1;
#endif
  }
};

/// Everything throws FileError with the path, the step and the system's reason. Without commit, the destructor removes
/// the new files. The folder and its files keep their permissions; a symbolic link to it stays. Folders above it are
/// made.
template <class System = PosixFolders>
class AtomicFolder {
 public:
  /// `own` are the names of the files that are replaced; one that is not written again is gone afterwards.
  AtomicFolder(const std::filesystem::path& folder, std::vector<std::string> own)
      : folder_(resolved(folder)), own_(std::move(own)) {
    const auto parent = folder_.parent_path();
    std::error_code error;
    std::filesystem::create_directories(parent, error);
    if (error) fail("make the folder above it", error.value());
    if (const auto above = open_folder(parent)) detail::remove_left_behind<System>(above.get(), &own_);
    // Nobody else may look into it before it has the permissions of the old one.
    const mode_t mode = std::filesystem::exists(folder_, error) ? 0700 : 0777;
    for (int attempts = 100;; --attempts) {
      staged_ = parent / detail::temporary_name();
      if (System::make_folder(staged_.c_str(), mode) == 0) {
        lock_ = open_folder(staged_);
        const int why_not = errno;
        if (lock_ && detail::hold<System>(lock_.get())) return;
        discard();
        if (!lock_ && why_not != ENOENT) fail("open the temporary folder beside it", why_not);
        continue;
      }
      const int reason = errno;
      if (reason == EEXIST && attempts > 0) continue;
      staged_.clear();
      const bool forbidden = reason == EACCES || reason == EPERM || reason == EROFS;
      if (forbidden && std::filesystem::is_directory(folder_, error)) return;
      fail("make a temporary folder beside it", reason);
    }
  }
  AtomicFolder(AtomicFolder&&) = delete;
  ~AtomicFolder() { discard(); }

  /// False if nothing may be written beside the folder, so that there is no staged().
  bool can_stage() const { return !staged_.empty(); }
  /// Where the new files are to be written, each forced to the disk.
  const std::filesystem::path& staged() const { return staged_; }
  /// The folder that they will be in, links followed.
  const std::filesystem::path& folder() const { return folder_; }

  /// Puts them into place. False if this system cannot exchange the folders; nothing has changed then. What fails after
  /// the exchange says that the new files are in place.
  bool commit() {
    struct ::stat old;
    bool exists = System::status_at(AT_FDCWD, folder_.c_str(), &old) == 0;
    if (!exists && errno != ENOENT) fail("look at the folder that is there", errno);
    if (!exists) {
      sync(staged_, "force the new folder to the disk");
      if (System::rename(staged_.c_str(), folder_.c_str()) == 0) {
        staged_.clear();
        sync(folder_.parent_path(), in_place("force the folder above it to the disk"));
        return true;
      }
      if (errno != ENOTEMPTY && errno != EEXIST) fail("rename the new folder to it", errno);
      exists = System::status_at(AT_FDCWD, folder_.c_str(), &old) == 0;  // somebody else made it meanwhile
      if (!exists) fail("look at the folder that is there", errno);
    }
    if (!S_ISDIR(old.st_mode)) {
      const std::string text = folder_.string();
      detail::fail<FileError>(std::string_view(text), "is not a folder, and is not replaced by one");
    }
    // A process would be left behind in the old folder.
    if (holds_current_folder() || !carry({}, old.st_mode)) return false;
    sync(staged_, "force the new folder to the disk");
    if (System::exchange(staged_.c_str(), folder_.c_str()) != 0) {
      const int reason = errno;
      constexpr std::array<int, 6> unable{EINVAL, ENOSYS, EOPNOTSUPP, EPERM, EBUSY, EXDEV};
      if (std::find(unable.begin(), unable.end(), reason) != unable.end()) return false;
      fail("exchange it for the new folder", reason);
    }
    const auto replaced = std::exchange(staged_, {});  // holds the old files now
    sync(folder_.parent_path(), in_place("force the folder above it to the disk"));
    remove_old(replaced);
    return true;
  }

 private:
  static std::filesystem::path resolved(const std::filesystem::path& folder) {
    detail::check_path(folder);
    std::error_code error;
    auto path = std::filesystem::weakly_canonical(std::filesystem::absolute(folder), error);
    if (error) detail::fail_system(folder, "find it", error.value());
    if (!path.has_filename()) path = path.parent_path();  // "adapter/"
    return path;
  }

  [[noreturn]] void fail(std::string_view step, int reason) const { detail::fail_system(folder_, step, reason); }
  static std::string in_place(const std::string& step) { return step + " (the new files are in place)"; }

  bool holds_current_folder() const {
    std::error_code error;
    const auto current = std::filesystem::canonical(std::filesystem::current_path(error), error);
    if (error) return false;
    const auto [end, unused] = std::mismatch(folder_.begin(), folder_.end(), current.begin(), current.end());
    return end == folder_.end();
  }

  /// Links what is in folder_ / below, but for the files that are replaced, into the new folder. False if it cannot.
  bool carry(const std::filesystem::path& below, mode_t mode) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::directory_iterator entries(folder_ / below, error);
    for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
      const std::string name = entries->path().filename().string();
      if (detail::is_temporary(name)) continue;
      const auto at = below / name;
      const auto to = staged_ / at;
      struct ::stat status;
      if (System::status_at(AT_FDCWD, entries->path().c_str(), &status) != 0) return false;
      if (below.empty() && std::find(own_.begin(), own_.end(), name) != own_.end()) {
        if (!keep_permissions(to, status.st_mode)) return false;
        continue;
      }
      if (S_ISDIR(status.st_mode)) {
        if (System::make_folder(to.c_str(), 0700) != 0) return false;
        folders_.push_back(at);
        if (!carry(at, status.st_mode)) return false;
      } else {
        if (System::link(entries->path().c_str(), to.c_str()) != 0) return false;
        links_.push_back(at);
      }
    }
    if (error) return false;
    const detail::Descriptor<System> made = open_folder(staged_ / below);
    return made && System::set_mode(made.get(), mode & permissions) == 0 && (below.empty() || synced(made));
  }

  /// Gives a new file those of the one that it replaces; true if there is no new file.
  static bool keep_permissions(const std::filesystem::path& file, mode_t mode) {
    constexpr int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    const detail::Descriptor<System> opened(
        detail::uninterrupted([&] { return System::open_at(AT_FDCWD, file.c_str(), flags, 0); }));
    if (!opened) return errno == ENOENT;
    return !S_ISREG(mode) || System::set_mode(opened.get(), mode & permissions) == 0;
  }

  /// Removes the old files and the second names of those that were linked. What has appeared in the old folder since
  /// stays where it is, and is reported.
  void remove_old(const std::filesystem::path& replaced) {
    const auto same = [&](const std::filesystem::path& at) {
      struct ::stat here, there;
      return System::status_at(AT_FDCWD, (replaced / at).c_str(), &here) == 0 &&
             System::status_at(AT_FDCWD, (folder_ / at).c_str(), &there) == 0 && here.st_ino == there.st_ino &&
             here.st_dev == there.st_dev;
    };
    for (const auto& at : links_) {
      if (same(at)) System::remove_file((replaced / at).c_str());
    }
    for (const auto& name : own_) System::remove_file((replaced / name).c_str());
    std::error_code ignored;
    std::vector<std::filesystem::path> leftovers;
    for (const auto& entry : std::filesystem::directory_iterator(replaced, ignored)) {
      if (detail::is_temporary(entry.path().filename().string())) leftovers.push_back(entry.path());
    }
    for (const auto& path : leftovers) System::remove_file(path.c_str());
    for (auto at = folders_.rbegin(); at != folders_.rend(); ++at) System::remove_folder((replaced / *at).c_str());
    if (System::remove_folder(replaced.c_str()) != 0 && errno != ENOENT) {  // another save may have removed it
      fail(in_place("remove what was there before, now in " + replaced.string()), errno);
    }
  }

  detail::Descriptor<System> open_folder(const std::filesystem::path& path) const {
    return detail::Descriptor<System>(detail::uninterrupted(
        [&] { return System::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0); }));
  }
  /// Some file systems cannot force a folder to the disk, and say EINVAL.
  static bool synced(const detail::Descriptor<System>& folder) {
    return detail::uninterrupted([&] { return System::sync(folder.get()); }) == 0 || errno == EINVAL;
  }
  void sync(const std::filesystem::path& path, const std::string& step) const {
    const detail::Descriptor<System> folder = open_folder(path);
    if (!folder || !synced(folder)) fail(step, errno);
  }

  void discard() noexcept {
    if (staged_.empty()) return;
    std::error_code ignored;
    std::filesystem::remove_all(staged_, ignored);
    staged_.clear();
  }

  static constexpr mode_t permissions = 07777;

  std::filesystem::path folder_, staged_;  // staged_ is empty once it is in place
  detail::Descriptor<System> lock_;        // of the new folder
  std::vector<std::string> own_;
  std::vector<std::filesystem::path> links_, folders_;  // carried over, relative to the folder
};

}  // namespace lora::inline LORA_ABI
