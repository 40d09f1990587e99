// Adapters as other tools write them: what is in such a file besides the factors, and under which names.

#include "io/files.hpp"
#include "io/peft_models.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"

using lora_test::contains;
using lora_test::Layers;
using lora_test::message_of;
using lora_test::TemporaryFolder;

namespace {

using Tensors = std::vector<lora::TensorToSave>;
using lora_test::fs::path;

lora::Matrix<float> numbers(lora::Index rows, lora::Index cols, std::uint64_t seed) {
  lora::Matrix<float> matrix(rows, cols);
  lora::Rng rng(seed);
  lora::fill_uniform(matrix, 1, rng);
  return matrix;
}

path write_adapter(const TemporaryFolder& folder, const std::string& settings, const Tensors& tensors) {
  lora_test::fs::create_directories(folder / "adapter");
  lora_test::write_file(folder / "adapter" / "adapter_config.json",
                        "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, " + settings + "}");
  lora::save_safetensors(folder / "adapter" / "adapter_model.safetensors", tensors);
  return folder / "adapter";
}

/// What load_adapter says, after which the model has to be as it was; empty if it loads.
template <class T>
std::string refused(T& model, const path& adapter, const lora::LoadAdapterOptions& options = {}) {
  const std::string before = lora_test::contents(model);
  const std::string error = message_of<lora::Error>([&] { lora::load_adapter(model, adapter, options); });
  CHECK((error.empty() || lora_test::contents(model) == before));
  return error;
}

/// As DistilBERT's: a.q (3, 4) is adapted, pre_classifier (4, 3) and classifier (2, 4) are trained in full.
Layers<float> distilbert() {
  lora::Rng rng(1);
  return Layers<float>({{"a.q", {.in = 4, .out = 3}},
                        {"pre_classifier", {.in = 3, .out = 4}},
                        {"classifier", {.in = 4, .out = 2}}},
                       rng);
}
const lora::Matrix<float> A = numbers(2, 4, 11), B = numbers(3, 2, 12);
const lora::Matrix<float> pre = numbers(4, 3, 13), last = numbers(2, 4, 14);
const lora::Vector<float> pre_bias = numbers(4, 1, 15), last_bias = numbers(2, 1, 16);
Tensors distilbert_tensors() {
  return {{"base_model.model.a.q.lora_A.weight", A},
          {"base_model.model.a.q.lora_B.weight", B},
          {"base_model.model.pre_classifier.weight", pre},
          {"base_model.model.pre_classifier.bias", pre_bias},
          {"base_model.model.classifier.weight", last},
          {"base_model.model.classifier.bias", last_bias}};
}

}  // namespace

TEST_CASE("F1: modules_to_save \"classifier\" is \"pre_classifier\", too, as in PEFT") {
  const TemporaryFolder folder;
  auto model = distilbert();
  const auto adapter = write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["classifier"])",
                                     distilbert_tensors());
  const auto config = lora::load_adapter(model, adapter);
  CHECK(model["pre_classifier"].merged() == pre);
  CHECK(model["classifier"].merged() == last);
  CHECK(model["a.q"].merged().isApprox(distilbert()["a.q"].merged() + 2 * B * A));

  lora::save_adapter(model, folder / "again", {.config = config});
  auto again = distilbert();
  CHECK(lora::load_adapter(again, folder / "again").targets.modules_to_save == std::vector<std::string>{"classifier"});
  CHECK(lora_test::contents(again) == lora_test::contents(model));

  // The same rule for attach, and for a new config.
  auto fresh = distilbert();
  lora::Rng rng(2);
  CHECK(lora::attach(fresh, {.rank = 2}, {.modules = {"q"}, .modules_to_save = {"classifier"}}, rng) == 3);
  lora::save_adapter(fresh, folder / "new");
  again = distilbert();
  CHECK(refused(again, folder / "new").empty());
}

TEST_CASE("F1: a layer that ends with a name of modules_to_save cannot have factors, too: PEFT fails at it") {
  const TemporaryFolder folder;
  auto model = distilbert();
  const auto adapter =
      write_adapter(folder, R"("target_modules": ["q", "pre_classifier"], "modules_to_save": ["classifier"])",
                    distilbert_tensors());
  CHECK_THAT(refused(model, adapter), contains("the layer pre_classifier is to receive an adapter, because "
                                               "target_modules has \"pre_classifier\", and to be trained in full, "
                                               "because modules_to_save has \"classifier\", with which it ends"));
  // Named by whole words, modules_to_save goes first.
  lora::Rng rng(2);
  CHECK(lora::match_modules(model, {}, {.modules = "all-linear", .modules_to_save = {"pre_classifier", "classifier"}})
            .at(1)
            .role == lora::ModuleMatch::Role::full);
  CHECK_THROWS_AS(lora::attach(model, {.rank = 2}, {.modules_to_save = {"classifier"}}, rng), lora::NameError);
}

