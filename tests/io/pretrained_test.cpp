// Published models: what transformers wrote is read, and computes what transformers and PEFT compute
// (interop/models.py).

#include "lora/io/pretrained.hpp"

#include "io/files.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/transformers/distilbert.hpp"
#include "lora/transformers/roberta.hpp"
#include "support/catch.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace {

using lora::Index;
using lora::Matrix;
using lora::TensorToSave;
namespace fs = std::filesystem;

fs::path fixture(const char* name) { return fs::path(__FILE__).parent_path() / "fixtures" / "models" / name; }

std::vector<int> ints(const lora::Safetensors& file, const char* name) {
  const auto stored = file.tensor<std::int64_t>(name);
  std::vector<int> numbers;
  for (Index k = 0; k < stored.size(); ++k) numbers.push_back(static_cast<int>(stored(k)));
  return numbers;
}

lora::Tokens tokens_of(const lora::Safetensors& file) {
  const std::vector<int> ids = ints(file, "ids");
  const std::vector<int> types = file.find("types") != nullptr ? ints(file, "types") : std::vector<int>(ids.size());
  const bool typed = file.find("types") != nullptr;
  lora::Tokens tokens;
  std::size_t first = 0;
  for (const int length : ints(file, "lengths")) {
    const auto some = [&](const std::vector<int>& all) { return std::span(all).subspan(first, std::size_t(length)); };
    tokens.add(some(ids), typed ? some(types) : std::span<const int>());
    first += std::size_t(length);
  }
  return tokens;
}

/// Frobenius, relative.
void check_close(const std::string& name, const Matrix<double>& given, const Matrix<double>& expected) {
  INFO(name);
  REQUIRE((given.rows() == expected.rows() && given.cols() == expected.cols()));
  REQUIRE(expected.norm() > 0);
  CHECK((given - expected).norm() <= 1e-9 * expected.norm());
}

/// Output, loss and all gradients of a fixture.
template <class Model>
void check_fixture(const char* name) {
  const fs::path folder = fixture(name);
  Model model = lora::load_pretrained<Model>(folder / "model");
  lora::load_adapter(model, folder / "adapter");
  const auto file = lora::Safetensors::open(folder / "batch.safetensors");
  const auto expected = lora::Safetensors::open(folder / "expected.safetensors");
  const lora::Tokens tokens = tokens_of(file);
  typename Model::Cache cache;
  Matrix<double> dy;
  const auto y = model.forward(tokens, cache);
  check_close("y", y.transpose(), expected.read<double>("y"));
  const double loss = lora::softmax_cross_entropy(y, ints(file, "labels"), &dy);
  CHECK(std::abs(loss - expected.read<double>("loss")(0)) <= 1e-12 * loss);
  model.backward(tokens, dy, cache);
  std::size_t count = 0;
  const auto check_gradient = [&](const std::string& key, const auto& gradient) {
    check_close(key, gradient, expected.read<double>(key));
    ++count;
  };
  lora::visit_adaptable(model, [&](const lora::Path& path, auto& layer) {
    if (!layer.adapters().contains("default")) return;
    auto& member = layer.adapter("default");
    const std::string key = "gradient." + path.str();
    if (const auto* factors = member.adapter.template as<lora::Lora<double>>()) {
      check_gradient(key + ".lora_A", factors->A.grad);
      check_gradient(key + ".lora_B", factors->B.grad);
    } else {
      lora::visit_parameters(
          member.adapter, [&](const lora::Path&, const auto& weight) { check_gradient(key + ".weight", weight.grad); });
      check_gradient(key + ".bias", member.bias->grad);
    }
  });
  CHECK(count + 2 == expected.tensors().size());
}

using Bert = lora::BertForSequenceClassification<double>;

/// All tensors of a file, under other names and types; an empty name leaves one out.
void rewrite(const fs::path& from, const fs::path& to, const std::function<std::string(const std::string&)>& rename,
             std::optional<lora::Dtype> dtype = {}) {
  const auto file = lora::Safetensors::open(from);
  std::vector<TensorToSave> tensors;
  for (const auto& tensor : file.tensors()) {
    const std::string name = rename(tensor.name);
    if (name.empty()) continue;
    if (tensor.shape.size() == 1) {
      tensors.emplace_back(name, lora::Vector<double>(file.read<double>(tensor.name)), dtype);
    } else {
      tensors.emplace_back(name, file.read<double>(tensor.name), dtype);
    }
  }
  lora::save_safetensors(to, tensors);
}

