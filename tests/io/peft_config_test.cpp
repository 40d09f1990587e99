#include "lora/io/peft_config.hpp"

#include "io/files.hpp"
#include "lora/io/detail/peft_support.hpp"
#include "support/catch.hpp"

using lora_test::contains;
using lora_test::message_of;
using lora_test::read_file;

namespace {

const lora_test::fs::path peft_fixtures = lora_test::fixtures / "peft";

lora::PeftConfig parse(const std::string& text) { return lora::parse_peft_config("adapter_config.json", text); }
std::string refused(const std::string& text) {
  return message_of<lora::Error>([&] { parse(text); });
}
std::string unsupported(const std::string& settings, const std::vector<std::string>& ignore = {}) {
  return message_of<lora::ConfigError>([&] {
    lora::detail::check_supported("adapter_config.json", parse("{\"peft_type\": \"LORA\", " + settings + "}"), ignore);
  });
}
}  // namespace

TEST_CASE("A new config is what Python's json.dumps writes of the 21 settings of PEFT 0.7.1") {
  lora::PeftConfig config;
  config.lora = {.rank = 4,
                 .alpha = 6.5,
                 .dropout = 0.05,
                 .rank_pattern = {{"fc1", 2}, {"b.fc2", 16}},
                 .alpha_pattern = {{"fc1", 3}, {"b.fc2", 1e-7}}};
  config.targets = {.modules = {"b.fc2", "fc1"}, .modules_to_save = {"k\xc3\xb6pfe", "\xf0\x9f\x98\x80\x7f\n"}};
  config.base_model_name_or_path = "a \"base\"\\";
  config.task_type = "CAUSAL_LM";
  config.fan_in_fan_out = true;
  CHECK(lora::to_json(config) == read_file(peft_fixtures / "new_config.json"));
}

TEST_CASE("A config that was read is written again byte for byte, also with settings that nobody knows") {
  for (const auto& entry : lora_test::fs::recursive_directory_iterator(peft_fixtures)) {
    if (entry.path().filename() != "adapter_config.json") continue;
    INFO(entry.path());
    CHECK(lora::to_json(lora::read_peft_config(entry.path())) == read_file(entry.path()));
  }
  const std::string strange = read_file(peft_fixtures / "strange_config.json");
  auto config = parse(strange);
  CHECK(lora::to_json(config) == strange);
  CHECK(config.lora.alpha == 16.5);
  CHECK(config.source.at("zz_future").dump() == R"({"a":[1,2.5,{}],"b":null})");

  config.lora.alpha = 3;
  config.targets.modules = {"fc2"};
  std::string changed = strange;
  changed.replace(changed.find("16.5"), 4, "3");
  changed.replace(changed.find("fc1"), 3, "fc2");
  CHECK(lora::to_json(config) == changed);
}

TEST_CASE("The order of the keys, and white space, do not matter") {
  const auto config = parse("{\"r\":2,\"peft_type\":\"LORA\",\"bias\":\"all\"}");
  CHECK(config.lora.rank == 2);
  CHECK(lora::to_json(config) == "{\n  \"bias\": \"all\",\n  \"peft_type\": \"LORA\",\n  \"r\": 2\n}");
}

TEST_CASE("Settings become those of LoraConfig") {
  const auto config =
      parse(R"({"peft_type": "LORA", "r": 3, "lora_alpha": 1e1, "lora_dropout": 0.25, "use_rslora": true,
      "bias": "lora_only", "target_modules": "fc\\d", "exclude_modules": ["head"], "layers_to_transform": null,
      "rank_pattern": {"b": 2, "a": 4}, "alpha_pattern": {"b": 0.5}, "modules_to_save": ["score"], "task_type": null,
      "base_model_name_or_path": "", "init_lora_weights": "gaussian", "inference_mode": false,
      "fan_in_fan_out": true})");
  const lora::LoraConfig& lora = config.lora;
  CHECK(lora.rank == 3);
  CHECK(lora.alpha == 10.0);
  CHECK(lora.dropout == 0.25);
  CHECK(lora.scaling == lora::Scaling::alpha_over_sqrt_rank);
  CHECK(lora.init == lora::Init::gaussian);
  CHECK(lora.bias == lora::Bias::lora_only);
  CHECK(config.targets.modules == lora::ModuleNames("fc\\d"));
  const std::vector<std::string> excluded{"head"};
  CHECK(config.targets.exclude == lora::ModuleNames(excluded));
  CHECK(lora.rank_pattern == std::vector<std::pair<std::string, lora::Index>>{{"b", 2}, {"a", 4}});  // in file order
  CHECK(lora.alpha_pattern == std::vector<std::pair<std::string, double>>{{"b", 0.5}});
  CHECK(config.targets.modules_to_save == std::vector<std::string>{"score"});
  CHECK(config.base_model_name_or_path == "");
  CHECK_FALSE(config.task_type.has_value());
  CHECK_FALSE(config.inference_mode);
  CHECK(config.fan_in_fan_out);
  const auto few =
      parse(R"({"peft_type": "LORA", "layers_to_transform": 3, "layers_pattern": "h", "target_modules": ["q"]})");
  CHECK(few.lora.rank == 8);
  CHECK(few.lora.alpha == 8.0);
  CHECK(few.targets.blocks == std::vector<lora::Index>{3});
  CHECK(few.targets.block_names == std::vector<std::string>{"h"});
}

