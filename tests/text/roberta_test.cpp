// From a text to what a RoBERTa makes of it: the ids of its tokenizer are those that its embeddings have rows for.
#include "lora/transformers/roberta.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/model/attach.hpp"
#include "lora/optim/adam.hpp"
#include "support/catch.hpp"
#include "text/files.hpp"

#include <string>
#include <vector>

using Model = lora::RobertaForSequenceClassification<double>;

TEST_CASE("A RoBERTa learns to sort pairs of texts") {
  const auto tokenizer = lora_test::tokenizer_of("roberta");
  lora::Rng rng(1);
  Model model({.vocab_size = tokenizer.size(),
               .hidden_size = 16,
               .num_hidden_layers = 2,
               .num_attention_heads = 2,
               .intermediate_size = 32,
               .max_position_embeddings = 40,
               .type_vocab_size = 1,
               .hidden_dropout_prob = 0,
               .attention_probs_dropout_prob = 0,
               .initializer_range = 0.3,
               .num_labels = 2},
              rng);
  const std::vector<std::string> texts{"a small  animal", "the state of being\n", "it's furry", "north \xe5\x8c\x97"};
  const std::vector<int> labels{0, 1, 0, 1};
  lora::Tokens batch;
  for (const auto& text : texts) {
    const auto pair = tokenizer.encode_pair(text, "what <mask> is it?", {.max_tokens = 38});
    batch.add(pair.ids, pair.types);  // one type, and no other is there
  }
  lora::attach(model, {.rank = 4, .alpha = 8}, Model::default_targets(), rng);
  lora::AdamW<double> optimizer({.lr = 1e-2});
  Model::Cache cache;
  lora::Matrix<double> dlogits;
  double first = 0, last = 0;
  for (std::uint64_t step = 0; step < 60; ++step) {
    const auto logits = model.forward(batch, cache, {.training = true, .step = step});
    last = lora::softmax_cross_entropy(logits, labels, &dlogits);
    if (step == 0) first = last;
    lora::zero_gradients(model);
    model.backward(batch, dlogits, cache);
    optimizer.step(model);
  }
  CHECK(last < first / 4);
}
