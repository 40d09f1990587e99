#pragma once
/// What the encoders of BERT's kind have in common: embeddings and blocks.

#include "lora/nn/encoder_block.hpp"
#include "lora/transformers/encoder_config.hpp"
#include "lora/transformers/layer_source.hpp"
#include "lora/transformers/tokens.hpp"

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The names of an encoder's parts; those from `query` on are of a block.
struct EncoderPaths {
  const char *word, *position, *type, *norm, *blocks;
  const char *query, *key, *value, *attention_output, *attention_norm, *intermediate, *output, *output_norm;
  bool drops_attention;  ///< the attention branch, not only its probabilities
};

/// x = drop(N(word[id] + position[t] + type[k])), then the blocks.
///
/// A pass keeps nothing of what lies below the lowest block that trains, and backward ends there.
template <class S>
class Encoder {
 public:
  struct Block : EncoderBlock<S> {
    const EncoderPaths* paths;

    Block(EncoderBlock<S> block, const EncoderPaths& names) : EncoderBlock<S>(std::move(block)), paths(&names) {}
    static void visit(auto& self, auto&& f) {
      f(self.paths->query, self.attention.query);
      f(self.paths->key, self.attention.key);
      f(self.paths->value, self.attention.value);
      f(self.paths->attention_output, self.attention.output);
      f(self.paths->attention_norm, self.attention_norm);
      f(self.paths->intermediate, self.feed_forward.intermediate);
      f(self.paths->output, self.feed_forward.output);
      f(self.paths->output_norm, self.output_norm);
    }
  };

  Embedding<S> word, position;
  std::optional<Embedding<S>> type;
  LayerNorm<S> norm;
  std::vector<Block> blocks;
  /// Keep only the input of each block, and compute it again in backward: a third more time for a pass that keeps
  /// features numbers a token and block instead of 7 features + hidden. The same bits, if the pass names its adapter or
  /// the selection does not change before backward.
  bool checkpointing = false;

  struct Kept {
    std::vector<typename EncoderBlock<S>::Kept> blocks;  ///< from `lowest` on; with checkpointing, only one
    std::vector<Buffer<S>> inputs;                       ///< of block `lowest`; with checkpointing, of all from there
    Buffer<S> sum;                                       ///< what the norm of the embeddings reads, if they train
    typename LayerNorm<S>::Kept norm;
    KeptPass pass;
    std::vector<Index> columns;  ///< of the result, in a restricted pass
    Sequences queries;           ///< how many of them each sequence has
    std::size_t lowest = 0;      ///< the number of blocks if nothing trains
    bool checkpointing = false;
    std::size_t held = 0;  ///< with checkpointing: the block whose pass is in blocks[0]
    Index tokens = -1;     ///< -1: no pass that backward could follow

    Index bytes() const {
      Index all = sum.bytes() + norm.bytes();
      for (const auto& block : blocks) all += block.bytes();
      for (const auto& input : inputs) all += input.bytes();
      return all;
    }
  };

  /// paths must outlive the encoder; root: what comes before all of them, "bert." for a classifier's. Throws
  /// ConfigError, and what the source throws.
  Encoder(const EncoderPaths& paths, const EncoderConfig& config, const std::string& root, LayerSource<S>& source);

  /// Writes y (features, tokens). Throws ValueError for an id or type that is not in its table, or a text that is too
  /// long, ShapeError; nothing is computed then.
  void forward(const Tokens& tokens, MutableColumns<S> y, Kept* kept, Scratch& scratch, const Pass& pass) const {
    run(tokens, {}, nullptr, y, kept, scratch, pass);
  }
  /// Writes only these columns of y, ascending; queries: how many of them each text has.
  void forward(const Tokens& tokens, std::span<const Index> columns, const Sequences& queries, MutableColumns<S> y,
               Kept* kept, Scratch& scratch, const Pass& pass) const {
    run(tokens, columns, &queries, y, kept, scratch, pass);
  }

  /// Gradients accumulate. dy has the columns of forward's y. Throws StateError, ShapeError.
  void backward(const Tokens& tokens, const Columns<S>& dy, Kept& kept, Scratch& scratch);

