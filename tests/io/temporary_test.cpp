// What killed saves leave behind goes with the next save; what others are writing, or is somebody's own, stays.

#include "lora/io/temporary.hpp"
#include "io/numbered_adapter.hpp"
#include "lora/io/atomic_file.hpp"
#include "lora/io/atomic_folder.hpp"
#include "support/catch.hpp"

#include <sys/stat.h>

#include <utility>

using lora::AtomicFile;
using lora::AtomicFolder;
using lora_test::numbered;
using lora_test::read_file;
using lora_test::TemporaryFolder;
using lora_test::write_file;
namespace fs = lora_test::fs;
using Names = std::set<std::string>;

namespace {

template <class System = lora::PosixFiles>
void save_file(const fs::path& path) {
  AtomicFile<System> file(path);
  file.write("new");
  file.commit();
}

/// As a save that was killed leaves it: an adapter's files, and links to what else its directory had.
fs::path left_folder(const TemporaryFolder& folder, const fs::path& adapter, const std::string& name) {
  const auto left = folder / name;
  fs::create_directories(left / "checkpoint-1" / "empty");
  write_file(left / lora_test::config_name, "{}");
  write_file(left / lora_test::weights_name, "half of i");
  write_file(left / ".lora-1-2-4.tmp", "hal");
  fs::create_hard_link(adapter / "README.md", left / "README.md");
  fs::create_hard_link(adapter / "checkpoint-1" / "state", left / "checkpoint-1" / "state");
  return left;
}

fs::path adapter_with_other_files(const TemporaryFolder& folder) {
  const auto adapter = folder / "adapter";
  lora::save_adapter(numbered(1), adapter);
  fs::create_directories(adapter / "checkpoint-1" / "empty");
  write_file(adapter / "README.md", "read me");
  write_file(adapter / "checkpoint-1" / "state", "state");
  return adapter;
}

}  // namespace

TEST_CASE("A temporary file that nobody writes any more goes with the next save in its folder") {
  const TemporaryFolder folder;
  write_file(folder / ".lora-1-2-3.tmp", "left behind");
  fs::permissions(folder / ".lora-1-2-3.tmp", fs::perms::owner_read);
  save_file(folder / "file");
  CHECK(folder.names() == Names{"file"});
}

TEST_CASE("A temporary file that is being written stays, and gets its name") {
  const TemporaryFolder folder;
  AtomicFile<> first(folder / "first");
  first.write("1");
  save_file(folder / "second");
  save_file(folder / "first");
  CHECK(folder.names().size() == 3);
  first.commit();
  CHECK(read_file(folder / "first") == "1");
  CHECK(folder.names() == Names{"first", "second"});
}

TEST_CASE("Between closing and renaming, a file is held too") {
  static fs::path other;
  struct SavesMeanwhile : lora::PosixFiles {
    static int rename_at(int at, const char* from, const char* to) {
      save_file(other);
      return PosixFiles::rename_at(at, from, to);
    }
  };
  const TemporaryFolder folder;
  other = folder / "other";
  save_file<SavesMeanwhile>(folder / "file");
  CHECK(folder.names() == Names{"file", "other"});
}

TEST_CASE("Names that only look alike, links, pipes and folders are not touched by a file") {
  const TemporaryFolder folder;
  const Names others{".lora-.tmp1", ".lora-1-2-3.tmp.bak", ".lora-mine.tmp", "lora-1-2-3.tmp"};
  for (const auto& name : others) write_file(folder / name, "mine");
  write_file(folder / "target", "mine");
  fs::create_symlink("target", folder / ".lora-1-1-1.tmp");
  REQUIRE(::mkfifo((folder / ".lora-1-1-2.tmp").c_str(), 0600) == 0);
  fs::create_directory(folder / ".lora-1-1-3.tmp");
  auto expected = folder.names();
  expected.insert("file");
  save_file(folder / "file");
  CHECK(folder.names() == expected);
  CHECK(read_file(folder / "target") == "mine");
}

TEST_CASE("Where files cannot be locked, nothing is removed") {
  struct NoLocks : lora::PosixFiles {
    static int lock(int) {
      errno = EOPNOTSUPP;
      return -1;
    }
  };
  const TemporaryFolder folder;
  write_file(folder / ".lora-1-2-3.tmp", "left behind");
  save_file<NoLocks>(folder / "file");
  CHECK(folder.names() == Names{".lora-1-2-3.tmp", "file"});
}

