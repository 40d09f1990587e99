#include "lora/nn/multi_head_attention.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "lora/model/attach.hpp"
#include "lora/model/merge.hpp"
#include "lora/parallel/workers.hpp"
#include "lora/testing/gradient.hpp"
#include "lora/testing/layer_laws.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"
#include "support/with_sequences.hpp"

using lora::AttentionMask;
using lora::AttentionShape;
using lora::Index;
using lora::Linear;
using lora::Matrix;
using lora::MultiHeadAttention;
using lora::Sequences;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;

namespace {

constexpr AttentionShape two_heads{.heads = 2, .head_dim = 3};
constexpr AttentionShape grouped{.heads = 4, .key_heads = 2, .head_dim = 2, .mask = AttentionMask::causal};

template <class S>
using WithSequences = lora_test::WithSequences<MultiHeadAttention<S>>;

static_assert(lora::Layer<WithSequences<double>>);

std::vector<Matrix<double>> gradients(auto& model) {
  std::vector<Matrix<double>> all;
  lora::visit_parameters(model, [&](const lora::Path&, auto& parameter) { all.emplace_back(parameter.grad); });
  return all;
}

}  // namespace

TEST_CASE("MultiHeadAttention: its layers, with attention between them") {
  lora::Rng rng(1);
  MultiHeadAttention<double> layer(grouped, 7, rng);
  const Sequences sequences({5, 2, 6});
  const auto x = random_matrix(7, 13, rng);
  const Matrix<double> q = layer.query(x), k = layer.key(x), v = layer.value(x);
  Matrix<double> o(8, 13);
  lora::Scratch scratch;
  lora::attention<double>(q, k, v, grouped, sequences, sequences, o, nullptr, scratch);
  const auto same = lora::testing::same_bits("by hand", layer(x, sequences), layer.output(o));
  INFO(same);
  CHECK(same.passed);
  CHECK(lora::tensor_names(layer) == std::vector<std::string>{"self.query.weight", "self.query.bias", "self.key.weight",
                                                              "self.key.bias", "self.value.weight", "self.value.bias",
                                                              "output.dense.weight", "output.dense.bias"});
}

TEST_CASE("MultiHeadAttention: the laws of layers") {
  lora::Rng rng(2);
  for (const AttentionShape& shape : {two_heads, grouped}) {
    WithSequences<double> layer(MultiHeadAttention<double>(shape, 5, rng));
    const auto x = random_matrix(5, 13, rng), dy = random_matrix(5, 13, rng);
    check(lora::testing::layer_laws(layer, x, dy));
    lora::attach(layer, {.rank = 2, .alpha = 3, .dropout = 0.2}, {.modules = {"query", "value"}}, rng);
    lora::testing::fill_parameters(layer, rng, 0.5);
    check(lora::testing::layer_laws(layer, x, dy, {.training = true, .seed = 3, .step = 4}));
  }
}

TEST_CASE("MultiHeadAttention: backward is the derivative of forward") {
  lora::Rng rng(3);
  for (const AttentionShape& shape : {two_heads, grouped}) {
    WithSequences<double> layer(MultiHeadAttention<double>(shape, 5, rng));
    const auto x = random_matrix(5, 9, rng);
    // A constant added to all keys changes no probability: the gradient of the keys' bias is rounding.
    layer.inner.key = Linear<double>(Matrix<double>(random_matrix(shape.key_rows(), 5, rng)));
    check(lora::testing::check_gradients(layer, x), 8);
    WithSequences<Dual> dual(MultiHeadAttention<Dual>(shape, 5, rng));
    dual.inner.key = Linear<Dual>(Matrix<Dual>(random_matrix<Dual>(shape.key_rows(), 5, rng)));
    check(lora::testing::check_dual(layer, dual, x), 8);

    lora::attach(layer, {.rank = 2, .alpha = 3, .dropout = 0.2}, {.modules = {"query", "value"}}, rng);
    lora::testing::fill_parameters(layer, rng, 0.5);
    check(lora::testing::check_gradients(layer, x, {.pass = {.training = true, .seed = 3, .step = 4}}), 5);
  }
}

