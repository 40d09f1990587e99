#include "io/files.hpp"
#include "io/peft_models.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/save_adapter.hpp"
#include "support/catch.hpp"

#include <nlohmann/json.hpp>

using lora_test::contains;
using lora_test::contents;
using lora_test::Layers;
using lora_test::message_of;
using lora_test::read_file;
using lora_test::small_model;
using lora_test::TemporaryFolder;
using lora_test::fs::path;

namespace {

const char* const config_name = "adapter_config.json";
const char* const weights_name = "adapter_model.safetensors";

template <class S>
Layers<S> adapted_model(const lora::LoraConfig& config, const lora::Targets& targets = {},
                        std::string_view name = "default") {
  Layers<S> model = small_model<S>();
  lora::Rng rng(3);
  lora::attach(model, config, targets, rng, name);
  lora_test::change_adapters(model);
  return model;
}

/// Saved, loaded into an unadapted model, and saved from there: the outputs and both files have to be the same.
template <class S>
lora::PeftConfig round_trip(Layers<S>& model) {
  const TemporaryFolder folder;
  lora::save_adapter(model, folder / "one");
  Layers<S> other = small_model<S>();
  const auto config = lora::load_adapter(other, folder / "one");
  for (auto& [name, layer] : model.layers) {
    INFO(name);
    const lora::Matrix<S> x = lora::Matrix<S>::Random(layer.in_features(), 3);
    CHECK(layer(x) == other[name](x));
  }
  lora::freeze_base(model);
  CHECK(lora::count_parameters(other).trainable == lora::count_parameters(model).trainable);
  lora::save_adapter(other, folder / "two", {.config = config});
  CHECK(read_file(folder / "two" / config_name) == read_file(folder / "one" / config_name));
  CHECK(read_file(folder / "two" / weights_name) == read_file(folder / "one" / weights_name));
  CHECK(folder.names() == std::set<std::string>{"one", "two"});
  return config;
}

using Tensors = std::vector<lora::TensorToSave>;
const lora::Matrix<float> A = lora::Matrix<float>::Random(2, 4), B = lora::Matrix<float>::Random(6, 2);

/// An adapter by hand, on fc1.
path by_hand(const TemporaryFolder& folder, const std::string& settings, const Tensors& more = {}) {
  lora_test::fs::create_directories(folder / "adapter");
  lora_test::write_file(folder / "adapter" / config_name,
                        "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"fc1\"]" + settings + "}");
  Tensors tensors = more;
  if (more.empty()) {
    tensors.emplace_back("base_model.model.fc1.lora_A.weight", A);
    tensors.emplace_back("base_model.model.fc1.lora_B.weight", B);
  }
  lora::save_safetensors(folder / "adapter" / weights_name, tensors);
  return folder / "adapter";
}

std::string loading_error(Layers<float>& model, const path& adapter, std::string_view name = "default") {
  const std::string before = contents(model);
  const std::string error = message_of<lora::Error>([&] { lora::load_adapter(model, adapter, name); });
  CHECK((error.empty() || contents(model) == before));
  return error;
}

std::vector<std::string> keys(const path& adapter) {
  std::vector<std::string> names;
  const auto file = lora::Safetensors::open(adapter / weights_name);
  for (const auto& tensor : file.tensors()) names.push_back(tensor.name);
  return names;
}

/// A file of weights without the settings that its metadata carries, as PEFT writes it.
std::string as_peft_writes(const lora_test::fs::path& path) {
  const std::string file = read_file(path);
  std::size_t size = 0;
  for (int i = 7; i >= 0; --i) size = size << 8 | static_cast<unsigned char>(file[static_cast<std::size_t>(i)]);
  auto header = nlohmann::ordered_json::parse(file.substr(8, size));
  CHECK(header["__metadata__"].erase("lora_config") == 1);
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string start(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) start[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return start + text + file.substr(8 + size);
}

}  // namespace

TEMPLATE_TEST_CASE("What is saved is loaded again, to the bit", "", float, double) {
  using S = TestType;
  SECTION("factors, with patterns of their own") {
    auto model = adapted_model<S>(
        {.rank = 3, .alpha = 5.5, .dropout = 0.125, .rank_pattern = {{"fc2", 2}}, .alpha_pattern = {{"fc2", 7}}},
        {.modules = {"fc1", "fc2"}});
    const auto config = round_trip(model);
    CHECK(config.targets.modules.names() == std::vector<std::string>{"fc1", "fc2", "block.fc1"});
    CHECK(config.lora.dropout == 0.125);
    CHECK(config.lora.rank == 3);
    CHECK(config.lora.rank_pattern.size() == 1);
    CHECK(config.lora.alpha_pattern.size() == 1);
  }
  SECTION("biases of layers with factors") {
    auto model = adapted_model<S>({.bias = lora::Bias::lora_only}, {.modules = {"fc1", "fc2"}});
    CHECK(round_trip(model).lora.bias == lora::Bias::lora_only);
  }
  SECTION("all biases") {
    auto model = adapted_model<S>({.bias = lora::Bias::all}, {.modules = {"fc2"}});
    CHECK(round_trip(model).lora.bias == lora::Bias::all);
  }
  SECTION("layers trained in full") {
    auto model = adapted_model<S>({.bias = lora::Bias::all}, {.modules = {"fc2"}, .modules_to_save = {"head"}});
    CHECK(round_trip(model).targets.modules_to_save == std::vector<std::string>{"head"});
  }
}

TEST_CASE("The tensors have PEFT's names and shapes") {
  const TemporaryFolder folder;
  auto model =
      adapted_model<float>({.rank = 3, .bias = lora::Bias::all}, {.modules = {"fc1"}, .modules_to_save = {"head"}});
  lora::save_adapter(model, folder / "a");
  CHECK(keys(folder / "a") ==
        std::vector<std::string>{"base_model.model.block.fc1.base_layer.bias",
                                 "base_model.model.block.fc1.lora_A.weight", "base_model.model.block.fc1.lora_B.weight",
                                 "base_model.model.fc1.base_layer.bias", "base_model.model.fc1.lora_A.weight",
                                 "base_model.model.fc1.lora_B.weight", "base_model.model.head.bias",
                                 "base_model.model.head.weight"});
  const auto file = lora::Safetensors::open(folder / "a" / weights_name);
  CHECK(file.at("base_model.model.fc1.lora_A.weight").shape == std::vector<std::uint64_t>{3, 4});
  CHECK(file.at("base_model.model.fc1.lora_B.weight").shape == std::vector<std::uint64_t>{6, 3});
  CHECK(file.at("base_model.model.head.bias").shape == std::vector<std::uint64_t>{2});
  CHECK(file.metadata().at("format") == "pt");
  const auto meaning = lora::parse_peft_config("lora_config", file.metadata().at("lora_config"));
  CHECK(meaning.lora.rank == 3);
  CHECK(meaning.targets.modules_to_save == std::vector<std::string>{"head"});
  const auto& member = model["fc1"].adapters().at("default");
  CHECK(file.tensor<float>("base_model.model.fc1.lora_A.weight") == member.as<lora::Lora<float>>().A.value);
}

TEST_CASE("rsLoRA is folded into alpha: the same scale, to the bit in float, and nearly always in double") {
  int other = 0;
  for (lora::Index rank = 1; rank <= 300; ++rank) {
    for (const double alpha : {1.0, 16.0, 0.3, 7.77, -12.0, 1e-8}) {
      const double scale = lora::scaling_factor(alpha, rank, lora::Scaling::alpha_over_sqrt_rank);
      const double folded = lora::detail::folded_alpha(alpha, rank, lora::Scaling::alpha_over_sqrt_rank);
      const double again = folded / static_cast<double>(rank);
      CHECK(std::abs(again - scale) <= std::abs(scale) * 0x1p-52);
      CHECK(static_cast<float>(again) == static_cast<float>(scale));
      if ((rank & (rank - 1)) == 0) CHECK(again == scale);
      other += again != scale;
    }
  }
  CHECK(other < 300 * 6 / 4);
  CHECK(lora::detail::folded_alpha(0.1, 3, lora::Scaling::alpha_over_rank) == 0.1);

  auto model = adapted_model<float>({.rank = 3, .alpha = 7, .scaling = lora::Scaling::alpha_over_sqrt_rank},
                                    {.modules = {"fc1", "fc2"}});
  CHECK(round_trip(model).source.count("use_rslora") == 0);
}

TEST_CASE("An adapter that starts from a part of the weight becomes one of twice the rank") {
  const TemporaryFolder folder;
  auto model = small_model<double>();
  lora::Rng rng(5);
  lora::Lora<double> start(6, 4, {.rank = 2, .alpha = 3}, rng);
  start.B.value.setRandom();
  model["fc1"].attach("default", lora::ResidualLora<double>(start));
  lora_test::change_adapters(model);
  lora::save_adapter(model, folder / "a");
  auto other = small_model<double>();
  const auto config = lora::load_adapter(other, folder / "a");
  CHECK(config.lora.rank == 4);
  CHECK(config.lora.alpha == 6.0);
  CHECK(other["fc1"].adapters().at("default").as<lora::Lora<double>>().scale() == 1.5);
  CHECK((model["fc1"].delta() - other["fc1"].delta()).norm() <= 1e-14 * other["fc1"].delta().norm());
}

TEST_CASE("Names that are ends of others are told apart, or refused") {
  const TemporaryFolder folder;
  SECTION("only one of them has factors: a pattern for its whole name") {
    auto model = small_model<float>();
    lora::Rng rng(1);
    model["fc1"].attach("default", {.rank = 2}, rng);
    lora_test::change_adapters(model);
    CHECK(round_trip(model).targets.modules == lora::ModuleNames("fc1"));
    auto second = small_model<float>();
    second["block.fc1"].attach("default", {.rank = 2}, rng);
    lora::save_adapter(second, folder / "a");
    CHECK(lora::read_peft_config(folder / "a").targets.modules ==
          lora::ModuleNames(std::vector<std::string>{"block.fc1"}));
  }
  SECTION("they differ in rank: the shorter name has r itself") {
    auto model = small_model<float>();
    lora::Rng rng(1);
    model["fc1"].attach("default", {.rank = 2}, rng);
    model["block.fc1"].attach("default", {.rank = 3}, rng);
    model["fc2"].attach("default", {.rank = 3}, rng);
    lora_test::change_adapters(model);
    const auto config = round_trip(model);
    CHECK(config.lora.rank == 2);
    CHECK(config.lora.rank_pattern == std::vector<std::pair<std::string, lora::Index>>{{"block.fc1", 3}, {"fc2", 3}});
  }
  SECTION("it cannot be said") {
    lora::Rng rng(1);
    Layers<float> model({{"a", {.in = 2, .out = 2}},
                         {"b.a", {.in = 2, .out = 2}},
                         {"c", {.in = 2, .out = 2}},
                         {"d.c", {.in = 2, .out = 2}}},
                        rng);
    lora::Index rank = 1;
    for (auto& [name, layer] : model.layers) layer.attach("default", {.rank = rank++}, rng);
    CHECK_THAT(message_of<lora::ConfigError>([&] { lora::save_adapter(model, folder / "a"); }),
               contains("would mistake one for another"));
    CHECK(folder.names().empty());
  }
  SECTION("trained in full, which PEFT finds by the end of a name, also inside of a word") {
    lora::Rng rng(1);
    Layers<float> model({{"fc", {.in = 2, .out = 2}}, {"xfc", {.in = 2, .out = 2}}, {"q", {.in = 2, .out = 2}}}, rng);
    model["q"].attach("default", {.rank = 1}, rng);
    model["fc"].attach_full("default");
    CHECK_THAT(message_of<lora::NameError>([&] { lora::save_adapter(model, folder / "a"); }),
               contains("would train \"xfc\" in full too"));
  }
}

TEST_CASE("What PEFT cannot express is refused before anything is written") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  lora::Rng rng(1);
  CHECK_THAT(message_of<lora::NameError>([&] { lora::save_adapter(model, folder / "a"); }), contains("\"default\""));
  model["head"].attach_full("default");
  CHECK_THAT(message_of<lora::ConfigError>([&] { lora::save_adapter(model, folder / "a"); }),
             contains("factors in no layer"));
  model["fc1"].attach("default", {.rank = 2, .dropout = 0.1}, rng);
  model["fc2"].attach("default", {.rank = 2, .dropout = 0.2}, rng);
  CHECK_THAT(message_of<lora::ConfigError>([&] { lora::save_adapter(model, folder / "a"); }),
             contains("layer \"fc1\" has dropout 0.1, layer \"fc2\" 0.2; PEFT has one lora_dropout"));
  lora::Linear<float> bare({.in = 2, .out = 2}, rng);
  bare.attach("default", {.rank = 1}, rng);
  CHECK_THAT(message_of<lora::NameError>([&] { lora::save_adapter(bare, folder / "a"); }), contains("without a name"));
  CHECK_THROWS_AS(lora::save_adapter(model, folder / "a", {.name = "../x"}), lora::NameError);
  CHECK(folder.names().empty());
}

