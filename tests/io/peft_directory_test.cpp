// The two files of an adapter as one thing: failing system calls, kills, other files in the directory.

#include "io/faulty_files.hpp"
#include "io/files.hpp"
#include "io/numbered_adapter.hpp"
#include "support/catch.hpp"

#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

using lora_test::contains;
using lora_test::FaultyFiles;
using lora_test::Layers;
using lora_test::message_of;
using lora_test::number_in;
using lora_test::numbered;
using lora_test::read_file;
using lora_test::TemporaryFolder;
using lora_test::weights_name;
namespace fs = lora_test::fs;

namespace {

/// Failing system calls for folders too, and a system that cannot exchange them.
struct FaultyFolders : FaultyFiles {
  static inline bool can_exchange = true;

  static int make_folder(const char* path, mode_t mode) {
    return fails("make_folder", false) ? -1 : lora::PosixFolders::make_folder(path, mode);
  }
  static int remove_folder(const char* path) {
    return fails("remove_folder", false) ? -1 : lora::PosixFolders::remove_folder(path);
  }
  static int remove_file(const char* path) {
    return fails("remove_file", false) ? -1 : lora::PosixFolders::remove_file(path);
  }
  static int link(const char* from, const char* to) {
    return fails("link", false) ? -1 : lora::PosixFolders::link(from, to);
  }
  static int rename(const char* from, const char* to) {
    return fails("rename_folder", false) ? -1 : lora::PosixFolders::rename(from, to);
  }
  static int exchange(const char* one, const char* other) {
    if (fails("exchange", false)) return -1;
    if (can_exchange) return lora::PosixFolders::exchange(one, other);
    errno = EINVAL;
    return -1;
  }
};

template <class System>
void save(const Layers<float>& model, const fs::path& directory) {
  lora::save_adapter<Layers<float>, System>(model, directory);
}

fs::path with_other_files(const TemporaryFolder& folder) {
  const auto adapter = folder / "adapter";
  save<lora::PosixFolders>(numbered(1), adapter);
  lora_test::write_file(adapter / "README.md", "read me");
  fs::create_directories(adapter / "checkpoint-1" / "empty");
  lora_test::write_file(adapter / "checkpoint-1" / "optimizer.pt", "state");
  fs::create_symlink("README.md", adapter / "link");
  fs::create_symlink("nowhere", adapter / "dangling");
  fs::permissions(adapter / "checkpoint-1", fs::perms::owner_all);
  return adapter;
}

void check_other_files(const fs::path& adapter) {
  CHECK(read_file(adapter / "README.md") == "read me");
  CHECK(read_file(adapter / "checkpoint-1" / "optimizer.pt") == "state");
  CHECK(fs::is_directory(adapter / "checkpoint-1" / "empty"));
  CHECK(fs::read_symlink(adapter / "link") == "README.md");
  CHECK(fs::read_symlink(adapter / "dangling") == "nowhere");
  CHECK(fs::status(adapter / "checkpoint-1").permissions() == fs::perms::owner_all);
}

/// LORA_KILLS=10000 is what .ci/full asks for.
int kills() {
  const char* text = std::getenv("LORA_KILLS");
  return text != nullptr ? std::atoi(text) : 200;
}

}  // namespace