TEST_CASE("What is no config is refused, with the key, what it is and what was expected") {
  CHECK_THAT(refused("{}"), contains("adapter_config.json: there is no peft_type, expected \"LORA\""));
  CHECK_THAT(refused("[]"), contains("is not a JSON object"));
  CHECK_THAT(refused(R"({"peft_type": "IA3"})"),
             contains("peft_type is \"IA3\", expected \"LORA\"; an adapter of a kind of your own is loaded by "
                      "load_adapter(model, directory, AdapterKinds<MyConfig>())"));
  CHECK_THAT(refused(R"({"peft_type": 1})"), contains("peft_type is 1, expected \"LORA\""));
  const auto with = [](const std::string& setting) { return refused("{\"peft_type\": \"LORA\", " + setting + "}"); };
  CHECK_THAT(with(R"("r": "8")"), contains("r is \"8\", expected an integer"));
  CHECK_THAT(with(R"("r": 8.5)"), contains("r is 8.5, expected an integer"));
  CHECK_THAT(with(R"("r": 99999999999)"), contains("r is 99999999999, expected an integer of 32 bits"));
  CHECK_THAT(with(R"("r": 18446744073709551616)"), contains("expected an integer of 32 bits"));
  CHECK_THAT(with(R"("r": 0)"), contains("rank is 0, expected at least 1"));
  CHECK_THAT(with(R"("lora_alpha": true)"), contains("lora_alpha is true, expected a finite number"));
  CHECK_THAT(with(R"("lora_alpha": 1e999)"), contains("is not valid JSON"));
  CHECK_THAT(with(R"("lora_alpha": NaN)"), contains("is not valid JSON"));
  CHECK_THAT(with(R"("lora_dropout": 1)"), contains("dropout is 1, expected"));
  CHECK_THAT(with(R"("bias": "some")"), contains("bias is \"some\", expected \"none\", \"all\" or \"lora_only\""));
  CHECK_THAT(with(R"("use_rslora": 1)"), contains("use_rslora is 1, expected true or false"));
  CHECK_THAT(with(R"("target_modules": 7)"), contains("target_modules is 7, expected a string, a list"));
  CHECK_THAT(with(R"("target_modules": ["a", 7])"), contains("target_modules is 7, expected a list of strings"));
  CHECK_THAT(with(R"("rank_pattern": [1])"), contains("rank_pattern is a list, expected an object"));
  CHECK_THAT(with(R"("rank_pattern": {"a": 0})"),
             contains("rank_pattern has \"a\" at 0, expected a rank of at least 1"));
  CHECK_THAT(with(R"("alpha_pattern": {"a": "b"})"), contains("alpha_pattern is \"b\", expected a finite number"));
  CHECK_THAT(with(R"("layers_to_transform": {})"), contains("layers_to_transform is an object, expected an integer"));
  CHECK_THAT(with(R"("task_type": ["A"])"), contains("task_type is a list, expected a string or null"));
  CHECK_THAT(with(R"("r": 1, "r": 2)"), contains("the name \"r\" occurs twice"));
  CHECK_THAT(with(R"("a": [[[[[[[[[1]]]]]]]]])"), contains("nests deeper than 8"));
  CHECK_THAT(refused(std::string(17'000'000, ' ')), contains("expected at most 16000000"));
  const lora_test::TemporaryFolder folder;
  CHECK_THROWS_AS(lora::read_peft_config(folder.path()), lora::FileError);
  lora_test::fs::resize_file(lora_test::write_file(folder / "adapter_config.json", ""), 1ull << 40);
  CHECK_THROWS_AS(lora::read_peft_config(folder.path()), lora::FormatError);  // without reading it
}