TEST_CASE("MultiHeadAttention: the gradient of the bias of the keys is zero") {
  lora::Rng rng(4);
  MultiHeadAttention<double> layer(two_heads, 5, rng);
  const auto x = random_matrix(5, 9, rng), dy = random_matrix(5, 9, rng);
  MultiHeadAttention<double>::Cache cache;
  layer.forward(x, Sequences({4, 5}), cache);
  layer.backward(x, dy, cache);
  const auto all = gradients(layer);
  CHECK(all[3].norm() <= 1e-14);
  CHECK(all[1].norm() > 1e-3);
}

TEST_CASE("MultiHeadAttention: a batch split between sequences, and threads, change nothing", "[threads]") {
  lora::Rng rng(5);
  const AttentionShape shape{.heads = 3, .head_dim = 8};
  MultiHeadAttention<float> layer(shape, 24, rng);
  lora::attach(layer, {.rank = 4, .alpha = 8, .dropout = 0.3}, rng);
  lora::testing::fill_parameters(layer, rng, 0.3);
  const Sequences all({30, 8, 21, 17, 40}), first({30, 8}), second({21, 17, 40});
  const auto x = random_matrix<float>(24, 116, rng), dy = random_matrix<float>(24, 116, rng);
  MultiHeadAttention<float>::Cache cache;
  const lora::Pass pass{.training = true, .seed = 1, .step = 2};
  const Matrix<float> y = layer.forward(x, all, cache, pass), dx = layer.backward(x, dy, cache);

  MultiHeadAttention<float>::Cache part;
  // The bits of a product may depend on how many samples there are, those of attention do not.
  const auto same = [](const Matrix<float>& given, const Matrix<float>& expected) {
    return (given - expected).norm() <= 1e-6F * expected.norm();
  };
  CHECK(same(layer.forward(x.leftCols(38), first, part, pass), y.leftCols(38)));
  CHECK(same(layer.backward(x.leftCols(38), dy.leftCols(38), part), dx.leftCols(38)));
  lora::Pass later = pass;
  later.first_sample = 38;
  CHECK(same(layer.forward(x.rightCols(78), second, part, later), y.rightCols(78)));
  CHECK(same(layer.backward(x.rightCols(78), dy.rightCols(78), part), dx.rightCols(78)));

  lora::Workers workers(2);
  lora::Pass shared = pass;
  shared.executor = &workers;
  CHECK((layer.forward(x, all, part, shared) == y));
  CHECK((layer.backward(x, dy, part) == dx));
}

TEST_CASE("MultiHeadAttention: adapters by name; merged, it is the same layer") {
  lora::Rng rng(6);
  MultiHeadAttention<double> layer(two_heads, 5, rng);
  const auto x = random_matrix(5, 9, rng), dy = random_matrix(5, 9, rng);
  const Sequences sequences({4, 5});
  const Matrix<double> before = layer(x, sequences);
  CHECK(lora::attach(layer, {.rank = 2, .alpha = 4}, {.modules = {"query", "value"}}, rng) == 2);
  CHECK(layer(x, sequences) == before);
  lora::visit_parameters(layer, [&](const lora::Path& path, auto& parameter) {
    if (path.ends_with("B")) parameter.value = 0.3 * random_matrix(parameter.value.rows(), parameter.value.cols(), rng);
  });
  const Matrix<double> adapted = layer(x, sequences);
  CHECK((adapted - before).norm() > 1e-3);

  MultiHeadAttention<double>::Cache cache;
  layer.forward(x, sequences, cache);
  CHECK(layer.trains(cache.kept));
  CHECK((!layer.value.adapters().empty() && layer.key.adapters().empty()));
  layer.backward(x, dy, cache, lora::no_gradient);
  std::string trained;
  lora::visit_parameters(layer, [&](const lora::Path& path, auto& parameter) {
    if (parameter.grad.size() > 0) trained += path.str() + " ";
  });
  CHECK(trained ==
        "self.query.adapters.default.A self.query.adapters.default.B self.value.adapters.default.A "
        "self.value.adapters.default.B ");
  lora::select_none(layer);
  CHECK(layer(x, sequences) == before);
  lora::select(layer, "default");
  lora::merge(layer);
  CHECK((layer(x, sequences) - adapted).norm() <= 1e-13 * adapted.norm());
}

