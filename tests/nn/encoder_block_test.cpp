#include "lora/nn/encoder_block.hpp"

#include <string>
#include <vector>

#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/testing/gradient.hpp"
#include "lora/testing/layer_laws.hpp"
#include "support/catch.hpp"
#include "support/gradients.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"
#include "support/with_sequences.hpp"

using lora::EncoderBlock;
using lora::Index;
using lora::Matrix;
using lora::Pass;
using lora::Segment;
using lora::Sequences;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;
using lora_test::difference;
using lora_test::gradients;
using lora_test::WithSequences;

namespace {

template <class S>
EncoderBlock<S> new_block(lora::Rng& rng) {
  const lora::AttentionShape shape{.heads = 2, .head_dim = 3, .dropout = 0.2, .stream = 50};
  return {lora::MultiHeadAttention<S>(shape, 6, rng),
          lora::LayerNorm<S>(6),
          lora::FeedForward<S>({.in = 6, .out = 9}, {.in = 9, .out = 6}, lora::ActivationKind::gelu, rng),
          lora::LayerNorm<S>(6),
          {.attention = 0.3, .feed_forward = 0.1, .stream = 70}};
}

void train_norms(auto& block) {
  for (auto* norm : {&block.attention_norm, &block.output_norm}) {
    norm->weight().trainable = norm->bias().trainable = true;
  }
}

const Pass training{.training = true, .seed = 3, .step = 4, .first_sample = 11};

static_assert(lora::Layer<WithSequences<EncoderBlock<double>>>);

}  // namespace

TEST_CASE("EncoderBlock: attention and feed-forward, each with a norm behind it") {
  lora::Rng rng(1);
  const EncoderBlock<double> block = new_block<double>(rng);
  const Sequences sequences({5, 2, 6});
  const auto x = random_matrix(6, 13, rng);
  const Matrix<double> first = block.attention_norm(Matrix<double>(x + block.attention(x, sequences)));
  const Matrix<double> expected = block.output_norm(Matrix<double>(first + block.feed_forward(first)));
  Matrix<double> y(6, 13);
  lora::Scratch scratch;
  block.forward(x, sequences, y, nullptr, scratch, {});
  CHECK((y - expected).norm() <= 1e-14 * expected.norm());
  EncoderBlock<double>::Kept kept;
  block.forward(x, sequences, y, &kept, scratch, {});
  Matrix<double> again(6, 13);
  block.output(kept, again, scratch);
  CHECK(again == y);
  CHECK(lora::tensor_names(block).front() == "attention.self.query.weight");
  CHECK(lora::tensor_names(block).back() == "output.LayerNorm.bias");
}

TEST_CASE("EncoderBlock: the laws of layers, with dropout") {
  lora::Rng rng(2);
  const auto x = random_matrix(6, 13, rng), dy = random_matrix(6, 13, rng);
  WithSequences<EncoderBlock<double>> layer(new_block<double>(rng));
  train_norms(layer.inner);
  check(lora::testing::layer_laws(layer, x, dy, training));
  lora::attach(layer, {.rank = 2, .alpha = 3, .dropout = 0.2}, {.modules = {"query", "intermediate.dense"}}, rng);
  lora::testing::fill_parameters(layer, rng, 0.5);
  check(lora::testing::layer_laws(layer, x, dy, training));
}

TEST_CASE("EncoderBlock: backward is the derivative of forward, with dropout") {
  lora::Rng rng(3);
  const auto x = random_matrix(6, 9, rng);
  WithSequences<EncoderBlock<double>> layer(new_block<double>(rng));
  // A constant added to all keys changes no probability: the gradient of the keys' bias is rounding.
  layer.inner.attention.key = lora::Linear<double>(Matrix<double>(random_matrix(6, 6, rng)));
  train_norms(layer.inner);
  check(lora::testing::check_gradients(layer, x), 16);
  check(lora::testing::check_gradients(layer, x, {.pass = training}), 16);
  WithSequences<EncoderBlock<Dual>> dual(new_block<Dual>(rng));
  dual.inner.attention.key = lora::Linear<Dual>(Matrix<Dual>(random_matrix<Dual>(6, 6, rng)));
  train_norms(dual.inner);
  check(lora::testing::check_dual(layer, dual, x), 16);
}

