// The encoders of BERT's kind with their heads: gradients, dropout, memory, threads. What they compute is judged by
// transformers (io/pretrained_test.cpp, interop/models.py).

#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/model/attach.hpp"
#include "lora/model/handle.hpp"
#include "lora/model/report.hpp"
#include "lora/optim/adam.hpp"
#include "lora/parallel/workers.hpp"
#include "lora/testing/gradient.hpp"
#include "lora/transformers/distilbert.hpp"
#include "lora/transformers/roberta.hpp"
#include "support/catch.hpp"
#include "support/gradients.hpp"
#include "support/heap.hpp"

#include <string>
#include <thread>
#include <vector>

namespace {

using lora::Index;
using lora::Matrix;
using lora::Pass;
using lora::Tokens;
using lora::testing::random_matrix;
using lora_test::difference;
using lora_test::gradients;

lora::EncoderConfig small_config() {
  return {.vocab_size = 20,
          .hidden_size = 6,
          .num_hidden_layers = 3,
          .num_attention_heads = 2,
          .intermediate_size = 8,
          .max_position_embeddings = 12,
          .type_vocab_size = 2,
          .hidden_dropout_prob = 0.2,
          .attention_probs_dropout_prob = 0.3,
          .classifier_dropout = 0.4,
          .initializer_range = 0.4,
          .num_labels = 3};
}

Tokens small_batch(bool typed = true) {
  Tokens batch;
  batch.add(std::vector<int>{3, 7, 7, 1});
  if (typed) batch.add(std::vector<int>{5, 0, 19}, std::vector<int>{0, 1, 1});
  batch.add(std::vector<int>{2});
  batch.add(std::vector<int>{4, 9, 11, 13, 6});
  return batch;
}

/// Trains everything: tables, norms, layers.
template <class Model>
Model new_model(lora::EncoderConfig config = small_config()) {
  lora::Rng rng(1);
  Model model(config, rng);
  model.encoder.word.weight().trainable = model.encoder.position.weight().trainable = true;
  if (model.encoder.type) model.encoder.type->weight().trainable = true;
  lora::unfreeze(model);
  return model;
}

/// Every parameter's gradient along a random direction, by central differences of the sum of dy .* y. Returns the
/// number of parameters.
template <class Model>
int check_all_gradients(Model model, const Tokens& batch, const Pass& pass) {
  lora::Rng rng(2);
  typename Model::Cache cache;
  const auto dy = random_matrix(model.out_features(), Model::out_columns(batch), rng);
  model.forward(batch, cache, pass);
  lora::zero_gradients(model);
  model.backward(batch, dy, cache);
  int count = 0;
  lora::visit_parameters(model, [&](const lora::Path& path, auto& parameter) {
    ++count;
    INFO(path.str());
    const Matrix<double> at = parameter.value;
    const auto direction = random_matrix(at.rows(), at.cols(), rng);
    const double h = 1e-6;
    const auto f = [&](double step) {
      parameter.value = at + step * direction;
      return model.forward(batch, cache, pass).cwiseProduct(dy).sum();
    };
    const double slope = (f(h) - f(-h)) / (2 * h);
    parameter.value = at;
    REQUIRE(parameter.grad.size() > 0);
    // A constant added to all keys changes no probability.
    const double given = Matrix<double>(parameter.grad).cwiseProduct(direction).sum();
    CHECK(std::abs(given - slope) <= 1e-7 * std::max(1.0, parameter.grad.norm() * direction.norm()));
    if (!path.str().ends_with("key.bias") && !path.str().ends_with("k_lin.bias")) CHECK(parameter.grad.norm() > 1e-3);
  });
  return count;
}

const Pass training{.training = true, .seed = 3, .step = 4, .first_sample = 11};

using Classifier = lora::BertForSequenceClassification<double>;

}  // namespace

