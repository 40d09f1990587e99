#include "lora/model/accounting.hpp"

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "benchmarks/support/mt0_large.hpp"
#include "lora/model/attach.hpp"
#include "lora/model/report.hpp"
#include "lora/model/shapes.hpp"
#include "lora/nn/layer_norm.hpp"
#include "lora/nn/lora_linear.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/optim/adam.hpp"
#include "support/catch.hpp"
#include "support/counted.hpp"

using lora::Index;
using lora_test::contains;
using lora_test::Counted;
using lora_test::operations_in;
using lora_test::products_in;

namespace {

const lora::LoraConfig rank2{.rank = 2, .alpha = 4};

Index sum_of(const std::vector<lora::LayerShape>& shapes) { return lora::account(shapes, 1).full.parameters.total; }

lora::Matrix<Counted> data(Index rows, Index cols) {
  lora::Matrix<Counted> matrix(rows, cols);
  for (Index k = 0; k < matrix.size(); ++k) matrix(k) = Counted::data(1.0 / static_cast<double>(k + 3));
  return matrix;
}

void mark_parameters_as_data(auto& model) {
  lora::visit_parameters(model, [](const lora::Path&, auto& parameter) {
    parameter.value = data(parameter.value.rows(), parameter.value.cols());
  });
}

/// Multiply-adds times 2, as the real layer does them.
struct Measured {
  Index forward = 0;
  Index backward = 0;
};

template <bool NeedsInputGradient = true, class Layer>
Measured measure(Layer& layer, const lora::Matrix<Counted>& x, const lora::Matrix<Counted>& dy) {
  typename Layer::Cache cache;
  Measured measured;
  measured.forward = 2 * products_in([&] { layer.forward(x, cache); });
  measured.backward = 2 * products_in([&] {
                        if constexpr (NeedsInputGradient) {
                          layer.backward(x, dy, cache);
                        } else {
                          layer.backward(x, dy, cache, lora::no_gradient);
                        }
                      });
  return measured;
}

Index bytes_of_gradients(auto& model) {
  Index bytes = 0;
  lora::visit_parameters(model, [&](const lora::Path&, auto& parameter) {
    bytes += parameter.grad.size() * static_cast<Index>(sizeof(*parameter.grad.data()));
  });
  return bytes;
}

struct WithNorm {
  lora::Linear<float> fc;
  lora::LayerNorm<float> norm;
  static void visit(auto& self, auto&& f) { f("fc", self.fc), f("norm", self.norm); }
};

}  // namespace

TEST_CASE("The factors of one matrix against the matrix") {
  const auto trained = [](Index out, Index in, Index rank) {
    return lora::account({{.out = out, .in = in, .rank = rank}}, 1).current.parameters;
  };
  CHECK(trained(100, 120, 20).trainable == 4400);
  CHECK(trained(100, 120, 20).total == 12000 + 4400);
  CHECK(trained(100, 120, 8).trainable == 1760);
  CHECK(trained(200, 400, 8).trainable == 4800);
  CHECK(sum_of({{.out = 100, .in = 120, .rank = 20}}) == 12000);
  CHECK(sum_of({{.out = 200, .in = 400, .rank = 8}}) == 80000);
}

TEST_CASE("mt0-large has 1,229,581,312 numbers, and LoRA on q and v trains a thousandth of them or two") {
  CHECK(sum_of(benchmarks::mt0_large(0)) == 1229581312);

  const auto rank8 = lora::account(benchmarks::mt0_large(8), 128);
  CHECK(rank8.current.parameters.trainable == 2359296);
  CHECK(rank8.current.parameters.total == 1231940608);
  CHECK(lora::trainable_parameters(rank8.current.parameters) ==
        "trainable params: 2,359,296 || all params: 1,231,940,608 || trainable%: 0.1915");
  CHECK(rank8.full.parameters.trainable == 1229581312);
  CHECK(rank8.merged.parameters.total == 1229581312);

  const auto rank12 = lora::account(benchmarks::mt0_large(12), 128);
  CHECK(rank12.current.parameters.trainable == 3538944);
  CHECK(lora::trainable_parameters(rank12.current.parameters) ==
        "trainable params: 3,538,944 || all params: 1,233,120,256 || trainable%: 0.2870");

  // Float: gradients and two moments for each trained number.
  CHECK(rank8.full.bytes.gradients == 4ll * 1229581312);
  CHECK(rank8.full.bytes.optimizer == 8ll * 1229581312);
  CHECK(rank8.current.bytes.optimizer == 8ll * 2359296);
  CHECK(rank8.remarks.empty());
}