TEST_CASE("F1: what PEFT 0.7.1 adds to modules_to_save for a task, and does not write into the config") {
  const TemporaryFolder folder;
  for (const std::string task : {"SEQ_CLS", "TOKEN_CLS"}) {
    auto model = distilbert();
    const auto adapter = write_adapter(
        folder, "\"target_modules\": [\"q\"], \"modules_to_save\": null, \"task_type\": \"" + task + "\"",
        distilbert_tensors());
    CHECK(lora::load_adapter(model, adapter).targets.modules_to_save == std::vector<std::string>{"classifier"});
    CHECK(model["classifier"].merged() == last);
  }
  auto model = distilbert();
  const auto other = write_adapter(folder, R"("target_modules": ["q"], "task_type": "CAUSAL_LM")", distilbert_tensors());
  CHECK_THAT(refused(model, other), contains("unexpected") && contains("\"base_model.model.classifier.weight\""));
  // The save side: PEFT would train this layer in full.
  lora::Rng rng(2);
  lora::attach(model, {.rank = 2}, {.modules = {"classifier"}}, rng);
  CHECK_THAT(
      message_of<lora::ConfigError>([&] { lora::save_adapter(model, folder / "c", {.task_type = "SEQ_CLS"}); }),
      contains("the task_type is SEQ_CLS, for which PEFT trains \"classifier\" in full, but the layer \"classifier\""));
  CHECK_FALSE(lora_test::fs::exists(folder / "c"));
}

namespace {

/// A language model: model.q (3, 4), lm_head (5, 3), and an embedding of 5 tokens.
struct Language {
  Layers<float> layers;
  lora::Parameter<float> embedding;

  explicit Language(lora::Rng rng)
      : layers({{"model.q", {.in = 4, .out = 3}}, {"lm_head", {.in = 3, .out = 5, .bias = false}}}, rng),
        embedding(numbers(5, 4, 21)) {}
  static void visit(auto& self, auto&& f) {
    Layers<float>::visit(self.layers, f);
    f("model.embed_tokens.weight", self.embedding);
  }
};
const char* const head_key = "base_model.model.lm_head.base_layer.weight";
const char* const embedding_key = "base_model.model.model.embed_tokens.weight";
const lora::Matrix<float> head_A = numbers(2, 3, 22), head_B = numbers(5, 2, 23);

Tensors with_head(const lora::Matrix<float>& stored, std::optional<lora::Dtype> dtype = {}) {
  Tensors tensors{{"base_model.model.lm_head.lora_A.weight", head_A}, {"base_model.model.lm_head.lora_B.weight", head_B}};
  tensors.emplace_back(head_key, stored, dtype);
  return tensors;
}

}  // namespace

TEST_CASE("F2: PEFT writes the base's weight of lm_head beside its factors: accepted if it equals ours, else refused") {
  const TemporaryFolder folder;
  Language model{lora::Rng(1)};
  const lora::Matrix<float> W0 = model.layers["lm_head"].dense();
  const std::string settings = R"("target_modules": ["lm_head"])";

  SECTION("equal") {
    const auto config = lora::load_adapter(model, write_adapter(folder, settings, with_head(W0)));
    CHECK(model.layers["lm_head"].merged().isApprox(W0 + 2 * head_B * head_A));
    // Saved again without it: PEFT has the base's weight from the base.
    lora::save_adapter(model, folder / "again", {.config = config});
    const auto again = lora::Safetensors::open(folder / "again" / "adapter_model.safetensors");
    CHECK(again.tensors().size() == 2);
  }
  SECTION("equal after conversion to the model's scalar, and the other way round, as a Conv1D stores it") {
    // BF16 holds every number of this base.
    lora::Matrix<float> coarse = W0;
    for (float& x : coarse.reshaped()) x = lora::bfloat16_to_float(lora::float_to_bfloat16(x));
    model.layers["lm_head"] = lora::Linear<float>(coarse);
    CHECK(refused(model, write_adapter(folder, settings, with_head(coarse, lora::Dtype::bf16))).empty());
    Language other{lora::Rng(1)};
    CHECK(refused(other, write_adapter(folder, settings, with_head(W0.transpose()))).empty());
  }
  SECTION("beside a base that is frozen already") {
    model.layers["lm_head"].freeze();
    CHECK(refused(model, write_adapter(folder, settings, with_head(W0))).empty());
  }
  SECTION("another weight") {
    lora::Matrix<float> other = W0;
    other(4, 1) = 0.5f;
    const auto adapter = write_adapter(folder, settings, with_head(other));
    const std::string error = refused(model, adapter);
    CHECK_THAT(error, contains("\n1 unexpected:\n  \"base_model.model.lm_head.base_layer.weight\" (5, 3), of the base, "
                               "differs from the model's at (4, 1), where it is 0.5, not "));
    CHECK_THAT(error, contains(": it was trained, or the base is another; read it into the model first "
                               "(Safetensors::read_into), or leave it out by ignore_tensors"));
    // What it says is possible.
    CHECK(refused(model, adapter, {.ignore_tensors = {head_key}}).empty());
    Language same{lora::Rng(1)};
    const auto file = lora::Safetensors::open(adapter / "adapter_model.safetensors");
    same.layers["lm_head"] = lora::Linear<float>(file.read<float>(head_key));
    CHECK(refused(same, adapter).empty());
    CHECK(same.layers["lm_head"].merged().isApprox(other + 2 * head_B * head_A));
  }
  SECTION("one that holds no numbers, and one that the model does not list") {
    const std::vector<std::int32_t> integers(15);
    Tensors tensors = with_head(W0);
    tensors.back() = {head_key, lora::Dtype::i32, {5, 3}, std::as_bytes(std::span(integers))};
    CHECK_THAT(refused(model, write_adapter(folder, settings, tensors)), contains("is stored as I32, expected numbers"));
    tensors = with_head(W0);
    tensors.emplace_back("base_model.model.model.norm.weight", lora::Vector<float>(lora::Vector<float>::Ones(3)));
    CHECK_THAT(refused(model, write_adapter(folder, settings, tensors)),
               contains("the model lists no \"model.norm.weight\"; list it in visit"));
  }
  SECTION("what the adapter needs cannot be left out") {
    const auto adapter = write_adapter(folder, settings, with_head(W0));
    CHECK_THAT(refused(model, adapter, {.ignore_tensors = {"base_model.model.lm_head.lora_A.weight"}}),
               contains("is in ignore_tensors, but the adapter needs it"));
  }
}