TEST_CASE("classifiers: every gradient, down to the tables, is the derivative, with dropout and without") {
  lora::EncoderConfig config = small_config();
  for (const Pass& pass : {Pass{}, training}) {
    CHECK(check_all_gradients(new_model<Classifier>(), small_batch(), pass) == 5 + 3 * 16 + 4);
    CHECK(check_all_gradients(new_model<lora::BertForTokenClassification<double>>(), small_batch(), pass) ==
          5 + 48 + 2);
  }
  config.first_position = 3;
  CHECK(check_all_gradients(new_model<lora::RobertaForSequenceClassification<double>>(config), small_batch(),
                            training) == 5 + 48 + 4);
  config.type_vocab_size = 0;
  config.hidden_act = lora::ActivationKind::relu;
  CHECK(check_all_gradients(new_model<lora::DistilBertForSequenceClassification<double>>(config), small_batch(false),
                            training) == 4 + 48 + 4);
}

TEST_CASE("classifiers: paths are those of transformers") {
  lora::Rng rng(1);
  lora::EncoderConfig config = small_config();
  config.num_hidden_layers = 1;
  const auto names = lora::tensor_names(Classifier(config, rng));
  CHECK(names[0] == "bert.embeddings.word_embeddings.weight");
  CHECK(names[5] == "bert.encoder.layer.0.attention.self.query.weight");
  CHECK(names[20] == "bert.encoder.layer.0.output.LayerNorm.bias");
  CHECK(names[21] == "bert.pooler.dense.weight");
  CHECK(names.back() == "classifier.bias");
  CHECK(lora::tensor_names(lora::BertModel<double>(config, rng))[5] == "encoder.layer.0.attention.self.query.weight");
  config.type_vocab_size = 0;
  const auto distil = lora::tensor_names(lora::DistilBertForSequenceClassification<double>(config, rng));
  CHECK(distil[4] == "distilbert.transformer.layer.0.attention.q_lin.weight");
  CHECK(distil[20] == "pre_classifier.weight");
}

TEST_CASE("classifiers: nothing below the lowest layer that trains is kept or goes backward") {
  lora::Rng rng(5);
  Classifier model(small_config(), rng);
  lora::attach(model, {.rank = 2}, {.modules = {"query"}, .blocks = {2}}, rng);
  lora::testing::fill_parameters(model, rng, 0.5);
  const Tokens batch = small_batch();
  Classifier::Cache cache;
  const auto dy = random_matrix(3, 4, rng);
  model.forward(batch, cache, training);
  CHECK(cache.kept.encoder.lowest == 2);
  CHECK((cache.kept.encoder.blocks[1].bytes() == 0 && cache.kept.encoder.blocks[0].bytes() > 0));
  model.backward(batch, dy, cache);
  CHECK(gradients(model).size() == 2);

  lora::attach(model, {.rank = 2}, {.modules = {"classifier"}}, rng, "head");
  lora::zero_gradients(model);
  model.forward(batch, cache, training);
  CHECK(cache.kept.encoder.lowest == 3);
  const auto before = gradients(model);
  model.backward(batch, dy, cache);
  CHECK(gradients(model).size() == before.size() + 2);
}

TEST_CASE("classifiers: checkpointing keeps less and changes no bit") {
  lora::Rng rng(6);
  const Tokens batch = small_batch();
  const auto dy = random_matrix(3, 4, rng);
  for (const bool adapted : {false, true}) {
    lora::EncoderConfig config = small_config();
    config.num_hidden_layers = 8;
    Classifier model = new_model<Classifier>(config);
    if (adapted) {
      lora::attach(model, {.rank = 2, .dropout = 0.3}, {.modules = {"query", "dense"}}, rng);
      lora::testing::fill_parameters(model, rng, 0.5);
    }
    Classifier::Cache cache, other;
    const Matrix<double> y = model.forward(batch, cache, training);
    model.backward(batch, dy, cache);
    const auto expected = gradients(model);
    lora::zero_gradients(model);
    model.encoder.checkpointing = true;
    CHECK(Matrix<double>(model.forward(batch, other, training)) == y);
    model.backward(batch, dy, other);
    CHECK(difference(gradients(model), expected) == 0);
    CHECK(other.kept.bytes() < cache.kept.bytes() / 2);
    lora::zero_gradients(model);
    model.backward(batch, dy, other);  // once more, of the same pass
    CHECK(difference(gradients(model), expected) == 0);
    model.encoder.checkpointing = false;  // between two passes of one cache
    lora::zero_gradients(model);
    model.forward(batch, other, training);
    model.backward(batch, dy, other);
    CHECK(difference(gradients(model), expected) == 0);
  }
}