TEST_CASE("A large model with a large batch does not overflow") {
  const std::vector<lora::LayerShape> shapes = {{.out = 100000, .in = 10000, .trained = true}};
  const auto cost = lora::account(shapes, 1000000).current;
  CHECK(cost.flops.forward == 2000000000000000);
  CHECK(cost.flops.backward == 4000000000000000);
  CHECK(cost.flops.step == 15000000000);
  CHECK_THROWS_AS(lora::account(shapes, Index(1) << 40), lora::ValueError);
  CHECK_THROWS_AS(lora::account({{.out = Index(1) << 40, .in = Index(1) << 40}}, 1), lora::ValueError);
}

TEST_CASE("The formulas are what the real layers do, counted multiplication by multiplication") {
  // 17 samples run Eigen's blocked kernels, 2 its unrolled ones, 1 its matrix-vector products.
  const Index N = GENERATE(1, 2, 17);
  const Index out = 19, in = 23, rank = GENERATE(1, 5);
  CAPTURE(N, rank);
  const auto x = data(in, N), dy = data(out, N);
  lora::Rng rng(1);
  const lora::LoraConfig config{.rank = rank, .alpha = 3};
  const auto agrees = [&](const Measured& measured, lora::LayerShape shape) {
    const auto flops = lora::account({shape}, N).current.flops;
    CHECK(measured.forward == flops.forward);
    CHECK(measured.backward == flops.backward);
  };

  lora::LoraLinear<Counted> adapted(data(out, in), config, rng);
  mark_parameters_as_data(adapted);
  const auto lora_step = measure(adapted, x, dy);
  CHECK(lora_step.forward == 2 * N * (in * out + rank * (in + out)));
  CHECK(lora_step.backward == 2 * N * in * out + 4 * N * rank * (in + out));
  agrees(lora_step, {.out = out, .in = in, .rank = rank});
  agrees(measure<false>(adapted, x, dy), {.out = out, .in = in, .rank = rank, .input_gradient = false});

  adapted.adapter("default").as<lora::Lora<Counted>>().A.trainable = false;
  agrees(measure(adapted, x, dy), {.out = out, .in = in, .rank = rank, .frozen_a = rank});
  agrees(measure(adapted, x, dy), lora::layer_shape(adapted));

  lora::Linear<Counted> full(data(out, in));
  const auto full_step = measure(full, x, dy);
  CHECK(full_step.forward == 2 * N * in * out);
  CHECK(full_step.backward == 4 * N * in * out);
  agrees(full_step, {.out = out, .in = in, .trained = true});
  agrees(measure<false>(full, x, dy), {.out = out, .in = in, .trained = true, .input_gradient = false});

  full.attach("one", config, rng);
  full.attach("two", {.rank = 2, .alpha = 1}, rng);
  mark_parameters_as_data(full);
  agrees(measure(full, x, dy), {.out = out, .in = in, .rank = 2});
  full.select_sum({{"one", 0.5}, {"two", 2}});
  agrees(measure(full, x, dy), {.out = out, .in = in, .rank = rank + 2});
  agrees(measure(full, x, dy), lora::layer_shape(full));

  // Without anything to train there is no backward pass to count; a frozen layer among others passes dx on.
  full.select_none();
  CHECK(lora::account({lora::layer_shape(full)}, N).current.flops.backward == 0);
  const lora::LayerShape other{.out = 1, .in = 1, .trained = true};
  CHECK(lora::account({lora::layer_shape(full), other}, N).current.flops.backward - 4 * N ==
        measure(full, x, dy).backward);

  const auto merged = lora::account({{.out = out, .in = in, .rank = rank}}, N).merged;
  CHECK(products_in([&] { (void)lora::Matrix<Counted>(full.dense() * x); }) * 2 == merged.flops.forward);
  CHECK(merged.flops.backward == 0);
  CHECK(merged.flops.step == 0);
}

