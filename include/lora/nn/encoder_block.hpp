#pragma once
/// A block of a transformer's encoder with the normalization after each branch, as BERT has it.

#include "lora/nn/detail/hidden_dropout.hpp"
#include "lora/nn/feed_forward.hpp"
#include "lora/nn/layer_norm.hpp"
#include "lora/nn/multi_head_attention.hpp"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Of the two branches of a block, apart from that of attention's probabilities (AttentionShape).
struct EncoderDropout {
  double attention = 0;
  double feed_forward = 0;
  std::uint64_t stream = 0;  ///< of the first; the second has stream + 1 (adapters/dropout.hpp)
};

/// h = N1(x + drop(attention(x))),   y = N2(h + drop(feed_forward(h)))
///
///   x, y (features, tokens)
///
/// A pass can be restricted to some of the columns of y, as the last block of a classifier needs it, which reads one
/// token of each text: then only keys and values are computed of all columns, and everything else of those. Dropout
/// masks and adapters are those of the full pass, and so are all gradients, to rounding, where dy is 0 elsewhere.
///
/// A pass keeps q, k, v and the output of attention, the sums that the two norms read, and the input of the activation:
/// 7 features + hidden numbers a token, x and h not among them; output() computes y again from what is kept. The
/// names are BERT's.
///
/// Source: Vaswani et al. 2017, arXiv:1706.03762; Devlin et al. 2018, arXiv:1810.04805.
template <class S>
class EncoderBlock {
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;

  MultiHeadAttention<S> attention;
  LayerNorm<S> attention_norm;
  FeedForward<S> feed_forward;
  LayerNorm<S> output_norm;
  EncoderDropout dropout;

  struct Kept {
    typename MultiHeadAttention<S>::Kept attention;
    typename LayerNorm<S>::Kept attention_norm, output_norm;
    typename FeedForward<S>::Kept feed_forward;
    Buffer<S> first_sum, second_sum;  ///< what the norms read
    Buffer<S> some;                   ///< columns of x, in a restricted pass
    std::vector<Index> columns;       ///< their numbers
    KeptPass pass;                    ///< of these columns
    Index samples = -1;               ///< of x; -1: no pass that backward could follow

    Index bytes() const {
      return attention.bytes() + attention_norm.bytes() + output_norm.bytes() + feed_forward.bytes() +
             first_sum.bytes() + second_sum.bytes() + some.bytes();
    }
  };

  /// Throws ShapeError if they do not fit.
  EncoderBlock(MultiHeadAttention<S> its_attention, LayerNorm<S> its_attention_norm, FeedForward<S> its_feed_forward,
               LayerNorm<S> its_output_norm, const EncoderDropout& its_dropout = {})
      : attention(std::move(its_attention)),
        attention_norm(std::move(its_attention_norm)),
        feed_forward(std::move(its_feed_forward)),
        output_norm(std::move(its_output_norm)),
        dropout(its_dropout) {
    const auto check = [&](const char* part, Index given) {
      detail::check_extent(layer_name(), part, given, "features", "the inputs of attention", in_features());
    };
    check("attention's output", attention.out_features());
    check("attention_norm", attention_norm.in_features());
    check("feed_forward's input", feed_forward.in_features());
    check("feed_forward's output", feed_forward.out_features());
    check("output_norm", output_norm.in_features());
  }

  /// Writes y (features, tokens). kept: receives what backward needs; null if no backward pass follows. Throws
  /// ShapeError unless the sequences have the columns of x, or if a segment cuts one, and what the layers throw.
  void forward(const Columns& x, const Sequences& sequences, MutableColumns y, Kept* kept, Scratch& scratch,
               const Pass& pass) const {
    run(x, x, sequences, sequences, y, kept, scratch, pass, pass);
    if (kept == nullptr) return;
    kept->columns.clear();
    kept->pass.assign(pass);
    kept->samples = x.cols();
  }

