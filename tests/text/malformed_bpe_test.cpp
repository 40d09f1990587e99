// What is broken in the tokenizer.json of a byte-level BPE, or asks for what is not supported, is refused by name.
#include "support/catch.hpp"
#include "text/files.hpp"

#include <functional>
#include <string>
#include <vector>

using lora::detail::Json;
using lora_test::message_of;

namespace {

/// The message of the E that parse throws for roberta.json with a change; "" if it is read.
template <class E>
std::string refused(const std::function<void(Json&)>& change) {
  Json file = lora_test::json_of("roberta.json");
  change(file);
  return message_of<E>([&] { lora::Tokenizer::parse(file.dump(), "t.json"); });
}
std::string broken(const std::function<void(Json&)>& change) { return refused<lora::FormatError>(change); }
std::string unsupported(const std::function<void(Json&)>& change) { return refused<lora::ConfigError>(change); }
std::string model(const char* key, const Json& value) {
  return unsupported([&](Json& file) { file["model"][key] = value; });
}

}  // namespace

TEST_CASE("The byte-level file that is changed below is read, in all of its forms") {
  CHECK(broken([](Json&) {}).empty());
  CHECK(broken([](Json& file) {
          for (const char* key : {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                  "fuse_unk", "byte_fallback", "ignore_merges"}) {
            file["model"].erase(key);
          }
          file["pre_tokenizer"].erase("use_regex");
          file["decoder"] = {{"type", "ByteLevel"}};
          file["post_processor"] = nullptr;
        }).empty());
  CHECK(broken([](Json& file) {
          for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "ignore_merges"}) {
            file["model"][key] = nullptr;
          }
          file["model"]["merges"] = Json::array();
          file["decoder"] = nullptr;
          file["post_processor"] = {
              {"type", "BertProcessing"}, {"sep", Json::array({"</s>", 2})}, {"cls", Json::array({"<s>", 0})}};
        }).empty());
}

TEST_CASE("Settings of BPE that are not supported are refused by name") {
  CHECK(model("dropout", 0.1) == "t.json: model.dropout is the number \"0.1\", which is not supported; null is");
  CHECK(model("unk_token", "<unk>") == "t.json: model.unk_token is \"<unk>\", which is not supported; null is");
  CHECK(model("continuing_subword_prefix", "##") ==
        "t.json: model.continuing_subword_prefix is \"##\", which is not supported; \"\" is");
  CHECK(model("end_of_word_suffix", "</w>") ==
        "t.json: model.end_of_word_suffix is \"</w>\", which is not supported; \"\" is");
  CHECK(model("fuse_unk", true) == "t.json: model.fuse_unk is true, which is not supported; false is");
  CHECK(model("byte_fallback", true) == "t.json: model.byte_fallback is true, which is not supported; false is");
  CHECK(model("new", 1) == "t.json: model.\"new\" is not supported");
  CHECK(broken([](Json& file) { file["model"]["ignore_merges"] = 1; }) ==
        "t.json: model.ignore_merges is 1, expected true or false");
}

TEST_CASE("Components that do not go with byte-level BPE are refused by name") {
  CHECK(unsupported([](Json& file) { file["normalizer"] = {{"type", "NFC"}}; }) ==
        "t.json: normalizer.type is \"NFC\", which is not supported; no normalizer is");
  CHECK(unsupported([](Json& file) { file["normalizer"] = {{"type", "BertNormalizer"}}; }) ==
        "t.json: normalizer.type is \"BertNormalizer\", which is not supported; no normalizer is");
  CHECK(unsupported([](Json& file) { file["pre_tokenizer"]["type"] = "BertPreTokenizer"; }) ==
        "t.json: pre_tokenizer.type is \"BertPreTokenizer\", which is not supported; \"ByteLevel\" is");
  CHECK(unsupported([](Json& file) {
          file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array()}};
        }) == "t.json: pre_tokenizer.type is \"Sequence\", which is not supported; \"ByteLevel\" is");
  CHECK(unsupported([](Json& file) { file["pre_tokenizer"]["use_regex"] = false; }) ==
        "t.json: pre_tokenizer.use_regex is false, which is not supported; true is");
  CHECK(unsupported([](Json& file) { file["decoder"]["type"] = "WordPiece"; }) ==
        "t.json: decoder.type is \"WordPiece\", which is not supported; \"ByteLevel\" is");
  CHECK(unsupported([](Json& file) { file["post_processor"]["type"] = "Sequence"; }) ==
        "t.json: post_processor.type is \"Sequence\", which is not supported; \"TemplateProcessing\" or "
        "\"BertProcessing\" or \"RobertaProcessing\" or \"ByteLevel\" is");
  for (const std::string part : {"pre_tokenizer", "post_processor", "decoder"}) {
    CHECK(unsupported([&](Json& file) { file[part]["new"] = false; }) ==
          "t.json: " + part + ".\"new\" is not supported");
  }
  CHECK(broken([](Json& file) { file["pre_tokenizer"].erase("add_prefix_space"); }) ==
        "t.json: pre_tokenizer.add_prefix_space is missing, expected true or false");
  CHECK(broken([](Json& file) { file["pre_tokenizer"]["trim_offsets"] = 1; }) ==
        "t.json: pre_tokenizer.trim_offsets is 1, expected true or false");
  CHECK(broken([](Json& file) { file["post_processor"].erase("trim_offsets"); }) ==
        "t.json: post_processor.trim_offsets is missing, expected true or false");
  CHECK(broken([](Json& file) { file["post_processor"]["sep"] = Json::array({"</s>", 3}); }) ==
        "t.json: post_processor.sep[1] is 3, expected 2, the id of \"</s>\"");
}