TEST_CASE("An AdamW step takes 15 operations for each trained number") {
  lora::Parameter<Counted> parameter(data(3, 5));
  parameter.grad = data(3, 5);
  lora::AdamW<Counted> optimizer;
  optimizer.step(parameter);
  // The moments are data from the second step on.
  CHECK(operations_in([&] { optimizer.step(parameter); }) == 15 * lora::adamw_flops_per_parameter);
  CHECK(lora::account({{.out = 3, .in = 5, .trained = true}}, 1).current.flops.step == 15 * 15);
}

TEST_CASE("The bytes are what caches, gradients and the optimizer hold") {
  lora::Rng rng(2);
  const Index N = 6;
  lora::Mlp<lora::Linear<float>> net({7, 9, 4}, rng);
  const bool adapted = GENERATE(false, true);
  CAPTURE(adapted);
  if (adapted) lora::attach(net, rank2, rng);
  const auto cost = lora::account(lora::shapes_of(net), N).current;

  lora::Mlp<lora::Linear<float>>::Cache cache;
  const lora::Matrix<float> x = lora::Matrix<float>::Ones(7, N);
  net.forward(x, cache);
  CHECK(cache.bytes() == cost.bytes.activations);
  net.backward(x, lora::Matrix<float>::Ones(4, N), cache);
  CHECK(cache.bytes() == cost.bytes.activations + cost.bytes.workspace);
  CHECK(bytes_of_gradients(net) == cost.bytes.gradients);

  lora::AdamW<float> optimizer;
  optimizer.step(net);
  CHECK(static_cast<Index>(optimizer.state().bytes()) == cost.bytes.optimizer);
  Index weights = 4 * lora::count_parameters(net).total;
  for (const auto& layer : net.layers())
    weights += layer.weight_bytes() - 4 * layer.in_features() * layer.out_features();
  CHECK(cost.bytes.weights == weights);
  CHECK(cost.bytes.total() ==
        cache.bytes() + bytes_of_gradients(net) + static_cast<Index>(optimizer.state().bytes()) + weights);
}

TEST_CASE("A first layer without dx needs no memory for it") {
  lora::Rng rng(2);
  lora::LoraLinear<double> layer(Eigen::MatrixXd::Ones(5, 3).eval(), rank2, rng);
  lora::LoraLinear<double>::Cache cache;
  const Eigen::MatrixXd x = Eigen::MatrixXd::Ones(3, 4), dy = Eigen::MatrixXd::Ones(5, 4);
  layer.forward(x, cache);
  layer.backward(x, dy, cache, lora::no_gradient);
  auto shape = lora::layer_shape(layer);
  shape.input_gradient = false;
  const auto bytes = lora::account({shape}, 4).current.bytes;
  CHECK(cache.bytes() == bytes.activations + bytes.workspace);
  CHECK(bytes.workspace == 8 * 2 * 4);
}

TEST_CASE("Ranks that save nothing are remarked on") {
  CHECK(lora::break_even_rank(10, 128) == 1280.0 / 138);
  CHECK(lora::break_even_rank(100, 120) == 12000.0 / 220);
  CHECK(lora::break_even_rank(0, 0) == 0);
  const auto remarks = [](Index rank) {
    return lora::account({{.name = "fc3", .out = 10, .in = 128, .rank = rank}}, 1).remarks;
  };
  CHECK(remarks(9).empty());
  REQUIRE(remarks(10).size() == 1);
  CHECK(remarks(10)[0] == "rank 10 saves nothing in fc3: its factors have 1380 numbers, the weight 1280");
  CHECK(remarks(64)[0] == "rank 64 exceeds min(in, out) = 10 of fc3: it can do no more than rank 10");
  CHECK(lora::account({{.out = 4, .in = 4, .rank = 2}}, 1).remarks[0] ==
        "rank 2 saves nothing: its factors have 16 numbers, the weight 16");
}

