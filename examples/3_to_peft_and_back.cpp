// An adapter goes to Hugging Face PEFT and comes back: the same numbers, and the scale with them.
//   examples/run.sh 3_to_peft_and_back --out DIR
#include <lora/io.hpp>
#include <lora/lora.hpp>

#include <iostream>

int main(int count, char** arguments) {
  const std::filesystem::path folder = count > 2 ? arguments[2] : "peft";
  std::filesystem::create_directories(folder);
  lora::Rng rng(1);
  using Net = lora::Mlp<lora::Linear<float>>;
  Net net({16, 64, 4}, rng);  // layers fc1 and fc2, as in torch's module of these names
  lora::save_weights(net, folder / "model.safetensors");
  lora::attach(net, {.rank = 4, .alpha = 8}, {.modules = {"fc1"}}, rng);
  lora::visit_parameters(net, [&](const lora::Path& path, auto& p) {
    if (path.in_adapter()) lora::fill_normal(p.value, 0.1, rng);  // stands for training
  });
  lora::save_adapter(net, folder / "adapter", {.base_model_name_or_path = "my-mlp"});

  Net again({16, 64, 4}, rng);
  lora::load_weights(again, lora::Safetensors::open(folder / "model.safetensors"));
  const lora::PeftConfig config = lora::load_adapter(again, folder / "adapter");
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(16, 8);
  std::cout << "rank " << config.lora.rank << ", alpha " << config.lora.alpha
            << ", the same outputs: " << std::boolalpha << (again(x) == net(x))
            << "\n\nIn Python, with a torch module of the same layers:\n"
            << "  model.load_state_dict(safetensors.torch.load_file(" << folder / "model.safetensors" << "))\n"
            << "  model = peft.PeftModel.from_pretrained(model, " << folder / "adapter" << ")\n";
}
