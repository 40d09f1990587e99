// Adapters as they are found in the wild (wild/README.md): with the adapter that PEFT wrote, every linear layer of the
// model gives what it gave in PyTorch. What cannot be loaded yet says so, and what it says to do is done.
#include "io/files.hpp"
#include "io/peft_models.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

using lora_test::contains;
using lora_test::contents;
using lora_test::Layers;
using lora_test::message_of;
using lora_test::TemporaryFolder;
namespace fs = lora_test::fs;

namespace {

const fs::path wild = fs::path(__FILE__).parent_path() / "wild";

struct Fixture {
  const char* name;
  int changed;               // how many linear layers give something else than the base alone, in PEFT
  const char* refused = "";  // a part of the message, if it does not load as it is
};

/// All of them are listed, so that none can get lost.
const std::vector<Fixture> fixtures{
    {"0.4.0/gpt2_default", 2},
    {"0.4.0/llama_default", 4},
    {"0.4.0/t5_default", 12},
    {"0.4.0/bert_default", 5},   // with the classifier, which PEFT trains for SEQ_CLS
    {"0.4.0/distilbert_qv", 6},  // and pre_classifier, because its name ends so
    // The biases of layers with factors are not under base_layer in this release.
    {"0.4.0/bert_bias_lora_only", 5},
    {"0.4.0/gpt2_bias_all", 8, "h.0.ln_1.bias\" (8), of the base, differs from the model's"},
    // It gives "wo" factors for target_modules "o"; today's PEFT drops them without a word.
    {"0.4.0/t5_ends", 16, "DenseReluDense.wo.lora_A.weight\" (2, 12), of the layer \"decoder.block.0.layer.2."},
    {"0.7.1/gpt2_bias_all", 8, "h.0.ln_1.bias\" (8), of the base, differs from the model's"},
    {"0.7.1/llama_layer", 3},
    {"0.7.1/t5_regex", 8},
    {"0.7.1/bert_rank_pattern", 5},
    {"0.7.1/distilbert_dropout", 6},
    {"0.11.1/gpt2_all_linear_rslora", 8},
    {"0.11.1/llama_f16", 6},
    {"0.11.1/t5_layer", 8},
    {"0.11.1/bert_bias_lora_only", 5},
    {"0.11.1/llama_dora", 4, "\"use_dora\" is true, which this version cannot apply"},
    {"0.14.0/gpt2_lm_head", 3},
    {"0.14.0/llama_lm_head", 5},
    {"0.14.0/t5_exclude", 8},
    {"0.14.0/bert_bf16", 5},
    {"0.14.0/distilbert_all", 14},
    {"0.14.0/llama_modules_to_save", 5, "model.embed_tokens.weight\" (12, 8), of the base, differs from the model's"},
    {"0.18.0/gpt2-resized_embeddings", 2},
    {"0.18.0/llama_patterns", 6},
    {"0.18.0/gpt2_no_task", 2},
    {"0.18.0/llama_embed_tokens", 2, "lora_embedding_A\" (2, 12), of an embedding, which takes no adapters here"},
    {"0.18.0/bert_bias_all", 14, "embeddings.LayerNorm.bias\" (8), of the base, differs from the model's"},
    {"0.18.0/distilbert_exclude", 7},
    {"0.21.2/gpt2_default", 2},
    {"0.21.2/llama_default", 4},
    {"0.21.2/t5_default", 12},
    {"0.21.2/bert_default", 5},
    {"0.21.2/distilbert_qv", 6},
    {"0.21.2/llama_lm_head", 12},
    {"0.21.2/gpt2_bias_lora_only", 4},
    {"0.21.2/gpt2_modules_to_save", 6,
     "has the square layer \"transformer.h.0.attn.c_proj\" and fan_in_fan_out is true"},
    {"0.21.2/t5_lm_head", 7},
    {"0.21.2/llama_regex", 4},
    {"0.21.2/llama_tokens", 4, "\"trainable_token_indices\" is an object, which this version cannot apply"},
    {"0.21.2/llama_pissa", 4, "\"init_lora_weights\" is \"pissa\" (which changes the base's weights"},
};

/// The files of a fixture, and the base that it names.
struct Files {
  fs::path adapter;
  lora::Safetensors recorded, base;