/// A copy of the BERT fixture's directory, to be changed.
struct Directory {
  lora_test::TemporaryFolder folder;
  fs::path path = folder.path();

  Directory() { fs::copy(fixture("bert") / "model", path, fs::copy_options::recursive); }
  void settings(const std::string& from, const std::string& to) const {
    std::string text = lora_test::read_file(path / "config.json");
    const auto at = text.find(from);
    REQUIRE(at != text.npos);
    lora_test::write_file(path / "config.json", text.replace(at, from.size(), to));
  }
  void weights(const std::function<std::string(const std::string&)>& rename,
               std::optional<lora::Dtype> dtype = {}) const {
    rewrite(fixture("bert") / "model" / "model.safetensors", path / "model.safetensors", rename, dtype);
  }
};

std::string same(const std::string& name) { return name; }

Matrix<double> output(const Bert& model) { return model({{5, 6, 7}, {8, 9}}); }

}  // namespace

TEST_CASE("pretrained: loss, outputs and gradients are those of transformers and PEFT") {
  check_fixture<lora::BertForSequenceClassification<double>>("bert");
  check_fixture<lora::RobertaForSequenceClassification<double>>("roberta");
  check_fixture<lora::DistilBertForTokenClassification<double>>("distilbert");
}

TEST_CASE("pretrained: the settings of config.json") {
  const auto bert = lora::read_pretrained_config<Bert>(fixture("bert") / "model");
  CHECK((bert.vocab_size == 50 && bert.hidden_size == 16 && bert.num_hidden_layers == 2));
  CHECK((bert.num_attention_heads == 2 && bert.intermediate_size == 24 && bert.max_position_embeddings == 20));
  CHECK((bert.type_vocab_size == 2 && bert.first_position == 0 && bert.num_labels == 3));
  CHECK((bert.layer_norm_eps == 1e-12 && bert.hidden_dropout_prob == 0.1 && !bert.classifier_dropout));
  const auto roberta =
      lora::read_pretrained_config<lora::RobertaForSequenceClassification<double>>(fixture("roberta") / "model");
  CHECK((roberta.first_position == 2 && roberta.type_vocab_size == 1 && roberta.max_tokens() == 18));
  const auto distilbert =
      lora::read_pretrained_config<lora::DistilBertForTokenClassification<double>>(fixture("distilbert") / "model");
  CHECK((distilbert.hidden_size == 16 && distilbert.intermediate_size == 24 && distilbert.type_vocab_size == 0));
  CHECK((distilbert.num_hidden_layers == 2 && distilbert.classifier_dropout == 0.2));
}

TEST_CASE("pretrained: names with and without the type before them, and those of 2018") {
  const Directory directory;
  const Matrix<double> expected = output(lora::load_pretrained<Bert>(directory.path));
  // A plain model: no "bert.", no classifier, which is then new.
  directory.weights([](const std::string& name) { return name.starts_with("bert.") ? name.substr(5) : std::string(); });
  const Bert plain = lora::load_pretrained<Bert>(directory.path, {.num_labels = 3, .seed = 1});
  CHECK(plain.output.out_features() == 3);
  const auto hidden = lora::load_pretrained<lora::BertModel<double>>(directory.path);
  CHECK_THROWS_WITH(lora::load_pretrained<Bert>(directory.path), lora_test::contains("missing: \"classifier.weight\""));
  // Two seeds give two heads on one encoder.
  const Bert other = lora::load_pretrained<Bert>(directory.path, {.num_labels = 3, .seed = 2});
  CHECK(output(plain) != output(other));
  CHECK(lora::load_pretrained<Bert>(directory.path, {.num_labels = 3, .seed = 1}).output.dense() ==
        plain.output.dense());

  // A plain model from the file of a classifier leaves its head out only if told to.
  directory.weights(same);
  CHECK_THROWS_WITH(lora::load_pretrained<lora::BertModel<double>>(directory.path),
                    lora_test::contains("unexpected: \"classifier.weight\""));
  const auto headless = lora::load_pretrained<lora::BertModel<double>>(
      directory.path, {.ignored = {"classifier.weight", "classifier.bias"}});
  const lora::Tokens batch = {{5, 6, 7}, {8, 9}};
  CHECK(headless(batch) == hidden(batch));

  directory.weights([](std::string name) {
    for (const auto& [now, once] :
         {std::pair{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}}) {
      if (name.ends_with(now)) name = name.substr(0, name.size() - std::string(now).size()) + once;
    }
    return name;
  });
  CHECK(output(lora::load_pretrained<Bert>(directory.path)) == expected);
  // Heads of pretraining are not asked for.
  directory.weights([](const std::string& name) {
    return name == "classifier.bias"     ? std::string("cls.predictions.bias")
           : name == "classifier.weight" ? std::string()
                                         : name;
  });
  CHECK_NOTHROW(lora::load_pretrained<lora::BertModel<double>>(directory.path));
}

