#include "lora/io/atomic_file.hpp"

#include "io/faulty_files.hpp"
#include "io/files.hpp"
#include "support/catch.hpp"

#include <sys/resource.h>

#include <csignal>
#include <set>
#include <thread>

using lora::AtomicFile;
using lora_test::contains;
using lora_test::FaultyFiles;
using lora_test::message_of;
using lora_test::read_file;
using lora_test::write_file;
using Names = std::set<std::string>;

namespace {

template <class System = lora::PosixFiles>
void save(const std::filesystem::path& path, std::string_view text) {
  AtomicFile<System> file(path);
  file.write(text);
  file.commit();
}

template <class System = lora::PosixFiles>
std::string error_of(const std::filesystem::path& path, std::string_view text = "new") {
  return message_of<lora::FileError>([&] { save<System>(path, text); });
}

mode_t mode_of(const std::filesystem::path& path) {
  struct ::stat status;
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

}  // namespace

TEST_CASE("A file appears, and is replaced, whole") {
  const lora_test::TemporaryFolder folder;
  save(folder / "file", "one");
  CHECK(read_file(folder / "file") == "one");
  save(folder / "file", "two");
  CHECK(read_file(folder / "file") == "two");
  save(folder / "file", "");
  CHECK(read_file(folder / "file").empty());
  CHECK(folder.names() == Names{"file"});
}

TEST_CASE("Until commit, the old file is there; without it, it stays") {
  const lora_test::TemporaryFolder folder;
  write_file(folder / "file", "old");
  const int before = lora_test::open_descriptors();
  {
    AtomicFile<> file(folder / "file");
    file.write(std::string(1'000'000, 'n'));
    CHECK(read_file(folder / "file") == "old");
    CHECK(folder.names().size() == 2);
  }
  CHECK(read_file(folder / "file") == "old");
  CHECK(folder.names() == Names{"file"});
  CHECK(lora_test::open_descriptors() == before);
}

TEST_CASE("Pieces of any size arrive in order") {
  const lora_test::TemporaryFolder folder;
  std::string all;
  AtomicFile<> file(folder / "file");
  for (std::size_t size : {1u, 65'535u, 1u, 65'536u, 0u, 65'537u, 30'000u, 40'000u, 200'000u, 3u}) {
    const std::string piece(size, static_cast<char>('a' + all.size() % 26));
    file.write(piece);
    all += piece;
  }
  file.commit();
  CHECK(read_file(folder / "file") == all);
}

TEST_CASE("Each call that fails leaves the old file, no other, and says which path and step") {
  const std::string text(100'000, 'n');  // more than the buffer: two writes
  const int before = lora_test::open_descriptors();
  for (const int reason : {EIO, ENOSPC, EDQUOT}) {
    std::vector<std::string> steps;
    for (int k = 1;; ++k) {
      const lora_test::TemporaryFolder folder;
      const auto path = write_file(folder / "file", "old");
      FaultyFiles::reset(k, reason);
      std::string error;
      try {
        AtomicFile<FaultyFiles> file(path);
        file.write("head");
        file.write(text);
        file.commit();
      } catch (const lora::FileError& failure) {
        error = failure.what();
      }
      CHECK(folder.names() == Names{"file"});
      CHECK(lora_test::open_descriptors() == before);
      if (FaultyFiles::calls < k) {
        CHECK(error.empty());
        CHECK(read_file(path) == "head" + text);
        break;
      }
      const auto& step = FaultyFiles::names[static_cast<std::size_t>(k - 1)];
      INFO("call " << k << ", " << step << ": " << error);
      steps.push_back(step);
      const bool in_place = k >= 10;  // after the rename: the file is new, and whole
      CHECK(read_file(path) == (in_place ? "head" + text : "old"));
      if (k >= 11) {  // the lock's and the folder's descriptors, which have nothing left to report
        CHECK(error.empty());
        continue;
      }
      CHECK(error.substr(0, path.string().size() + 9) == path.string() + ": cannot ");
      CHECK_THAT(error, contains(std::generic_category().message(reason)));
      CHECK((error.find("the new file is in place") != std::string::npos) == in_place);
    }
    CHECK(steps == std::vector<std::string>{"open", "status_at", "open", "set_mode", "write", "write", "sync", "close",
                                            "rename", "sync", "close", "close"});
  }
}

TEST_CASE("Short and interrupted writes go on") {
  const lora_test::TemporaryFolder folder;
  const std::string text = "0123456789abcdef";
  FaultyFiles::reset();
  FaultyFiles::longest = 5;
  FaultyFiles::interrupt = true;
  save<FaultyFiles>(folder / "file", text);
  CHECK(read_file(folder / "file") == text);
  CHECK(std::count(FaultyFiles::names.begin(), FaultyFiles::names.end(), "write") == 4);
}

TEST_CASE("A disk that takes nothing more is an error, not an endless loop") {
  struct Full : lora::PosixFiles {
    static ssize_t write(int, const void*, std::size_t) { return 0; }
  };
  const lora_test::TemporaryFolder folder;
  CHECK_THAT(error_of<Full>(folder / "file"), contains("cannot write to a temporary file beside it"));
  CHECK(folder.names().empty());
}

TEST_CASE("A folder that cannot be forced to the disk at all is no error") {
  struct NoFolderSync : lora::PosixFiles {
    static int sync(int descriptor) {
      struct ::stat status;
      ::fstat(descriptor, &status);
      if (!S_ISDIR(status.st_mode)) return PosixFiles::sync(descriptor);
      errno = EINVAL;
      return -1;
    }
  };
  const lora_test::TemporaryFolder folder;
  CHECK(error_of<NoFolderSync>(folder / "file").empty());
  CHECK(read_file(folder / "file") == "new");
}

TEST_CASE("The file is on the disk before it gets its name, and the folder after") {
  const lora_test::TemporaryFolder folder;
  FaultyFiles::reset();
  save<FaultyFiles>(folder / "file", "x");
  CHECK(FaultyFiles::names == std::vector<std::string>{"open", "status_at", "open", "write", "sync", "close", "rename",
                                                       "sync", "close", "close"});
}

TEST_CASE("A limit on the size of files is met like a full disk") {
  const lora_test::TemporaryFolder folder;
  write_file(folder / "file", "old");
  struct ::rlimit old;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct ::rlimit small{100'000, old.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const auto error = error_of(folder / "file", std::string(300'000, 'n'));
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  CHECK_THAT(error, contains("cannot write to a temporary file beside it: File too large"));
  CHECK(read_file(folder / "file") == "old");
  CHECK(folder.names() == Names{"file"});
}

TEST_CASE("Permissions: those of the old file, else of the umask") {
  const lora_test::TemporaryFolder folder;
  const mode_t old = ::umask(027);
  save(folder / "new", "x");
  write_file(folder / "file", "old");
  ::chmod((folder / "file").c_str(), 0604);
  save(folder / "file", "x");
  ::umask(old);
  CHECK(mode_of(folder / "new") == 0640);
  CHECK(mode_of(folder / "file") == 0604);
}

TEST_CASE("A symbolic link stays, and its file is replaced, in its own folder") {
  const lora_test::TemporaryFolder folder;
  std::filesystem::create_directory(folder / "below");
  write_file(folder / "below" / "file", "old");
  std::filesystem::create_symlink("below/file", folder / "link");
  save(folder / "link", "new");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(read_file(folder / "below" / "file") == "new");
  CHECK(folder.names() == Names{"below", "link"});

  std::filesystem::create_symlink("nowhere", folder / "dangling");
  CHECK_THAT(error_of(folder / "dangling"), contains("cannot follow it, a symbolic link: No such file"));
}

TEST_CASE("A path without a folder is in the current one") {
  const lora_test::TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  save("file", "x");
  std::filesystem::current_path(before);
  CHECK(folder.names() == Names{"file"});
}

TEST_CASE("What cannot be replaced by a file is refused and stays") {
  const lora_test::TemporaryFolder folder;
  std::filesystem::create_directory(folder / "sub");
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  CHECK(error_of(folder / "sub") == (folder / "sub").string() + ": is not a regular file, and is not replaced by one");
  CHECK_THAT(error_of(folder / "fifo"), contains("is not a regular file"));
  CHECK_THAT(error_of("/dev/null"), contains("is not a regular file"));
  CHECK_THAT(error_of(folder.path() / ""), contains("cannot write to it"));
  CHECK_THAT(error_of(folder / "none" / "file"), contains("cannot open its folder: No such file or directory"));
  CHECK_THAT(error_of(folder / std::string(256, 'n')), contains("File name too long"));
  CHECK(error_of("") == "file: the path is empty");
  CHECK_THAT(error_of((folder / "a").string() + '\0'), contains("contains a NUL"));
  CHECK(folder.names() == Names{"fifo", "sub"});
  CHECK(error_of(folder / std::string(255, 'n')).empty());  // the longest name there is
}

TEST_CASE("A folder that may not be written to") {
  if (::geteuid() == 0) LORA_TEST_SKIP("root may write everywhere; see the next test");
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "file", "old");
  ::chmod(folder.path().c_str(), 0500);
  const auto error = error_of(path);
  ::chmod(folder.path().c_str(), 0700);
  CHECK_THAT(error, contains("cannot create a temporary file beside it: Permission denied"));
  CHECK(read_file(path) == "old");
}

