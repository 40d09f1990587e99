// The two files of an adapter as one thing: failing system calls, kills, other files in the directory.

#include "io/faulty_files.hpp"
#include "io/files.hpp"
#include "io/numbered_adapter.hpp"
#include "support/catch.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

using lora_test::config_name;
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

template <class System = lora::PosixFiles>
void save(const Layers<float>& model, const fs::path& directory) {
  lora::save_adapter<Layers<float>, System>(model, directory);
}

fs::path with_other_files(const TemporaryFolder& folder) {
  const auto adapter = folder / "adapter";
  save(numbered(1), adapter);
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

bool has_temporary(const fs::path& directory) {
  return std::any_of(fs::directory_iterator(directory), fs::directory_iterator(),
                     [](const auto& entry) { return lora::detail::is_temporary(entry.path().filename().string()); });
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
  lora_test::write_file(adapter / "adapter_model.bin", "somebody else's");
  const int open = lora_test::open_descriptors();
  save(numbered(2), adapter);
  CHECK(number_in(adapter) == 2);
  check_other_files(adapter);
  CHECK(fs::status(adapter).permissions() == (fs::perms::owner_all | fs::perms::group_read));
  CHECK(fs::status(adapter / weights_name).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(folder.names() == std::set<std::string>{"adapter"});
  CHECK_FALSE(fs::exists(adapter / ".lora-1-2-3.tmp"));
  CHECK(read_file(adapter / "adapter_model.bin") == "somebody else's");
  CHECK(lora_test::open_descriptors() == open);
}

TEST_CASE("Directories are made, links to them followed, and files are not taken for them") {
  const TemporaryFolder folder;
  save(numbered(1), (folder / "a" / "b" / "c").string() + "/");
  CHECK(number_in(folder / "a" / "b" / "c") == 1);
  fs::create_directory_symlink("a/b/c", folder / "link");
  save(numbered(2), folder / "link");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(number_in(folder / "a" / "b" / "c") == 2);
  fs::create_directory(folder / "empty");
  save(numbered(3), folder / "empty");
  CHECK(number_in(folder / "empty") == 3);
  lora_test::write_file(folder / "file", "text");
  CHECK_THROWS_AS(save(numbered(1), folder / "file"), lora::FileError);
  CHECK_THROWS_AS(save(numbered(1), ""), lora::FileError);
  CHECK(read_file(folder / "file") == "text");
  CHECK(folder.names() == std::set<std::string>{"a", "empty", "file", "link"});
}

TEST_CASE("Whichever call fails, the adapter is the old one or the new one, whole") {
  const auto replacement = numbered(2);
  const bool exists = GENERATE(true, false);
  int old_ones = 0, new_ones = 0, torn = 0;
  for (int k = 1;; ++k) {
    const TemporaryFolder folder;
    const auto adapter = exists ? with_other_files(folder) : folder / "adapter";
    FaultyFiles::reset(k);
    const std::string error = message_of<lora::FileError>([&] { save<FaultyFiles>(replacement, adapter); });
    const bool done = FaultyFiles::calls < k;
    FaultyFiles::reset();
    INFO("call " << k << ", " << (error.empty() ? "no error" : error));
    bool from_weights = false;
    const float number = number_in(adapter, 8, &from_weights);
    if (number == 2) {
      ++new_ones;
    } else {
      CHECK(number == (exists ? 1 : 0));
      CHECK_FALSE(error.empty());
      ++old_ones;
    }
    if (from_weights) {  // new weights beside the old config, or beside none
      CHECK(number == 2);
      CHECK_FALSE(error.empty());
      ++torn;
    }
    if (!error.empty()) CHECK_THAT(error, contains(": cannot "));
    if (fs::exists(adapter)) CHECK_FALSE(has_temporary(adapter));
    if (exists) check_other_files(adapter);
    if (!done) continue;
    CHECK(error.empty());
    CHECK(number == 2);
    CHECK_FALSE(from_weights);
    break;
  }
  CHECK(old_ones > 10);
  CHECK(new_ones > 2);
  CHECK(torn > 0);
}

TEST_CASE("A directory that may not be written to, and a disk that is full, are said, and nothing is lost") {
  const TemporaryFolder folder;
  const auto adapter = with_other_files(folder);
  if (::geteuid() != 0) {  // root may write everywhere
    fs::permissions(adapter, fs::perms::owner_read | fs::perms::owner_exec);
    const std::string error = message_of<lora::FileError>([&] { save(numbered(2), adapter); });
    fs::permissions(adapter, fs::perms::owner_all);
    CHECK_THAT(error,
               contains("adapter_model.safetensors: cannot create a temporary file beside it: Permission denied"));
  }
  FaultyFiles::reset(1'000'000);
  save<FaultyFiles>(numbered(1), adapter);
  const auto writes = std::count(FaultyFiles::names.begin(), FaultyFiles::names.end(), "write");
  REQUIRE(writes == 2);  // of either file
  int seen = 0;
  const auto names = FaultyFiles::names;
  for (std::size_t k = 0; k < names.size(); ++k) {
    if (names[k] != "write") continue;
    FaultyFiles::reset(static_cast<int>(k) + 1, ENOSPC);
    const std::string error = message_of<lora::FileError>([&] { save<FaultyFiles>(numbered(2), adapter); });
    CHECK_THAT(error, contains("cannot write to a temporary file beside it: No space left on device"));
    FaultyFiles::reset();
    CHECK(number_in(adapter) == 1);
    check_other_files(adapter);
    CHECK_FALSE(has_temporary(adapter));
    ++seen;
  }
  CHECK(seen == 2);
}

TEST_CASE("New weights beside an old config, a config changed by hand, and none: the weights' settings hold") {
  const TemporaryFolder folder;
  const auto adapter = with_other_files(folder);
  const std::string old = read_file(adapter / config_name);
  save(numbered(2), adapter);
  const std::string own = read_file(adapter / config_name);
  bool from_weights = true;
  CHECK(number_in(adapter, 8, &from_weights) == 2);
  CHECK_FALSE(from_weights);
  lora_test::write_file(adapter / config_name, old);
  CHECK(number_in(adapter, 8, &from_weights) == 2);
  CHECK(from_weights);
  fs::remove(adapter / config_name);
  CHECK(number_in(adapter, 8, &from_weights) == 2);
  CHECK(from_weights);

  // What leaves the meaning of the tensors as it is comes from the config, in either case.
  const auto with = [](std::string text, const std::string& more) { return text.insert(1, more + ", "); };
  const std::string remarks = "\"base_model_name_or_path\": \"somewhere\", \"task_type\": \"CAUSAL_LM\"";
  const auto without = [](std::string text) {
    for (const char* line : {"  \"base_model_name_or_path\": null,\n", "  \"task_type\": null\n"}) {
      const auto at = text.find(line);
      REQUIRE(at != text.npos);
      text.erase(at, std::string(line).size());
    }
    return text.erase(text.rfind(','), 1);
  };
  for (const bool torn : {false, true}) {
    lora_test::write_file(adapter / config_name, with(without(torn ? old : own), remarks));
    auto model = numbered(5);
    lora::detach(model, "default");
    const lora::PeftConfig config = lora::load_adapter(model, adapter);
    CHECK(config.from_weights == torn);
    CHECK(config.lora.alpha == 2);
    CHECK(config.base_model_name_or_path == "somewhere");
    CHECK(config.task_type == "CAUSAL_LM");
  }
}

TEST_CASE("The old config of a torn pair may be of what cannot be loaded, or be no config at all") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  save(numbered(2), adapter);
  bool from_weights = false;
  for (const char* old : {R"({"peft_type": "VERA", "r": 256})", R"({"peft_type": "LORA", "r": 8, "use_dora": true})",
                          R"({"peft_type": "LORA", "r": -1})", "[1]", "null"}) {
    CAPTURE(old);
    lora_test::write_file(adapter / config_name, old);
    CHECK(number_in(adapter, 8, &from_weights) == 2);
    CHECK(from_weights);
  }
  // and what the metadata says is as little trusted as a config
  const auto weights = lora::Safetensors::open(adapter / weights_name);
  std::vector<lora::TensorToSave> tensors;
  for (const auto& tensor : weights.tensors()) tensors.emplace_back(tensor.name, weights.read<float>(tensor.name));
  for (const char* meaning : {"", "[]", "7", "{", R"({"peft_type": "LORA", "r": "two"})", R"({"use_dora": true})"}) {
    CAPTURE(meaning);
    lora::save_safetensors(adapter / weights_name, tensors, {{"lora_config", meaning}});
    CHECK_THROWS_AS(number_in(adapter), lora::FormatError);
  }
}

TEST_CASE("What does not fit the weights' own settings is said of these") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  save(numbered(1), adapter);
  const auto file = lora::Safetensors::open(adapter / weights_name);
  const lora::Metadata metadata = file.metadata();
  const lora::Matrix<float> A = lora::Matrix<float>::Ones(3, 8), B = lora::Matrix<float>::Ones(8, 3);
  lora::save_safetensors(adapter / weights_name,
                         {{"base_model.model.fc.lora_A.weight", A}, {"base_model.model.fc.lora_B.weight", B}},
                         metadata);
  fs::remove(adapter / config_name);
  CHECK_THAT(
      message_of<lora::MismatchError>([&] { number_in(adapter); }),
      contains("rank 3 here, but rank 2 for \"fc\" in " + (adapter / weights_name).string() + ", its lora_config"));
}

