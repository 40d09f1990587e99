// Kinds of adapter of the tests' own go to a file and back.

#include "support/kinds.hpp"
#include "io/files.hpp"
#include "lora/io/adapter_kinds.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/generic.hpp"
#include "support/catch.hpp"

#include <string>
#include <vector>

namespace {

using lora_test::contains;
using lora_test::NormsConfig;
using lora_test::read_file;
using lora_test::ShiftConfig;
using lora_test::TemporaryFolder;
using Kinds = lora::AdapterKinds<ShiftConfig, NormsConfig>;
using Net = lora::Mlp<lora::Linear<double>, lora::Tanh>;

template <class S>
struct Asking;

/// Notes whether it is made from a packed weight.
struct AskingConfig {
  double strength = 1;
  template <class S>
  using Kind = Asking<S>;
  static void settings(auto& self, auto&& f) { f("strength", self.strength); }
};

template <class S>
struct Asking : lora_test::Shift<S> {
  using Config = AskingConfig;
  static inline bool packed = false;
  Asking(const lora::FrozenBase auto& base, const AskingConfig& config, lora::Rng& rng)
      : lora_test::Shift<S>(base, {config.strength}, rng) {
    if constexpr (requires { base.template as<lora::Frozen<S>>(); }) {
      packed = base.template as<lora::Frozen<S>>() != nullptr;
    }
  }
};

enum class Forgets { tensor, setting, config_setting };

template <class S, Forgets what>
struct Forgetful;

template <Forgets what>
struct ForgetfulConfig {
  double strength = 1;
  template <class S>
  using Kind = Forgetful<S, what>;
  static void settings(auto& self, auto&& f) {
    if constexpr (what != Forgets::config_setting) f("strength", self.strength);
  }
};

/// Does not give files all that it is.
template <class S, Forgets what>
struct Forgetful : lora_test::Shift<S> {
  using Config = ForgetfulConfig<what>;
  static constexpr const char* peft_type = "FORGETFUL";
  lora::Parameter<S, lora::Dynamic, 1> u;
  Forgetful(const lora::FrozenBase auto& base, const Config& config, lora::Rng& rng)
      : lora_test::Shift<S>(base, {config.strength}, rng), u(lora::Vector<S>::Ones(base.rows())) {}
  static void visit(auto& self, auto&& f) {
    lora_test::Shift<S>::visit(self, f);
    f("u", self.u);
  }
  static void describe(auto& self, auto&& table) {
    if constexpr (what != Forgets::setting) table.setting("strength", self.strength);
    table.tensor("shift_v", self.v);
    if constexpr (what != Forgets::tensor) table.tensor("shift_u", self.u);
  }
};

Net new_net() {
  lora::Rng rng(1);
  return Net({5, 6, 3}, rng);
}

}  // namespace

TEST_CASE("A kind of one's own is saved, loaded and saved again: the same outputs, the same bytes") {
  const TemporaryFolder folder;
  lora::Rng rng(2);
  const auto x = lora::testing::random_matrix(5, 4, rng);
  for (const bool shift : {true, false}) {
    Net net = new_net(), other = new_net();
    if (shift) {
      lora::attach(net, ShiftConfig{.strength = 0.75}, {.modules = {"fc2"}}, rng);
    } else {
      lora::attach(net, NormsConfig{}, {}, rng);
    }
    lora::testing::fill_parameters(net.layers()[1].adapter("default"), rng);
    lora::save_adapter(net, folder / "a");
    lora::load_adapter(other, folder / "a", Kinds());
    CHECK(other(x) == net(x));
    CHECK(lora::tensor_names(other) == lora::tensor_names(net));
    lora::save_adapter(other, folder / "b");
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
      CHECK(read_file(folder / "a" / file) == read_file(folder / "b" / file));
    }
  }
  const auto file = lora::Safetensors::open(folder / "a" / "adapter_model.safetensors");
  CHECK(file.at("base_model.model.fc1.norms_m").shape == std::vector<std::uint64_t>{6});
}

