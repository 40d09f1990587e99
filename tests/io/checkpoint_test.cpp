#include "lora/io/checkpoint.hpp"

#include <string>
#include <utility>
#include <vector>

#include "io/files.hpp"
#include "io/peft_models.hpp"
#include "lora/adapters/olora.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/lora_linear.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/schedule.hpp"
#include "lora/optim/sgd.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"
#include "support/kinds.hpp"

namespace {

template <class S>
struct Training {
  lora::Rng start{7};
  lora::Mlp<lora::Linear<S>> net{{5, 8, 6, 3}, start};
  lora::AdamW<S> optimizer{typename lora::AdamW<S>::Config{.lr = 1e-2}};
  lora::Rng data{8, 3};
  std::uint64_t step = 0;

  Training() {
    lora::attach(net, {.rank = 2, .dropout = 0.3, .bias = lora::Bias::lora_only},
                 {.modules = {"fc1", "fc2"}, .modules_to_save = {"fc3"}}, start);
  }

  void run(int steps) {
    typename lora::Mlp<lora::Linear<S>>::Cache cache;
    for (int k = 0; k < steps; ++k, ++step) {
      lora::Matrix<S> x(5, 4);
      lora::fill_normal(x, 1, data);
      const std::vector<int> labels{0, 1, 2, static_cast<int>(data() % 3)};
      const auto y = net.forward(x, cache, {.training = true, .seed = 9, .step = step});
      lora::Matrix<S> dy(3, 4);
      lora::softmax_cross_entropy(y, labels, &dy);
      lora::zero_gradients(net);
      net.backward(x, dy, cache, lora::no_gradient);
      optimizer.step(net, 1.0 / (1.0 + double(step)));
    }
  }

  /// A step along random gradients: fills all that a checkpoint keeps, without compiling a pass through the network.
  void run_at_random() {
    lora::visit_parameters(net, [&](const lora::Path&, auto& parameter) {
      if (!parameter.trainable) return;
      lora::fill_normal(parameter.gradient(), 1, data);
    });
    optimizer.step(net);
    ++step;
  }

  std::vector<lora::Matrix<S>> values() const {
    std::vector<lora::Matrix<S>> all;
    lora::visit_parameters(net, [&](const lora::Path&, const auto& parameter) { all.emplace_back(parameter.value); });
    return all;
  }
};

}  // namespace

TEST_CASE("Resumed training equals uninterrupted training, bit for bit") {
  const lora_test::TemporaryFolder folder;
  Training<float> whole;
  whole.run(20);

  Training<float> first;
  first.run(11);
  lora::save_checkpoint(folder / "run.safetensors", first.net, first.optimizer,
                        {.step = first.step, .generators = {{"data", first.data}}, .notes = {{"best", "0.5"}}});
  Training<float> resumed;
  resumed.run(3);  // whatever it holds is replaced
  const auto at = lora::load_checkpoint(folder / "run.safetensors", resumed.net, resumed.optimizer);
  CHECK(at.notes == lora::Metadata{{"best", "0.5"}});
  resumed.step = at.step;
  resumed.data = at.generators.at("data");
  resumed.run(9);
  CHECK(resumed.step == 20);
  CHECK(resumed.data.position() == whole.data.position());
  CHECK(resumed.values() == whole.values());

  // saved again, the same bytes
  const auto again = [&](const char* name) {
    lora::save_checkpoint(folder / name, whole.net, whole.optimizer, {.step = 20});
    return lora_test::read_file(folder / name);
  };
  const std::string bytes = again("a.safetensors");
  lora::load_checkpoint(folder / "a.safetensors", whole.net, whole.optimizer);
  CHECK(again("b.safetensors") == bytes);
}

TEST_CASE("In double, what a checkpoint keeps comes back to the bit: another step is the same") {
  const lora_test::TemporaryFolder folder;
  Training<double> whole, resumed;
  whole.run_at_random();
  whole.run_at_random();
  lora::save_checkpoint(folder / "c.safetensors", whole.net, whole.optimizer,
                        {.step = whole.step, .generators = {{"data", whole.data}}});
  resumed.run_at_random();
  const auto at = lora::load_checkpoint(folder / "c.safetensors", resumed.net, resumed.optimizer);
  CHECK(at.step == 2);
  resumed.data = at.generators.at("data");
  CHECK(resumed.values() == whole.values());
  whole.run_at_random();
  resumed.run_at_random();
  CHECK(resumed.values() == whole.values());
}

