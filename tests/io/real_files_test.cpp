// Adapters as other tools write them: what is in such a file besides the factors, and under which names.

#include "io/files.hpp"
#include "io/peft_models.hpp"
#include "lora/adapters/adapted.hpp"
#include "lora/io/checkpoint.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"
#include "lora/io/weights.hpp"
#include "lora/model/merge.hpp"
#include "lora/optim/adam.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"

#include <cmath>
#include <limits>

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
  return Layers<float>(
      {{"a.q", {.in = 4, .out = 3}}, {"pre_classifier", {.in = 3, .out = 4}}, {"classifier", {.in = 4, .out = 2}}},
      rng);
}
const lora::Matrix<float> A = numbers(2, 4, 11), B = numbers(3, 2, 12);
const lora::Matrix<float> pre = numbers(4, 3, 13), last = numbers(2, 4, 14);
const lora::Vector<float> pre_bias = numbers(4, 1, 15), last_bias = numbers(2, 1, 16);
Tensors distilbert_tensors() {
  return {{"base_model.model.a.q.lora_A.weight", A},       {"base_model.model.a.q.lora_B.weight", B},
          {"base_model.model.pre_classifier.weight", pre}, {"base_model.model.pre_classifier.bias", pre_bias},
          {"base_model.model.classifier.weight", last},    {"base_model.model.classifier.bias", last_bias}};
}

}  // namespace

TEST_CASE("F1: modules_to_save \"classifier\" is \"pre_classifier\", too, as in PEFT") {
  const TemporaryFolder folder;
  auto model = distilbert();
  const auto adapter =
      write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["classifier"])", distilbert_tensors());
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
  const auto adapter = write_adapter(
      folder, R"("target_modules": ["q", "pre_classifier"], "modules_to_save": ["classifier"])", distilbert_tensors());
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
    const auto adapter =
        write_adapter(folder, "\"target_modules\": [\"q\"], \"modules_to_save\": null, \"task_type\": \"" + task + "\"",
                      distilbert_tensors());
    CHECK(lora::load_adapter(model, adapter).targets.modules_to_save == std::vector<std::string>{"classifier"});
    CHECK(model["classifier"].merged() == last);
  }
  auto model = distilbert();
  const auto other =
      write_adapter(folder, R"("target_modules": ["q"], "task_type": "CAUSAL_LM")", distilbert_tensors());
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
  lora::Adapted<lora_test::Coarse<float>, lora::Lora<float>> fixed;  // a base that has only columns

  explicit Language(lora::Rng rng)
      : layers({{"model.q", {.in = 4, .out = 3}}, {"lm_head", {.in = 3, .out = 5, .bias = false}}}, rng),
        embedding(numbers(5, 4, 21)),
        fixed(lora_test::Coarse<float>(numbers(3, 3, 24)), {.rank = 1}, rng) {}
  static void visit(auto& self, auto&& f) {
    Layers<float>::visit(self.layers, f);
    f("model.embed_tokens.weight", self.embedding);
    f("model.fixed", self.fixed);
  }
};
const char* const head_key = "base_model.model.lm_head.base_layer.weight";
const char* const embedding_key = "base_model.model.model.embed_tokens.weight";
const lora::Matrix<float> head_A = numbers(2, 3, 22), head_B = numbers(5, 2, 23);

Tensors with_head(const lora::Matrix<float>& stored, std::optional<lora::Dtype> dtype = {}) {
  Tensors tensors{{"base_model.model.lm_head.lora_A.weight", head_A},
                  {"base_model.model.lm_head.lora_B.weight", head_B}};
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
    CHECK_THAT(refused(model, write_adapter(folder, settings, tensors)),
               contains("is stored as I32, expected F64, F32, F16 or BF16"));
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
    CHECK_THAT(load(numbers(7, 4, 5)),
               contains("embed_tokens.weight\" (7, 4), of the base, is of another size than the "
                        "model's, which has 5 x 4 (a resized vocabulary?)"));
  }
  // Named, and not stored: then nobody has its values.
  CHECK_THAT(
      refused(model, write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["embed_tokens"])", tensors)),
      contains("modules_to_save names \"embed_tokens\", but the parameter model.embed_tokens.weight"));
  // Read into the model first, as the message says.
  tensors.emplace_back(embedding_key, lora::Matrix<float>(2 * E));
  const auto adapter =
      write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["embed_tokens"])", tensors);
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