  bool trains(const Kept& kept) const { return kept.lowest < blocks.size(); }
  Index features() const { return norm.in_features(); }

  void check_backward(const Caller& who, const Tokens& tokens, const Columns<S>& dy, const Kept& kept) const;

  static constexpr const char* layer_name() { return "Encoder"; }
  static void visit(auto& self, auto&& f) {
    f(self.paths_->word, self.word);
    f(self.paths_->position, self.position);
    if (self.type) f(self.paths_->type, *self.type);
    f(self.paths_->norm, self.norm);
    f(self.paths_->blocks, self.blocks);
  }

 private:
  using Block_ = EncoderBlock<S>;

  bool embeddings_train() const;

  /// The position or type of each token, in memory of the scratch.
  struct Numbers {
    std::vector<int> positions, types;
    Index bytes() const { return Index((positions.capacity() + types.capacity()) * sizeof(int)); }
  };
  const Numbers& numbers_of(const Tokens& tokens, Scratch& scratch) const {
    Numbers& numbers = scratch.get<Numbers>();
    const Sequences& sequences = tokens.sequences();
    numbers.positions.resize(tokens.ids().size());
    for (Index s = 0; s < sequences.count(); ++s) {
      const auto [first, count] = sequences[s];
      for (Index t = 0; t < count; ++t) {
        numbers.positions[std::size_t(first + t)] = static_cast<int>(first_position_ + t);
      }
    }
    numbers.types.assign(tokens.types().begin(), tokens.types().end());
    numbers.types.resize(tokens.ids().size(), 0);
    return numbers;
  }

  void check(const Caller& who, const Tokens& tokens) const;

  void embed(const Tokens& tokens, MutableColumns<S> x, Kept* kept, Scratch& scratch, const Pass& pass) const;

  void run(const Tokens& tokens, std::span<const Index> columns, const Sequences* queries, MutableColumns<S>& y,
           Kept* kept, Scratch& scratch, const Pass& pass) const;

  /// Computes the pass of block l again, into blocks[0].
  void recompute(const Tokens& tokens, std::size_t l, Kept& kept, Scratch& scratch, const Pass& pass) const;

  const EncoderPaths* paths_;
  double dropout_;
  Index first_position_;
};

template <class S>
Encoder<S>::Encoder(const EncoderPaths& paths, const EncoderConfig& config, const std::string& root,
                    LayerSource<S>& source)
    : word(source.embedding(root + paths.word, config.vocab_size, config.hidden_size)),
      position(source.embedding(root + paths.position, config.max_position_embeddings, config.hidden_size)),
      norm(source.layer_norm(root + paths.norm, config.hidden_size, config.layer_norm_eps)),
      paths_(&paths),
      dropout_(config.hidden_dropout_prob),
      first_position_(config.first_position) {
  if (config.type_vocab_size > 0) {
    type.emplace(source.embedding(root + paths.type, config.type_vocab_size, config.hidden_size));
  }
  const Index d = config.hidden_size;
  for (Index l = 0; l < config.num_hidden_layers; ++l) {
    const std::string at = root + paths.blocks + "." + std::to_string(l) + ".";
    const AttentionShape shape{.heads = config.num_attention_heads,
                               .head_dim = d / config.num_attention_heads,
                               .dropout = config.attention_probs_dropout_prob,
                               .stream = block_stream(l)};
    const auto linear = [&](const char* path, Index in, Index out) {
      return source.linear(at + path, {.in = in, .out = out});
    };
    const auto layer_norm = [&](const char* path) { return source.layer_norm(at + path, d, config.layer_norm_eps); };
    Linear<S> query = linear(paths.query, d, d), key = linear(paths.key, d, d), value = linear(paths.value, d, d);
    MultiHeadAttention<S> attention(shape, std::move(query), std::move(key), std::move(value),
                                    linear(paths.attention_output, d, d));
    LayerNorm<S> attention_norm = layer_norm(paths.attention_norm);
    Linear<S> intermediate = linear(paths.intermediate, d, config.intermediate_size);
    FeedForward<S> feed_forward(std::move(intermediate), linear(paths.output, config.intermediate_size, d),
                                config.hidden_act);
    const EncoderDropout dropout{.attention = paths.drops_attention ? config.hidden_dropout_prob : 0,
                                 .feed_forward = config.hidden_dropout_prob,
                                 .stream = branch_stream(l)};
    blocks.emplace_back(EncoderBlock<S>(std::move(attention), std::move(attention_norm), std::move(feed_forward),
                                        layer_norm(paths.output_norm), dropout),
                        paths);
  }
}

