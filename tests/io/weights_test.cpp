#include "lora/io/weights.hpp"

#include <filesystem>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "lora/adapters/adapted.hpp"
#include "lora/base/packed.hpp"
#include "lora/model/attach.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/testing/gradient.hpp"
#include "support/catch.hpp"

using lora::Dtype;
using lora::testing::random_matrix;
using Net = lora::Mlp<lora::Linear<float>>;

namespace {

std::vector<lora::Matrix<float>> values(const Net& net) {
  std::vector<lora::Matrix<float>> all;
  for (const auto& layer : net.layers()) {
    all.push_back(layer.dense());
    all.emplace_back(*layer.bias());
  }
  return all;
}

/// The message with which loading is refused; the model must be as before.
template <class E>
std::string refusal(Net& net, auto&& load) {
  const auto before = values(net);
  std::string message;
  try {
    load();
  } catch (const E& error) {
    message = error.what();
  }
  CHECK(values(net) == before);
  return message;
}

}  // namespace

TEST_CASE("Base weights are written and read, bit by bit, under the names of the listing") {
  const lora_test::TemporaryFolder folder;
  lora::Rng rng(1);
  Net net({4, 6, 3}, rng);
  Net other({4, 6, 3}, rng);
  lora::save_weights(net, folder / "base.safetensors");
  const auto file = lora::Safetensors::open(folder / "base.safetensors");
  std::vector<std::string> names;
  for (const auto& tensor : file.tensors()) names.push_back(tensor.name);
  CHECK(names == std::vector<std::string>{"fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"});
  CHECK(file.at("fc1.weight").shape == std::vector<std::uint64_t>{6, 4});
  CHECK(file.at("fc1.bias").shape == std::vector<std::uint64_t>{6});
  CHECK(values(other) != values(net));
  lora::load_weights(other, file);
  CHECK(values(other) == values(net));

  // Adapters are no base weights, and a frozen W0 is written like a trained one.
  lora::attach(net, {.rank = 2, .bias = lora::Bias::all}, rng);
  lora::testing::fill_parameters(net, rng);
  lora::save_weights(net, folder / "frozen.safetensors");
  Net third({4, 6, 3}, rng);
  lora::load_weights(third, lora::Safetensors::open(folder / "frozen.safetensors"));
  CHECK(values(third) == values(other));
}

TEST_CASE("Half types are converted, and double is rounded once") {
  const lora_test::TemporaryFolder folder;
  lora::Rng rng(2);
  Net net({4, 6, 3}, rng);
  lora::save_weights(net, folder / "half.safetensors", {}, Dtype::f16);
  const auto file = lora::Safetensors::open(folder / "half.safetensors");
  CHECK(file.at("fc1.weight").dtype == Dtype::f16);
  Net half({4, 6, 3}, rng);
  lora::load_weights(half, file);
  CHECK(half.layers()[0].dense() == file.read<float>("fc1.weight"));
  CHECK((half.layers()[0].dense() - net.layers()[0].dense()).cwiseAbs().maxCoeff() <= 0.5f / 1024);

  lora::Mlp<lora::Linear<double>> wide({4, 6, 3}, rng);
  lora::save_weights(wide, folder / "wide.safetensors");
  lora::load_weights(half, lora::Safetensors::open(folder / "wide.safetensors"));
  CHECK(half.layers()[1].dense() == wide.layers()[1].dense().cast<float>());
}