TEST_CASE("Names of layers that PEFT itself uses in keys") {
  const TemporaryFolder folder;
  lora::Rng rng(1);
  for (const std::string name : {"lora_A", "weight_proj", "bias", "default", "x.lora_B.y"}) {
    Layers<float> model({{name, {.in = 2, .out = 2}}, {"q", {.in = 2, .out = 2}}}, rng);
    lora::attach(model, {.rank = 1, .bias = lora::Bias::lora_only}, rng);
    lora_test::change_adapters(model);
    lora::save_adapter(model, folder / "a");
    Layers<float> other({{name, {.in = 2, .out = 2}}, {"q", {.in = 2, .out = 2}}}, rng);
    lora::load_adapter(other, folder / "a");
    CHECK(other[name].delta() == model[name].delta());
  }
}

TEST_CASE(
    "A layer trained in full that PEFT would look for among its own parts is refused before anything is written") {
  const TemporaryFolder folder;
  lora::Rng rng(4);
  const lora::LinearShape shape{.in = 3, .out = 3};
  for (const auto& [name, part] : {std::pair("out", "lora_dropout"), std::pair("layer", "base_layer")}) {
    Layers<float> model({{"fc", shape}, {name, shape}}, rng);
    lora::attach(model, {.rank = 1}, {.modules = {"fc"}, .modules_to_save = {name}}, rng);
    CHECK_THAT(message_of<lora::NameError>([&] { lora::save_adapter(model, folder / "a"); }),
               contains("would take its own \"" + std::string(part) + "\" for it, and fail; rename the layer"));
    CHECK_FALSE(lora_test::fs::exists(folder / "a"));
  }
  Layers<float> fine({{"fc", shape}, {"net.out", shape}}, rng);
  lora::attach(fine, {.rank = 1}, {.modules = {"fc"}, .modules_to_save = {"out"}}, rng);
  CHECK_NOTHROW(lora::save_adapter(fine, folder / "a"));
}