TEST_CASE("pretrained: every real dtype and scalar, frozen or trainable, mapped or read, whole or in shards") {
  const Directory directory;
  const Matrix<double> expected = output(lora::load_pretrained<Bert>(directory.path));
  CHECK(output(lora::load_pretrained<Bert>(directory.path, {.access = lora::FileAccess::read})) == expected);

  Bert trained = lora::load_pretrained<Bert>(directory.path, {.trainable = true});
  CHECK(output(trained) == expected);
  const auto count = lora::count_parameters(trained);
  CHECK((count.trainable == count.total && count.total > 5000));
  Bert frozen = lora::load_pretrained<Bert>(directory.path);
  CHECK(lora::count_parameters(frozen).trainable == 0);
  CHECK(lora::tensor_names(frozen) == lora::tensor_names(trained));

  using Single = lora::BertForSequenceClassification<float>;
  for (const auto& [dtype, most] :
       {std::pair{lora::Dtype::f64, 1e-5}, {lora::Dtype::f32, 1e-5}, {lora::Dtype::f16, 1e-1}}) {
    directory.weights(same, dtype);
    const Single model = lora::load_pretrained<Single>(directory.path);
    const Matrix<float> y = model({{5, 6, 7}, {8, 9}});
    CHECK((y.cast<double>() - expected).norm() <= most * expected.norm());
  }

  const fs::path whole = fixture("bert") / "model" / "model.safetensors";
  fs::remove(directory.path / "model.safetensors");
  rewrite(whole, directory.path / "a.safetensors",
          [](const std::string& name) { return name < "bert.encoder.layer.1" ? name : ""; });
  rewrite(whole, directory.path / "b.safetensors",
          [](const std::string& name) { return name < "bert.encoder.layer.1" ? "" : name; });
  std::string index = R"({"metadata": {}, "weight_map": {)";
  const auto all = lora::Safetensors::open(whole);
  for (const auto& tensor : all.tensors()) {
    index += (index.back() == '{' ? "\"" : ", \"") + tensor.name + "\": \"" +
             (tensor.name < "bert.encoder.layer.1" ? "a" : "b") + ".safetensors\"";
  }
  lora_test::write_file(directory.path / "model.safetensors.index.json", index + "}}");
  CHECK(output(lora::load_pretrained<Bert>(directory.path)) == expected);
}