  /// Writes the columns of y with these numbers, ascending, (features, number of them); queries: how many of them are
  /// of each sequence. Throws as above, and ShapeError if y or queries do not fit.
  void forward(const Columns& x, const Sequences& sequences, std::span<const Index> columns, const Sequences& queries,
               MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass) const {
    detail::check_pass_input({layer_name(), "forward"}, x, in_features());
    detail::check_cols({layer_name(), "forward"}, "y", y.cols(), "the chosen columns", Index(columns.size()));
    KeptPass& own_pass = kept == nullptr ? scratch.get<OwnPass>().pass : kept->pass;
    const auto borrowed = scratch.borrow<S>();
    auto some = (kept == nullptr ? *borrowed : kept->some).resize(x.rows(), y.cols());
    if (kept != nullptr) kept->samples = -1;
    own_pass.assign(pass, columns);
    for (Index j = 0; j < y.cols(); ++j) {
      std::copy_n(x.data() + columns[std::size_t(j)] * x.outerStride(), x.rows(), &some(0, j));
    }
    run(some, x, queries, sequences, y, kept, scratch, own_pass.pass(), pass);
    if (kept == nullptr) return;
    kept->columns.assign(columns.begin(), columns.end());
    kept->samples = x.cols();
  }

  /// Computes y of a pass again from what it kept.
  void output(const Kept& kept, MutableColumns y, Scratch& scratch) const {
    output_norm.forward(kept.second_sum.view(), y, nullptr, scratch, {.executor = kept.pass.executor()});
  }

  /// Gradients accumulate; writes dx (features, tokens). x is the input of the forward pass, dy has the columns of its
  /// y. Throws what check_backward does.
  void backward(const Columns& x, const Columns& dy, MutableColumns dx, Kept& kept, Scratch& scratch) {
    propagate(x, dy, &dx, kept, scratch);
  }
  /// Without dx, goes no further down than there is something to train.
  void backward(const Columns& x, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    propagate(x, dy, nullptr, kept, scratch);
  }