template <class S>
void Encoder<S>::check_backward(const Caller& who, const Tokens& tokens, const Columns<S>& dy, const Kept& kept) const {
  if (kept.tokens < 0) fail<StateError>(who, "this cache has seen no forward pass, expected forward before backward");
  check_extent(who, "the batch", tokens.sequences().total(), "tokens", "those of the forward pass", kept.tokens);
  check_rows(who, "dy", dy.rows(), "features", features());
  check_cols(who, "dy", dy.cols(), "the columns of forward's result",
             kept.columns.empty() ? kept.tokens : static_cast<Index>(kept.columns.size()));
}

template <class S>
bool Encoder<S>::embeddings_train() const {
  return word.trains() || position.trains() || (type && type->trains()) || norm.trains({});
}

template <class S>
void Encoder<S>::check(const Caller& who, const Tokens& tokens) const {
  const Sequences& sequences = tokens.sequences();
  if (sequences.count() < 1) fail<ShapeError>(who, "the batch has no texts, expected at least one");
  const Index most = position.vocabulary() - first_position_;
  for (Index s = 0; s < sequences.count() && sequences.longest() > most; ++s) {
    if (sequences[s].count <= most) continue;
    fail<ValueError>(who, "text " + std::to_string(s) + " has " + std::to_string(sequences[s].count) +
                              " tokens, expected at most " + std::to_string(most) +
                              ", the positions of the model: truncate it");
  }
  if (!type && !tokens.types().empty()) {
    fail<ValueError>(who, "the batch has token types, and the model has none, expected ids alone");
  }
}

template <class S>
void Encoder<S>::embed(const Tokens& tokens, MutableColumns<S> x, Kept* kept, Scratch& scratch,
                       const Pass& pass) const {
  const Numbers& numbers = numbers_of(tokens, scratch);
  word.forward(tokens.ids(), x);
  position.add(numbers.positions, x);
  if (type) type->add(numbers.types, x);
  if (kept != nullptr && embeddings_train()) {
    auto sum = kept->sum.resize(x.rows(), x.cols());
    sum = x;
    norm.forward(sum, x, &kept->norm, scratch, pass);
  } else {
    norm.forward(x, x, nullptr, scratch, pass);
  }
  drop<S>(x, dropout_, embeddings_stream, pass, scratch);
}

template <class S>
void Encoder<S>::run(const Tokens& tokens, std::span<const Index> columns, const Sequences* queries,
                     MutableColumns<S>& y, Kept* kept, Scratch& scratch, const Pass& pass) const {
  const Caller who = "Encoder::forward";
  check(who, tokens);
  check_segments(who, pass, tokens.sequences());
  const Index total = tokens.sequences().total();
  check_rows(who, "y", y.rows(), "features", features());
  check_cols(who, "y", y.cols(), queries == nullptr ? "the tokens" : "the chosen columns",
             queries == nullptr ? total : static_cast<Index>(columns.size()));
  if (kept != nullptr) kept->tokens = -1;
  const auto first = scratch.borrow<S>(), second = scratch.borrow<S>();
  Buffer<S>*in = &*first, *out = &*second;
  embed(tokens, in->resize(features(), total), kept, scratch, pass);
  bool found = kept != nullptr && embeddings_train();  // the lowest block that trains, or lies above what does
  if (kept != nullptr) {
    kept->lowest = found ? 0 : blocks.size();
    kept->blocks.resize(checkpointing ? 1 : blocks.size());
    kept->inputs.resize(checkpointing ? blocks.size() : 1);
  }
  for (std::size_t l = 0; l < blocks.size(); ++l, std::swap(in, out)) {
    const Columns<S> x(in->view());
    const bool restricted = queries != nullptr && l + 1 == blocks.size();
    typename Block_::Kept* own = nullptr;
    if (kept != nullptr) own = &kept->blocks[checkpointing || !found ? 0 : l - kept->lowest];
    if (restricted) {
      blocks[l].forward(x, tokens.sequences(), columns, *queries, y, own, scratch, pass);
    } else if (l + 1 == blocks.size()) {
      blocks[l].forward(x, tokens.sequences(), y, own, scratch, pass);
    } else {
      blocks[l].forward(x, tokens.sequences(), out->resize(features(), total), own, scratch, pass);
    }
    if (kept == nullptr) continue;
    if (!found && blocks[l].trains(*own)) {
      found = true;
      kept->lowest = l;
    }
    // The input of a block above is computed again from what the block below it keeps.
    if (found && (checkpointing || l == kept->lowest)) {
      auto input = kept->inputs[checkpointing ? l : 0].resize(features(), total);
      input = x;
    }
  }
  if (kept == nullptr) return;
  kept->pass.assign(pass);
  kept->columns.assign(columns.begin(), columns.end());
  if (queries != nullptr) kept->queries = *queries;
  kept->checkpointing = checkpointing;
  kept->held = blocks.size() - 1;
  kept->tokens = total;
}