  explicit Files(const std::string& name)
      : adapter(wild / name),
        recorded(lora::Safetensors::open(adapter / "layers.safetensors")),
        base(lora::Safetensors::open(
            wild / "base" / (lora::read_peft_config(adapter).base_model_name_or_path.value() + ".safetensors"))) {}
};

/// The whole model under PyTorch's names: its linear layers, and as parameters what is not linear (embeddings, norms).
template <class S>
struct Model {
  Layers<S> linear;
  std::vector<std::pair<std::string, lora::Parameter<S>>> others;

  explicit Model(const Files& files, lora::Rng rng = lora::Rng(1))
      : linear(std::vector<std::pair<std::string, lora::LinearShape>>(), rng) {
    for (const auto& tensor : files.base.tensors()) {
      const std::string path = tensor.name.substr(0, tensor.name.rfind('.'));
      if (files.recorded.find(path + ".x") == nullptr) {
        others.emplace_back(tensor.name, lora::Parameter<S>(files.base.read<S>(tensor.name)));
      } else if (tensor.name.ends_with(".weight")) {
        std::optional<lora::Vector<S>> bias;
        if (files.base.find(path + ".bias") != nullptr) bias = files.base.read<S>(path + ".bias");
        linear.layers.emplace_back(path, lora::Linear<S>(files.base.read<S>(tensor.name), std::move(bias)));
      }
    }
  }
  static void visit(auto& self, auto&& f) {
    Layers<S>::visit(self.linear, f);
    for (auto& [name, parameter] : self.others) f(lora::Name(name), parameter);
  }
};

/// How far a layer is from what it gave in PyTorch, relative to the whole output.
template <class S>
double distance(const lora::Linear<S>& layer, const std::string& path, const Files& files) {
  // Rows are samples there.
  const lora::Matrix<S> x = files.recorded.read<S>(path + ".x").transpose();
  const lora::Matrix<S> theirs = files.recorded.read<S>(path + ".y").transpose();
  REQUIRE(theirs.norm() > S(0.01));
  return static_cast<double>((layer(x) - theirs).norm() / theirs.norm());
}

/// PyTorch computed in float: of at most 12 products in the base, 12 in A and 4 in B, each sum is off by its number of
/// terms times 6e-8 of the sum of sizes, which is a few times the result. 1.4e-7 is the most that is seen. The smallest
/// effect of an adapter is a thousand times as large.
constexpr double most = 1e-5;

template <class S>
void check_outputs(const Layers<S>& linear, const Files& files) {
  for (const auto& [path, layer] : linear.layers) {
    INFO(path);
    CHECK(distance(layer, path, files) <= most);
  }
}

template <class T>
std::string refused(T& model, const Files& files, const lora::LoadAdapterOptions& options = {}) {
  const std::string before = contents(model);
  const std::string error = message_of<lora::Error>([&] { lora::load_adapter(model, files.adapter, options); });
  CHECK((error.empty() || contents(model) == before));
  return error;
}

template <class S>
void check_fixture(const Fixture& fixture) {
  const Files files(fixture.name);
  Model<S> model(files);
  REQUIRE(files.recorded.tensors().size() == 2 * model.linear.layers.size());
  const auto far = [&](const auto& layer) { return distance(layer.second, layer.first, files) > 100 * most; };
  const auto& layers = model.linear.layers;
  CHECK(std::count_if(layers.begin(), layers.end(), far) == fixture.changed);

  const std::string error = refused(model, files);
  if (*fixture.refused != '\0') {
    CHECK_THAT(error, contains(fixture.refused));
    return;
  }
  REQUIRE(error.empty());
  check_outputs(model.linear, files);
}

}  // namespace

TEST_CASE("In the wild: every fixture is there, with its files, and no other") {
  std::set<std::string> listed, there;
  for (const Fixture& fixture : fixtures) listed.insert(fixture.name);
  for (const auto& release : fs::directory_iterator(wild)) {
    if (!release.is_directory() || !fs::is_directory(release.path()) || release.path().filename() == "base") continue;
    for (const auto& folder : fs::directory_iterator(release)) {
      const std::string name = (release.path().filename() / folder.path().filename()).generic_string();
      INFO(name);
      there.insert(name);
      std::set<std::string> files;
      for (const auto& file : fs::directory_iterator(folder)) {
        files.insert(file.path().filename().string());
        CHECK(file.file_size() > 100);
      }
      CHECK(files == std::set<std::string>{"adapter_config.json", "adapter_model.safetensors", "layers.safetensors"});
    }
  }
  CHECK(there == listed);
  CHECK(there.size() >= 30);
}

