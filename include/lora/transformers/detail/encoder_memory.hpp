#pragma once
/// What the passes of an encoder hold, from sizes alone: an account of the buffers in encoder.hpp and of its blocks.

#include "lora/core/parameters.hpp"
#include "lora/model/accounting.hpp"
#include "lora/transformers/detail/encoder.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

namespace lora::inline LORA_ABI::detail {

/// The sizes of a Scratch's buffers. They are lent and returned like a stack, so the k-th of those that are lent at
/// once is always the same one, and it grows to the most that was ever asked of it.
class LentSizes {
 public:
  void lend(std::size_t k, Index numbers) {
    if (k >= most_.size()) most_.resize(k + 1, 0);
    most_[k] = std::max(most_[k], numbers);
  }
  /// Of what an adapter requests, of which there is one of each type.
  void request(Index numbers) { requested_ = std::max(requested_, numbers); }
  Index total() const { return std::accumulate(most_.begin(), most_.end(), requested_); }

 private:
  std::vector<Index> most_;
  Index requested_ = 0;
};

/// A batch of these texts, of which the result has some columns, all if negative; what trains, or everything.
struct EncoderBatch {
  const Sequences& texts;
  Index chosen = -1;
  int threads = 1;
  bool everything = false;
  /// Buffers that the caller borrows before the encoder's forward and backward.
  std::size_t lent_forward = 0, lent_backward = 0;
};

/// The numbers that the selected adapters of a layer keep: z = s A x. lent: receives those of backward, g = s B^T dy.
template <class S>
Index adapter_numbers(const Linear<S>& layer, Index columns, LentSizes& lent) {
  Index kept = 0;
  for (const auto& choice : layer.adapters().selection()->choices) {
    const Index numbers = choice.part->adapter.count().rank * columns;
    lent.request(numbers);
    kept += numbers;
  }
  return kept;
}

/// Numbers that are kept by a forward pass; lent: receives the scratch of forward and backward.
template <class S>
Index encoder_numbers(const Encoder<S>& encoder, const EncoderBatch& batch, LentSizes& lent) {
  using Head = AttentionHead<S>;
  constexpr Index of_norm = 3;  // numbers a column: layer_norm.hpp
  const Sequences& texts = batch.texts;
  const Index all = texts.total(), some = batch.chosen < 0 ? all : batch.chosen, d = encoder.features();
  const auto trains = [](const auto& part) { return count_parameters(part).trainable > 0; };
  const bool embeddings = batch.everything || trains(encoder.word) || trains(encoder.position) ||
                          trains(encoder.norm) || (encoder.type && trains(*encoder.type));
  std::size_t lowest = 0;
  while (!embeddings && lowest < encoder.blocks.size() && !trains(encoder.blocks[lowest])) ++lowest;

  const std::size_t up = batch.lent_forward, down = batch.lent_backward;
  for (const std::size_t k : {up, up + 1}) lent.lend(k, d * all);
  Index kept = embeddings ? d * all + of_norm * all : 0, largest = 0;
  for (std::size_t l = 0; l < encoder.blocks.size(); ++l) {
    const auto& block = encoder.blocks[l];
    const MultiHeadAttention<S>& attention = block.attention;
    const AttentionShape& shape = attention.shape();
    const bool top = l + 1 == encoder.blocks.size(), restricted = top && batch.chosen >= 0;
    const Index columns = top ? some : all, hidden = block.feed_forward.intermediate.out_features();
    const Index own = shape.query_rows() * columns, seen = shape.key_rows() * all;
    const double pairs =
        attention_work<S>(shape, restricted ? Sequences::of_one_length(texts.count(), 1) : texts, texts);
    const auto panels = [&](Index size, double work) {
      return size * job_workers(texts.count() * shape.key_heads_or_heads(), batch.threads, work);
    };
    const Index masks = (columns + mask_columns - 1) / mask_columns;
    const Index mask = d * std::min(mask_columns, columns) *
                       job_workers(masks, batch.threads, mask_cost * static_cast<double>(d * columns));
    const Index longest = texts.longest();

    // forward: of the block, what `kept` does not have; then of attention, dropout and feed-forward, one after another
    const std::size_t inner = up + (restricted ? 6 : 5);
    lent.lend(up + (restricted ? 4 : 3), d * columns);
    lent.lend(inner, panels(Head::forward_size(shape.head_dim, longest), 2 * pairs));
    lent.lend(inner, std::max(hidden * columns, mask));
    if (l < lowest) continue;
    Index numbers = 2 * own + 2 * seen + shape.heads * columns + 2 * d * columns + hidden * columns +
                    (restricted ? d * columns : 0) + 2 * of_norm * columns;
    if (!batch.everything) {
      for (const Linear<S>* layer :
           {&attention.query, &attention.output, &block.feed_forward.intermediate, &block.feed_forward.output}) {
        numbers += adapter_numbers(*layer, columns, lent);
      }
      numbers += adapter_numbers(attention.key, all, lent) + adapter_numbers(attention.value, all, lent);
    }
    kept += encoder.checkpointing ? 0 : numbers;
    largest = std::max(largest, numbers);
    if (encoder.checkpointing || l == lowest) kept += d * all;

    // backward: of the encoder, of the block, then of feed-forward and attention, one after another
    for (const std::size_t k : {down, down + 1}) lent.lend(k, l > lowest || embeddings ? d * all : 0);
    if (l > lowest && !encoder.checkpointing) lent.lend(down + 2, d * all);
    for (const std::size_t k : {down + 3, down + 5}) lent.lend(k, d * columns);
    if (block.dropout.attention > 0 || block.dropout.feed_forward > 0) lent.lend(down + 4, d * columns);
    if (batch.everything || trains(block.feed_forward.intermediate)) lent.lend(down + 6, d * columns);
    lent.lend(down + 7, std::max({hidden * columns, own, d * all}));
    lent.lend(down + 8, batch.everything || trains(block.feed_forward.output) ? hidden * columns : own);
    for (const std::size_t k : {down + 9, down + 10}) lent.lend(k, seen);
    lent.lend(down + 11, panels(Head::backward_size(shape.head_dim, longest), 5 * pairs));
  }
  return kept + (encoder.checkpointing ? largest : 0);
}

/// head(lent): numbers that the layers above the encoder keep; it adds what they borrow to lent.
template <class S>
PassBytes pass_bytes(const Encoder<S>& encoder, const EncoderBatch& batch, const auto& head) {
  LentSizes lent;
  const Index kept = encoder_numbers(encoder, batch, lent) + head(lent);
  return {.kept = kept * Index(sizeof(S)), .scratch = lent.total() * Index(sizeof(S))};
}

}  // namespace lora::inline LORA_ABI::detail
