#include "lora/io/safetensors.hpp"

#include "io/files.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "support/catch.hpp"

using lora_test::contains;
using lora_test::message_of;
using lora_test::write_file;

namespace {

struct Model {
  lora_test::TemporaryFolder folder;

  Model() {
    lora::save_safetensors(folder / "one.st", {{"a", Eigen::Vector2f(1, 2)}, {"b", Eigen::Vector2f(3, 4)}},
                           {{"format", "pt"}, {"part", "1"}, {"only", "here"}});
    lora::save_safetensors(folder / "two.st", {{"c", Eigen::Vector2d(5, 6)}}, {{"format", "pt"}, {"part", "2"}});
  }

  std::filesystem::path index(const std::string& text) const {
    return write_file(folder / "model.safetensors.index.json", text);
  }
  lora::Safetensors open(const std::string& map) const {
    return lora::Safetensors::open(index(R"({"metadata":{"total_size":32},"weight_map":)" + map + "}"));
  }
  std::string error_of(const std::string& map) const {
    return message_of<lora::FormatError>([&] { open(map); });
  }
  std::string error_of_index(const std::string& text) const {
    return message_of<lora::FormatError>([&] { lora::Safetensors::open(index(text)); });
  }
};

}  // namespace

TEST_CASE("Several files are one object") {
  const Model model;
  for (const auto access : {lora::FileAccess::map, lora::FileAccess::read}) {
    const auto path =
        model.index(R"({"weight_map":{"c":"two.st","a":"one.st","b":"one.st"},"metadata":{"total_size":32}})");
    const auto file = lora::Safetensors::open(path, {.access = access});
    CHECK(file.tensors().size() == 3);
    CHECK(file.tensor<float>("b") == Eigen::Vector2f(3, 4));
    CHECK(file.tensor<double>("c") == Eigen::Vector2d(5, 6));
    CHECK(file.metadata() == lora::Metadata{{"format", "pt"}});
    CHECK(file.files() ==
          std::vector<std::string>{(model.folder / "one.st").string(), (model.folder / "two.st").string()});
    CHECK(file.unlisted().empty());
    // A message about a tensor names its own file, one about a name the index.
    CHECK_THAT(message_of<lora::DtypeError>([&] { file.tensor<float>("c"); }), contains("two.st: tensor \"c\""));
    CHECK(message_of<lora::NameError>([&] { file.bytes("d"); }) ==
          path.string() + ": there is no tensor \"d\" among its 3");
  }
}

TEST_CASE("What the index does not list is left out, and told") {
  const Model model;
  const auto file = model.open(R"({"b":"one.st","c":"two.st"})");
  CHECK(file.tensors().size() == 2);
  CHECK(file.find("a") == nullptr);
  CHECK(file.unlisted() == std::vector<std::string>{"a"});
}

TEST_CASE("An index in the current folder") {
  const Model model;
  const auto before = std::filesystem::current_path();
  model.index(R"({"weight_map":{"a":"one.st"}})");
  std::filesystem::current_path(model.folder.path());
  const auto file = lora::Safetensors::open("model.safetensors.index.json");
  std::filesystem::current_path(before);
  CHECK(file.read<float>("a")(1) == 2);
}

TEST_CASE("File names that lead elsewhere are refused before anything is opened") {
  const Model model;
  for (const std::string name : {"", ".", "..", "../one.st", "/etc/passwd", "sub/one.st", "./one.st", "a\\\\b",
                                 "..\\\\one.st", "C:\\\\x", "one.st\\u0000", "one.st/", "\\u002e\\u002e/x"}) {
    INFO(name);
    CHECK_THAT(model.error_of("{\"a\":\"" + name + "\"}"),
               contains("expected the bare name of a file in the same folder"));
  }
}

TEST_CASE("Files and index have to agree") {
  const Model model;
  const auto path = (model.folder / "model.safetensors.index.json").string();
  CHECK(model.error_of(R"({"a":"two.st","b":"one.st"})") ==
        path + ": lists tensor \"a\" in \"two.st\", but it is in one.st");
  CHECK(model.error_of(R"({"a":"one.st","aa":"one.st"})") ==
        path + ": lists tensor \"aa\" in \"one.st\", where it is not");
  CHECK(model.error_of(R"({"a":"one.st","z":"two.st"})") ==
        path + ": lists tensor \"z\" in \"two.st\", where it is not");
  CHECK_THROWS_AS(model.open(R"({"a":"none.st"})"), lora::FileError);
  write_file(model.folder / "broken.st", "x");
  CHECK_THAT(model.error_of(R"({"a":"one.st","x":"broken.st"})"), contains("broken.st: has 1 bytes"));

  lora::save_safetensors(model.folder / "again.st", {{"a", Eigen::Vector2f(1, 2)}, {"d", Eigen::Vector2f(1, 2)}});
  CHECK_THAT(model.error_of(R"({"a":"one.st","d":"again.st"})"), contains("tensor \"a\" is in two files: "));
}

TEST_CASE("An index of another form is refused") {
  const Model model;
  const auto path = (model.folder / "model.safetensors.index.json").string();
  const std::pair<std::string, std::string> cases[] = {
      {"", "is not valid JSON"},
      {"[]", ": is an array, expected an object with weight_map"},
      {"7", ": is a number, expected an object with weight_map"},
      {"{}", ": its weight_map is missing or empty"},
      {R"({"weight_map":{}})", ": its weight_map is missing or empty"},
      {R"({"metadata":{"weight_map":{"a":"one.st"}}})", ": its weight_map is missing or empty"},
      {R"({"weight_map":[]})", "weight_map is an array, expected an object"},
      {R"({"weight_map":null})", "weight_map is null, expected an object"},
      {R"({"weight_map":"one.st"})", "weight_map is a string, expected an object"},
      {R"({"weight_map":{"a":1}})", R"(weight_map: "a" is a number, expected a file name)"},
      {R"({"weight_map":{"a":null}})", R"(weight_map: "a" is null, expected a file name)"},
      {R"({"weight_map":{"a":["one.st"]}})", R"(weight_map: "a" is an array, expected a file name)"},
      {R"({"weight_map":{"a":{"weight_map":"one.st"}}})", R"(weight_map: "a" is an object, expected a file name)"},
      {R"({"weight_map":{"a":"one.st","a":"one.st"}})", "the name \"a\" occurs twice"},
      {R"({"weight_map":{"a":"one.st"},"weight_map":{"b":"one.st"}})", "the name \"weight_map\" occurs twice"},
  };
  for (const auto& [text, message] : cases) {
    INFO(text);
    const auto error = model.error_of_index(text);
    CHECK_THAT(error, contains(message));
    CHECK(error.substr(0, path.size()) == path);
  }
  CHECK(model.error_of_index(R"({"x":[{"weight_map":{"a":1}}],"y":1.5,"weight_map":{"a":"one.st"},"z":[null,true]})") ==
        "");
}

TEST_CASE("The index is bounded like a header") {
  const Model model;
  const auto path = model.index(R"({"weight_map":{"a":"one.st","b":"one.st"}})");
  CHECK_THAT(message_of<lora::FormatError>([&] { lora::Safetensors::open(path, {.limits = {.tensors = 1}}); }),
             contains("lists more than 1 tensors"));
  CHECK_THROWS_AS(lora::Safetensors::open(model.folder.path()), lora::FileError);
}