TEST_CASE("Adapters by name are in sub-directories, and switched after loading") {
  const TemporaryFolder folder;
  auto model = adapted_model<float>({.rank = 2}, {.modules = {"fc2"}});
  lora::Rng rng(9);
  lora::attach(model, {.rank = 3}, {.modules = {"fc1"}}, rng, "formal");
  lora_test::change_adapters(model);
  lora::save_adapter(model, folder / "a");
  lora::save_adapter(model, folder / "a", {.name = "formal"});
  lora::save_adapter(model, folder / "a");
  CHECK(lora_test::fs::exists(folder / "a" / "formal" / weights_name));

  auto other = small_model<float>();
  lora::load_adapter(other, folder / "a");
  lora::load_adapter(other, folder / "a", "formal");
  lora::load_adapter(other, folder / "a" / "formal", "once more");
  CHECK(other["fc2"].delta().isZero(0));
  CHECK(other["fc1"].delta() == model["fc1"].delta());
  lora::select(model, "default");
  lora::select(other, "default");
  CHECK(other["fc2"].delta() == model["fc2"].delta());
  CHECK_THAT(loading_error(other, folder / "a"), contains("exists already"));
}

TEST_CASE("A loaded adapter can be trained further: it alone") {
  const TemporaryFolder folder;
  auto model = adapted_model<float>({.rank = 2, .bias = lora::Bias::lora_only}, {.modules = {"fc1"}});
  lora::save_adapter(model, folder / "a");
  auto other = small_model<float>();
  lora::load_adapter(other, folder / "a");
  CHECK(lora::count_parameters(other).trainable == lora::count_parameters(model).trainable);
}