TEST_CASE("classifiers: a batch split between texts, a mixed batch, and threads", "[threads]") {
  lora::Rng rng(7);
  Classifier model(small_config(), rng);
  lora::attach(model, {.rank = 2, .dropout = 0.3}, Classifier::default_targets(), rng, "a");
  lora::attach(model, {.rank = 3, .dropout = 0.1}, Classifier::default_targets(), rng, "b");
  lora::testing::fill_parameters(model, rng, 0.5);
  const auto a = lora::adapter(model, "a"), b = lora::adapter(model, "b");
  const Tokens all = {{3, 7, 7, 1}, {5, 0, 19}, {2}, {4, 9, 11, 13, 6}}, first = {{3, 7, 7, 1}, {5, 0, 19}},
               second = {{2}, {4, 9, 11, 13, 6}};
  const auto dy = random_matrix(3, 4, rng);
  const std::vector<lora::Segment> segments = {{.adapter = b, .first = 7, .count = 6},
                                               {.adapter = a, .first = 0, .count = 7}};
  Pass mixed = training, of_a = training, of_b = training;
  mixed.segments = segments;
  of_a.adapter = a;
  of_b.adapter = b;
  of_b.first_sample += 7;

  Classifier::Cache cache;
  const Matrix<double> y = model.forward(all, cache, mixed);
  model.backward(all, dy, cache);
  const auto together = gradients(model);
  lora::zero_gradients(model);
  const Matrix<double> y_a = model.forward(first, cache, of_a);
  model.backward(first, dy.leftCols(2), cache);
  const Matrix<double> y_b = model.forward(second, cache, of_b);
  model.backward(second, dy.rightCols(2), cache);
  CHECK((y.leftCols(2) - y_a).norm() <= 1e-13 * y.norm());
  CHECK((y.rightCols(2) - y_b).norm() <= 1e-13 * y.norm());
  CHECK(difference(gradients(model), together) <= 1e-12);

  lora::Workers workers(3);
  Pass shared = mixed;
  shared.executor = &workers;
  lora::zero_gradients(model);
  CHECK(Matrix<double>(model.forward(all, cache, shared)) == y);
  model.backward(all, dy, cache);
  CHECK(difference(gradients(model), together) == 0);

  // Passes of two adapters at once.
  lora::zero_gradients(model);
  const auto run = [&](const Tokens& tokens, const Pass& pass, const Matrix<double>& its_dy, Matrix<double>& its_y) {
    Classifier::Cache own;
    for (int k = 0; k < 10; ++k) {
      its_y = model.forward(tokens, own, pass);
      if (k == 0) model.backward(tokens, its_dy, own);
    }
  };
  Matrix<double> again_a, again_b;
  std::thread other([&] { run(second, of_b, dy.rightCols(2), again_b); });
  run(first, of_a, dy.leftCols(2), again_a);
  other.join();
  CHECK((again_a == y_a && again_b == y_b));
  CHECK(difference(gradients(model), together) <= 1e-12);

  std::vector<lora::Segment> cut = segments;
  cut[0].first = cut[1].count = 6;
  cut[0].count = 7;
  mixed.segments = cut;
  CHECK_THROWS_WITH(model.forward(all, cache, mixed),
                    lora_test::contains("the segment with the columns 6 to 12 cuts a sequence"));
}