TEST_CASE("F6: a null is no number, and settings that PEFT refuses are refused, with the key") {
  const auto with = [](const std::string& setting) { return refused("{\"peft_type\": \"LORA\", " + setting + "}"); };
  // serde_json writes NaN as null.
  CHECK_THAT(with(R"("lora_alpha": null, "r": 8)"), contains("lora_alpha is null, expected a finite number"));
  CHECK_THAT(with(R"("r": null)"), contains("r is null, expected an integer"));
  CHECK_THAT(with(R"("lora_dropout": null)"), contains("lora_dropout is null, expected a finite number"));
  CHECK_THAT(with(R"("bias": null)"), contains("bias is null, expected \"none\", \"all\" or \"lora_only\""));
  CHECK_THAT(with(R"("rank_pattern": null)"), contains("rank_pattern is null, expected an object"));
  CHECK_THAT(with(R"("alpha_pattern": null)"), contains("alpha_pattern is null, expected an object"));
  CHECK_THAT(with(R"("alpha_pattern": {"a": null})"), contains("alpha_pattern is null, expected a finite number"));
  CHECK_THAT(with(R"("target_modules": [])"), contains("target_modules is an empty list, expected at least one name"));
  CHECK_THAT(with(R"("target_modules": "")"), contains("target_modules is \"\", expected at least one name"));
  CHECK_THAT(with(R"("task_type": "CHAT")"), contains("task_type is \"CHAT\", expected CAUSAL_LM, "));
  CHECK_THAT(with(R"("modules_to_save": "head")"), contains("modules_to_save is \"head\", expected a list"));
  // Where PEFT takes a null for false or for none, it is.
  const auto none = parse(R"({"peft_type": "LORA", "use_rslora": null, "fan_in_fan_out": null, "target_modules": null,
      "exclude_modules": null, "layers_pattern": "", "modules_to_save": "", "init_lora_weights": null})");
  CHECK(none.lora.scaling == lora::Scaling::alpha_over_rank);
  CHECK((none.targets == lora::Targets() && !none.fan_in_fan_out));
}

TEST_CASE("F6: of methods that only null turns off, nothing else is taken for off") {
  for (const std::string key :
       {"arrow_config", "kasa_config", "monteclora_config", "trainable_token_indices", "use_bdlora", "velora_config"}) {
    CHECK(unsupported("\"" + key + "\": null").empty());
    for (const std::string value : {"{}", "[]", "\"\"", "false"}) {
      CHECK_THAT(unsupported("\"" + key + "\": " + value), contains("\"" + key + "\" is ") && contains("cannot apply"));
    }
  }
  CHECK_THAT(unsupported(R"("target_parameters": "")"), contains("\"target_parameters\" is \"\""));
  CHECK(unsupported(R"("target_parameters": [])").empty());
  for (const std::string key : {"corda_config", "eva_config", "lora_ga_config"}) {
    CHECK(unsupported("\"" + key + "\": {\"a\": 1}").empty());
    CHECK_THAT(message_of<lora::FormatError>([&] { unsupported("\"" + key + "\": true"); }),
               contains(key + " is true, expected an object or null"));
  }
}

TEST_CASE("Settings that are not known are refused by name once they are set, whatever release brought them") {
  for (const std::string key :
       {"use_dora", "lora_bias", "use_qalora", "ensure_weight_tying", "target_parameters", "use_bdlora",
        "alora_invocation_tokens", "arrow_config", "velora_config", "monteclora_config", "kasa_config",
        "layer_replication", "trainable_token_indices", "megatron_config", "new_in_a_later_release"}) {
    const std::string quoted = "\"" + key + "\"";
    const std::string why =
        ", which this version cannot apply; merge the adapter first, in PEFT with merge_and_unload(), or, if it does "
        "not matter, ignore it: load_adapter(model, directory, {.ignore = {" +
        quoted + "}})";
    CHECK(unsupported(quoted + ": true") == "adapter_config.json: " + quoted + " is true" + why);
    CHECK_THAT(unsupported(quoted + ": {\"a\": 1}"), contains(quoted + " is an object" + why));
    CHECK_THAT(unsupported(quoted + ": [1]"), contains(quoted + " is a list" + why));
    CHECK_THAT(unsupported(quoted + ": \"x\""), contains(quoted + " is \"x\"" + why));
    CHECK_THAT(unsupported(quoted + ": 0.5"), contains(quoted + " is 0.5" + why));
    CHECK_THAT(unsupported(quoted + ": 0"), contains(quoted + " is 0" + why));
    CHECK(unsupported(quoted + ": null").empty());
    CHECK(unsupported(quoted + ": true", {"other", key}).empty());
  }
}