TEST_CASE("Numbers of any real type are converted, once") {
  auto model = small_model<float>();
  for (const auto dtype : {lora::Dtype::f64, lora::Dtype::f32, lora::Dtype::f16, lora::Dtype::bf16}) {
    const TemporaryFolder folder;
    auto adapted = adapted_model<double>({.rank = 2}, {.modules = {"fc2"}});
    lora::save_adapter(adapted, folder / "a", {.dtype = dtype});
    const auto file = lora::Safetensors::open(folder / "a" / weights_name);
    CHECK(file.tensors()[0].dtype == dtype);
    auto loaded = small_model<float>();
    lora::load_adapter(loaded, folder / "a");
    const auto& factors = loaded["fc2"].adapters().at("default").as<lora::Lora<float>>();
    CHECK(factors.A.value == file.read<float>("base_model.model.fc2.lora_A.weight"));
  }
}

TEST_CASE("Every tensor that is missing, unexpected or misshapen is listed, and nothing has changed") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  const Tensors wrong{{"base_model.model.fc1.lora_A.weight", lora::Matrix<float>(B)},
                      {"base_model.model.fc1.lora_magnitude_vector", lora::Vector<float>(lora::Vector<float>::Ones(6))},
                      {"fc2.lora_A.weight", A},
                      {"base_model.model.emb.lora_embedding_A", A}};
  CHECK(loading_error(model, by_hand(folder, ", \"bias\": \"all\"", wrong)) ==
        (folder / "adapter" / weights_name).string() +
            R"(: does not fit the model and adapter_config.json, nothing was loaded
6 missing:
  base_model.model.fc1.lora_B.weight (6, 2)
  base_model.model.fc1.base_layer.bias (6)
  base_model.model.block.fc1.lora_A.weight (2, 5)
  base_model.model.block.fc1.lora_B.weight (3, 2)
  base_model.model.block.fc1.base_layer.bias (3)
  base_model.model.head.bias (2)
3 unexpected:
  "base_model.model.emb.lora_embedding_A" (2, 4), of an embedding, which takes no adapters here
  "base_model.model.fc1.lora_magnitude_vector" (6), of DoRA; merge the adapter first
  "fc2.lora_A.weight" (2, 4), expected names that begin with base_model.model.
1 misshapen:
  base_model.model.fc1.lora_A.weight: shape is (6, 2), expected (2, 4): rank 6 here, but rank 2 for "fc1" in )" +
            (folder / "adapter" / config_name).string());
  const std::vector<std::int32_t> numbers(8);
  const Tensors integers{
      {"base_model.model.fc1.lora_A.weight", lora::Dtype::i32, {2, 4}, std::as_bytes(std::span(numbers))},
      {"base_model.model.fc1.lora_B.weight", B}};
  CHECK_THAT(loading_error(model, by_hand(folder, ", \"exclude_modules\": [\"block.fc1\"]", integers)),
             contains("lora_A.weight: dtype is I32, expected F64, F32, F16 or BF16"));
}

