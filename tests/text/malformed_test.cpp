// A tokenizer.json that is broken, contradicts itself or asks for what is not supported is refused by name.
#include "support/catch.hpp"
#include "text/files.hpp"

#include <functional>
#include <string>
#include <utility>
#include <vector>

using lora::detail::Json;
using lora_test::contains;
using lora_test::message_of;

namespace {

/// The message of the E that parse throws for plain.json with a change; "" if it is read.
template <class E>
std::string refused(const std::function<void(Json&)>& change) {
  Json file = lora_test::json_of("plain.json");
  change(file);
  return message_of<E>([&] { lora::Tokenizer::parse(file.dump(), "t.json"); });
}
std::string broken(const std::function<void(Json&)>& change) { return refused<lora::FormatError>(change); }
std::string unsupported(const std::function<void(Json&)>& change) { return refused<lora::ConfigError>(change); }

Json added(const std::string& content, int id) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", false}};
}

}  // namespace

TEST_CASE("The file that is changed below is read") {
  CHECK(broken([](Json&) {}).empty());
  const auto strange = [](Json& file) {
    file["padding"] = {{"strategy", {{"Fixed", 128}}}, {"pad_id", 0}};
    file["future"] = nullptr;
    file.erase("truncation");
    file["normalizer"].erase("strip_accents");
    file["decoder"] = nullptr;
    file["post_processor"] = nullptr;
  };
  CHECK(broken(strange).empty());
}

