// What killed saves leave behind goes with the next save in the folder; what others are writing, or is somebody's own,
// stays.

#include "lora/io/detail/temporary.hpp"
#include "io/files.hpp"
#include "lora/io/atomic_file.hpp"
#include "support/catch.hpp"

#include <sys/stat.h>

#include <utility>

using lora::AtomicFile;
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
  struct Unlucky : lora::PosixFiles {
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
  CHECK(folder.names() == Names{"file"});
  const int gone = ::open(write_file(folder / "gone", "").c_str(), O_RDONLY);
  fs::remove(folder / "gone");
  CHECK(lora::PosixFiles::lock(gone) == -1);
  CHECK(errno == EWOULDBLOCK);
  ::close(gone);
}

TEST_CASE("A file that is put into place while it is looked at is not taken for left behind") {
  static fs::path watched, live;
  struct PutsIntoPlace : lora::PosixFiles {
    // Between opening what has a temporary name and locking it.
    static int lock(int descriptor) {
      if (!watched.empty()) fs::rename(std::exchange(watched, {}), live);
      return PosixFiles::lock(descriptor);
    }
  };
  const TemporaryFolder folder;
  live = folder / "live";
  watched = write_file(folder / ".lora-1-2-3.tmp", "new");
  save_file<PutsIntoPlace>(folder / "file");
  CHECK(read_file(live) == "new");
  CHECK(folder.names() == Names{"file", "live"});
}

TEST_CASE("What another user left behind stays") {
  if (::geteuid() != 0) LORA_TEST_SKIP("only root can be two users");
  const TemporaryFolder folder;
  const auto theirs = write_file(folder / ".lora-1-2-3.tmp", "theirs");
  REQUIRE(::chown(theirs.c_str(), 65534, 65534) == 0);
  save_file(folder / "file");
  CHECK(folder.names() == Names{".lora-1-2-3.tmp", "file"});
}
