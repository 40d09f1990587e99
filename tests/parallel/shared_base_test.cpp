#include "lora/parallel/shared_base.hpp"

#include "lora/model/attach.hpp"
#include "lora/nn/embedding.hpp"
#include "lora/nn/linear.hpp"
#include "support/catch.hpp"
#include "support/process_threads.hpp"

#include <atomic>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

using lora_test::contains;
using lora_test::Threads;

struct Net {
  lora::Embedding<float> words;
  std::vector<lora::Linear<float>> layers;
  lora::Linear<double> last;
  static void visit(auto& self, auto&& f) {
    f("words", self.words);
    f("layers", self.layers);
    f("last", self.last);
  }
};

/// Three frozen layers, of which two share a base, a frozen table and a layer that is trained.
Net make_net() {
  lora::Rng rng(3);
  Net net{lora::Embedding<float>({.vocabulary = 9, .features = 17}, rng),
          {},
          lora::Linear<double>({.in = 7, .out = 3}, rng)};
  net.layers.emplace_back(lora::LinearShape{.in = 17, .out = 33}, rng);
  net.layers[0].attach("a", lora::LoraConfig{.rank = 2}, rng);
  net.layers.push_back(net.layers[0]);
  net.layers.emplace_back(lora::LinearShape{.in = 33, .out = 7}, rng);
  net.layers[2].attach("a", lora::LoraConfig{.rank = 2}, rng);
  return net;
}

std::size_t files() {
  std::size_t count = 0;
  for (const auto& file : std::filesystem::directory_iterator("/dev/shm")) {
    if (file.path().filename().string().starts_with("lora-base-")) ++count;
  }
  return count;
}

}  // namespace

TEST_CASE("share_base: processes of a machine have one block, the elements and products of their own", "[threads]") {
  const std::size_t before = files();
  const std::uint64_t expected = lora::model_digest(make_net());
  Threads threads(3, true);
  std::atomic<int> loading = 0;
  std::mutex mutex;
  std::vector<Net> nets;
  const auto errors = threads.run([&](lora::Processes& own) {
    Net net = lora::share_base(own, [&] {
      if (++loading > 1) throw lora::Error("two load at once");
      Net made = make_net();
      --loading;
      return made;
    });
    const std::lock_guard lock(mutex);
    nets.push_back(std::move(net));
  });
  CHECK(errors == std::vector<std::string>(3));
  CHECK(files() == before);
  REQUIRE(nets.size() == 3);
  const lora::Matrix<float> x = lora::Matrix<float>::Random(17, 5);
  for (Net& net : nets) {
    CHECK(lora::model_digest(net) == expected);
    CHECK(net.layers[0].base().storage().data == net.layers[1].base().storage().data);
    CHECK(net.layers[0](x) == make_net().layers[0](x));
    CHECK(net.words.frozen_storage().data == nullptr);  // in shared memory now
    CHECK_FALSE(net.last.frozen());
  }
  // Freeing one asks nobody, and what is trained is each one's own.
  nets[0].layers[0].adapter("a").as<lora::Lora<float>>().B.value.setOnes();
  nets.erase(nets.begin());
  CHECK(lora::model_digest(nets[0]) == expected);
  CHECK(nets[1].layers[0](x) == make_net().layers[0](x));
}

TEST_CASE("share_base: what differs is named on every process") {
  const auto run = [](bool one_machine, const auto& change) {
    Threads threads(3, one_machine);
    return threads.run([&](lora::Processes& own) {
      lora::share_base(own, [&] {
        Net net = make_net();
        if (own.number() == 1) change(net);
        return net;
      });
    });
  };
  const auto other_element = [](Net& net) {
    lora::Rng rng(1);
    Eigen::MatrixXf W = net.layers[2].dense();
    W(3, 4) += 1e-6F;
    net.layers[2] = lora::Linear<float>(lora::AnyBase<float>(W), *net.layers[2].bias());
  };
  for (const std::string& error : run(true, other_element)) {
    CHECK_THAT(error, contains("the weight of layers.2") && contains("other elements than on the first process"));
  }
  for (const std::string& error : run(false, other_element)) {
    CHECK_THAT(error, contains("of the model differs between processes") && contains("process 1 (alpha) has layers.2"));
  }
  for (const std::string& error : run(true, [](Net& net) { net.layers.pop_back(); })) {
    CHECK_THAT(error, contains("the frozen weight number 3 is missing"));
  }
  for (const std::string& error : run(true, [](Net&) { throw lora::ValueError("there is no file"); })) {
    CHECK_THAT(error, contains("there is no file"));
  }
}

TEST_CASE("share_base: a folder without room is refused before anything is written") {
  const auto refused = [](const std::string& folder, const std::string& text) {
    Threads threads(2, true);
    int made = 0;
    std::mutex mutex;
    const auto errors = threads.run([&](lora::Processes& own) {
      try {
        lora::share_base(own,
                         [&] {
                           const std::lock_guard lock(mutex);
                           ++made;
                           return make_net();
                         },
                         {.directory = folder});
      } catch (const lora::SharedMemoryError&) {
        throw;
      } catch (const std::exception&) {
        throw lora::Error("the type is wrong");
      }
    });
    CHECK(made == 1);
    for (const std::string& error : errors) CHECK_THAT(error, contains(text));
  };
  refused("/proc", "/proc has 0 MB free, the frozen weights need 0 MB");
  refused("/no/such/folder", "the folder /no/such/folder cannot be used");
}

TEST_CASE("frozen storage: layers over another block of the same bytes, and errors") {
  lora::Rng rng(1);
  lora::Linear<float> layer({.in = 5, .out = 4}, rng);
  CHECK(layer.frozen_storage().data == nullptr);
  CHECK_THROWS_AS(layer.set_frozen_storage({}), lora::StateError);
  layer.freeze();
  CHECK_THROWS_AS(layer.set_frozen_storage({layer.frozen_storage().data, 3}), lora::ShapeError);
  lora::Embedding<float> table({.vocabulary = 3, .features = 2}, rng);
  CHECK(table.frozen_storage().size == 24);
  CHECK_THROWS_AS(table.set_frozen_storage({table.frozen_storage().data, 3}), lora::ShapeError);
  CHECK(table.frozen_storage().size == 24);
  table.weight().trainable = true;
  CHECK(table.frozen_storage().data == nullptr);
  CHECK_THROWS_AS(table.set_frozen_storage({}), lora::StateError);
}