TEST_CASE("Settings that cannot be applied are refused, and files that are not there named") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  const std::string only_fc1 = ", \"exclude_modules\": [\"block.fc1\"]";
  CHECK_THAT(
      loading_error(model, by_hand(folder, only_fc1 + ", \"use_dora\": true")),
      contains("adapter_config.json: \"use_dora\" is true, which this version cannot apply; merge the adapter first"));
  CHECK_THAT(loading_error(model, by_hand(folder, only_fc1 + ", \"lora_alpha\": 1e300")), contains("overflows"));
  CHECK_THAT(loading_error(model, by_hand(folder, ", \"target_modules\": [\"q\"]").parent_path() / "none"),
             contains("No such file"));
  CHECK_THAT(loading_error(model, by_hand(folder, ", \"bias\": \"none\", \"exclude_modules\": \"fc(\"")),
             contains("fc("));
  CHECK_THAT(loading_error(model, by_hand(folder, only_fc1), ".."), contains("not allowed"));
  const auto adapter = by_hand(folder, only_fc1);
  lora_test::fs::rename(adapter / weights_name, adapter / "adapter_model.bin");
  CHECK_THAT(loading_error(model, adapter), contains("a pickle, which can run any program"));
  CHECK(loading_error(model, by_hand(folder, only_fc1)).empty());
}

