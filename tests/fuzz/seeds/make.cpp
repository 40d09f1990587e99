// Writes the seeds that the library itself can write, into FOLDER/TARGET; tests/fuzz/run.sh --seeds calls it.
#include "lora/optim/adam.hpp"
#include "support.hpp"

#include <cstdio>
#include <fstream>
#include <iterator>

namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct Seeds {
  std::filesystem::path folder;
  void write(const std::string& target, const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories(folder / target);
    std::ofstream(folder / target / name, std::ios::binary) << bytes;
  }
};

/// A file of one F32 tensor without bytes.
std::string empty_tensor(const std::string& name, const std::string& shape, const std::string& metadata = "") {
  const std::string header =
      "{" + metadata + "\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[" + shape + "],\"data_offsets\":[0,0]}}";
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header;
}

}  // namespace

int main(int count, char** given) {
  if (count != 2) return std::fputs("make FOLDER\n", stderr), 2;
  const Seeds seeds{given[1]};
  const fuzz::Folder folder;
  const auto scratch = folder.path() / "file";
  const std::string next(fuzz::next_file);

  const fuzz::Net net;
  lora::save_weights(net, scratch);
  seeds.write("weights", "plain", read(scratch));
  lora::save_weights(net, scratch, {}, lora::Dtype::bf16);
  seeds.write("weights", "bf16", read(scratch));
  lora::save_weights(net, scratch, {.prefixes = {{"model.", "m."}}, .transposed = {"fc1", "fc2"}});
  seeds.write("weights", "other_names", read(scratch));

  const auto save = [&](const std::string& name, const fuzz::Net& model, const lora::SaveAdapterOptions& options = {}) {
    lora::save_adapter(model, folder.path(), options);
    const std::string config = read(folder.path() / "adapter_config.json");
    seeds.write("adapter", name, config + next + read(folder.path() / "adapter_model.safetensors"));
    // As PEFT writes it: without the settings in the metadata, so that the config counts.
    const auto file = lora::Safetensors::open(folder.path() / "adapter_model.safetensors");
    std::vector<lora::TensorToSave> tensors;
    for (const auto& tensor : file.tensors()) {
      tensors.emplace_back(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    }
    lora::save_safetensors(scratch, tensors, {{"format", "pt"}});
    seeds.write("adapter", name + "_of_peft", config + next + read(scratch));
  };
  lora::Rng rng(3);
  fuzz::Net plain = net, patterns = net, biases = net;
  lora::attach(plain, {.rank = 2}, {.modules = {"fc1", "fc2"}}, rng);
  save("plain", plain);
  save("f16", plain, {.dtype = lora::Dtype::f16});
  lora::attach(patterns, {.rank = 2, .rank_pattern = {{"fc2", 1}}, .alpha_pattern = {{"model.*", 3}}}, rng);
  save("patterns", patterns);
  lora::attach(biases, {.rank = 1, .bias = lora::Bias::all}, {.modules = {"fc1"}}, rng);
  save("biases", biases);
  save("full", fuzz::adapted_net());

  lora::AdamW<float> optimizer;
  fuzz::Net trained = fuzz::adapted_net();
  lora::save_checkpoint(scratch, trained, optimizer, {});
  seeds.write("checkpoint", "start", read(scratch));
  lora::visit_parameters(trained, [](const lora::Path&, auto& parameter) {
    if (parameter.trainable) parameter.gradient().setOnes();
  });
  optimizer.step(trained);
  lora::save_checkpoint(scratch, trained, optimizer,
                        {.step = 1, .generators = {{"data", lora::Rng(5)}}, .notes = {{"why", "a seed"}}});
  seeds.write("checkpoint", "trained", read(scratch));

  lora::save_safetensors(scratch, {{"model.layers.0.fc1.weight", lora::Matrix<float>::Ones(3, 2)}});
  const std::string first = read(scratch);
  lora::save_safetensors(scratch,
                         {{"head.weight", lora::Matrix<float>::Ones(2, 3)}, {"x", lora::Vector<float>::Ones(2)}});
  const std::string index =
      R"({"metadata":{"total_size":48},"weight_map":{"model.layers.0.fc1.weight":"a","head.weight":"b"}})";
  seeds.write("sharded", "two", index + next + first + next + read(scratch));

  // Extents that no byte bounds.
  for (const std::string huge : {"0", "1", "2147483648", "4611686018427387904"}) {
    for (const std::string& shape : {huge + ",0", "0," + huge, "0," + huge + "," + huge, huge}) {
      if (shape == "1" || shape == "2147483648" || shape == "4611686018427387904") continue;  // not without bytes
      std::string name = "extents_" + shape;
      std::replace(name.begin(), name.end(), ',', '_');
      seeds.write("safetensors", name, empty_tensor("a", shape));
      seeds.write("weights", name, empty_tensor("head.weight", shape));
      seeds.write("checkpoint", name,
                  empty_tensor("model.head.adapters.default.weight", shape,
                               R"("__metadata__":{"lora.step":"1","lora.checkpoint":"2","lora.moments":"2"},)"));
      seeds.write("adapter", name,
                  R"({"peft_type":"LORA","target_modules":["head"],"r":2})" + next +
                      empty_tensor("base_model.model.head.lora_A.weight", shape));
      seeds.write("sharded", name,
                  R"({"weight_map":{"head.weight":"a"}})" + next + empty_tensor("head.weight", shape) + next +
                      empty_tensor("x", shape));
    }
  }
  return 0;
}