TEST_CASE("A file of LORA goes through the same call; what is of no known kind, or does not fit, changes nothing") {
  const TemporaryFolder folder;
  lora::Rng rng(3);
  const auto x = lora::testing::random_matrix(5, 4, rng);
  Net factors = new_net(), other = new_net();
  lora::attach(factors, {.rank = 2}, rng);
  lora::testing::fill_parameters(factors.layers()[0].adapter("default"), rng);
  lora::save_adapter(factors, folder / "lora");
  lora::load_adapter(other, folder / "lora", Kinds());
  CHECK(other(x) == factors(x));

  Net net = new_net();
  lora::attach(net, ShiftConfig{}, {.modules = {"fc1"}}, rng);
  lora::save_adapter(net, folder / "shift");
  Net fresh = new_net();
  const auto names = lora::tensor_names(fresh);
  CHECK_THROWS_AS(lora::load_adapter(fresh, folder / "shift"), lora::Error);
  CHECK_THROWS_WITH(lora::load_adapter(fresh, folder / "shift", lora::AdapterKinds<NormsConfig>()),
                    (folder / "shift" / "adapter_config.json").string() +
                        ": peft_type is \"SHIFT\", expected one of \"LORA\", \"NORMS\"");
  // of a file without settings in its metadata, as PEFT writes it
  const auto weights = lora::Safetensors::open(folder / "shift" / "adapter_model.safetensors");
  std::vector<lora::TensorToSave> tensors;
  for (const auto& tensor : weights.tensors()) {
    const lora::Matrix<double> value = weights.read<double>(tensor.name);
    tensor.shape.size() == 1 ? tensors.emplace_back(tensor.name, lora::Vector<double>(value))
                             : tensors.emplace_back(tensor.name, value);
  }
  lora_test::fs::create_directory(folder / "future");
  lora::save_safetensors(folder / "future" / "adapter_model.safetensors", tensors);
  std::string json = read_file(folder / "shift" / "adapter_config.json");
  json.insert(1, "\"future\": 1, \"revision\": \"main\",");
  lora_test::write_file(folder / "future" / "adapter_config.json", json);
  CHECK_THROWS_WITH(lora::load_adapter(fresh, folder / "future", Kinds()),
                    contains("\"future\" is 1, which this version cannot apply"));
  CHECK_THROWS_AS(lora::load_adapter(fresh, folder / "future", Kinds(), {.ignore = {"strength"}}), lora::ConfigError);
  Net ignoring = new_net();
  const auto config = lora::load_adapter(ignoring, folder / "future", Kinds(), {.name = "mine", .ignore = {"future"}});
  CHECK(ignoring.layers()[0].adapters().contains("mine"));
  // saved again, it is what was loaded without what was ignored
  lora::save_adapter(ignoring, folder / "again", {.name = "mine", .config = config});
  const std::string again = read_file(folder / "again" / "mine" / "adapter_config.json");
  CHECK_THAT(again, contains("\"revision\": \"main\"") && !contains("future"));
  lora::Rng same(1);
  Net smaller({5, 4, 3}, same);
  CHECK_THROWS_AS(lora::load_adapter(smaller, folder / "shift", Kinds()), lora::MismatchError);
  CHECK(lora::tensor_names(fresh) == names);

  // a config that is no config, of weights that do not carry one
  lora_test::write_file(folder / "future" / "adapter_config.json", "[]");
  CHECK_THROWS_AS(lora::load_adapter(fresh, folder / "future", Kinds()), lora::FormatError);
  lora_test::fs::resize_file(folder / "future" / "adapter_config.json", 1ull << 40);
  CHECK_THROWS_AS(lora::load_adapter(fresh, folder / "future", Kinds()), lora::FormatError);  // without reading it

  // two kinds under one name
  Net mixed = new_net();
  mixed.layers()[0].attach("default", ShiftConfig{}, rng);
  mixed.layers()[1].attach("default", NormsConfig{}, rng);
  CHECK_THROWS_WITH(lora::save_adapter(mixed, folder / "mixed"),
                    "save_adapter: layer \"fc1\" has an adapter of kind SHIFT, layer \"fc2\" one of kind NORMS; a file "
                    "has one kind");
}

TEST_CASE("A layer that is not frozen is packed once it is frozen, not also to construct the adapter") {
  const TemporaryFolder folder;
  lora::Rng rng(4);
  Net net = new_net(), fresh = new_net();
  lora::attach(net, AskingConfig{}, {.modules = {"fc1"}}, rng);
  CHECK_FALSE(Asking<double>::packed);
  CHECK(net.layers()[0].base().as<lora::Frozen<double>>() != nullptr);
  lora::attach(net, AskingConfig{}, {.modules = {"fc1"}}, rng, "again");  // the base that is there
  CHECK(Asking<double>::packed);
  lora::detach(net, "again");
  lora::save_adapter(net, folder / "a");
  lora::load_adapter(fresh, folder / "a", lora::AdapterKinds<AskingConfig>());
  CHECK_FALSE(Asking<double>::packed);
  CHECK(fresh.layers()[0].base().as<lora::Frozen<double>>() != nullptr);
  lora::load_adapter(fresh, folder / "a", lora::AdapterKinds<AskingConfig>(), "again");
  CHECK(Asking<double>::packed);
}

namespace {

/// What save_adapter says of an adapter of this kind, and load_adapter of a file for it; it writes nothing.
template <Forgets what>
void check_refused(const std::string& text) {
  const TemporaryFolder folder;
  lora::Rng rng(5);
  Net net = new_net();
  lora::attach(net, ForgetfulConfig<what>{}, {.modules = {"fc2"}}, rng);
  CHECK_THROWS_WITH(lora::save_adapter(net, folder / "a"), "save_adapter: layer \"fc2\": the kind FORGETFUL " + text);
  CHECK_FALSE(lora_test::fs::exists(folder / "a"));

  // a file of another program
  lora_test::fs::create_directory(folder / "b");
  const lora::Vector<double> v = lora::Vector<double>::Ones(3);
  lora::save_safetensors(folder / "b" / "adapter_model.safetensors",
                         {{"base_model.model.fc2.shift_v", v}, {"base_model.model.fc2.shift_u", v}});
  lora_test::write_file(folder / "b" / "adapter_config.json",
                        R"({"peft_type": "FORGETFUL", "target_modules": ["fc2"]})");
  Net fresh = new_net();
  CHECK_THROWS_WITH(lora::load_adapter(fresh, folder / "b", lora::AdapterKinds<ForgetfulConfig<what>>()),
                    contains("layer \"fc2\": the kind FORGETFUL " + text));
  CHECK(fresh.layers()[1].adapters().empty());
}

}  // namespace

TEST_CASE("A kind that describes less than it has is refused before a file is written, and before a model changes") {
  check_refused<Forgets::tensor>(
      "has the parameter \"u\" in visit, which files would lose, expected it among the tensors that describe lists");
  check_refused<Forgets::setting>(
      "has a config with the setting \"strength\", which files would lose, expected it among the settings that "
      "describe "
      "lists");
  check_refused<Forgets::config_setting>(
      "describes the setting \"strength\", expected one of those that settings of its config lists, which read a file");
}