TEST_CASE("MultiHeadAttention: backward without dx stops where nothing below trains") {
  lora::Rng rng(7);
  MultiHeadAttention<double> layer(two_heads, 5, rng);
  const auto x = random_matrix(5, 9, rng), dy = random_matrix(5, 9, rng);
  lora::attach(layer, {.rank = 2}, {.modules = {"dense"}}, rng);
  MultiHeadAttention<double>::Cache cache;
  layer.forward(x, Sequences({4, 5}), cache);
  const Index before = cache.scratch.bytes();
  layer.backward(x, dy, cache, lora::no_gradient);
  std::string reached;
  lora::visit_parameters(layer, [&](const lora::Path& path, auto& parameter) {
    if (parameter.grad.size() > 0) reached += path.str() + " ";
  });
  CHECK(reached == "output.dense.adapters.default.A output.dense.adapters.default.B ");
  CHECK(cache.scratch.bytes() - before < 9 * 6 * 8);  // no d_o, dq, dk, dv
}

TEST_CASE("MultiHeadAttention: what does not fit is refused, before anything is added") {
  lora::Rng rng(8);
  using Layer = MultiHeadAttention<double>;
  const auto linear = [&](Index out, Index in) { return Linear<double>({.in = in, .out = out}, rng); };
  CHECK_THROWS_WITH(Layer({.heads = 0, .head_dim = 3}, 5, rng), "MultiHeadAttention: heads is 0, expected at least 1");
  CHECK_THROWS_WITH(Layer(two_heads, linear(7, 5), linear(6, 5), linear(6, 5), linear(5, 6)),
                    "MultiHeadAttention: query has 7 outputs, expected heads x head_dim = 6");
  CHECK_THROWS_WITH(Layer(two_heads, linear(6, 5), linear(6, 4), linear(6, 5), linear(5, 6)),
                    "MultiHeadAttention: key has 4 inputs, expected the inputs of query = 5");
  CHECK_THROWS_WITH(Layer(two_heads, linear(6, 5), linear(6, 5), linear(6, 5), linear(5, 7)),
                    "MultiHeadAttention: output has 7 inputs, expected heads x head_dim = 6");
  Layer layer(two_heads, 5, rng);
  Layer::Cache cache;
  const auto x = random_matrix(5, 9, rng), dy = random_matrix(5, 9, rng);
  CHECK_THROWS_AS(layer.backward(x, dy, cache), lora::StateError);
  CHECK_THROWS_WITH(layer.forward(x, Sequences({4, 4}), cache),
                    "MultiHeadAttention::forward: x has 9 columns, expected the columns of the sequences = 8");
  CHECK_THROWS_AS(layer.backward(x, dy, cache), lora::StateError);
  layer.forward(x, Sequences({4, 5}), cache);
  CHECK_THROWS_WITH(layer.backward(x, random_matrix(4, 9, rng), cache),
                    "MultiHeadAttention::backward: dy has 4 rows, expected out_features = 5");
  Layer other = layer;
  CHECK_THROWS_AS(other.backward(x, dy, cache), lora::StateError);
  for (auto* each : {&layer, &other}) {
    for (const auto& gradient : gradients(*each)) CHECK(gradient.size() == 0);
  }
}

TEST_CASE("MultiHeadAttention: nothing allocates after the largest batch") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(9);
  MultiHeadAttention<float> layer({.heads = 3, .head_dim = 8}, 24, rng);
  lora::attach(layer, {.rank = 4, .dropout = 0.1}, rng);
  const Sequences large({30, 40, 7}), small({20, 1});
  const auto x = random_matrix<float>(24, 77, rng), dy = random_matrix<float>(24, 77, rng);
  const Matrix<float> few_x = x.leftCols(21), few_dy = dy.leftCols(21);
  MultiHeadAttention<float>::Cache cache;
  const lora::Pass pass{.training = true, .seed = 1, .step = 2};
  const auto step = [&] {
    layer.forward(x, large, cache, pass);
    layer.backward(x, dy, cache);
    layer.forward(few_x, small, cache, pass);
    layer.backward(few_x, few_dy, cache);
  };
  step();
  CHECK(lora_test::heap_allocations_in(step) == 0);
  // kept: q, k, v, o, z = A x of four layers of rank 4, and lse
  CHECK(cache.kept.bytes() == 77 * 4 * (4 * 24 + 4 * 4 + 3));
  lora::Scratch scratch;
  Matrix<float> y(24, 77);
  layer.forward(x, large, y, nullptr, scratch, {});
  CHECK(lora_test::heap_allocations_in([&] { layer.forward(x, large, y, nullptr, scratch, {}); }) == 0);
}