TEST_CASE("Merges are pairs of tokens that make a token") {
  const auto merge = [](const Json& value) { return broken([&](Json& file) { file["model"]["merges"][5] = value; }); };
  CHECK(merge("t h").empty());
  CHECK(merge(Json::array({"t", "h"})).empty());
  CHECK(merge("th") == "t.json: model.merges[5] is \"th\", expected two tokens");
  CHECK(merge("t h e") == "t.json: model.merges[5] is \"t h e\", expected two tokens");
  CHECK(merge("") == "t.json: model.merges[5] is \"\", expected two tokens");
  CHECK(merge(5) == "t.json: model.merges[5] is a number, expected two tokens");
  CHECK(merge(Json::array({"t"})) == "t.json: model.merges[5] is an array, expected two tokens");
  CHECK(merge(Json::array({"t", "h", "e"})) == "t.json: model.merges[5] is an array, expected two tokens");
  CHECK(merge(Json::array({"t", 5})) == "t.json: model.merges[5] is an array, expected two tokens");
  CHECK(merge("zzz t") == "t.json: model.merges[5]: \"zzz\" is not in the vocabulary");
  CHECK(merge("t zzz") == "t.json: model.merges[5]: \"zzz\" is not in the vocabulary");
  CHECK(merge("z q") == "t.json: model.merges[5]: \"zq\" is not in the vocabulary");
  CHECK(merge(" t") == "t.json: model.merges[5]: \"\" is not in the vocabulary");
  CHECK(broken([](Json& file) { file["model"]["merges"] = "t h"; }) ==
        "t.json: model.merges is \"t h\", expected an array");
  CHECK(broken([](Json& file) { file["model"].erase("merges"); }) ==
        "t.json: model.merges is missing, expected an array");
}

TEST_CASE("Every byte has a token") {
  const auto renamed = [](const std::string& letter) {
    return broken([&](Json& file) {
      auto& vocabulary = file["model"]["vocab"];
      vocabulary["no longer"] = vocabulary[letter];
      vocabulary.erase(letter);
      file["model"]["merges"] = Json::array();
    });
  };
  CHECK(renamed("\xc4\x80") == "t.json: model.vocab lacks \"\xc4\x80\", the letter of byte 0");
  CHECK(renamed("\xc4\xa0") == "t.json: model.vocab lacks \"\xc4\xa0\", the letter of byte 32");
  CHECK(renamed("\xc3\xbf") == "t.json: model.vocab lacks \"\xc3\xbf\", the letter of byte 255");
  CHECK(broken([](Json& file) { file["model"]["vocab"]["the"] = 6; }) ==
        "t.json: model.vocab.\"the\" has id 6, which \"#\" has");
}

TEST_CASE("A token longer than a word of usual texts is found all the same") {
  Json file = lora_test::json_of("roberta.json");
  auto& model = file["model"];
  std::string token = "Q";
  for (int k = 0; k < 11; ++k) {  // 2048 bytes
    model["merges"].push_back({token, token});
    token += token;
    model["vocab"][token] = model["vocab"].size();
  }
  const auto tokenizer = lora::Tokenizer::parse(file.dump());
  CHECK(tokenizer.encode(token, {.special_tokens = false}).ids == std::vector<int>{tokenizer.id(token).value()});
  model["ignore_merges"] = true;
  model["merges"] = Json::array();
  const auto whole = lora::Tokenizer::parse(file.dump());
  CHECK(whole.encode(token, {.special_tokens = false}).ids == std::vector<int>{whole.id(token).value()});
}

TEST_CASE("Tokens that say nothing, and merges of them") {
  // An empty token, and tokens that are no bytes, are never made of a text.
  Json file = lora_test::json_of("roberta.json");
  auto& vocabulary = file["model"]["vocab"];
  const auto size = static_cast<int>(vocabulary.size());
  vocabulary[""] = size;
  vocabulary["a b"] = size + 1;
  file["model"]["merges"].push_back(Json::array({"", "a"}));
  file["model"]["merges"].push_back(Json::array({"t", ""}));
  const auto tokenizer = lora::Tokenizer::parse(file.dump()), plain = lora_test::tokenizer_of("roberta");
  CHECK(tokenizer.encode("a b tea").ids == plain.encode("a b tea").ids);
  CHECK(tokenizer.decode({size, size + 1}) == "a b");
}