TEST_CASE("An adapter is replaced, and everything else in its directory stays") {
  const TemporaryFolder folder;
  const auto adapter = with_other_files(folder);
  fs::permissions(adapter, fs::perms::owner_all | fs::perms::group_read);
  fs::permissions(adapter / weights_name, fs::perms::owner_read | fs::perms::owner_write);
  lora_test::write_file(adapter / ".lora-1-2-3.tmp", "left over");
  lora_test::write_file(adapter / "adapter_model.bin", "an older adapter");
  const int open = lora_test::open_descriptors();
  save<lora::PosixFolders>(numbered(2), adapter);
  CHECK(number_in(adapter) == 2);
  check_other_files(adapter);
  CHECK(fs::status(adapter).permissions() == (fs::perms::owner_all | fs::perms::group_read));
  CHECK(fs::status(adapter / weights_name).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(folder.names() == std::set<std::string>{"adapter"});
  CHECK_FALSE(fs::exists(adapter / ".lora-1-2-3.tmp"));
  CHECK_FALSE(fs::exists(adapter / "adapter_model.bin"));
  CHECK(lora_test::open_descriptors() == open);
}

TEST_CASE("Directories are made, links to them followed, and files are not taken for them") {
  const TemporaryFolder folder;
  save<lora::PosixFolders>(numbered(1), (folder / "a" / "b" / "c").string() + "/");
  CHECK(number_in(folder / "a" / "b" / "c") == 1);
  fs::create_directory_symlink("a/b/c", folder / "link");
  save<lora::PosixFolders>(numbered(2), folder / "link");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(number_in(folder / "a" / "b" / "c") == 2);
  fs::create_directory(folder / "empty");
  save<lora::PosixFolders>(numbered(3), folder / "empty");
  CHECK(number_in(folder / "empty") == 3);
  lora_test::write_file(folder / "file", "text");
  CHECK_THROWS_AS(save<lora::PosixFolders>(numbered(1), folder / "file"), lora::FileError);
  CHECK_THROWS_AS(save<lora::PosixFolders>(numbered(1), ""), lora::FileError);
  CHECK(read_file(folder / "file") == "text");
  CHECK(folder.names() == std::set<std::string>{"a", "empty", "file", "link"});
}

TEST_CASE("Whichever call fails, the adapter is the old one or the new one, whole") {
  const auto old = numbered(1), replacement = numbered(2);
  const bool can_exchange = GENERATE(true, false);
  const bool exists = GENERATE(true, false);
  FaultyFolders::can_exchange = can_exchange;
  int old_ones = 0, new_ones = 0, refused = 0;
  for (int k = 1;; ++k) {
    const TemporaryFolder folder;
    const auto adapter = exists ? with_other_files(folder) : folder / "adapter";
    FaultyFiles::reset(k);
    const std::string error = message_of<lora::FileError>([&] { save<FaultyFolders>(replacement, adapter); });
    const bool done = FaultyFiles::calls < k;
    FaultyFiles::reset();
    INFO("call " << k << ", " << (error.empty() ? "no error" : error));
    float number = -1;
    if (can_exchange) {
      number = number_in(adapter);
    } else {
      // Two files, one after the other: new weights beside the old config are recognised.
      const std::string why = message_of<lora::FormatError>([&] { number = number_in(adapter); });
      if (!why.empty()) {
        CHECK_THAT(why, contains("was written for another config"));
        CHECK_FALSE(error.empty());
        ++refused;
      }
    }
    if (number == 2) {
      ++new_ones;
    } else if (number >= 0) {
      CHECK(number == (exists ? 1 : 0));
      CHECK_FALSE(error.empty());
      ++old_ones;
    }
    if (!error.empty()) CHECK_THAT(error, contains(": cannot "));
    if (error.find("in place") == std::string::npos) CHECK(folder.names().size() <= 1);
    if (exists) check_other_files(adapter);
    if (!done) continue;
    CHECK(error.empty());
    CHECK(number == 2);
    CHECK(folder.names() == std::set<std::string>{"adapter"});
    break;
  }
  FaultyFolders::can_exchange = true;
  CHECK(old_ones > 10);
  CHECK(new_ones > 2);
  CHECK((refused > 0) == (!can_exchange && exists));
}

TEST_CASE("Where folders cannot be exchanged, the weights carry the digest of their config") {
  const TemporaryFolder folder;
  const auto adapter = with_other_files(folder);
  FaultyFolders::can_exchange = false;
  FaultyFiles::reset();
  save<FaultyFolders>(numbered(2), adapter);
  FaultyFolders::can_exchange = true;
  CHECK(number_in(adapter) == 2);
  CHECK(lora::Safetensors::open(adapter / weights_name).metadata().count("lora_config") == 1);
  CHECK(folder.names() == std::set<std::string>{"adapter"});
  save<lora::PosixFolders>(numbered(3), adapter);
  CHECK(lora::Safetensors::open(adapter / weights_name).metadata().count("lora_config") == 0);
  check_other_files(adapter);
}

TEST_CASE("The current directory is not exchanged under the feet of the process") {
  const TemporaryFolder folder;
  const auto adapter = with_other_files(folder);
  const auto before = fs::current_path();
  fs::current_path(adapter / "checkpoint-1");
  save<lora::PosixFolders>(numbered(2), "..");
  CHECK(number_in("..") == 2);
  CHECK(fs::exists("optimizer.pt"));
  fs::current_path(before);
  CHECK(number_in(adapter) == 2);
}

TEST_CASE("A file that appears while an adapter is saved is not lost") {
  struct Meddling : lora::PosixFolders {
    static int exchange(const char* one, const char* other) {
      lora_test::write_file(fs::path(other) / "new.txt", "new");
      return PosixFolders::exchange(one, other);
    }
  };
  const TemporaryFolder folder;
  const auto adapter = with_other_files(folder);
  const std::string error = message_of<lora::FileError>([&] { save<Meddling>(numbered(2), adapter); });
  CHECK_THAT(error, contains("(the new files are in place)"));
  CHECK(number_in(adapter) == 2);
  check_other_files(adapter);
  const std::string where = error.substr(error.rfind("now in ") + 7);
  CHECK(read_file(fs::path(where.substr(0, where.find(" ("))) / "new.txt") == "new");
}

TEST_CASE("A killed process leaves the old adapter or the new one, whole") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  constexpr lora::Index rows = 64;
  const auto one = numbered(1, rows), two = numbered(2, rows);
  save<lora::PosixFolders>(two, adapter);
  lora_test::write_file(adapter / "README.md", "read me");
  const auto start = std::chrono::steady_clock::now();
  save<lora::PosixFolders>(one, adapter);
  const std::chrono::duration<double> once = std::chrono::steady_clock::now() - start;
  lora::Rng rng(11);
  int ones = 0, twos = 0;
  std::size_t left_behind = 0;
  const int wanted = kills();
  for (int kill = 0; kill < wanted || ((ones == 0 || twos == 0) && kill < 100 * wanted); ++kill) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        for (;;) {
          save<lora::PosixFolders>(two, adapter);
          save<lora::PosixFolders>(one, adapter);
        }
      } catch (...) {
        ::_exit(1);
      }
    }
    std::this_thread::sleep_for(once * (static_cast<double>(rng() % 1000) / 300));  // in any of the first saves
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    const float number = number_in(adapter, rows);
    REQUIRE((number == 1 || number == 2));
    REQUIRE(read_file(adapter / "README.md") == "read me");
    (number == 1 ? ones : twos) += 1;
    left_behind = std::max(left_behind, folder.names().size() - 1);
  }
  CHECK(ones > 0);
  CHECK(twos > 0);
  CHECK(left_behind == 1);  // by the last kill only
  save<lora::PosixFolders>(two, adapter);
  CHECK(folder.names() == std::set<std::string>{"adapter"});
  CHECK(read_file(adapter / "README.md") == "read me");
}

TEST_CASE("Two processes that save at once, and one that loads: never a mixture") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  save<lora::PosixFolders>(numbered(1), adapter);
  std::vector<pid_t> children;
  for (const float number : {1.0f, 2.0f}) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const auto model = numbered(number);
      try {
        for (;;) save<lora::PosixFolders>(model, adapter);
      } catch (...) {
        ::_exit(1);
      }
    }
    children.push_back(child);
  }
  std::set<float> seen;
  for (int k = 0; k < 300 || (seen.size() < 2 && k < 30'000); ++k) seen.insert(number_in(adapter));
  for (const pid_t child : children) {
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status));
  }
  CHECK(seen == std::set<float>{1, 2});
}