  /// Throws what backward would throw, StateError or ShapeError, before any layer has added to its gradients.
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    if (kept.columns.empty()) {
      detail::check_pass_gradient(who, x, dy, in_features(), in_features(), kept.samples);
      attention.check_backward(who, x, dy, kept.attention);
    } else {
      detail::check_pass_input(who, x, in_features());
      detail::check_cols(who, "x", x.cols(), "samples in the forward pass", kept.samples);
      attention.check_backward(who, kept.some.view(), x, dy, kept.attention);
    }
    attention_norm.check_backward(who, kept.first_sum.view(), dy, kept.attention_norm);
    feed_forward.check_backward(who, kept.first_sum.view(), dy, kept.feed_forward);
    output_norm.check_backward(who, kept.second_sum.view(), dy, kept.output_norm);
  }
  /// Whether backward after such a pass would add to a gradient.
  bool trains(const Kept& kept) const {
    return trains_below(kept) || feed_forward.trains(kept.feed_forward) || output_norm.trains(kept.output_norm);
  }

  Index in_features() const { return attention.in_features(); }
  Index out_features() const { return in_features(); }

  static constexpr const char* layer_name() { return "EncoderBlock"; }

  static void visit(auto& self, auto&& f) {
    f("attention", self.attention);
    f("attention.output.LayerNorm", self.attention_norm);
    f("intermediate.dense", self.feed_forward.intermediate);
    f("output.dense", self.feed_forward.output);
    f("output.LayerNorm", self.output_norm);
  }

 private:
  struct OwnPass {
    KeptPass pass;
    static Index bytes() { return 0; }
  };

  bool trains_below(const Kept& kept) const {
    return attention.trains(kept.attention) || attention_norm.trains(kept.attention_norm);
  }

  void run(const Columns& x, const Columns& memory, const Sequences& queries, const Sequences& keys, MutableColumns& y,
           Kept* kept, Scratch& scratch, const Pass& pass, const Pass& memory_pass) const {
    if (kept != nullptr) kept->samples = -1;
    const auto first = scratch.borrow<S>(), second = scratch.borrow<S>(), third = scratch.borrow<S>();
    auto sum = (kept == nullptr ? *first : kept->first_sum).resize(x.rows(), x.cols());
    attention.forward(x, memory, queries, keys, sum, kept == nullptr ? nullptr : &kept->attention, scratch, pass,
                      memory_pass);
    detail::drop<S>(sum, dropout.attention, dropout.stream, pass, scratch);
    sum += x;
    auto h = second->resize(x.rows(), x.cols());
    attention_norm.forward(sum, h, kept == nullptr ? nullptr : &kept->attention_norm, scratch, pass);
    auto top = (kept == nullptr ? *third : kept->second_sum).resize(x.rows(), x.cols());
    feed_forward.forward(h, top, kept == nullptr ? nullptr : &kept->feed_forward, scratch, pass);
    detail::drop<S>(top, dropout.feed_forward, dropout.stream + 1, pass, scratch);
    top += h;
    output_norm.forward(top, y, kept == nullptr ? nullptr : &kept->output_norm, scratch, pass);
  }

  void propagate(const Columns& x, const Columns& dy, MutableColumns* dx, Kept& kept, Scratch& scratch) {
    check_backward({layer_name(), "backward"}, x, dy, kept);
    const bool down = dx != nullptr || trains_below(kept);
    if (!down && !trains(kept)) return;
    const Pass pass = kept.pass.pass();
    const auto sum_gradient = scratch.borrow<S>(), masked = scratch.borrow<S>(), h_gradient = scratch.borrow<S>(),
               input = scratch.borrow<S>();
    // The gradient of a branch: of drop(branch) if there is dropout, else that of the sum itself.
    const auto of_branch = [&](auto& gradient, double probability, std::uint64_t stream) {
      if (!pass.training || probability <= 0) return gradient;
      auto some = masked->resize(gradient.rows(), gradient.cols());
      std::copy_n(gradient.data(), gradient.size(), some.data());
      detail::drop<S>(some, probability, stream, pass, scratch);
      return some;
    };
    // forward: y = N2(t), t = drop(feed_forward(h)) + h
    auto dt = sum_gradient->resize(dy.rows(), dy.cols());
    output_norm.backward(kept.second_sum.view(), dy, dt, kept.output_norm, scratch);
    const bool reads_h = feed_forward.intermediate.trains(kept.feed_forward.intermediate);
    if (reads_h) {
      attention_norm.forward(kept.first_sum.view(), input->resize(dy.rows(), dy.cols()), nullptr, scratch,
                             {.executor = pass.executor});
    }
    const Columns h = reads_h ? input->view() : kept.first_sum.view();  // if it is not read, of its size
    const auto of_feed_forward = of_branch(dt, dropout.feed_forward, dropout.stream + 1);
    if (!down) return feed_forward.backward(h, of_feed_forward, no_gradient, kept.feed_forward, scratch);
    auto dh = h_gradient->resize(dy.rows(), dy.cols());
    feed_forward.backward(h, of_feed_forward, dh, kept.feed_forward, scratch);
    detail::add_multiple(S(1), std::as_const(dt).data(), dt.size(), dh.data());
    // forward: h = N1(s), s = drop(attention(x)) + x
    auto& ds = dt;
    attention_norm.backward(kept.first_sum.view(), dh, ds, kept.attention_norm, scratch);
    const auto of_attention = of_branch(ds, dropout.attention, dropout.stream);
    if (kept.columns.empty()) {
      if (dx == nullptr) return attention.backward(x, of_attention, no_gradient, kept.attention, scratch);
      attention.backward(x, of_attention, *dx, kept.attention, scratch);
      detail::add_columns<S>(S(1), ds, *dx);
      return;
    }
    const auto some = kept.some.view();
    if (dx == nullptr) return attention.backward(some, x, of_attention, no_gradient, kept.attention, scratch);
    attention.backward(some, x, of_attention, dh, *dx, kept.attention, scratch);
    detail::add_multiple(S(1), std::as_const(ds).data(), ds.size(), dh.data());
    for (Index j = 0; j < dy.cols(); ++j) {
      detail::add_multiple(S(1), std::as_const(dh).data() + j * dh.rows(), dh.rows(),
                           &(*dx)(0, kept.columns[std::size_t(j)]));
    }
  }
};

}  // namespace lora::inline LORA_ABI