TEST_CASE("F8: infinity and NaN in the file of an adapter are refused with tensor and place, unless asked for") {
  const TemporaryFolder folder;
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const auto load = [&](const Tensors& tensors, const lora::LoadAdapterOptions& options = {}) {
    auto model = distilbert();
    return refused(model,
                   write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["classifier"])", tensors),
                   options);
  };
  for (const auto& [position, name] :
       {std::pair(0, "a.q.lora_A.weight"), std::pair(1, "a.q.lora_B.weight"), std::pair(2, "pre_classifier.weight")}) {
    lora::Matrix<float> bad = position == 0 ? A : position == 1 ? B : pre;
    bad(1, 0) = position == 1 ? infinity : nan;
    Tensors tensors = distilbert_tensors();
    tensors[static_cast<std::size_t>(position)] = {std::string("base_model.model.") + name, bad};
    CHECK_THAT(load(tensors),
               contains(std::string("tensor \"base_model.model.") + name + "\" is " + (position == 1 ? "inf" : "nan") +
                        " at (1, 0), expected finite numbers; "
                        "LoadAdapterOptions{.allow_non_finite = true} loads them as they are"));
    CHECK(load(tensors, {.allow_non_finite = true}).empty());
  }
  Tensors tensors = distilbert_tensors();
  const lora::Vector<float> bias(lora::Vector<float>::Constant(2, -infinity));
  tensors[5] = {"base_model.model.classifier.bias", bias};
  CHECK_THAT(load(tensors), contains("\"base_model.model.classifier.bias\" is -inf at 0"));
  // A finite number of the file that the model's scalar does not hold.
  lora::Matrix<double> large = A.cast<double>();
  large(0, 3) = 1e39;
  tensors = distilbert_tensors();
  tensors[0] = {"base_model.model.a.q.lora_A.weight", large};
  CHECK_THAT(load(tensors), contains("is inf at (0, 3)"));
}

TEST_CASE("F8: infinity and NaN of an adapter are neither saved nor merged, unless asked for") {
  const TemporaryFolder folder;
  auto model = distilbert();
  lora::Rng rng(2);
  lora::attach(model, {.rank = 2, .bias = lora::Bias::all}, {.modules = {"q"}, .modules_to_save = {"classifier"}}, rng);
  auto& factors = model["a.q"].adapter("default").as<lora::Lora<float>>();
  const auto refused_place = [&](const std::string& saved, const std::string& merged) {
    const std::string before = lora_test::contents(model);
    CHECK_THAT(message_of<lora::ValueError>([&] { lora::save_adapter(model, folder / "a"); }),
               contains("save_adapter: tensor \"base_model.model." + saved) && contains("allow_non_finite"));
    CHECK_FALSE(lora_test::fs::exists(folder / "a"));
    CHECK_THAT(message_of<lora::ValueError>([&] { lora::merge(model); }),
               contains("merge: " + merged) && contains("allow_non_finite"));
    CHECK(lora_test::contents(model) == before);
    auto merged_anyway = model;
    CHECK(lora::merge(merged_anyway, {.allow_non_finite = true}) == 3);
    lora::save_adapter(model, folder / "anyway", {.allow_non_finite = true});
    auto loaded = distilbert();
    CHECK_THROWS_AS(lora::load_adapter(loaded, folder / "anyway"), lora::ValueError);
    lora::load_adapter(loaded, folder / "anyway", lora::LoadAdapterOptions{.allow_non_finite = true});
  };
  SECTION("factors") {
    factors.A.value(1, 2) = std::numeric_limits<float>::quiet_NaN();
    refused_place("a.q.lora_A.weight\" is nan at (1, 2)",
                  "lora_A.weight of adapter \"default\" in layer a.q is nan at (1, 2)");
  }
  SECTION("a trained bias") {
    model["a.q"].adapter("default").bias->value(2) = std::numeric_limits<float>::infinity();
    refused_place("a.q.base_layer.bias\" is inf at 2", "the bias of adapter \"default\" in layer a.q is inf at 2");
  }
  SECTION("a trained copy") {
    model["classifier"].adapter("default").as<lora::FullWeight<float>>().weight.value(0, 3) =
        -std::numeric_limits<float>::infinity();
    refused_place("classifier.weight\" is -inf at (0, 3)", "weight of adapter \"default\" in layer classifier is -inf");
  }
}