TEST_CASE("What turns nothing on is no setting, whatever its type") {
  for (const std::string key : {"use_dora", "lora_bias", "use_qalora", "ensure_weight_tying", "alora_invocation_tokens",
                                "layer_replication", "megatron_config", "new_in_a_later_release"}) {
    for (const std::string unset : {"null", "false", "\"\"", "[]", "{}"}) {
      INFO(key << unset);
      CHECK(unsupported("\"" + key + "\": " + unset).empty());
    }
  }
}

TEST_CASE("A refusal lists all settings at once, and does not grow with their number") {
  const auto error =
      unsupported(R"("use_dora": true, "r": 4, "a\nb": 1, "init_lora_weights": "pissa", "peft_version": "9")");
  CHECK_THAT(error,
             contains(R"(: "use_dora" is true, "a\x0ab" is 1, "init_lora_weights" is "pissa" (which changes the )"
                      R"(base's weights when the adapter is made), which this version cannot apply)"));
  CHECK_THAT(error, contains(R"({.ignore = {"use_dora", "a\x0ab", "init_lora_weights"}})"));
  std::string many = "\"k0\": 1";
  for (int k = 1; k < 1000; ++k) many += ", \"k" + std::to_string(k) + "\": 1";
  CHECK_THAT(unsupported(many), contains(R"("k19" is 1 and 980 more are set, which)"));
}

TEST_CASE("Only init_lora_weights that leave the base as it is are accepted, unless ignored") {
  for (const std::string init : {"\"pissa\"", "\"pissa_niter_16\"", "\"olora\"", "\"corda\"", "\"loftq\"",
                                 "\"lora_ga\"", "\"new\"", "3", "{}", "\"\""}) {
    CHECK_THAT(unsupported("\"init_lora_weights\": " + init), contains("changes the base's weights"));
    CHECK(unsupported("\"init_lora_weights\": " + init, {"init_lora_weights"}).empty());
  }
  for (const std::string init : {"true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\""}) {
    CHECK(unsupported("\"init_lora_weights\": " + init).empty());
  }
}

TEST_CASE("Settings that change no output are accepted whatever they say") {
  for (const std::string key : {"auto_mapping", "loftq_config", "megatron_core", "merge_weights", "peft_version",
                                "qalora_group_size", "runtime_config"}) {
    for (const std::string value : {"true", "\"x\"", "[1]", "{\"a\": 1}", "16"}) {
      CHECK(unsupported("\"" + key + "\": " + value).empty());
    }
  }
}

TEST_CASE("A config of PEFT 0.2, as early adapters have it") {
  const std::string early = R"("base_model_name_or_path": "decapoda-research/llama-7b-hf", "bias": "none",
      "fan_in_fan_out": false, "inference_mode": true, "lora_alpha": 16, "lora_dropout": 0.05, "merge_weights": false,
      "modules_to_save": null, "r": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", )";
  CHECK(unsupported(early + R"("enable_lora": null)").empty());
  CHECK_THAT(unsupported(early + R"("enable_lora": [true, false, true])"), contains("\"enable_lora\" is a list"));
}

TEST_CASE("What is applied cannot be ignored") {
  for (const std::string key : {"r", "lora_alpha", "target_modules", "use_rslora", "base_model_name_or_path"}) {
    CHECK(unsupported("\"r\": 4", {key}) ==
          "load_adapter: \"" + key +
              "\" cannot be ignored, because it is applied; expected only settings that are refused");
  }
  CHECK(unsupported("\"r\": 4", {"peft_version", "not_there"}).empty());
}

TEST_CASE("Every beginning and every changed bit of a config is a config or a typed error") {
  const std::string text = read_file(peft_fixtures / "0.7.1" / "mlp_ranks" / "adapter_config.json");
  int read = 0, refusals = 0;
  const auto attempt = [&](const std::string& damaged) {
    try {
      const auto config = parse(damaged);
      lora::detail::check_supported("config", config);
      // What is accepted can be written, and is the same then.
      const std::string written = lora::to_json(config);
      if (lora::to_json(parse(written)) != written) FAIL(damaged);
      ++read;
    } catch (const lora::Error&) {
      ++refusals;
    }
  };
  for (std::size_t size = 0; size < text.size(); ++size) attempt(text.substr(0, size));
  CHECK(read == 0);
  for (std::size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string damaged = text;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    attempt(damaged);
  }
  CHECK(read > 0);
  CHECK(refusals > 0);
}