template <class S>
void Encoder<S>::recompute(const Tokens& tokens, std::size_t l, Kept& kept, Scratch& scratch, const Pass& pass) const {
  if (kept.held == l) return;
  const auto result = scratch.borrow<S>();
  const Columns<S> x(kept.inputs[l].view());
  if (l + 1 == blocks.size() && !kept.columns.empty()) {
    auto y = result->resize(features(), static_cast<Index>(kept.columns.size()));
    blocks[l].forward(x, tokens.sequences(), kept.columns, kept.queries, y, &kept.blocks[0], scratch, pass);
  } else {
    blocks[l].forward(x, tokens.sequences(), result->resize(features(), x.cols()), &kept.blocks[0], scratch, pass);
  }
  kept.held = l;
}

template <class S>
void Encoder<S>::backward(const Tokens& tokens, const Columns<S>& dy, Kept& kept, Scratch& scratch) {
  check_backward("Encoder::backward", tokens, dy, kept);
  if (!trains(kept)) return;
  const Pass pass = kept.pass.pass();
  const Index total = kept.tokens;
  const bool embeddings = embeddings_train();
  const auto first = scratch.borrow<S>(), second = scratch.borrow<S>(), input = scratch.borrow<S>();
  Buffer<S>*in = &*first, *out = &*second;
  for (std::size_t l = blocks.size(); l-- > kept.lowest; std::swap(in, out)) {
    const bool top = l + 1 == blocks.size(), bottom = l == kept.lowest;
    typename Block_::Kept& own = kept.blocks[kept.checkpointing ? 0 : l - kept.lowest];
    if (!kept.checkpointing && !bottom) {
      blocks[l - 1].output(kept.blocks[l - 1 - kept.lowest], input->resize(features(), total), scratch);
    }
    const Columns<S> x = kept.checkpointing ? kept.inputs[l].view() : bottom ? kept.inputs[0].view() : input->view();
    const Columns<S> gradient = top ? dy : Columns<S>(in->view());
    if (kept.checkpointing) recompute(tokens, l, kept, scratch, pass);
    if (bottom && !embeddings) return blocks[l].backward(x, gradient, no_gradient, own, scratch);
    blocks[l].backward(x, gradient, out->resize(features(), total), own, scratch);
  }
  // forward: x = drop(N(sum)), sum = word + position + type
  auto dx = in->view();
  drop<S>(dx, dropout_, embeddings_stream, pass, scratch);
  norm.backward(kept.sum.view(), dx, dx, kept.norm, scratch);
  const Numbers& numbers = numbers_of(tokens, scratch);
  word.backward(tokens.ids(), dx);
  position.backward(numbers.positions, dx);
  if (type) type->backward(numbers.types, dx);
}

}  // namespace lora::inline LORA_ABI::detail

#ifdef LORA_COMPILED  // by the target lora::compiled

namespace lora::inline LORA_ABI::detail {

LORA_COMPILED_FLOAT class Encoder<float>;
LORA_COMPILED_DOUBLE class Encoder<double>;

}  // namespace lora::inline LORA_ABI::detail
#endif