TEST_CASE("F8: factors that a narrow dtype would not hold are balanced, or their product is refused") {
  const TemporaryFolder folder;
  lora::Rng rng(1);
  using S = double;
  const auto model_of = [&](double a, double b) {
    Layers<S> model({{"fc", {.in = 8, .out = 6}}}, rng);
    lora::attach(model, {.rank = 4, .alpha = 4}, rng);
    auto& factors = model["fc"].adapter("default").as<lora::Lora<S>>();
    factors.A.value = a * lora::Matrix<S>(numbers(4, 8, 31).cast<S>());
    factors.B.value = b * lora::Matrix<S>(numbers(6, 4, 32).cast<S>());
    return model;
  };
  const auto saved_error = [&](Layers<S> model, lora::Dtype dtype) {
    lora::save_adapter(model, folder / "a", {.dtype = dtype});
    auto other = model;
    lora::detach(other, "default");
    lora::load_adapter(other, folder / "a");
    return (other["fc"].delta() - model["fc"].delta()).norm() / model["fc"].delta().norm();
  };
  // What survives as it is, is stored as it is.
  CHECK(saved_error(model_of(1, 1), lora::Dtype::f16) < 0x1p-11);
  CHECK(lora::Safetensors::open(folder / "a" / "adapter_model.safetensors")
            .read<S>("base_model.model.fc.lora_A.weight")
            .isApprox(numbers(4, 8, 31).cast<S>(), 1e-3));
  // Out of range one by one, but not together: beyond 65504, below 6e-8, and both.
  for (const auto& [a, b] : {std::pair(1e5, 1e-5), std::pair(1e-7, 1.0), std::pair(3.0, 1e-7), std::pair(1e6, 1e-6)}) {
    INFO(a << ' ' << b);
    CHECK(saved_error(model_of(a, b), lora::Dtype::f16) < 0x1p-11);
    CHECK(saved_error(model_of(b, a), lora::Dtype::f16) < 0x1p-11);
  }
  CHECK(saved_error(model_of(1e-50, 1e20), lora::Dtype::f32) < 1e-7);
  CHECK(saved_error(model_of(1e-50, 1e20), lora::Dtype::bf16) < 0x1p-7);
  // Too small for F16 together.
  const auto refused_save = [&](double a, double b, lora::Dtype dtype) {
    return message_of<lora::ValueError>([&] { lora::save_adapter(model_of(a, b), folder / "no", {.dtype = dtype}); });
  };
  CHECK_THAT(refused_save(1e-4, 1e-7, lora::Dtype::f16), contains("save_adapter::fc: as F16 the factors A (at most ") &&
                                                             contains(" give a product that is off by ") &&
                                                             contains(" %; save them as F32"));
  CHECK_THAT(refused_save(1e20, 1e20, lora::Dtype::f16), contains("off by inf %"));
  CHECK_FALSE(lora_test::fs::exists(folder / "no"));
  CHECK(saved_error(model_of(1e-4, 1e-7), lora::Dtype::f32) < 1e-6);
  // A new adapter, whose B is zero, is no matter of products.
  Layers<S> fresh({{"fc", {.in = 8, .out = 6}}}, rng);
  lora::attach(fresh, {.rank = 4}, rng);
  lora::save_adapter(fresh, folder / "fresh", {.dtype = lora::Dtype::f16});
}