TEST_CASE("classifiers: nothing allocates after the largest batch") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(8);
  Classifier model(small_config(), rng);
  lora::attach(model, {.rank = 2, .dropout = 0.1}, Classifier::default_targets(), rng);
  const Tokens large = small_batch(), small = {{1, 2}, {3}};
  const auto dy = random_matrix(3, 4, rng);
  const Matrix<double> few = dy.leftCols(2);
  lora::AdamW<double> optimizer;
  for (const bool checkpointing : {false, true}) {
    model.encoder.checkpointing = checkpointing;
    Classifier::Cache cache;
    Matrix<double> y(3, 4);
    lora::Scratch scratch;
    const auto step = [&] {
      model.forward(large, cache, training);
      lora::zero_gradients(model);
      model.backward(large, dy, cache);
      optimizer.step(model);
      model.forward(small, cache, training);
      model.backward(small, few, cache);
      model.forward(large, y, nullptr, scratch, {});
    };
    step();
    CHECK(lora_test::heap_allocations_in(step) == 0);
  }
  // The texts too.
  Tokens batch;
  const std::vector<int> text = {1, 2, 3};
  const auto fill = [&] {
    batch.clear();
    for (int k = 0; k < 4; ++k) batch.add(text);
  };
  fill();
  CHECK(lora_test::heap_allocations_in(fill) == 0);
}

TEST_CASE("classifiers: bad batches, labels and passes are refused by name") {
  lora::Rng rng(9);
  Classifier model(small_config(), rng);
  Classifier::Cache cache;
  const Matrix<double> dy = Matrix<double>::Zero(3, 1);
  CHECK_THROWS_AS(model.backward({{1}}, dy, cache), lora::StateError);
  CHECK_THROWS_WITH(model.forward({{1, 20}}, cache),
                    "Embedding::forward: id 1 is 20, expected 0 to vocabulary - 1 = 19");
  CHECK_THROWS_WITH(model.forward({{1, -1}}, cache),
                    "Embedding::forward: id 1 is -1, expected 0 to vocabulary - 1 = 19");
  CHECK_THROWS_WITH(
      model.forward({{1}, std::vector<int>(13, 2)}, cache),
      "Encoder::forward: text 1 has 13 tokens, expected at most 12, the positions of the model: truncate it");
  CHECK_THROWS_WITH(model.forward(Tokens(), cache), "Encoder::forward: the batch has no texts, expected at least one");
  CHECK_THROWS_AS(model.backward({{1}}, dy, cache), lora::StateError);
  Tokens typed;
  typed.add(std::vector<int>{1, 2}, std::vector<int>{0, 2});
  CHECK_THROWS_WITH(model.forward(typed, cache), "Embedding::add: id 1 is 2, expected 0 to vocabulary - 1 = 1");
  CHECK_THROWS_WITH(typed.add(std::vector<int>{}), "Tokens::add: the text has no tokens, expected at least one");
  CHECK_THROWS_WITH(typed.add(std::vector<int>{1}, std::vector<int>{0, 0}),
                    "Tokens::add: 2 types given, expected as many as ids, 1");
  CHECK(typed.count() == 1);

  model.forward({{1, 2}, {3}}, cache);
  CHECK_THROWS_WITH(model.backward({{1, 2}, {3}}, dy, cache), lora_test::contains("dy has 1 columns"));
  CHECK_THROWS_WITH(model.backward({{1, 2}}, Matrix<double>::Zero(3, 2), cache),
                    lora_test::contains("the batch has 2 tokens"));
  Classifier other = model;
  CHECK_THROWS_AS(other.backward({{1, 2}, {3}}, Matrix<double>::Zero(3, 2), cache), lora::StateError);
  CHECK(gradients(model).empty());

  lora::EncoderConfig config = small_config();
  config.type_vocab_size = 0;
  const lora::DistilBertModel<double> distil(config, rng);
  Tokens one;
  one.add(std::vector<int>{1}, std::vector<int>{0});
  CHECK_THROWS_WITH(distil(one),
                    "Encoder::forward: the batch has token types, and the model has none, expected ids alone");
  config.num_attention_heads = 4;
  CHECK_THROWS_WITH(Classifier(config, rng),
                    "BertForSequenceClassification: hidden_size is 6, expected a multiple of num_attention_heads = 4");
}

