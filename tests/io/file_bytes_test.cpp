#include "lora/io/file_bytes.hpp"

#include "io/faulty_files.hpp"
#include "io/files.hpp"
#include "support/catch.hpp"

using lora::FileAccess;
using lora::FileBytes;
using lora_test::contains;
using lora_test::FaultyFiles;
using lora_test::message_of;
using lora_test::write_file;

namespace {

std::string text_of(const FileBytes& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

constexpr FileAccess both[] = {FileAccess::map, FileAccess::read};

}  // namespace

TEST_CASE("Both ways give the bytes of the file") {
  const lora_test::TemporaryFolder folder;
  std::string content = "a\0b\xff";
  content.resize(100'000, 'z');
  write_file(folder / "file", content);
  write_file(folder / "empty", "");
  std::filesystem::create_symlink(folder / "file", folder / "link");
  for (const auto access : both) {
    CHECK(text_of(FileBytes::open(folder / "file", access)) == content);
    CHECK(text_of(FileBytes::open(folder / "link", access)) == content);
    CHECK(FileBytes::open(folder / "empty", access).bytes().empty());
  }
}

TEST_CASE("Moving keeps the bytes where they are, and nothing is left open") {
  const lora_test::TemporaryFolder folder;
  write_file(folder / "file", "content");
  const int before = lora_test::open_descriptors();
  for (const auto access : both) {
    auto first = FileBytes::open(folder / "file", access);
    const auto* address = first.bytes().data();
    FileBytes second = std::move(first);
    CHECK(second.bytes().data() == address);
    CHECK(first.bytes().empty());  // NOLINT(bugprone-use-after-move)
    FileBytes third;
    third = std::move(second);
    CHECK(text_of(third) == "content");
    CHECK(lora_test::open_descriptors() == before);
  }
}

TEST_CASE("What is not a regular file is refused, without waiting for it") {
  const lora_test::TemporaryFolder folder;
  const auto fifo = folder / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  for (const auto access : both) {
    const auto error_of = [&](const std::filesystem::path& path) {
      return message_of<lora::FileError>([&] { FileBytes::open(path, access); });
    };
    CHECK(error_of(folder.path()) == folder.path().string() + ": is a folder, expected a regular file");
    CHECK(error_of(fifo) == fifo.string() + ": is a pipe, expected a regular file");
    CHECK(error_of("/dev/zero") == "/dev/zero: is a device, expected a regular file");
    CHECK(error_of("/dev/null") == "/dev/null: is a device, expected a regular file");
    CHECK(error_of(folder / "none") == (folder / "none").string() + ": cannot open it: No such file or directory");
    CHECK_THAT(error_of(folder / std::string(256, 'n')), contains("File name too long"));
    CHECK_THAT(error_of(folder / "none" / "below"), contains("No such file or directory"));
    CHECK(error_of("") == "file: the path is empty");
    write_file(folder / "file", "x");
    CHECK_THAT(error_of(std::string((folder / "file").string() + '\0' + "b")), contains("contains a NUL"));
  }
  std::filesystem::create_symlink(folder / "loop", folder / "loop");
  CHECK_THAT(message_of<lora::FileError>([&] { FileBytes::open(folder / "loop"); }), contains("symbolic links"));
}

TEST_CASE("A file that may not be read says so") {
  if (::geteuid() == 0) LORA_TEST_SKIP("root may read everything");
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "file", "x");
  ::chmod(path.c_str(), 0);
  CHECK_THAT(message_of<lora::FileError>([&] { FileBytes::open(path); }),
             contains("cannot open it: Permission denied"));
}

TEST_CASE("Each failing call is an error that names path and step, and closes the file") {
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "file", "content");
  const int before = lora_test::open_descriptors();
  for (const auto access : both) {
    std::string steps;
    for (int k = 1;; ++k) {
      FaultyFiles::reset(k);
      const auto error = message_of<lora::FileError>([&] { FileBytes::open<FaultyFiles>(path, access); });
      CHECK(lora_test::open_descriptors() == before);
      if (error.empty()) break;
      INFO(error);
      CHECK(error.substr(0, path.string().size()) == path.string());
      CHECK_THAT(error, contains("Input/output error"));
      steps += FaultyFiles::names[static_cast<std::size_t>(k - 1)] + " ";
    }
    CHECK(steps == (access == FileAccess::map ? "open status map " : "open status read "));
  }
}

TEST_CASE("Short and interrupted reads go on; a file that shrinks meanwhile is refused") {
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "file", "some content");
  FaultyFiles::reset();
  FaultyFiles::longest = 5;
  FaultyFiles::interrupt = true;
  CHECK(text_of(FileBytes::open<FaultyFiles>(path, FileAccess::read)) == "some content");

  struct Shrinking : lora::PosixFiles {
    static int status(int descriptor, struct ::stat* result) {
      const int answer = PosixFiles::status(descriptor, result);
      result->st_size += 3;
      return answer;
    }
  };
  CHECK(message_of<lora::FileError>([&] { FileBytes::open<Shrinking>(path, FileAccess::read); }) ==
        path.string() + ": ends after 12 bytes, expected 15: it was cut off while it was read");
}

TEST_CASE("A size beyond all memory is an error, not a crash") {
  struct Huge : lora::PosixFiles {
    static int status(int descriptor, struct ::stat* result) {
      const int answer = PosixFiles::status(descriptor, result);
      result->st_size = INT64_MAX - 100;
      return answer;
    }
  };
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "file", "x");
  CHECK_THAT(message_of<lora::FileError>([&] { FileBytes::open<Huge>(path, FileAccess::map); }),
             contains("cannot map it"));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK_THAT(message_of<lora::FileError>([&] { FileBytes::open<Huge>(path, FileAccess::read); }),
             contains("cannot read its"));
#endif
}
