#pragma once
/// Exact attention within each sequence of a batch, without a matrix of tokens by tokens.

#include "lora/core/executor.hpp"
#include "lora/core/scratch.hpp"
#include "lora/core/sequences.hpp"
#include "lora/nn/detail/attention_panels.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

namespace lora::inline LORA_ABI {

/// Which keys of its sequence a query sees.
enum class AttentionMask {
  none,   ///< all of them
  causal  ///< those up to its own position; the last query of a sequence is at the position of the last key
};

struct AttentionShape {
  Index heads = 1;
  Index key_heads = 0;  ///< query heads h with the same floor(h key_heads / heads) share keys and values; 0: as many
  Index head_dim = 0;   ///< rows of a head
  std::optional<double> scale = {};  ///< default: 1 / sqrt(head_dim)
  AttentionMask mask = AttentionMask::none;
  Index window = 0;          ///< of causal attention: how many keys a query sees at most, itself included; 0: no bound
  double dropout = 0;        ///< probability that a training pass drops a p_k
  std::uint64_t stream = 0;  ///< of head 0; each head has its own, stream + head (adapters/dropout.hpp)

  Index key_heads_or_heads() const { return key_heads > 0 ? key_heads : heads; }
  Index query_rows() const { return heads * head_dim; }
  Index key_rows() const { return key_heads_or_heads() * head_dim; }
  double scale_or_default() const { return scale ? *scale : 1 / std::sqrt(static_cast<double>(head_dim)); }
};

/// Throws ConfigError for a shape that cannot be computed.
inline void validate(const AttentionShape& shape, const detail::Caller& who) {
  const auto refuse = [&](const std::string& text) { detail::fail<ConfigError>(who, text); };
  const auto positive = [&](const char* name, Index given) {
    if (given < 1) refuse(std::string(name) + " is " + std::to_string(given) + ", expected at least 1");
  };
  positive("heads", shape.heads);
  positive("head_dim", shape.head_dim);
  if (shape.key_heads < 0 || shape.heads % shape.key_heads_or_heads() != 0) {
    refuse("key_heads is " + std::to_string(shape.key_heads) +
           ", expected a divisor of heads = " + std::to_string(shape.heads));
  }
  if (!std::isfinite(shape.scale_or_default())) {
    refuse("scale is " + detail::text_of(shape.scale_or_default()) + ", expected a finite number");
  }
  if (!(shape.dropout >= 0 && shape.dropout < 1)) {
    refuse("dropout is " + detail::text_of(shape.dropout) + ", expected at least 0 and below 1");
  }
  if (shape.window < 0) refuse("window is " + std::to_string(shape.window) + ", expected at least 0");
  if (shape.window > 0 && shape.mask != AttentionMask::causal) {
    refuse("window is " + std::to_string(shape.window) + " without a causal mask, expected 0");
  }
}

namespace detail {

/// The checks common to both passes.
template <class S>
void check_attention(const Caller& who, const Columns<S>& q, const Columns<S>& k, const Columns<S>& v,
                     const AttentionShape& shape, const Sequences& queries, const Sequences& keys) {
  validate(shape, who);
  const auto check = [&](const char* name, const Columns<S>& given, Index rows, const char* of, const Sequences& in) {
    check_rows(who, name, given.rows(), of, rows);
    check_cols(who, name, given.cols(), "the columns of its sequences", in.total());
  };
  check("q", q, shape.query_rows(), "heads x head_dim", queries);
  check("k", k, shape.key_rows(), "key_heads x head_dim", keys);
  check("v", v, shape.key_rows(), "key_heads x head_dim", keys);
  if (queries.count() < 1) fail<ShapeError>(who, "there are no sequences, expected at least one");
  check_extent(who, "k", keys.count(), "sequences", "the sequences of q", queries.count());
  if (shape.mask == AttentionMask::none || &queries == &keys) return;
  for (Index s = 0; s < queries.count(); ++s) {
    if (queries[s].count <= keys[s].count) continue;
    fail<ShapeError>(who, "sequence " + std::to_string(s) + " has " + std::to_string(queries[s].count) +
                              " queries and " + std::to_string(keys[s].count) +
                              " keys, expected at least as many keys for a causal mask");
  }
}

/// Throws ShapeError for a segment that cuts a sequence: the tokens of one text have one adapter.
inline void check_segments(const Caller& who, const Pass& pass, const Sequences& sequences) {
  const auto starts = sequences.starts();
  for (const Segment& segment : pass.segments) {
    for (const Index edge : {segment.first, segment.first + segment.count}) {
      if (std::binary_search(starts.begin(), starts.end(), edge)) continue;
      fail<ShapeError>(who, "the segment with the columns " + std::to_string(segment.first) + " to " +
                                std::to_string(segment.first + segment.count - 1) +
                                " cuts a sequence, expected all of its columns or none");
    }
  }
}

/// The dropout masks of a sequence of queries, if the pass drops.
inline std::optional<AttentionMasks> masks_of(const AttentionShape& shape, const Pass& pass,
                                              const Sequences::Columns& own) {
  if (!pass.training || shape.dropout <= 0) return std::nullopt;
  AttentionMasks masks{shape.dropout, shape.stream, pass, own.first};
  for (const Segment& segment : pass.segments) {
    if (own.first < segment.first || own.first >= segment.first + segment.count) continue;
    masks.pass = pass_of(pass, segment);
    masks.first = own.first - segment.first;
  }
  return masks;
}

/// How many threads share `count` heads of sequences; work: multiply-adds of all together.
inline Index attention_workers(Index count, int threads, double work) {
  return work >= 2.5e5 ? std::clamp<Index>(threads, 1, std::max<Index>(count, 1)) : 1;
}

/// Calls head(sequence, key head, memory) for all of them, on the threads of an executor if there is one. Each thread
/// has `size` numbers of memory, from the scratch. work: multiply-adds of all together.
template <class S>
void for_each_head(Index sequences, Index key_heads, Index size, Scratch& scratch, Executor* executor, double work,
                   const auto& head) {
  const Index count = sequences * key_heads;
  const Index workers = executor == nullptr ? 1 : attention_workers(count, executor->threads(), work);
  const auto borrowed = scratch.borrow<S>();
  S* const memory = borrowed->resize(size, workers).data();
  std::atomic<Index> next = 0;
  const auto worker = [&](Index own) {
    for (Index k = next++; k < count; k = next++) head(k / key_heads, k % key_heads, memory + own * size);
  };
  if (workers > 1 && executor->share(workers, worker, work)) return;
  worker(0);
}

template <class S>
double attention_work(const AttentionShape& shape, const Sequences& queries, const Sequences& keys) {
  double pairs = 0;
  for (Index s = 0; s < queries.count(); ++s) {
    const double all = static_cast<double>(queries[s].count) * static_cast<double>(keys[s].count);
    pairs += shape.mask == AttentionMask::causal ? all / 2 : all;
  }
  return pairs * static_cast<double>(shape.query_rows() * Index(sizeof(S)) / 4);
}

}  // namespace detail

/// o = softmax(s K^T q) V for each query of a sequence, over the keys of its own sequence that it sees, in each head:
///
///   p_k = exp(s k_k . q - lse),   lse = log of the sum over k of exp(s k_k . q),   o = sum of p_k v_k
///
///   q, o (heads head_dim, n)   k, v (key_heads head_dim, m)   lse (heads, n), or null if no backward pass follows
///
/// queries and keys say which columns belong together: sequence s of q attends to sequence s of k and v. In
/// self-attention they are the same; in cross attention each has its own lengths. o may not overlap q, k or v.
///
/// No matrix of queries by keys exists: a panel of 16 to 64 queries is computed against all keys that it sees, and only
/// lse is kept for backward. Per thread the scratch holds copies of the keys and values of one head and one panel. The
/// work is shared by sequence and key head; the bits of a sequence depend on itself alone, not on the others, their
/// order, or the number of threads. With a causal mask, finite numbers at later positions change nothing. Cost:
/// 2 heads head_dim multiply-adds for each pair of query and key; with a causal mask, about half.
///
/// With shape.dropout, a training pass multiplies each p_k by an entry of a mask that depends on the head, the position
/// of the key in its sequence and the sample of the query's column. A segment covers whole sequences.
///
/// Throws ConfigError for the shape, ShapeError for matrices that do not fit it and the sequences, or for a segment
/// that cuts one. Sources: Vaswani et al. 2017, arXiv:1706.03762; grouped keys: Ainslie et al. 2023,
/// arXiv:2305.13245; lse in place of the probabilities: Dao et al. 2022, arXiv:2205.14135, whose online softmax is
/// not needed here.
template <class S>
void attention(const detail::Columns<S>& q, const detail::Columns<S>& k, const detail::Columns<S>& v,
               const AttentionShape& shape, const Sequences& queries, const Sequences& keys,
               detail::MutableColumns<S> o, detail::MutableColumns<S>* lse, Scratch& scratch, const Pass& pass = {});

/// Writes dq, dk and dv, given those of the forward pass and d_o (heads head_dim, n):
///
///   e_k = v_k . d_o - o . d_o    dq = s sum of p_k e_k k_k    dk_k = s sum of p_k e_k q    dv_k = sum of p_k d_o
///
/// the last two over the queries, and query heads, that see the key. p is computed again from lse, and so are masks m:
/// then e_k = m_k v_k . d_o - o . d_o, dv_k = sum of m_k p_k d_o. pass is that of forward. Cost: 5 heads
/// head_dim multiply-adds for each pair. Throws as attention does.
template <class S>
void attention_backward(const detail::Columns<S>& q, const detail::Columns<S>& k, const detail::Columns<S>& v,
                        const AttentionShape& shape, const Sequences& queries, const Sequences& keys,
                        const detail::Columns<S>& o, const detail::Columns<S>& lse, const detail::Columns<S>& d_o,
                        detail::MutableColumns<S> dq, detail::MutableColumns<S> dk, detail::MutableColumns<S> dv,
                        Scratch& scratch, const Pass& pass = {});

template <class S>
void attention(const detail::Columns<S>& q, const detail::Columns<S>& k, const detail::Columns<S>& v,
               const AttentionShape& shape, const Sequences& queries, const Sequences& keys,
               detail::MutableColumns<S> o, detail::MutableColumns<S>* lse, Scratch& scratch, const Pass& pass) {
  using Head = detail::AttentionHead<S>;
  const detail::Caller who = "attention";
  detail::check_attention<S>(who, q, k, v, shape, queries, keys);
  detail::check_segments(who, pass, queries);
  detail::check_rows(who, "o", o.rows(), "the rows of q", q.rows());
  detail::check_cols(who, "o", o.cols(), "the columns of q", q.cols());
  if (lse != nullptr) {
    detail::check_rows(who, "lse", lse->rows(), "heads", shape.heads);
    detail::check_cols(who, "lse", lse->cols(), "the columns of q", q.cols());
  }
  const Index dim = shape.head_dim, key_heads = shape.key_heads_or_heads(), group = shape.heads / key_heads;
  const S scale = S(shape.scale_or_default());
  detail::for_each_head<S>(
      queries.count(), key_heads, Head::forward_size(dim, keys.longest()), scratch, pass.executor,
      2 * detail::attention_work<S>(shape, queries, keys), [&](Index sequence, Index head, S* memory) {
        const auto own = queries[sequence], seen = keys[sequence];
        const detail::AttentionRange range{own.count, seen.count, shape.mask == AttentionMask::causal, shape.window};
        const Index row = head * group * dim;
        auto masks = detail::masks_of(shape, pass, own);
        if (masks) masks->stream += static_cast<std::uint64_t>(head * group);
        Head::forward(q.block(row, own.first, group * dim, own.count), k.block(head * dim, seen.first, dim, seen.count),
                      v.block(head * dim, seen.first, dim, seen.count), range, group, scale, masks ? &*masks : nullptr,
                      o.block(row, own.first, group * dim, own.count),
                      lse == nullptr ? nullptr : &(*lse)(head * group, own.first),
                      lse == nullptr ? 0 : lse->outerStride(), memory);
      });
}

template <class S>
void attention_backward(const detail::Columns<S>& q, const detail::Columns<S>& k, const detail::Columns<S>& v,
                        const AttentionShape& shape, const Sequences& queries, const Sequences& keys,
                        const detail::Columns<S>& o, const detail::Columns<S>& lse, const detail::Columns<S>& d_o,
                        detail::MutableColumns<S> dq, detail::MutableColumns<S> dk, detail::MutableColumns<S> dv,
                        Scratch& scratch, const Pass& pass) {
  using Head = detail::AttentionHead<S>;
  const detail::Caller who = "attention_backward";
  detail::check_attention<S>(who, q, k, v, shape, queries, keys);
  detail::check_segments(who, pass, queries);
  const auto like = [&](const char* name, const auto& given, const char* rows, const char* cols, const auto& other) {
    detail::check_rows(who, name, given.rows(), rows, other.rows());
    detail::check_cols(who, name, given.cols(), cols, other.cols());
  };
  like("o", o, "the rows of q", "the columns of q", q);
  like("d_o", d_o, "the rows of q", "the columns of q", q);
  like("dq", dq, "the rows of q", "the columns of q", q);
  like("dk", dk, "the rows of k", "the columns of k", k);
  like("dv", dv, "the rows of k", "the columns of k", k);
  detail::check_rows(who, "lse", lse.rows(), "heads", shape.heads);
  detail::check_cols(who, "lse", lse.cols(), "the columns of q", q.cols());
  const Index dim = shape.head_dim, key_heads = shape.key_heads_or_heads(), group = shape.heads / key_heads;
  const S scale = S(shape.scale_or_default());
  detail::for_each_head<S>(
      queries.count(), key_heads, Head::backward_size(dim, keys.longest()), scratch, pass.executor,
      5 * detail::attention_work<S>(shape, queries, keys), [&](Index sequence, Index head, S* memory) {
        const auto own = queries[sequence], seen = keys[sequence];
        const detail::AttentionRange range{own.count, seen.count, shape.mask == AttentionMask::causal, shape.window};
        const auto of_queries = [&](auto& matrix) {
          return matrix.block(head * group * dim, own.first, group * dim, own.count);
        };
        const auto of_keys = [&](auto& matrix) { return matrix.block(head * dim, seen.first, dim, seen.count); };
        auto masks = detail::masks_of(shape, pass, own);
        if (masks) masks->stream += static_cast<std::uint64_t>(head * group);
        Head::backward(of_queries(q), of_keys(k), of_keys(v), range, group, scale, masks ? &*masks : nullptr,
                       of_queries(o), lse.data() + head * group + own.first * lse.outerStride(), lse.outerStride(),
                       of_queries(d_o), of_queries(dq), of_keys(dk), of_keys(dv), memory);
      });
}

}  // namespace lora::inline LORA_ABI
