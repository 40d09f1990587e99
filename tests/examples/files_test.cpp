#include "examples/support/files.hpp"

#include "support/catch.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace {

namespace fs = std::filesystem;

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

auto entries(const fs::path& folder) { return std::distance(fs::directory_iterator(folder), {}); }

}  // namespace

TEST_CASE("files: a file is written whole or not at all") {
  const fs::path folder = fs::temp_directory_path() / ("lora_files_test_" + std::to_string(std::random_device{}()));
  const fs::path path = folder / "deep" / "report.json";

  examples::write_file(path, "first\r\n");
  CHECK(contents(path) == "first\r\n");
  examples::write_file(path, std::string("with\0zero", 9));
  CHECK(contents(path) == std::string("with\0zero", 9));
  CHECK(entries(path.parent_path()) == 1);

  // A folder cannot be replaced by a file: the new text is removed again, the old things stay.
  CHECK_THROWS_WITH(examples::write_file(folder / "deep", "x"),
                    lora_test::contains("cannot write " + (folder / "deep").string()));
  CHECK(entries(folder) == 1);
  // Nor can a folder be made beneath a file.
  CHECK_THROWS_WITH(examples::write_file(path / "below" / "x", "x"), lora_test::contains("cannot write"));
  CHECK(contents(path) == std::string("with\0zero", 9));

  fs::remove_all(folder);
}