TEST_CASE("F2: stored embeddings, also of a resized vocabulary, and those of modules_to_save") {
  const TemporaryFolder folder;
  Language model{lora::Rng(1)};
  const lora::Matrix<float> E = model.embedding.value;
  Tensors tensors{{"base_model.model.model.q.lora_A.weight", A}, {"base_model.model.model.q.lora_B.weight", B}};
  for (const std::string settings :
       {R"("target_modules": ["q"])", R"("target_modules": ["q"], "modules_to_save": ["embed_tokens"])"}) {
    INFO(settings);
    const auto load = [&](const lora::Matrix<float>& stored) {
      Tensors all = tensors;
      all.emplace_back(embedding_key, stored);
      Language fresh{lora::Rng(1)};
      return refused(fresh, write_adapter(folder, settings, all));
    };
    CHECK(load(E).empty());
    CHECK(load(E.transpose()).empty());  // a model whose tokens are columns
    CHECK_THAT(load(2 * E), contains("embed_tokens.weight\" (5, 4), of the base, differs from the model's at (0, 0)"));
    CHECK_THAT(load(numbers(7, 4, 5)), contains("embed_tokens.weight\" (7, 4), of the base, is of another size than the "
                                                "model's, which has 5 x 4 (a resized vocabulary?)"));
  }
  // Named, and not stored: then nobody has its values.
  CHECK_THAT(refused(model, write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["embed_tokens"])",
                                          tensors)),
             contains("modules_to_save names \"embed_tokens\", but the parameter model.embed_tokens.weight"));
  // Read into the model first, as the message says.
  tensors.emplace_back(embedding_key, lora::Matrix<float>(2 * E));
  const auto adapter = write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["embed_tokens"])", tensors);
  lora::Safetensors::open(adapter / "adapter_model.safetensors").read_into(embedding_key, model.embedding.value);
  const auto config = lora::load_adapter(model, adapter);
  lora::save_adapter(model, folder / "again", {.config = config});
  CHECK(lora::read_peft_config(folder / "again").targets.modules_to_save.empty());  // PEFT would miss its values
}

TEST_CASE("F2: a base that rounds its weight is compared with the stored weight as it rounds it") {
  const TemporaryFolder folder;
  Language model{lora::Rng(1)};
  const lora::Matrix<float> W0 = model.layers["lm_head"].dense();
  model.layers["lm_head"] = lora::Linear<float>(lora_test::Coarse<float>(W0));
  REQUIRE(model.layers["lm_head"].dense() != W0);
  const std::string settings = R"("target_modules": ["lm_head"])";
  CHECK(refused(model, write_adapter(folder, settings, with_head(W0))).empty());
  Language other{lora::Rng(1)};
  other.layers["lm_head"] = lora::Linear<float>(lora_test::Coarse<float>(W0));
  CHECK_THAT(refused(other, write_adapter(folder, settings, with_head(2 * W0))), contains("differs from the model's"));
}