TEST_CASE("A killed process leaves the old adapter or the new one, whole") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  constexpr lora::Index rows = 64;
  const auto one = numbered(1, rows), two = numbered(2, rows);
  save(two, adapter);
  lora_test::write_file(adapter / "README.md", "read me");
  const auto start = std::chrono::steady_clock::now();
  save(one, adapter);
  const std::chrono::duration<double> once = std::chrono::steady_clock::now() - start;
  lora::Rng rng(11);
  int ones = 0, twos = 0;
  int torn = 0;
  const int wanted = kills();
  for (int kill = 0; kill < wanted || ((ones == 0 || twos == 0) && kill < 100 * wanted); ++kill) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        for (;;) {
          save(two, adapter);
          save(one, adapter);
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
    bool from_weights = false;
    const float number = number_in(adapter, rows, &from_weights);
    torn += from_weights;
    REQUIRE((number == 1 || number == 2));
    REQUIRE(read_file(adapter / "README.md") == "read me");
    (number == 1 ? ones : twos) += 1;
  }
  CHECK(ones > 0);
  CHECK(twos > 0);
  if (wanted >= 10'000) CHECK(torn > 0);  // few kills need not hit the moment between the two
  save(two, adapter);
  CHECK_FALSE(has_temporary(adapter));
  CHECK(folder.names() == std::set<std::string>{"adapter"});
  CHECK(read_file(adapter / "README.md") == "read me");
}

TEST_CASE("Two processes that save at once, and one that loads: never a mixture") {
  const TemporaryFolder folder;
  const auto adapter = folder / "adapter";
  save(numbered(1), adapter);
  std::vector<pid_t> children;
  for (const float number : {1.0f, 2.0f}) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const auto model = numbered(number);
      try {
        for (;;) save(model, adapter);
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