TEST_CASE("A temporary that another save removes before it is locked is made again") {
  struct Unlucky : lora::PosixFolders {
    static int lock(int descriptor) {
      static int calls = 0;
      if (++calls % 2 == 0) return PosixFiles::lock(descriptor);
      errno = EWOULDBLOCK;
      return -1;
    }
  };
  const TemporaryFolder folder;
  save_file<Unlucky>(folder / "file");
  CHECK(read_file(folder / "file") == "new");
  AtomicFolder<Unlucky> made(folder / "made", {});
  CHECK(made.commit());
  CHECK(folder.names() == Names{"file", "made"});
  const int gone = ::open(write_file(folder / "gone", "").c_str(), O_RDONLY);
  fs::remove(folder / "gone");
  CHECK(lora::PosixFiles::lock(gone) == -1);
  CHECK(errno == EWOULDBLOCK);
  ::close(gone);
}

TEST_CASE("A folder that nobody writes any more goes with the next save beside it, and loses nothing") {
  const TemporaryFolder folder;
  const auto adapter = adapter_with_other_files(folder);
  left_folder(folder, adapter, ".lora-1-2-3.tmp");
  write_file(folder / ".lora-1-2-5.tmp", "a file");
  lora::save_adapter(numbered(2), adapter);
  CHECK(folder.names() == Names{"adapter"});
  CHECK(lora_test::number_in(adapter) == 2);
  CHECK(read_file(adapter / "README.md") == "read me");
  CHECK(read_file(adapter / "checkpoint-1" / "state") == "state");
  CHECK(fs::is_directory(adapter / "checkpoint-1" / "empty"));
}

TEST_CASE("What is in a folder that was left behind and nowhere else stays there") {
  const TemporaryFolder folder;
  const auto adapter = adapter_with_other_files(folder);
  const auto left = left_folder(folder, adapter, ".lora-1-2-3.tmp");
  write_file(left / "checkpoint-1" / "only here", "precious");
  fs::create_directory_symlink(adapter, left / "link");
  lora::save_adapter(numbered(2), adapter);
  CHECK(read_file(left / "checkpoint-1" / "only here") == "precious");
  CHECK(fs::is_symlink(left / "link"));
  CHECK_FALSE(fs::exists(left / lora_test::weights_name));
  CHECK(lora_test::number_in(adapter) == 2);
}

TEST_CASE("A folder that is being written stays, and gets its name") {
  const TemporaryFolder folder;
  const auto adapter = adapter_with_other_files(folder);
  AtomicFolder<> other(folder / "other", {lora_test::weights_name});
  write_file(other.staged() / lora_test::weights_name, "other");
  lora::save_adapter(numbered(2), adapter);
  CHECK(other.commit());
  CHECK(read_file(folder / "other" / lora_test::weights_name) == "other");
  CHECK(folder.names() == Names{"adapter", "other"});
}

TEST_CASE("A folder that is put into place while it is looked at is not taken for left behind") {
  static fs::path watched, live;
  struct PutsIntoPlace : lora::PosixFolders {
    // Between opening what has a temporary name and locking it.
    static int lock(int descriptor) {
      if (!watched.empty()) PosixFolders::exchange(std::exchange(watched, {}).c_str(), live.c_str());
      return PosixFiles::lock(descriptor);
    }
  };
  const TemporaryFolder folder;
  const auto adapter = adapter_with_other_files(folder);
  watched = left_folder(folder, adapter, ".lora-1-2-3.tmp");
  live = folder / "live";
  fs::create_directory(live);
  AtomicFolder<PutsIntoPlace> made(folder / "made", {lora_test::config_name, lora_test::weights_name});
  CHECK(read_file(folder / "live" / lora_test::weights_name) == "half of i");
  CHECK(read_file(folder / "live" / "README.md") == "read me");
}

TEST_CASE("What another user left behind stays") {
  if (::geteuid() != 0) LORA_TEST_SKIP("only root can be two users");
  const TemporaryFolder folder;
  const auto theirs = write_file(folder / ".lora-1-2-3.tmp", "theirs");
  REQUIRE(::chown(theirs.c_str(), 65534, 65534) == 0);
  save_file(folder / "file");
  CHECK(folder.names() == Names{".lora-1-2-3.tmp", "file"});
}