TEST_CASE("Other components are refused by name") {
  CHECK(unsupported([](Json& file) { file["model"]["type"] = "Unigram"; }) ==
        "t.json: model.type is \"Unigram\", which is not supported; \"WordPiece\" or \"BPE\" is");
  CHECK(unsupported([](Json& file) { file["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array()}}; }) ==
        "t.json: normalizer.type is \"Sequence\", which is not supported; \"BertNormalizer\" is");
  CHECK(unsupported([](Json& file) { file["pre_tokenizer"]["type"] = "Whitespace"; }) ==
        "t.json: pre_tokenizer.type is \"Whitespace\", which is not supported; \"BertPreTokenizer\" is");
  CHECK(unsupported([](Json& file) { file["post_processor"] = {{"type", "RobertaProcessing"}}; }) ==
        "t.json: post_processor.type is \"RobertaProcessing\", which is not supported; \"TemplateProcessing\" or "
        "\"BertProcessing\" is");
  CHECK(unsupported([](Json& file) { file["decoder"]["type"] = "ByteLevel"; }) ==
        "t.json: decoder.type is \"ByteLevel\", which is not supported; \"WordPiece\" is");
  CHECK(unsupported([](Json& file) {
          file["truncation"] = {{"max_length", 8}, {"strategy", "OnlyFirst"}, {"stride", 0}};
        }) == "t.json: truncation.strategy is \"OnlyFirst\", which is not supported; \"LongestFirst\" is");
}

TEST_CASE("What nobody knows is refused by name") {
  CHECK(unsupported([](Json& file) { file["future"] = 1; }) == "t.json: \"future\" is not supported");
  for (const std::string part : {"model", "normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    CHECK(unsupported([&](Json& file) { file[part]["new"] = false; }) ==
          "t.json: " + part + ".\"new\" is not supported");
  }
  CHECK(unsupported([](Json& file) { file["added_tokens"][1]["new\n"] = 0; }) ==
        "t.json: added_tokens[1].\"new\\x0a\" is not supported");
  CHECK(unsupported([](Json& file) { file["post_processor"]["single"][0]["New"] = 0; }) ==
        "t.json: post_processor.single[0].\"New\" is not supported");
  CHECK(unsupported([](Json& file) { file["post_processor"]["pair"][0]["SpecialToken"]["new"] = 0; }) ==
        "t.json: post_processor.pair[0].SpecialToken.\"new\" is not supported");
}

TEST_CASE("A vocabulary has each id once") {
  const auto vocabulary = [](const std::function<void(Json&)>& change) {
    return broken([&](Json& file) { change(file["model"]["vocab"]); });
  };
  const auto id = [&](const Json& value) { return vocabulary([&](Json& tokens) { tokens["hello"] = value; }); };
  CHECK(id(7) == "t.json: model.vocab.\"hello\" has id 7, which \"#\" has");
  CHECK(id(204) ==
        "t.json: model.vocab.\"hello\" is 204, expected an id below 204: so many tokens there are, and ids "
        "have no holes");
  CHECK_THAT(id(-1), contains("model.vocab.\"hello\" is -1, expected an id below 204"));
  CHECK_THAT(id(4294967296), contains("model.vocab.\"hello\" is 4294967296, expected an id below 204"));
  CHECK_THAT(id(2.5), contains("model.vocab.\"hello\" is the number \"2.5\", expected an id below 204"));
  CHECK_THAT(id("x"), contains("model.vocab.\"hello\" is a string, expected an id below 204"));
  CHECK_THAT(vocabulary([](Json& tokens) { tokens.erase("hello"); }), contains("expected an id below 203"));
  CHECK(vocabulary([](Json& tokens) { tokens = Json::object(); }) ==
        "t.json: model.unk_token is \"[UNK]\", which is not in the vocabulary");
  CHECK(vocabulary([](Json& tokens) { tokens = Json::array(); }) ==
        "t.json: model.vocab is an array, expected an object");
  const std::string twice = R"({"version":"1.0","model":{"type":"WordPiece","vocab":{"a":0,"a":0}}})";
  CHECK(message_of<lora::FormatError>([&] { lora::Tokenizer::parse(twice, "t.json"); }) ==
        "t.json: the name \"a\" occurs twice");
}

TEST_CASE("Special tokens are in the vocabulary, under their ids") {
  CHECK(broken([](Json& file) { file["model"]["unk_token"] = "<unk>"; }) ==
        "t.json: model.unk_token is \"<unk>\", which is not in the vocabulary");
  const auto special = [](const std::function<void(Json&)>& change) {
    return broken([&](Json& file) { change(file["post_processor"]["special_tokens"]["[CLS]"]); });
  };
  CHECK(special([](Json& token) { token["ids"][0] = 3; }) ==
        "t.json: post_processor.special_tokens.\"[CLS]\".ids[0] is 3, expected 2, the id of \"[CLS]\"");
  CHECK(special([](Json& token) { token["tokens"][0] = "<s>"; }) ==
        "t.json: post_processor.special_tokens.\"[CLS]\".ids[0]: \"<s>\" is not in the vocabulary");
  CHECK(special([](Json& token) { token["ids"] = Json::array(); }) ==
        "t.json: post_processor.special_tokens.\"[CLS]\" has 0 ids and 1 tokens, expected as many, and at least one");
  CHECK(special([](Json& token) { token["ids"] = Json::array({2, 3}); }) ==
        "t.json: post_processor.special_tokens.\"[CLS]\" has 2 ids and 1 tokens, expected as many, and at least one");
  CHECK(special([](Json& token) { token["id"] = "[SEP]"; }) ==
        "t.json: post_processor.special_tokens.\"[CLS]\".id is \"[SEP]\", expected \"[CLS]\"");
  CHECK(special([](Json& token) { token["tokens"][0] = 5; }) ==
        "t.json: post_processor.special_tokens.\"[CLS]\".tokens[0] is a number, expected a string");
  CHECK(broken([](Json& file) { file["post_processor"]["special_tokens"].erase("[SEP]"); }) ==
        "t.json: post_processor.special_tokens.\"[SEP]\" is missing, expected the ids of this special token");
  const auto bert = [](const Json& sep) {
    return broken([&](Json& file) {
      file["post_processor"] = {{"type", "BertProcessing"}, {"sep", sep}, {"cls", Json::array({"[CLS]", 2})}};
    });
  };
  CHECK(bert(Json::array({"[SEP]", 3})).empty());
  CHECK(bert(Json::array({"[SEP]", 2})) == "t.json: post_processor.sep[1] is 2, expected 3, the id of \"[SEP]\"");
  CHECK(bert(Json::array({"</s>", 3})) == "t.json: post_processor.sep[1]: \"</s>\" is not in the vocabulary");
  CHECK(bert(Json::array({"[SEP]"})) == "t.json: post_processor.sep is an array, expected a token and its id");
}

TEST_CASE("A template has each text once") {
  const auto template_of = [](const char* key, const Json& parts) {
    return broken([&](Json& file) { file["post_processor"][key] = parts; });
  };
  const auto text = [](const char* id) { return Json{{"Sequence", {{"id", id}, {"type_id", 0}}}}; };
  CHECK(template_of("single", Json::array({text("A"), text("A")})) ==
        "t.json: post_processor.single has Sequence A 2 times and B 0 times, expected A once");
  CHECK(template_of("single", Json::array({text("B")})) ==
        "t.json: post_processor.single has Sequence A 0 times and B 1 times, expected A once");
  CHECK(template_of("pair", Json::array({text("A")})) ==
        "t.json: post_processor.pair has Sequence A 1 times and B 0 times, expected each of them once");
  CHECK(template_of("single", Json::array({text("C")})) ==
        "t.json: post_processor.single[0].Sequence.id is \"C\", expected \"A\" or \"B\"");
  CHECK(template_of("single", "A") == "t.json: post_processor.single is \"A\", expected an array");
  CHECK(template_of("single", Json::array({"A"})) ==
        "t.json: post_processor.single[0] is a string, expected an object");
  CHECK(template_of("single", Json::array({Json::object()})) ==
        "t.json: post_processor.single[0].SpecialToken is missing, expected an object");
  Json both = text("A");
  both["SpecialToken"] = {{"id", "[CLS]"}, {"type_id", 0}};
  CHECK(template_of("single", Json::array({both})) ==
        "t.json: post_processor.single[0] is both a SpecialToken and a Sequence, expected one of them");
  Json many = Json::array();
  for (int k = 0; k < 60; ++k) many.push_back({{"SpecialToken", {{"id", "[CLS]"}, {"type_id", 0}}}});
  CHECK(template_of("single", many) == "t.json: post_processor.single[50]: more than 100 parts and special tokens");
}

TEST_CASE("Added tokens have the next ids, and each its own content") {
  const auto tokens = [](const std::vector<Json>& more) {
    return broken([&](Json& file) {
      for (const Json& token : more) file["added_tokens"].push_back(token);
    });
  };
  CHECK(tokens({added("<1>", 204), added("<2>", 205), added("hello", 191)}).empty());
  CHECK(tokens({added("<1>", 205)}) == "t.json: added_tokens[5].id is 205, expected 204 for \"<1>\", the next one");
  CHECK(tokens({added("hello", 204)}) ==
        "t.json: added_tokens[5].id is 204, expected 191 for \"hello\", as in the vocabulary");
  CHECK(tokens({added("<1>", 204), added("<1>", 205)}) == "t.json: added_tokens has \"<1>\" twice");
  CHECK(tokens({added("", 204)}) == "t.json: added_tokens[5].content has 0 bytes, expected 1 to 1000");
  CHECK(tokens({added(std::string(1001, 'a'), 204)}) ==
        "t.json: added_tokens[5].content has 1001 bytes, expected 1 to 1000");
  Json one = added("Ab", 204), other = added("aB", 205), nothing = added("\xcc\x81", 204);
  one["normalized"] = other["normalized"] = nothing["normalized"] = true;
  CHECK(tokens({one, other}) == "t.json: added_tokens has \"ab\" twice, once they are normalized");
  CHECK(tokens({nothing}) == "t.json: added_tokens: nothing is left of \"\xcc\x81\" once it is normalized");
  Json without = added("<1>", 204);
  without.erase("lstrip");
  CHECK(tokens({without}) == "t.json: added_tokens[5].lstrip is missing, expected true or false");
}

TEST_CASE("Values of the wrong kind are named with their place") {
  CHECK(broken([](Json& file) { file = Json::array(); }) == "t.json: is an array, expected an object");
  CHECK(broken([](Json& file) { file.erase("version"); }) == "t.json: version is missing, expected a string");
  CHECK(broken([](Json& file) { file["version"] = "2.0"; }) == "t.json: version is \"2.0\", expected \"1.0\"");
  CHECK(broken([](Json& file) { file.erase("model"); }) == "t.json: model is missing, expected an object");
  CHECK(broken([](Json& file) { file["pre_tokenizer"] = nullptr; }) ==
        "t.json: pre_tokenizer is missing, expected an object");
  CHECK(broken([](Json& file) { file["normalizer"]["lowercase"] = "yes"; }) ==
        "t.json: normalizer.lowercase is \"yes\", expected true or false");
  CHECK(broken([](Json& file) { file["model"]["continuing_subword_prefix"] = 1; }) ==
        "t.json: model.continuing_subword_prefix is 1, expected a string");
  CHECK(broken([](Json& file) { file["model"]["max_input_chars_per_word"] = -1; }) ==
        "t.json: model.max_input_chars_per_word is -1, expected an integer from 0 to 2147483647");
  CHECK(broken([](Json& file) { file["model"]["max_input_chars_per_word"] = 1001; }) ==
        "t.json: model.max_input_chars_per_word is 1001, expected at most 1000");
  CHECK(broken([](Json& file) {
          file["truncation"] = {{"max_length", 8}, {"strategy", "LongestFirst"}, {"direction", "Up"}};
        }) == "t.json: truncation.direction is \"Up\", expected \"Left\" or \"Right\"");
  CHECK(broken([](Json& file) { file["decoder"]["cleanup"] = 0; }) ==
        "t.json: decoder.cleanup is 0, expected true or false");
  CHECK(broken([](Json& file) { file["added_tokens"] = 1; }) == "t.json: added_tokens is 1, expected an array");
}

TEST_CASE("A file that is cut off anywhere, or is none") {
  const std::string text = lora_test::read_file(lora_test::text_fixtures / "plain.json");
  for (std::size_t size = 0; size + 2 < text.size(); size += 7) {
    CHECK_THAT(message_of<lora::FormatError>([&] { lora::Tokenizer::parse(text.substr(0, size), "t.json"); }),
               contains("t.json: is not valid JSON at byte"));
  }
  const lora_test::TemporaryFolder folder;
  CHECK_THAT(message_of<lora::FileError>([&] { lora::Tokenizer::open(folder / "none.json"); }),
             contains("none.json: cannot open it"));
  CHECK_THAT(message_of<lora::FileError>([&] { lora::Tokenizer::open(folder.path()); }),
             contains("is a folder, expected a regular file"));
  lora_test::write_file(folder / "t.json", "{}");
  CHECK(message_of<lora::FormatError>([&] { lora::Tokenizer::open(folder / "t.json"); }) ==
        (folder / "t.json").string() + ": version is missing, expected a string");
}
