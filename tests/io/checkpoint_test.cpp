#include "lora/io/checkpoint.hpp"

#include <string>
#include <utility>
#include <vector>

#include "io/files.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/schedule.hpp"
#include "lora/optim/sgd.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"

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