TEST_CASE("D5: alpha = 0 is accepted as PEFT does, and remarked on: the factors never learn") {
  lora::Rng rng(1);
  lora::Linear<float> layer({.in = 40, .out = 30}, rng);
  layer.attach("a", {.rank = 2, .alpha = 0}, rng);
  const auto remarks = [&] { return lora::account(lora::shapes_of(layer), 1).remarks; };
  REQUIRE(remarks().size() == 1);
  CHECK(remarks()[0] == "alpha is 0: the factors change nothing and will never learn");
  layer.attach("b", {.rank = 2, .alpha = 1e-50}, rng);  // 0 in the layer's scalar
  CHECK(remarks().size() == 1);
  layer.attach("c", {.rank = 2, .alpha = 4}, rng);  // the two above are not selected any more
  CHECK(remarks().empty());
}

TEST_CASE("D9: the report names the layers whose passes it does not count") {
  lora::Rng rng(1);
  const WithNorm net{lora::Linear<float>({.in = 40, .out = 30}, rng), lora::LayerNorm<float>(30)};
  CHECK(lora::report(net.fc, 2).account.remarks.empty());
  REQUIRE(lora::report(net, 2).account.remarks.size() == 1);
  CHECK(lora::report(net, 2).account.remarks[0] ==
        "the memory of passes is that of linear layers, without what the layers of norm.weight and 1 more keep or "
        "borrow");
}

TEST_CASE("What cannot be counted is refused") {
  CHECK_THROWS_AS(lora::account({}, 0), lora::ShapeError);
  CHECK_THROWS_WITH(lora::account({}, 0), "account: samples is 0, expected at least 1");
  const auto check = [](const lora::LayerShape& shape, const std::string& message) {
    CHECK_THROWS_AS(lora::account({shape}, 1), lora::ShapeError);
    CHECK_THROWS_WITH(lora::account({shape}, 1), message);
  };
  check({.name = "q", .out = -1}, "account: layer \"q\": out is -1, expected 0 or more");
  check({.name = "q", .in = -2}, "account: layer \"q\": in is -2, expected 0 or more");
  check({.name = "q", .rank = -3}, "account: layer \"q\": rank is -3, expected 0 (no factors) or more");
  check({.name = "q", .count = -4}, "account: layer \"q\": count is -4, expected 0 or more");
  check({.name = "q", .rank = 2, .frozen_a = 3}, "account: layer \"q\": frozen_a is 3, expected 0 to rank = 2");
  check({.name = "q", .rank = 2, .frozen_b = -1}, "account: layer \"q\": frozen_b is -1, expected 0 to rank = 2");
  check({.name = "q", .extra = -1}, "account: layer \"q\": extra is -1, expected 0 or more");
  check({.name = "q", .idle = -1}, "account: layer \"q\": idle is -1, expected 0 or more");
  check({.name = "q", .bytes_per_number = 0}, "account: layer \"q\": bytes_per_number is 0, expected 1 to 64");
}

TEST_CASE("The report is a table that prints where it is told to") {
  lora::Rng rng(5);
  lora::Mlp<lora::Linear<float>> net({64, 128, 128, 10}, rng);
  lora::attach(net, {.rank = 64}, {.modules = {"fc3"}}, rng);
  std::ostringstream out;
  const lora::Report report = lora::report(net, 128);
  out << report;
  const std::string text = out.str();
  CHECK_THAT(text, contains("trainable params: 8,832 || all params: 34,954 || trainable%: 25.2675\n\n128 samples "));
  CHECK_THAT(text, contains("all parameters          34,954            26,122   1.34            26,122\n"));
  // As the bases hold them, packed, in panels that are as high as the registers are wide.
  lora::Index packed = 0;
  lora::visit_adaptable(net, [&](const lora::Path&, const auto& layer) { packed += layer.weight_bytes(); });
  const lora::Index biases = (128 + 128 + 10) * 4, factors = 64 * (128 + 10) * 4;
  CHECK(report.account.current.bytes.weights == packed + biases + factors);
  CHECK_THAT(text, contains("weights                 " + lora::detail::scaled(packed + biases + factors, "B") +
                            "            104 kB   1.3"));
  CHECK_THAT(text, contains("\nnote: rank 64 exceeds min(in, out) = 10 of fc3: it can do no more than rank 10\n"));

  std::ostringstream large;
  large << lora::report(benchmarks::mt0_large(8), 1);
  CHECK_THAT(large.str(), contains("weights                   4.93 GB           4.92 GB    1.00           4.92 GB\n"));
  CHECK_THROWS_AS(lora::report(net, 0), lora::ShapeError);
}