TEST_CASE("A checkpoint holds what is trained, and no frozen weight") {
  const lora_test::TemporaryFolder folder;
  Training<float> training;
  training.run(2);
  lora::save_checkpoint(folder / "c.safetensors", training.net, training.optimizer, {.step = 2});
  const auto file = lora::Safetensors::open(folder / "c.safetensors");
  CHECK(file.find("model.fc1.weight") == nullptr);
  CHECK(file.find("model.fc1.adapters.default.A") != nullptr);
  CHECK(file.read<std::uint64_t>("optimizer.fc1.adapters.default.A.steps")(0, 0) == 2);
  CHECK(file.at("optimizer.fc3.adapters.default.weight.moment1").shape == std::vector<std::uint64_t>{18});
  CHECK(file.tensors().size() ==
        5 * 8 - 8);  // fc1, fc2: A, B, bias; fc3: weight, bias; each with steps and two moments
}

TEST_CASE("A checkpoint of something else is refused whole") {
  const lora_test::TemporaryFolder folder;
  Training<float> training;
  training.run(2);
  const auto path = folder / "c.safetensors";
  lora::save_checkpoint(path, training.net, training.optimizer, {.step = 2});
  const auto refused = [&](auto& net, auto& optimizer) -> std::string {
    const auto count = optimizer.state().slots().size();
    std::string message;
    try {
      lora::load_checkpoint(path, net, optimizer);
    } catch (const lora::MismatchError& error) {
      message = error.what();
    }
    CHECK(optimizer.state().slots().size() == count);
    return message;
  };

  lora::Sgd<float> sgd({.lr = 0.1, .momentum = 0.9});
  CHECK(refused(training.net, sgd).find("\"optimizer\" keeps 2 moments, expected 1") != std::string::npos);

  Training<double> wide;
  const auto before = wide.values();
  CHECK(refused(wide.net, wide.optimizer).find("\"model.fc1.adapters.default.A\" is stored as F32, expected F64") !=
        std::string::npos);
  CHECK(wide.values() == before);

  lora::Rng rng(1);
  lora::Mlp<lora::Linear<float>> bare({5, 8, 6, 3}, rng);
  lora::AdamW<float> fresh(lora::AdamW<float>::Config{});
  const std::string message = refused(bare, fresh);
  CHECK(message.find("missing: \"model.fc1.weight\"") != std::string::npos);
  CHECK(message.find("unexpected: \"model.fc1.adapters.default.A\"") != std::string::npos);

  lora::save_safetensors(folder / "plain.safetensors", {});
  CHECK_THROWS_WITH(lora::load_checkpoint(folder / "plain.safetensors", training.net, training.optimizer),
                    lora_test::contains("is not a checkpoint: the metadata has no \"lora.step\""));
  for (const std::string text : {"", "x", "1 2", "-1", "18446744073709551616"}) {
    lora::save_safetensors(folder / "bad.safetensors", {}, {{"lora.step", text}});
    CHECK_THROWS_AS(lora::load_checkpoint(folder / "bad.safetensors", training.net, training.optimizer),
                    lora::FormatError);
  }
  lora::save_safetensors(folder / "old.safetensors", {}, {{"lora.step", "1"}});
  CHECK_THROWS_WITH(lora::load_checkpoint(folder / "old.safetensors", training.net, training.optimizer),
                    lora_test::contains("is a checkpoint of version 1, expected 2, which says what scale"));
}

namespace {

using Net = lora::Mlp<lora::Linear<double>>;

Net bare_net() {
  lora::Rng rng(3);
  return Net({4, 3, 2}, rng);
}

/// What a checkpoint of one model says when it is loaded into another, which has to be as it was then.
template <class A, class B>
std::string carried_over(const A& from, B& to) {
  const lora_test::TemporaryFolder folder;
  lora::Sgd<double> optimizer({.lr = 0.1});
  lora::save_checkpoint(folder / "c.safetensors", from, optimizer, {.step = 1});
  const std::string before = lora_test::contents(to);
  const auto load = [&] { lora::load_checkpoint(folder / "c.safetensors", to, optimizer); };
  const std::string error = lora_test::message_of<lora::MismatchError>(load);
  CHECK((error.empty() || lora_test::contents(to) == before));
  return error;
}
template <class Config>
Net attached(const Config& config) {
  Net net = bare_net();
  lora::Rng rng(4);
  lora::attach(net, config, lora::Targets{.modules = {"fc1"}}, rng);
  return net;
}

}  // namespace

