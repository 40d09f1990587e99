// One frozen matrix learns a change of low rank; the change is merged, and taken off again by selecting the base.
#include <lora/lora.hpp>

#include <iostream>

int main() {
  const Eigen::MatrixXf W0 = Eigen::MatrixXf::Random(64, 128);  // the frozen weight, (out, in)
  const Eigen::MatrixXf change = Eigen::MatrixXf::Random(64, 4) * Eigen::MatrixXf::Random(4, 128);
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(128, 256);  // samples are columns
  const Eigen::MatrixXf target = (W0 + change) * x;             // what the layer is to learn

  lora::Rng rng(1);
  lora::LoraLinear<float> layer(W0, {.rank = 8, .alpha = 16}, rng);  // y = W0 x + (alpha / rank) B (A x)
  lora::LoraLinear<float>::Cache cache;                              // what a pass needs belongs to the caller
  lora::AdamW<float> optimizer({.lr = 1e-2});
  Eigen::MatrixXf dy;
  for (int step = 0; step <= 400; ++step) {
    const float loss = lora::mean_squared_error(layer.forward(x, cache), target, &dy);
    if (step % 100 == 0) std::cout << "step " << step << "  loss " << loss << '\n';
    lora::zero_gradients(layer);
    layer.backward(x, dy, cache);  // dA and dB; W0 has no gradient
    optimizer.step(layer);
  }
  const Eigen::MatrixXf merged = layer.merged();  // W0 + (alpha / rank) B A, a new matrix
  std::cout << "merged, from the target: " << (merged * x - target).norm() / target.norm() << '\n';
  layer.select_none();
  std::cout << "the base is untouched:   " << std::boolalpha << (layer.merged() == W0) << '\n';
}