TEST_CASE("pretrained: what a config says that is not computed here is refused by name") {
  const auto with = [](const std::string& from, const std::string& to, const lora::PretrainedOptions& options = {}) {
    const Directory directory;
    directory.settings(from, to);
    try {
      lora::load_pretrained<Bert>(directory.path, options);
    } catch (const lora::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  using lora_test::contains;
  CHECK_THAT(with("\"bert\"", "\"t5\""), contains("model_type is \"t5\", expected \"bert\""));
  CHECK_THAT(with("\"model_type\": \"bert\",", ""), contains("there is no model_type, expected \"bert\""));
  CHECK_THAT(with("\"gelu\"", "\"mish\""), contains("hidden_act is \"mish\", expected \"gelu\", "));
  CHECK_THAT(with("\"is_decoder\": false", "\"is_decoder\": true"),
             contains("is_decoder is true, expected false, the only one that is computed"));
  CHECK_THAT(with("\"use_cache\"", "\"position_embedding_type\": \"relative_key\", \"use_cache\""),
             contains("position_embedding_type is \"relative_key\", expected \"absolute\", the only one"));
  CHECK(with("\"use_cache\"", "\"position_embedding_type\": \"absolute\", \"use_cache\"").empty());
  CHECK_THAT(
      with("\"use_cache\"", "\"new_thing\": 1, \"use_cache\""),
      contains("\"new_thing\" is 1, a setting that is not known; {.ignore_settings = {\"new_thing\"}} ignores it"));
  CHECK(with("\"use_cache\"", "\"new_thing\": 1, \"use_cache\"", {.ignore_settings = {"new_thing"}}).empty());
  CHECK(with("\"use_cache\"", "\"new_thing\": null, \"use_cache\"").empty());
  CHECK_THAT(with("\"hidden_size\": 16", "\"hidden_size\": \"16\""),
             contains("hidden_size is \"16\", expected an integer"));
  CHECK_THAT(with("\"num_attention_heads\": 2", "\"num_attention_heads\": 3"),
             contains("hidden_size is 16, expected a multiple of num_attention_heads = 3"));
  CHECK_THAT(with("\"hidden_dropout_prob\": 0.1", "\"hidden_dropout_prob\": 1"),
             contains("hidden_dropout_prob is 1, expected at least 0 and below 1"));
  CHECK_THAT(with("\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": 0"),
             contains("layer_norm_eps is 0, expected a positive"));
}

TEST_CASE(
    "pretrained: a file that does not fit is refused with all differences, and a strange config costs no memory") {
  const auto with = [](const std::string& from, const std::string& to) {
    const Directory directory;
    directory.settings(from, to);
    try {
      lora::load_pretrained<Bert>(directory.path);
    } catch (const lora::MismatchError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  using lora_test::contains;
  const std::string fewer = with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  CHECK_THAT(fewer, contains("unexpected: \"bert.encoder.layer.1.output.dense.weight\""));
  const std::string wider = with("\"intermediate_size\": 24", "\"intermediate_size\": 32");
  CHECK_THAT(wider,
             contains("\"bert.encoder.layer.0.intermediate.dense.weight\" has shape (24, 16), expected (32, 16)"));
  CHECK_THAT(wider, contains("\"bert.encoder.layer.1.output.dense.weight\" has shape (16, 24), expected (16, 32)"));
  for (const char* setting : {"hidden_size\": 16", "num_hidden_layers\": 2", "intermediate_size\": 24",
                              "vocab_size\": 50", "max_position_embeddings\": 20", "type_vocab_size\": 2"}) {
    const std::string name = std::string(setting).substr(0, std::string(setting).find(' '));
    CHECK_THAT(with(setting, name + " 2147483646"), contains("does not fit the model"));
  }
  const Directory directory;
  directory.weights(
      [](const std::string& name) { return name.ends_with("layer.1.attention.self.key.bias") ? std::string() : name; });
  CHECK_THROWS_WITH(lora::load_pretrained<Bert>(directory.path),
                    contains("missing: \"bert.encoder.layer.1.attention.self.key.bias\""));
  fs::remove(directory.path / "model.safetensors");
  CHECK_THROWS_AS(lora::load_pretrained<Bert>(directory.path), lora::FileError);
}

TEST_CASE("pretrained: an adapter is saved under PEFT's names, with the task") {
  lora::Rng rng(1);
  Bert model = lora::load_pretrained<Bert>(fixture("bert") / "model");
  lora::attach(model, {.rank = 2}, Bert::default_targets(), rng);
  const lora_test::TemporaryFolder folder;
  lora::save_adapter(model, folder.path());
  const auto config = lora::read_peft_config(folder.path());
  CHECK(config.task_type == "SEQ_CLS");
  CHECK(config.targets.modules_to_save == std::vector<std::string>{"classifier"});
  const auto file = lora::Safetensors::open(folder.path() / "adapter_model.safetensors");
  CHECK(file.find("base_model.model.bert.encoder.layer.1.attention.self.value.lora_B.weight") != nullptr);
  CHECK(file.tensors().size() == 2 * 2 * 2 + 2);

  using Roberta = lora::RobertaForSequenceClassification<double>;
  Roberta other = lora::load_pretrained<Roberta>(fixture("roberta") / "model");
  lora::attach(other, {.rank = 2}, Roberta::default_targets(), rng);
  lora::save_adapter(other, folder.path() / "roberta");
  CHECK(lora::read_peft_config(folder.path() / "roberta").targets.modules_to_save ==
        std::vector<std::string>{"classifier"});
}