TEST_CASE("EncoderBlock: restricted to some columns, outputs and gradients are those of the full pass") {
  lora::Rng rng(4);
  EncoderBlock<double> block = new_block<double>(rng);
  lora::attach(block, {.rank = 2, .alpha = 3, .dropout = 0.3}, {.modules = {"query", "value", "dense"}}, rng, "a");
  lora::attach(block, {.rank = 1, .alpha = 2}, {.modules = {"key", "query"}}, rng, "b");
  lora::testing::fill_parameters(block, rng, 0.5);
  const auto a = lora::adapter(block, "a"), b = lora::adapter(block, "b");
  const Sequences sequences({3, 5, 1, 7}), queries({1, 1, 1, 2});
  const std::vector<Index> columns = {0, 3, 8, 9, 12};
  const auto x = random_matrix(6, 16, rng), some_dy = random_matrix(6, 5, rng);
  Matrix<double> dy = Matrix<double>::Zero(6, 16);
  for (std::size_t j = 0; j < 5; ++j) dy.col(columns[j]) = some_dy.col(Index(j));
  const std::vector<Segment> segments = {{.adapter = b, .first = 8, .count = 8, .first_sample = 100},
                                         {.adapter = a, .first = 0, .count = 8, .seed = 9}};
  for (const bool mixed : {false, true}) {
    Pass pass = training;
    if (mixed)
      pass.segments = segments;
    else
      pass.adapter = a;
    lora::Scratch scratch;
    EncoderBlock<double>::Kept kept, few;
    Matrix<double> y(6, 16), dx(6, 16), some_y(6, 5), some_dx(6, 16);
    lora::zero_gradients(block);
    block.forward(x, sequences, y, &kept, scratch, pass);
    block.backward(x, dy, dx, kept, scratch);
    const auto expected = gradients(block);
    REQUIRE(expected.size() > 8);
    lora::zero_gradients(block);
    block.forward(x, sequences, columns, queries, some_y, &few, scratch, pass);
    block.backward(x, some_dy, some_dx, few, scratch);
    for (std::size_t j = 0; j < 5; ++j) CHECK((some_y.col(Index(j)) - y.col(columns[j])).norm() <= 1e-14);
    CHECK((some_dx - dx).norm() <= 1e-13);
    CHECK(difference(gradients(block), expected) <= 1e-13);

    lora::zero_gradients(block);
    block.backward(x, some_dy, lora::no_gradient, few, scratch);
    CHECK(difference(gradients(block), expected) <= 1e-13);
    Matrix<double> alone(6, 5);
    block.forward(x, sequences, columns, queries, alone, nullptr, scratch, pass);
    CHECK(alone == some_y);
  }
}

TEST_CASE("EncoderBlock: a mixed batch is its separate passes; a segment that cuts a sequence is refused") {
  lora::Rng rng(5);
  EncoderBlock<double> block = new_block<double>(rng);
  lora::attach(block, {.rank = 2, .alpha = 3, .dropout = 0.3}, rng, "a");
  lora::attach(block, {.rank = 1, .alpha = 2, .dropout = 0.1}, rng, "b");
  lora::testing::fill_parameters(block, rng, 0.5);
  const auto a = lora::adapter(block, "a"), b = lora::adapter(block, "b");
  const Sequences sequences({3, 5, 4}), of_a({3, 5}), of_b({4});
  const auto x = random_matrix(6, 12, rng), dy = random_matrix(6, 12, rng);
  std::vector<Segment> segments = {{.adapter = a, .first = 0, .count = 8},
                                   {.adapter = b, .first = 8, .count = 4, .seed = 9, .step = 1, .first_sample = 0}};
  Pass mixed = training;
  mixed.segments = segments;
  lora::Scratch scratch;
  EncoderBlock<double>::Kept kept;
  Matrix<double> y(6, 12), dx(6, 12), own_y(6, 12), own_dx(6, 12);
  block.forward(x, sequences, y, &kept, scratch, mixed);
  block.backward(x, dy, dx, kept, scratch);
  const auto together = gradients(block);

  lora::zero_gradients(block);
  Pass alice = training, bob{.training = true, .seed = 9, .step = 1};
  alice.adapter = a;
  bob.adapter = b;
  block.forward(x.leftCols(8), of_a, own_y.leftCols(8), &kept, scratch, alice);
  block.backward(x.leftCols(8), dy.leftCols(8), own_dx.leftCols(8), kept, scratch);
  block.forward(x.rightCols(4), of_b, own_y.rightCols(4), &kept, scratch, bob);
  block.backward(x.rightCols(4), dy.rightCols(4), own_dx.rightCols(4), kept, scratch);
  CHECK((y - own_y).norm() <= 1e-14 * y.norm());
  CHECK((dx - own_dx).norm() <= 1e-13 * dx.norm());
  CHECK(difference(gradients(block), together) <= 1e-13);

  segments[0].count = 7;
  segments[1].first = 7;
  segments[1].count = 5;
  CHECK_THROWS_WITH(
      block.forward(x, sequences, y, &kept, scratch, mixed),
      "attention: the segment with the columns 0 to 6 cuts a sequence, expected all of its columns or none");
}

TEST_CASE("EncoderBlock: nothing allocates after the largest batch, full or restricted") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(6);
  EncoderBlock<double> block = new_block<double>(rng);
  lora::attach(block, {.rank = 2, .dropout = 0.1}, rng);
  const Sequences large({9, 6, 7}), queries({1, 1, 1});
  const std::vector<Index> columns = {0, 9, 15};
  const auto x = random_matrix(6, 22, rng), dy = random_matrix(6, 22, rng);
  const Matrix<double> few = dy.leftCols(3);
  Matrix<double> y(6, 22), dx(6, 22), some_y(6, 3);
  lora::Scratch scratch;
  EncoderBlock<double>::Kept kept;
  const auto step = [&] {
    block.forward(x, large, y, &kept, scratch, training);
    block.backward(x, dy, dx, kept, scratch);
    block.forward(x, large, columns, queries, some_y, &kept, scratch, training);
    block.backward(x, few, dx, kept, scratch);
    block.forward(x, large, columns, queries, some_y, nullptr, scratch, training);
  };
  step();
  CHECK(lora_test::heap_allocations_in(step) == 0);
}