TEST_CASE("Prefixes, weights stored the other way round, and tensors without a place") {
  const lora_test::TemporaryFolder folder;
  lora::Rng rng(3);
  Net net({4, 6, 3}, rng);
  const lora::WeightNames names{.prefixes = {{"fc1.", "h.0.c_attn."}, {"", "head."}}, .transposed = {"fc1"}};
  lora::save_weights(net, folder / "gpt.safetensors", names);
  const auto file = lora::Safetensors::open(folder / "gpt.safetensors");
  CHECK(file.read<float>("h.0.c_attn.weight") == net.layers()[0].dense().transpose());
  CHECK(file.read<float>("head.fc2.weight") == net.layers()[1].dense());
  Net other({4, 6, 3}, rng);
  lora::load_weights(other, file, names);
  CHECK(values(other) == values(net));
  CHECK(refusal<lora::MismatchError>(other, [&] { lora::load_weights(other, file, {.prefixes = names.prefixes}); }) ==
        "load_weights: " + (folder / "gpt.safetensors").string() +
            " does not fit the model:\n  \"h.0.c_attn.weight\" has shape (4, 6), expected (6, 4)");

  const lora::Matrix<float> mask = lora::Matrix<float>::Ones(3, 3);
  std::vector<lora::TensorToSave> tensors{{"attn.mask", mask}};
  for (const auto& layer : {"fc1", "fc2"}) {
    const auto& from = net.layers()[layer[2] == '1' ? 0 : 1];
    tensors.emplace_back(layer + std::string(".weight"), from.dense());
    tensors.emplace_back(layer + std::string(".bias"), *from.bias());
  }
  lora::save_safetensors(folder / "more.safetensors", tensors);
  const auto more = lora::Safetensors::open(folder / "more.safetensors");
  CHECK(refusal<lora::MismatchError>(other, [&] {
          lora::load_weights(other, more);
        }).find("unexpected: \"attn.mask\"") != std::string::npos);
  CHECK_NOTHROW(lora::load_weights(other, more, {.ignored = {"mask"}}));
  CHECK_NOTHROW(lora::load_weights(other, more, {.ignored = "attn\\..*"}));
}

TEST_CASE("What does not fit is listed at once, and nothing has changed") {
  const lora_test::TemporaryFolder folder;
  lora::Rng rng(4);
  Net net({4, 6, 3}, rng);
  const lora::Matrix<float> wrong = lora::Matrix<float>::Ones(4, 6);
  const lora::Vector<float> bias = lora::Vector<float>::Ones(6);
  const Eigen::MatrixXi integers = Eigen::MatrixXi::Ones(3, 6);
  const std::vector<lora::TensorToSave> tensors{
      {"fc1.weight", wrong}, {"fc1.bias", bias}, {"fc2.weight", integers}, {"fc3.weight", wrong}};
  lora::save_safetensors(folder / "x.safetensors", tensors);
  const auto file = lora::Safetensors::open(folder / "x.safetensors");
  CHECK(
      refusal<lora::MismatchError>(net, [&] { lora::load_weights(net, file); }) ==
      "load_weights: " + (folder / "x.safetensors").string() +
          " does not fit the model:\n  \"fc1.weight\" has shape (4, 6), expected (6, 4)"
          "\n  \"fc2.weight\" is stored as I32, expected F64, F32, F16 or BF16\n  missing: \"fc2.bias\"\n  unexpected: "
          "\"fc3.weight\"");

  lora::save_weights(net, folder / "net.safetensors");
  lora::attach(net, {.rank = 1}, rng);
  CHECK(refusal<lora::StateError>(net, [&] {
          lora::load_weights(net, lora::Safetensors::open(folder / "net.safetensors"));
        }) == "load_weights: fc1.weight is frozen, expected weights to be loaded before adapters are attached");
}

TEST_CASE("A packed weight is written as the matrix that was packed") {
  const lora_test::TemporaryFolder folder;
  lora::Rng rng(4);
  const lora::Matrix<float> W1 = random_matrix<float>(37, 5, rng), W2 = random_matrix<float>(3, 37, rng);
  const auto save = [&]<class Base>(const std::string& file, const lora::WeightNames& names) {
    using Layer = lora::Adapted<Base, lora::Lora<float>>;
    std::vector<Layer> layers;
    layers.emplace_back(Base(W1), lora::LoraConfig{.rank = 2}, rng);
    layers.emplace_back(Base(W2), lora::LoraConfig{.rank = 2}, rng);
    lora::save_weights(lora::Mlp<Layer>(std::move(layers)), folder / file, names);
    return lora_test::read_file(folder / file);
  };
  for (const lora::WeightNames& names : {lora::WeightNames{}, lora::WeightNames{.transposed = {"fc1"}}}) {
    const auto packed = save.operator()<lora::Packed<float>>("packed.safetensors", names);
    CHECK(packed == save.operator()<lora::Dense<float>>("dense.safetensors", names));
    CHECK(packed.size() > sizeof(float) * std::size_t(W1.size() + W2.size()));
  }
}
