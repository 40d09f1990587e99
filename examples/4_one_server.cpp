// One frozen network, many users: each thread serves another adapter, and one pass serves all of them.
#include <lora/lora.hpp>

#include <iostream>
#include <thread>

int main() {
  lora::Rng rng(1);
  using Net = lora::Mlp<lora::Linear<float>>;
  Net net({64, 128, 10}, rng);
  std::vector<lora::AdapterHandle> users;
  for (const char* name : {"alice", "bob", "carol", "dave"}) {
    lora::attach(net, {.rank = 4}, rng, name);  // in a product: load_adapter(net, directory, name)
    users.push_back(lora::adapter(net, name));  // found by name once
  }
  lora::visit_parameters(net, [&](const lora::Path& path, auto& p) {
    if (path.in_adapter()) lora::fill_normal(p.value, 0.1, rng);  // stands for training
  });

  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(64, 8);  // two requests of each user
  Eigen::MatrixXf apart(10, 8);
  std::vector<std::thread> threads;
  for (Eigen::Index user = 0; user < 4; ++user) {
    threads.emplace_back([&, user] {  // no lock: a pass reads the base and its own adapter
      Net::Cache cache;
      const auto& handle = users[static_cast<std::size_t>(user)];
      apart.middleCols(2 * user, 2) = net.forward(x.middleCols(2 * user, 2), cache, {.adapter = handle});
    });
  }
  for (std::thread& thread : threads) thread.join();

  std::vector<lora::Segment> segments;  // the same requests in one pass: the base is multiplied once
  for (Eigen::Index user = 0; user < 4; ++user) {
    segments.push_back({.adapter = users[static_cast<std::size_t>(user)], .first = 2 * user, .count = 2});
  }
  Net::Cache cache;
  const Eigen::MatrixXf together = net.forward(x, cache, {.segments = segments});
  std::cout << "one pass for all, from four: " << (together - apart).norm() / apart.norm() << '\n';
}