TEST_CASE("F8: a weight that a narrow dtype makes infinite is refused with its place, and nothing is written") {
  const TemporaryFolder folder;
  lora::Matrix<float> W = numbers(3, 5, 41);
  W(2, 1) = 90000;
  const auto error = [&](const auto& matrix, lora::Dtype dtype) {
    return message_of<lora::ValueError>(
        [&] { lora::save_safetensors(folder / "w.safetensors", {{"w", matrix, dtype}}); });
  };
  CHECK(error(W, lora::Dtype::f16) ==
        "save_safetensors: tensor \"w\" is 90000 at (2, 1), which is infinite as F16; store it as a wider type");
  CHECK_FALSE(lora_test::fs::exists(folder / "w.safetensors"));
  CHECK(error(W, lora::Dtype::bf16).empty());
  CHECK(error(W, lora::Dtype::f32).empty());
  CHECK_THAT(error(lora::RowMajorMatrix<float>(W), lora::Dtype::f16), contains("at (2, 1)"));
  CHECK_THAT(error(W.col(1), lora::Dtype::f16), contains("at 2"));
  // The last numbers that fit, and the first that do not, also from double; infinity itself is stored as such.
  const auto single = [&](double number, lora::Dtype dtype) { return error(lora::Vector<double>{{number}}, dtype); };
  for (const auto& [dtype, limit] : {std::pair(lora::Dtype::f16, 65520.0), std::pair(lora::Dtype::bf16, 0x1.ffp127),
                                     std::pair(lora::Dtype::f32, 0x1.ffffffp127)}) {
    CHECK(single(std::nextafter(limit, 0), dtype).empty());
    CHECK_FALSE(single(limit, dtype).empty());
    CHECK_FALSE(single(-limit, dtype).empty());
    CHECK(single(std::numeric_limits<double>::infinity(), dtype).empty());
    CHECK(single(std::numeric_limits<double>::quiet_NaN(), dtype).empty());
  }
  lora::Vector<double> mixed{{std::numeric_limits<double>::infinity(), 1e300}};
  CHECK_THAT(error(mixed, lora::Dtype::f32), contains("at 1"));
}

TEST_CASE("Awkward: a pointer of Git LFS in place of a file is said to be one") {
  const TemporaryFolder folder;
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 1234\n";
  const std::string said = "is the pointer of Git LFS to a file, which git lfs pull fetches";
  auto model = distilbert();
  const auto adapter = write_adapter(folder, R"("target_modules": ["q"])", distilbert_tensors());
  lora_test::write_file(adapter / "adapter_config.json", pointer);
  CHECK_THAT(refused(model, adapter), contains("adapter_config.json: " + said));
  CHECK_THROWS_WITH(lora::read_peft_config(adapter), contains(said));
  const auto index = lora_test::write_file(folder / "model.safetensors.index.json", pointer);
  CHECK_THROWS_WITH(lora::Safetensors::open(index), contains(said));
  write_adapter(folder, R"("target_modules": ["q"])", {});
  lora_test::write_file(adapter / "adapter_model.safetensors", pointer);
  CHECK_THAT(refused(model, adapter), contains("adapter_model.safetensors: ") && contains(said));
}

TEST_CASE("Awkward: names of other tools are recognised, and what to do is said") {
  const TemporaryFolder folder;
  auto model = distilbert();
  for (const auto& [name, hint] :
       {std::pair("base_model.model.a.q.lora_A.default.weight",
                  ", of a whole state_dict; save the adapter with PEFT's"),
        std::pair("module.base_model.model.a.q.lora_A.weight", ", of a model in DataParallel; save the adapter of "),
        std::pair("_orig_mod.base_model.model.a.q.lora_A.weight", ", of a model that torch.compile wrapped; save"),
        std::pair("base_model.model._orig_mod.a.q.lora_A.weight", ", of a model that torch.compile wrapped; save"),
        std::pair("_fsdp_wrapped_module.base_model.model.a.q.lora_A.weight", ", of a model that FSDP wrapped; save"),
        std::pair("a.q.lora_a", ", of MLX, which stores lora_a (in, rank) and lora_b (rank, out); transpose both"),
        std::pair("lora_unet_a_q.lora_down.weight",
                  ", of kohya's sd-scripts, whose names do not tell the layers apart"),
        std::pair("unet.a.q.lora_A.weight", ", expected names that begin with base_model.model.")}) {
    const std::string error = refused(model, write_adapter(folder, R"("target_modules": ["q"])", {{name, A}}));
    CHECK_THAT(error, contains("missing") && contains("\"" + std::string(name) + "\" (2, 4)" + hint));
  }
}