TEST_CASE("Settings that are ignored are neither applied nor saved again; all others are still refused") {
  const TemporaryFolder folder;
  auto model = small_model<float>(), plain = small_model<float>();
  const std::string only_fc1 = ", \"exclude_modules\": [\"block.fc1\"], \"lora_alpha\": 4";
  lora::load_adapter(plain, by_hand(folder, only_fc1));
  const auto adapter =
      by_hand(folder, only_fc1 + ", \"use_dora\": true, \"init_lora_weights\": \"pissa\", \"future\": 1");
  CHECK_THAT(loading_error(model, adapter),
             contains(R"(load_adapter(model, directory, {.ignore = {"use_dora", "init_lora_weights", "future"}}))"));
  CHECK_THROWS_AS(lora::load_adapter(model, adapter, {.ignore = {"use_dora", "future"}}), lora::ConfigError);
  CHECK_THROWS_AS(lora::load_adapter(model, adapter, {.ignore = {"r", "use_dora", "future", "init_lora_weights"}}),
                  lora::ConfigError);
  const auto config =
      lora::load_adapter(model, adapter, {.name = "new", .ignore = {"use_dora", "future", "init_lora_weights"}});
  CHECK(model["fc1"].delta() == plain["fc1"].delta());
  lora::save_adapter(model, folder / "again", {.name = "new", .config = config});
  const auto again = lora::read_peft_config(folder / "again" / "new");
  CHECK_FALSE(again.source.contains("use_dora"));
  CHECK_FALSE(again.source.contains("future"));
  CHECK(again.source.contains("exclude_modules"));
  lora::PeftConfig unknown = lora::read_peft_config(adapter);
  CHECK_THROWS_AS(lora::save_adapter(model, folder / "not", {.name = "new", .config = unknown}), lora::ConfigError);
}

TEST_CASE("target_modules null: the layers that the file has") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  const auto adapter = by_hand(folder, "");
  std::string text = read_file(adapter / config_name);
  text.replace(text.find("[\"fc1\"]"), 7, "null");
  lora_test::write_file(adapter / config_name, text);
  // fc1 is also the end of block.fc1, which has no factors in the file: only fc1 is adapted, and saved again.
  const auto config = lora::load_adapter(model, adapter);
  CHECK(config.targets.modules.names() == std::vector<std::string>{"fc1"});
  CHECK(model["fc1"].adapters().contains("default"));
  CHECK_FALSE(model["block.fc1"].adapters().contains("default"));
  lora::save_adapter(model, folder / "again", {.config = config});
  auto again = small_model<float>();
  lora::load_adapter(again, folder / "again");
  CHECK(again["fc1"].delta() == model["fc1"].delta());
  CHECK_FALSE(again["block.fc1"].adapters().contains("default"));
  text.replace(text.find("null"), 4, "[\"fc1\"]");  // by name, block.fc1 is meant too
  lora_test::write_file(adapter / config_name, text);
  auto strict = small_model<float>();
  CHECK_THAT(loading_error(strict, adapter), contains("block.fc1.lora_A.weight"));
}