TEST_CASE("F7: a checkpoint is refused by a model in which its tensors mean something else") {
  const lora::LoraConfig config{.rank = 2, .alpha = 4, .dropout = 0.25};
  const Net saved = attached(config);
  const auto other = [&](auto&& change) {
    lora::LoraConfig changed = config;
    change(changed);
    Net net = attached(changed);
    return carried_over(saved, net);
  };
  CHECK(other([](auto&) {}).empty());
  CHECK_THAT(other([](auto& c) { c.alpha = 8; }),
             lora_test::contains("\n  \"fc1.adapters.default\" was saved with lora_alpha \"4.0\", expected \"8.0\""));
  CHECK_THAT(other([](auto& c) { c.scaling = lora::Scaling::alpha_over_sqrt_rank; }),
             lora_test::contains("was saved with use_rslora \"false\", expected \"true\""));
  CHECK_THAT(other([](auto& c) { c.dropout = 0; }),
             lora_test::contains("was saved with lora_dropout \"0.25\", expected \"0.0\""));

  Net shift = attached(lora_test::ShiftConfig{.strength = 1}),
      stronger = attached(lora_test::ShiftConfig{.strength = 2});
  CHECK_THAT(carried_over(shift, stronger), lora_test::contains("was saved with strength \"1.0\", expected \"2.0\""));
  CHECK_THAT(carried_over(saved, shift), lora_test::contains("was saved with kind \"LORA\", expected \"SHIFT\""));
  Net norms = attached(lora_test::NormsConfig{});
  CHECK(carried_over(norms, norms).empty());

  Net two = saved;
  lora::Rng rng(5);
  lora::attach(two, {.rank = 1}, {.modules = {"fc2"}}, rng, "second");
  CHECK_THAT(carried_over(saved, two), lora_test::contains("missing: \"fc2.adapters.second\""));
  Net one = saved;
  CHECK_THAT(carried_over(two, one), lora_test::contains("unexpected: \"fc2.adapters.second\""));
}

TEST_CASE("F7: constants that an adapter computes with are compared: A0 and B0 of a ResidualLora") {
  const auto residual = [](double change, Eigen::Index row) {
    Net net = bare_net();
    lora::Rng rng(4);
    lora::visit_adaptable(net, [&](const lora::Path& path, auto& layer) {
      if (path.str() != "fc1") return;
      lora::Matrix<double> W = layer.dense();
      W(row, 0) += change;
      layer.attach("default", lora::olora(W, {.rank = 2, .alpha = 4}, rng));
    });
    lora::freeze_base(net);
    return net;
  };
  const Net saved = residual(0, 0);
  Net same = residual(0, 0), other = residual(1e-9, 1), plain = attached(lora::LoraConfig{.rank = 2, .alpha = 4});
  CHECK(carried_over(saved, same).empty());
  CHECK_THAT(carried_over(saved, other),
             lora_test::contains("\"fc1.adapters.default\" was saved with constant A0 \"2 x 4 "
                                 "with digest "));
  const std::string error = carried_over(saved, plain);
  CHECK_THAT(error, lora_test::contains("was saved with \"constant B0\", which it has not here"));
  CHECK_THAT(error, lora_test::contains("was saved with r \"4\", expected \"2\""));
}

TEST_CASE("F7: the same for layers with one adapter at compile time") {
  using Layer = lora::LoraLinear<double, 3, 4, 2>;
  const auto net = bare_net();
  const lora::Matrix<double, 3, 4> W0 = net.layers()[0].dense();
  const auto layer = [&](double alpha) {
    lora::Rng rng(4);
    return Layer(W0, {.rank = 2, .alpha = alpha}, rng);
  };
  const Layer saved = layer(4);
  Layer same = layer(4), other = layer(8);
  CHECK(carried_over(saved, same).empty());
  CHECK_THAT(carried_over(saved, other),
             lora_test::contains("\"adapter\" was saved with lora_alpha \"4.0\", expected \"8.0\""));
}

TEST_CASE("A model that has not been stepped has a checkpoint, too") {
  const lora_test::TemporaryFolder folder;
  Training<double> training;
  lora::save_checkpoint(folder / "c.safetensors", training.net, training.optimizer, {});
  Training<double> other;
  other.run_at_random();
  lora::load_checkpoint(folder / "c.safetensors", other.net, other.optimizer);
  CHECK(other.optimizer.state().slots().empty());
  CHECK(other.values() == training.values());
}