TEST_CASE("Layers whose names are not of ASCII are told apart, saved and loaded") {
  const TemporaryFolder folder;
  const auto make = [] {
    lora::Rng rng(1);
    return Layers<float>({{"schl\u00fcssel.q", {.in = 4, .out = 3}},
                          {"a.schl\u00fcssel.q", {.in = 4, .out = 3}},
                          {"\u6ce8\u610f", {.in = 4, .out = 3}}},
                         rng);
  };
  auto model = make();
  lora::Rng rng(2);
  // One layer is the end of another, so that a pattern has to tell them apart.
  lora::attach(model, {.rank = 2}, {.modules = "schl.ssel\\.q|\\D{2}"}, rng);
  lora_test::change_adapters(model);
  lora::save_adapter(model, folder / "a");
  const auto saved = lora::read_peft_config(folder / "a");
  CHECK(saved.targets.modules.pattern() == "schl\u00fcssel\\.q|\u6ce8\u610f");
  auto loaded = make();
  lora::load_adapter(loaded, folder / "a");
  CHECK(lora_test::contents(loaded) == lora_test::contents(model));
  CHECK_FALSE(loaded["a.schl\u00fcssel.q"].adapters().contains("default"));
  // A key of rank_pattern, in which a dot is one character.
  lora::attach(model, {.rank = 2, .rank_pattern = {{"schl.ssel.q", 1}}}, {}, rng, "second");
  CHECK(model["a.schl\u00fcssel.q"].adapter("second").as<lora::Lora<float>>().rank() == 1);
  CHECK(model["\u6ce8\u610f"].adapter("second").as<lora::Lora<float>>().rank() == 2);
}

TEST_CASE("F5: extents that no byte bounds, through every entry that has a model or an index") {
  const TemporaryFolder folder;
  int refusals = 0;
  const auto attempt = [&](auto&& f) {
    try {
      f();
    } catch (const lora::Error&) {
      ++refusals;
    }
  };
  const std::string huge = "4611686018427387904";
  for (const std::string& first : {std::string("0"), std::string("1"), std::string("2147483648"), huge}) {
    for (const std::string& second : {std::string("0"), std::string("1"), std::string("2147483648"), huge}) {
      if (first != "0" && second != "0") continue;  // else the bytes are missing
      const std::string entry =
          "\":{\"dtype\":\"F32\",\"shape\":[" + first + "," + second + "],\"data_offsets\":[0,0]}";
      const auto file = [&](const std::vector<std::string>& names, const std::string& metadata) {
        std::string header = "{" + metadata;
        for (const std::string& name : names) header += (header.size() > 1 ? ",\"" : "\"") + name + entry;
        return lora_test::safetensors(header + "}");
      };
      auto model = distilbert();
      const auto weights = lora_test::write_file(folder / "w.safetensors", file({"a.q.weight", "classifier.bias"}, ""));
      attempt([&] { lora::load_weights(model, lora::Safetensors::open(weights)); });

      const auto adapter = write_adapter(folder, R"("target_modules": ["q"])", {});
      lora_test::write_file(adapter / "adapter_model.safetensors",
                            file({"base_model.model.a.q.lora_A.weight", "base_model.model.a.q.lora_B.weight",
                                  "base_model.model.classifier.weight", "base_model.model.a.q.base_layer.weight"},
                                 ""));
      attempt([&] { lora::load_adapter(model, adapter); });

      lora::Rng rng(1);
      lora::attach(model, {.rank = 2}, {.modules = {"q"}}, rng);
      lora::AdamW<float> optimizer({.lr = 1});
      const auto checkpoint =
          lora_test::write_file(folder / "c.safetensors",
                                file({"model.a.q.adapters.default.A", "optimizer.a.q.adapters.default.A.moment0"},
                                     R"("__metadata__":{"lora.step":"1","lora.checkpoint":"2","lora.moments":"2"})"));
      attempt([&] { lora::load_checkpoint(checkpoint, model, optimizer); });

      lora_test::write_file(folder / "part.st", file({"t"}, ""));
      const auto index = lora_test::write_file(folder / "i.index.json", R"({"weight_map":{"t":"part.st"}})");
      attempt([&] { lora::Safetensors::open(index).read<double>("t"); });
    }
  }
  CHECK(refusals >= 7 * 3);
}