TEMPLATE_TEST_CASE("In the wild: every linear layer gives what it gave in PyTorch", "", float, double) {
  for (const Fixture& fixture : fixtures) {
    INFO(fixture.name);
    check_fixture<TestType>(fixture);
  }
}

TEST_CASE("In the wild: what is loaded and saved again is the same adapter") {
  for (const Fixture& fixture : fixtures) {
    if (*fixture.refused != '\0') continue;
    INFO(fixture.name);
    const Files files(fixture.name);
    const TemporaryFolder folder;
    Model<float> model(files), again(files);
    const auto config = lora::load_adapter(model, files.adapter);
    lora::save_adapter(model, folder / "again", {.config = config});
    lora::load_adapter(again, folder / "again");
    CHECK(contents(again) == contents(model));
  }
}

TEST_CASE("In the wild: tensors of the base that were trained are read into the model first, as the message says") {
  for (const char* name :
       {"0.4.0/gpt2_bias_all", "0.7.1/gpt2_bias_all", "0.18.0/bert_bias_all", "0.14.0/llama_modules_to_save"}) {
    INFO(name);
    const Files files(name);
    Model<float> model(files);
    CHECK_THAT(refused(model, files), contains("read it into the model first (Safetensors::read_into)"));
    const auto stored = lora::Safetensors::open(files.adapter / "adapter_model.safetensors");
    for (auto& [path, parameter] : model.others) {
      const std::string key = "base_model.model." + path;
      if (stored.find(key) != nullptr) stored.read_into(key, parameter.value);
    }
    CHECK(refused(model, files).empty());
    check_outputs(model.linear, files);
  }
}

TEST_CASE(
    "In the wild: the ends of names within words that PEFT 0.4 took are added to target_modules, as the message says") {
  const Files files("0.4.0/t5_ends");
  Model<float> model(files);
  CHECK_THAT(
      refused(model, files),
      contains("which receives no adapter: target_modules does not have it; PEFT up to 0.4 took \"o\" for the end "
               "of it, also within a word: add \"wo\" to target_modules") &&
          !contains("ignore_tensors"));
  const TemporaryFolder folder;
  fs::copy(files.adapter, folder / "mended");
  std::string config = lora_test::read_file(folder / "mended" / "adapter_config.json");
  config.replace(config.find("\"o\""), 3, "\"o\", \"wo\"");
  lora_test::write_file(folder / "mended" / "adapter_config.json", config);
  lora::load_adapter(model, folder / "mended");
  check_outputs(model.linear, files);
}

TEST_CASE("In the wild: a model of linear layers alone leaves out the tensors of embeddings and norms by name") {
  for (const char* name : {"0.7.1/gpt2_bias_all", "0.14.0/llama_modules_to_save", "0.18.0/gpt2-resized_embeddings"}) {
    INFO(name);
    const Files files(name);
    auto linear = Model<float>(files).linear;
    CHECK_THAT(refused(linear, files), contains("; list it in visit, so that it can be compared, or leave it out by "
                                                "ignore_tensors"));
    lora::LoadAdapterOptions options;
    for (const auto& [path, parameter] : Model<float>(files).others) {
      const std::string key = "base_model.model." + path;
      const auto stored = lora::Safetensors::open(files.adapter / "adapter_model.safetensors");
      if (stored.find(key) != nullptr) options.ignore_tensors.push_back(key);
    }
    CHECK(refused(linear, files, options).empty());
    check_outputs(linear, files);
  }
}

TEST_CASE("In the wild: an adapter of a resized vocabulary does not fit the base that was not resized") {
  Files files("0.18.0/gpt2-resized_embeddings");
  files.base = lora::Safetensors::open(wild / "base" / "tiny-gpt2.safetensors");
  Model<float> model(files);
  CHECK_THAT(refused(model, files), contains("wte.weight\" (14, 8), of the base, is of another size than the model's, "
                                             "which has 12 x 8 (a resized vocabulary?)"));
}

TEST_CASE("In the wild: PiSSA's adapter on the unchanged base is refused with reason") {
  const Files files("0.21.2/llama_pissa");
  Model<float> model(files);
  CHECK(refused(model, files, {.ignore = {"init_lora_weights"}}).empty());
  CHECK(distance(model.linear["model.layers.0.self_attn.q_proj"], "model.layers.0.self_attn.q_proj", files) > 0.01);
}