TEST_CASE("layers_to_transform: where releases of PEFT differ, the file decides; elsewhere it is strict") {
  const TemporaryFolder folder;
  lora::Rng rng(1);
  const auto make = [&] {
    std::vector<std::pair<std::string, lora::LinearShape>> shapes;
    for (const std::string name :
         {"m.layers.1.experts.3.fc", "m.layers.3.experts.1.fc", "m.layers.3.fc", "m.layers.1.fc", "h.1.fc", "m.fc.1"}) {
      shapes.push_back({name, {.in = 4, .out = 6}});
    }
    return Layers<float>(shapes, rng);
  };
  const auto adapter = by_hand(folder, "");
  lora_test::write_file(adapter / config_name, R"({"peft_type": "LORA", "r": 2, "target_modules": ["fc"],
      "layers_to_transform": 1})");
  const auto error = [&](const std::vector<std::string>& names) {
    Tensors tensors;
    for (const std::string& name : names) {
      tensors.emplace_back("base_model.model." + name + ".lora_A.weight", A);
      tensors.emplace_back("base_model.model." + name + ".lora_B.weight", B);
    }
    lora::save_safetensors(adapter / weights_name, tensors);
    auto model = make();
    return loading_error(model, adapter);
  };
  CHECK(error({"m.layers.1.experts.3.fc", "m.layers.1.fc"}).empty());  // by the first number
  CHECK(error({"m.layers.3.experts.1.fc", "m.layers.1.fc"}).empty());  // by the last
  CHECK_THAT(error({"m.layers.3.experts.1.fc"}), contains("2 missing:\n  base_model.model.m.layers.1.fc.lora_A"));
  CHECK_THAT(error({"m.layers.1.fc", "m.layers.3.fc"}), contains("2 unexpected:"));
  CHECK_THAT(error({"m.layers.1.fc", "h.1.fc"}), contains("2 unexpected:"));
  CHECK_THAT(error({"m.layers.1.fc", "m.fc.1"}), contains("2 unexpected:"));
  lora_test::write_file(adapter / config_name, R"({"peft_type": "LORA", "r": 2, "target_modules": ["fc"],
      "layers_to_transform": [1], "layers_pattern": ["h", "layers"]})");
  CHECK(error({"m.layers.1.fc", "m.layers.1.experts.3.fc", "h.1.fc"}).empty());
  CHECK_THAT(error({"h.1.fc"}), contains("4 missing:"));
  CHECK_THAT(error({"m.layers.1.fc", "m.layers.1.experts.3.fc", "m.layers.3.experts.1.fc"}), contains("2 unexpected:"));
}

TEST_CASE("Names and patterns for other models do not matter, but one has to fit") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  const auto rest =
      std::string(", \"exclude_modules\": [\"block.fc1\", \"other\"], \"modules_to_save\": [\"score\"], ") +
      "\"rank_pattern\": {\"other\": 3, \"block.fc1\": 5}, \"alpha_pattern\": {\"head\": 2}";
  const auto adapter = by_hand(folder, rest);
  CHECK(loading_error(model, adapter).empty());
  Layers<float> other({{"q", {.in = 2, .out = 2}}}, *std::make_unique<lora::Rng>(1));
  CHECK_THAT(loading_error(other, adapter),
             contains("none of its target_modules, \"fc1\", is a layer of the model, which has q"));
}

TEST_CASE("A config that was loaded stays as it was until the model says something else") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  const auto adapter =
      by_hand(folder, ", \"exclude_modules\": [\"block.fc1\"], \"use_rslora\": true, \"loftq_config\": [1, {}]");
  const auto config = lora::load_adapter(model, adapter);
  lora::save_adapter(model, folder / "b", {.config = config});
  const std::string same = read_file(folder / "b" / config_name);
  CHECK_THAT(same, contains("\"loftq_config\": [\n    1,\n    {}\n  ]"));
  CHECK_THAT(same, contains("\"use_rslora\": true"));
  CHECK_THAT(same, contains("\"exclude_modules\": [\n    \"block.fc1\"\n  ]"));
  lora::save_adapter(model, folder / "c", {.config = config, .base_model_name_or_path = "x", .task_type = "CAUSAL_LM"});
  CHECK_THAT(read_file(folder / "c" / config_name), contains("\"base_model_name_or_path\": \"x\""));

  // rsLoRA is said in the old way, and the new layer is listed.
  lora::Rng rng(1);
  model["fc2"].attach("default", {.rank = 5, .alpha = 3}, rng);
  lora::save_adapter(model, folder / "e", {.config = config});
  const auto changed = lora::read_peft_config(folder / "e");
  CHECK(changed.targets.modules == lora::ModuleNames("fc1|fc2"));
  CHECK(changed.lora.scaling == lora::Scaling::alpha_over_rank);
  CHECK(changed.source.at("loftq_config") == config.source.at("loftq_config"));
  auto other = small_model<float>();
  lora::load_adapter(other, folder / "e");
  CHECK(other["fc1"].delta() == model["fc1"].delta());
}