TEST_CASE("bias all, and modules_to_save with a module that contains layers: PEFT stores their biases three times") {
  const TemporaryFolder folder;
  const auto net = [] {
    lora::Rng rng(1);
    return Layers<float>({{"a.q", {.in = 4, .out = 3}}, {"m.pooler.dense", {.in = 3, .out = 4}}}, rng);
  };
  const std::string settings = R"("target_modules": ["q"], "bias": "all", "modules_to_save": ["pooler"])";
  const lora::Vector<float> base_bias = *net()["m.pooler.dense"].bias(), q_bias = numbers(3, 1, 17);
  const std::string prefix = "base_model.model.m.pooler.";
  const auto tensors = [&](const lora::Vector<float>& copy, const lora::Vector<float>& original) {
    return Tensors{{"base_model.model.a.q.lora_A.weight", A},
                   {"base_model.model.a.q.lora_B.weight", B},
                   {"base_model.model.a.q.base_layer.bias", q_bias},
                   {prefix + "dense.weight", pre},
                   {prefix + "dense.bias", pre_bias},
                   {prefix + "modules_to_save.default.dense.bias", copy},
                   {prefix + "original_module.dense.bias", original}};
  };
  auto model = net();
  REQUIRE(refused(model, write_adapter(folder, settings, tensors(pre_bias, base_bias))).empty());
  CHECK(model["m.pooler.dense"].merged() == pre);
  CHECK(model["m.pooler.dense"].merged_bias() == pre_bias);
  CHECK(model["a.q"].merged_bias() == q_bias);

  auto other = net();
  CHECK_THAT(
      refused(other, write_adapter(folder, settings, tensors(2 * pre_bias, base_bias))),
      contains("m.pooler.modules_to_save.default.dense.bias: it is not what base_model.model.m.pooler.dense.bias "
               "is, expected a copy of it"));
  lora::Vector<float> changed = base_bias;
  changed(2) += 1;
  // a vector has one number for a place
  CHECK_THAT(
      refused(other, write_adapter(folder, settings, tensors(pre_bias, changed))),
      contains("m.pooler.original_module.dense.bias\" (4), of the base, differs from the model's at 2, where it "));
}

TEST_CASE("A module of modules_to_save inside of another is refused with what to do") {
  const TemporaryFolder folder;
  auto model = distilbert();
  auto tensors = distilbert_tensors();
  tensors.emplace_back("base_model.model.classifier.modules_to_save.default.deep.dense.weight", last);
  CHECK_THAT(
      refused(model, write_adapter(folder, R"("target_modules": ["q"], "modules_to_save": ["classifier"])", tensors)),
      contains("of a module inside of another that modules_to_save names; if it names both, leave the inner one") &&
          !contains("ignore_tensors"));
}

TEST_CASE("A config that gives no layer an adapter is refused, as PEFT refuses it, also beside an empty file") {
  const TemporaryFolder folder;
  auto model = distilbert();
  for (const char* settings : {R"("target_modules": ".*k")", R"("target_modules": ["q"], "exclude_modules": ["q"])",
                               R"("target_modules": ["q"], "modules_to_save": ["a"])"}) {
    INFO(settings);
    CHECK_THAT(refused(model, write_adapter(folder, settings, {})),
               contains("it gives no layer of the model an adapter; a.q, for example: "));
  }
}

TEST_CASE("Factors of a layer that receives none, or that is not there, are refused with the reason") {
  const TemporaryFolder folder;
  auto model = distilbert();
  const std::string settings = R"("target_modules": ["q"], "modules_to_save": ["classifier"])";
  for (const auto& [layer, why] :
       {std::pair("pre_classifier",
                  ", of the layer \"pre_classifier\", which receives no adapter: modules_to_save has"),
        std::pair("decoder.q", ", of \"decoder.q\", which is no layer of the model that takes adapters")}) {
    auto tensors = distilbert_tensors();
    tensors.emplace_back("base_model.model." + std::string(layer) + ".lora_A.weight", A);
    CHECK_THAT(refused(model, write_adapter(folder, settings, tensors)), contains(why) && !contains("ignore_tensors"));
  }
}
