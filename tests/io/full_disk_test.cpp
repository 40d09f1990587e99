// Disks that are full, and folders that may not be written to: the real ones, where the system lets a test have them.

#include "io/numbered_adapter.hpp"
#include "lora/io/atomic_file.hpp"
#include "support/catch.hpp"

#if defined(__linux__)
#include <sched.h>
#include <sys/mount.h>
#endif
#include <sys/wait.h>

#include <cstdio>
#include <functional>

using lora_test::contains;
using lora_test::message_of;
using lora_test::number_in;
using lora_test::numbered;
using lora_test::read_file;
using lora_test::TemporaryFolder;
using lora_test::write_file;
namespace fs = lora_test::fs;

namespace {

constexpr lora::Index rows = 4096;  // 64 KiB of weights: 16 pages
constexpr std::size_t page = 4096;
constexpr int cannot_mount = 100;

/// f(folder on a disk of one MiB) in a process of its own, the only one that sees the disk: 0 if it has returned true,
/// cannot_mount where that is not allowed.
int on_small_disk(const std::function<bool(const fs::path&)>& f) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int result = cannot_mount;
#if defined(__linux__)
    if (::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount("none", folder.path().c_str(), "tmpfs", 0, "size=1m") == 0) {
      try {
        result = f(folder.path()) ? 0 : 1;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        result = 2;
      }
    }
#else
    static_cast<void>(f);
#endif
    ::_exit(result);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

/// Fills the disk, and gives back `pages` of it.
void leave_free(const fs::path& disk, std::size_t pages) {
  const auto filler = disk / "filler";
  fs::remove(filler);
  const int file = ::open(filler.c_str(), O_WRONLY | O_CREAT, 0600);
  const std::string full(page, 'x');
  std::size_t size = 0;
  while (::write(file, full.data(), page) == static_cast<ssize_t>(page)) size += page;
  if (::ftruncate(file, static_cast<off_t>(size - pages * page)) != 0) throw std::runtime_error("cannot truncate");
  ::close(file);
}

bool says_full(const std::string& error, const fs::path& where) {
  return error.rfind(where.string(), 0) == 0 && error.find("No space left on device") != std::string::npos;
}

/// An ordinary user, if this one is root, who may do everything.
class OrdinaryUser {
 public:
  OrdinaryUser() : was_root_(::geteuid() == 0) {
    if (was_root_ && ::seteuid(65534) != 0) throw std::runtime_error("cannot become another user");
  }
  ~OrdinaryUser() {
    if (was_root_ && ::seteuid(0) != 0) std::abort();
  }

 private:
  bool was_root_;
};

}  // namespace

TEST_CASE("However little space is left, the adapter is the old one, or there is room for the new one") {
  const int result = on_small_disk([](const fs::path& disk) {
    const auto old = numbered(1, rows), replacement = numbered(2, rows);
    const auto adapter = disk / "adapter";
    int refused = 0;
    for (std::size_t pages = 0; pages < 30; ++pages) {
      lora::save_adapter(old, adapter);
      leave_free(disk, pages);
      const std::string error = message_of<lora::FileError>([&] { lora::save_adapter(replacement, adapter); });
      fs::remove(disk / "filler");
      const bool is_old = number_in(adapter, rows) == 1;
      const bool nothing_else = std::distance(fs::directory_iterator(disk), fs::directory_iterator()) == 1;
      if (is_old == error.empty() || !nothing_else || (is_old && !says_full(error, disk))) {
        std::fprintf(stderr, "%zu pages free: %s\n", pages, error.c_str());
        return false;
      }
      refused += is_old;
    }
    return refused > 10 && refused < 30;
  });
  if (result == cannot_mount) LORA_TEST_SKIP("may not mount a disk");
  CHECK(result == 0);
}

TEST_CASE("A file on a full disk stays as it was, and the message names it") {
  const int result = on_small_disk([](const fs::path& disk) {
    const auto path = disk / "file";
    write_file(path, "old");
    leave_free(disk, 20);
    const std::string error = message_of<lora::FileError>([&] {
      lora::AtomicFile<> file(path);
      for (int i = 0; i < 1000; ++i) file.write(std::string(1000, 'n'));
      file.commit();
    });
    fs::remove(disk / "filler");
    return says_full(error, path) && read_file(path) == "old" &&
           std::distance(fs::directory_iterator(disk), fs::directory_iterator()) == 1;
  });
  if (result == cannot_mount) LORA_TEST_SKIP("may not mount a disk");
  CHECK(result == 0);
}

TEST_CASE("What may not be written to stays, and the message says so") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  lora::save_adapter(numbered(1), adapter);
  const auto file = write_file(folder / "file", "old");
  constexpr auto read_only = fs::perms::owner_read | fs::perms::owner_exec | fs::perms::group_read |
                             fs::perms::group_exec | fs::perms::others_read | fs::perms::others_exec;
  fs::permissions(adapter, read_only);
  fs::permissions(folder.path(), read_only);
  std::string of_file, of_adapter, of_new;
  {
    const OrdinaryUser user;
    of_file = message_of<lora::FileError>([&] { lora::AtomicFile<> unused(file); });
    of_adapter = message_of<lora::FileError>([&] { lora::save_adapter(numbered(2), adapter); });
    of_new = message_of<lora::FileError>([&] { lora::save_adapter(numbered(2), folder / "new"); });
  }
  CHECK(of_file == file.string() + ": cannot create a temporary file beside it: Permission denied");
  CHECK(of_adapter ==
        (adapter / lora_test::weights_name).string() + ": cannot create a temporary file beside it: Permission denied");
  CHECK(of_new == (folder / "new").string() + ": cannot make the folder: Permission denied");
  CHECK(read_file(file) == "old");
  CHECK(number_in(adapter) == 1);
  fs::permissions(folder.path(), fs::perms::owner_all);
  fs::permissions(adapter, fs::perms::owner_all);
  CHECK(folder.names() == std::set<std::string>{"adapter", "file"});
}