TEST_CASE("A new config says what it is given, as far as the layers and PEFT 0.7.1 allow") {
  const TemporaryFolder folder;
  lora::LoraConfig given{.rank = 2, .bias = lora::Bias::all};
  lora::Targets targets{.modules = "fc\\d|block.*|head"};
  auto model = adapted_model<float>(given, targets);
  lora::save_adapter(model, folder / "a", {.config = {.lora = given, .targets = targets}});
  const auto same = lora::read_peft_config(folder / "a");
  CHECK(same.lora.bias == lora::Bias::all);
  CHECK(same.targets.modules == targets.modules);
  targets.exclude = {"head"};
  given.scaling = lora::Scaling::alpha_over_sqrt_rank;
  model = adapted_model<float>(given, targets);
  lora::save_adapter(model, folder / "b", {.config = {.lora = given, .targets = targets}});
  const auto other = lora::read_peft_config(folder / "b");
  CHECK(other.source.size() == 21);
  CHECK(other.targets.modules.names() == std::vector<std::string>{"fc1", "fc2", "block.fc1"});
}

TEST_CASE("fan_in_fan_out: a full weight may be stored (in, out), unless nobody can know") {
  const TemporaryFolder folder;
  auto model = small_model<float>();
  const lora::Matrix<float> stored = lora::Matrix<float>::Random(3, 2);
  const std::string settings =
      ", \"exclude_modules\": [\"block.fc1\"], \"fan_in_fan_out\": true, \"modules_to_save\": [\"head\"]";
  const Tensors tensors{{"base_model.model.fc1.lora_A.weight", A},
                        {"base_model.model.fc1.lora_B.weight", B},
                        {"base_model.model.head.weight", stored},
                        {"base_model.model.head.bias", lora::Vector<float>(lora::Vector<float>::Ones(2))}};
  CHECK(loading_error(model, by_hand(folder, settings, tensors)).empty());
  CHECK(model["head"].merged() == stored.transpose());

  lora::Rng rng(1);
  Layers<float> square({{"fc1", {.in = 4, .out = 6}}, {"head", {.in = 3, .out = 3}}}, rng);
  CHECK_THAT(loading_error(square, folder / "adapter"),
             contains("the square layer \"head\" and fan_in_fan_out is true"));
}

TEST_CASE("Every beginning and every changed bit of the weights loads, or changes nothing") {
  const TemporaryFolder folder;
  const auto adapter = by_hand(folder, ", \"exclude_modules\": [\"block.fc1\"]");
  const std::string file = read_file(adapter / weights_name);
  int loaded = 0, refused = 0;
  const auto attempt = [&](const std::string& damaged) {
    lora_test::write_file(adapter / weights_name, damaged);
    auto model = small_model<float>();
    (loading_error(model, adapter).empty() ? loaded : refused) += 1;
  };
  for (std::size_t size = 0; size < file.size(); ++size) attempt(file.substr(0, size));
  CHECK(loaded == 0);
  const std::size_t header = file.rfind('}') + 1;
  for (std::size_t bit = 0; bit < 8 * header; bit += 3) {
    std::string damaged = file;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    attempt(damaged);
  }
  CHECK(refused > 500);
}

TEST_CASE("Adapters that PEFT has written give PEFT's outputs, and are written again byte for byte") {
  int seen = 0;
  for (const auto& era : lora_test::fs::directory_iterator(lora_test::fixtures / "peft")) {
    if (!era.is_directory()) continue;
    for (const auto& entry : lora_test::fs::directory_iterator(era.path())) {
      INFO(entry.path());
      const auto& adapter = entry.path();
      const auto base = lora::Safetensors::open(adapter / "base.safetensors");
      const auto outputs = lora::Safetensors::open(adapter / "outputs.safetensors");
      Layers<float> model(base);
      const auto config = lora::load_adapter(model, adapter);
      bool adapted = false;
      for (auto& [name, layer] : model.layers) {
        const lora::Matrix<float> x = base.read<float>(name + ".input").transpose();
        const lora::Matrix<float> expected = outputs.read<float>(name).transpose();
        CHECK((layer(x) - expected).norm() <= 1e-6f * expected.norm());
        adapted = adapted || !layer.delta().isZero(0);
      }
      CHECK(adapted);
      const TemporaryFolder folder;
      lora::save_adapter(model, folder / "again", {.config = config});
      CHECK(read_file(folder / "again" / config_name) == read_file(adapter / config_name));
      // 0.7.1 does not store the biases of lora_only.
      const bool more = config.lora.bias == lora::Bias::lora_only && era.path().filename() == "0.7.1";
      CHECK((as_peft_writes(folder / "again" / weights_name) == read_file(adapter / weights_name)) == !more);
      ++seen;
    }
  }
  CHECK(seen == 22);
}