TEST_CASE("A read-only file system, of which every Linux has one") {
  if (!std::filesystem::exists("/proc/self/stat")) LORA_TEST_SKIP("no /proc");
  CHECK_THAT(error_of("/proc/lora-test"), contains("/proc/lora-test: cannot create a temporary file beside it"));
}

TEST_CASE("Names of temporary files that exist already are left alone") {
  struct Taken : lora::PosixFiles {
    static int open_at(int folder, const char* path, int flags, mode_t mode) {
      static int left = 3;
      if ((flags & O_CREAT) && left > 0 && --left >= 0) {
        const int file = PosixFiles::open_at(folder, path, flags, mode);  // somebody else was faster
        ::write(file, "theirs", 6) == 6 ? ::close(file) : -1;
        errno = EEXIST;
        return -1;
      }
      return PosixFiles::open_at(folder, path, flags, mode);
    }
  };
  const lora_test::TemporaryFolder folder;
  CHECK(error_of<Taken>(folder / "file").empty());
  CHECK(read_file(folder / "file") == "new");
  CHECK(folder.names().size() == 4);
}

TEST_CASE("Two that save at once never tear the file, and leave nothing else", "[threads]") {
  const lora_test::TemporaryFolder folder;
  const auto path = folder / "file";
  save(path, std::string(100'000, 'a'));
  std::atomic<bool> done{false};
  std::string failure;
  std::thread reader([&] {
    while (!done) {
      const auto text = read_file(path);
      if (text.size() != 100'000 || text.find_first_not_of(text[0]) != text.npos) failure = "torn";
    }
  });
  const auto writer = [&](char letter) {
    for (int i = 0; i < 50; ++i) save(path, std::string(100'000, letter));
  };
  std::thread first(writer, 'x'), second(writer, 'y');
  first.join();
  second.join();
  done = true;
  reader.join();
  CHECK(failure.empty());
  CHECK(folder.names() == Names{"file"});
}
