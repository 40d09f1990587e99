// A model of one's own: it lists its layers once, and everything else is by name.
#include <lora/lora.hpp>

#include <iostream>

struct Net {
  lora::Linear<float> fc1, fc2;
  static void visit(auto& self, auto&& f) { f("fc1", self.fc1), f("fc2", self.fc2); }
};

int main() {
  lora::Rng rng(1);
  Net net{{{.in = 128, .out = 256}, rng}, {{.in = 256, .out = 32}, rng}};  // in a product: lora::load_weights
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(128, 64), target = Eigen::MatrixXf::Random(32, 64);

  lora::attach(net, {.rank = 4, .alpha = 8, .dropout = 0.1}, {.modules = {"fc1", "fc2"}}, rng);
  lora::AdamW<float> optimizer({.lr = 1e-2});
  lora::Linear<float>::Cache cache1, cache2;
  Eigen::MatrixXf dy;
  for (std::uint64_t step = 0; step < 200; ++step) {
    const lora::Pass pass{.training = true, .seed = 1, .step = step};  // which dropout is drawn
    const Eigen::MatrixXf h = net.fc1.forward(x, cache1, pass).cwiseMax(0.0f);
    const float loss = lora::mean_squared_error(net.fc2.forward(h, cache2, pass), target, &dy);
    if (step % 50 == 0) std::cout << "step " << step << "  loss " << loss << '\n';

    lora::zero_gradients(net);
    Eigen::MatrixXf dh = net.fc2.backward(h, dy, cache2);
    dh.array() *= (h.array() > 0).cast<float>();
    net.fc1.backward(x, dh, cache1, lora::no_gradient);  // nobody needs dx
    optimizer.step(net);
  }
  std::cout << lora::report(net, 64);  // parameters, memory and operations beside a full fine-tuning
  lora::merge(net);                    // from here on an ordinary network
}