TEST_CASE("classifiers: sentence embeddings are means of length 1") {
  lora::Rng rng(10);
  const lora::BertModel<double> model(small_config(), rng);
  const Tokens batch = {{3, 7, 7, 1}, {5}};
  const Matrix<double> y = model(batch), sentences = model.sentence_embeddings(batch);
  CHECK((sentences.col(0) - y.leftCols(4).rowwise().mean().normalized()).norm() <= 1e-15);
  CHECK((sentences.col(1) - y.col(4).normalized()).norm() <= 1e-15);
}

TEST_CASE("classifiers: report predicts the memory of a step") {
  lora::EncoderConfig config = small_config();
  config.hidden_size = 32;
  config.intermediate_size = 96;
  config.num_hidden_layers = 5;
  config.max_position_embeddings = 60;
  Tokens batch;
  for (int length : {40, 25, 60, 33, 7, 50, 38, 60}) batch.add(std::vector<int>(std::size_t(length), length % 19));
  lora::Workers two(2);

  const auto check = [&](auto model, const char* what, const lora::Targets& targets, lora::Executor* executor) {
    INFO(what);
    using Model = decltype(model);
    const Pass pass{.training = true, .seed = 3, .executor = executor};
    lora::Rng rng(2);
    if (!targets.modules.empty()) lora::attach(model, {.rank = 4, .alpha = 8}, targets, rng);
    const auto dy = random_matrix(model.out_features(), Model::out_columns(batch), rng);
    typename Model::Cache cache;
    lora::AdamW<double> optimizer;
    const auto step = [&] {
      model.forward(batch, cache, pass);
      model.backward(batch, dy, cache);
      optimizer.step(model);
    };
    const lora::Report report = lora::report(model, batch.sequences(), executor == nullptr ? 1 : executor->threads());
    const auto& bytes = report.account.current.bytes;
    const auto near = [](double given, double expected) { return std::abs(given - expected) <= 0.05 * expected; };
    Index before = 0, after = 0;  // gradients are made by the first backward that adds to them
    lora::visit_parameters(model, [&](const lora::Path&, auto& parameter) { before += parameter.grad.size(); });
    const auto peak = lora_test::heap_peak_in(step);
    lora::visit_parameters(model, [&](const lora::Path&, auto& parameter) { after += parameter.grad.size(); });
    const double held = static_cast<double>(peak) - static_cast<double>(after - before) * sizeof(double);
    CHECK(bytes.gradients == after * Index(sizeof(double)));
    INFO("kept " << bytes.activations << ", scratch " << bytes.workspace << ", moments " << bytes.optimizer << "; held "
                 << held << ", kept " << cache.kept.bytes() << ", scratch " << cache.scratch.bytes());
    CHECK(near(double(bytes.activations), double(cache.kept.bytes() + cache.y.bytes())));
    CHECK(near(double(bytes.workspace), double(cache.scratch.bytes())));
    CHECK(near(double(bytes.activations + bytes.workspace + bytes.optimizer), held));
    if (targets.modules.empty()) CHECK(report.account.full.bytes.total() == report.account.current.bytes.total());
  };
  const lora::Targets attention{.modules = {"query", "value"}};
  using Plain = lora::BertModel<double>;
  using TokenClassifier = lora::BertForTokenClassification<double>;
  check(new_model<Classifier>(config), "query and value", attention, nullptr);
  check(new_model<Classifier>(config), "two threads", attention, &two);
  check(new_model<Classifier>(config), "upper blocks", {.modules = {"output.dense"}, .blocks = {3, 4}}, nullptr);
  check(new_model<Classifier>(config), "everything", {}, nullptr);
  check(new_model<TokenClassifier>(config), "tokens", {.modules = "all-linear", .exclude = {"classifier"}}, nullptr);
  check(new_model<Plain>(config), "plain", attention, &two);
  auto economical = new_model<Classifier>(config);
  economical.encoder.checkpointing = true;
  check(std::move(economical), "checkpointing", attention, nullptr);
  config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0;
  check(new_model<Classifier>(config), "without dropout", attention, nullptr);
}
