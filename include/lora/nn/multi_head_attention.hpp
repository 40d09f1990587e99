#pragma once
/// Self-attention with its four linear layers, as in a transformer's block.

#include "lora/core/layer_pass.hpp"
#include "lora/nn/attention.hpp"
#include "lora/nn/linear.hpp"

#include <utility>

namespace lora::inline LORA_ABI {

/// y = Wo attention(Wq x + bq, Wk x + bk, Wv x + bv) + bo, each token attending to those of its own sequence
///
///   x, y (features, tokens)   Wq (heads head_dim, features)   Wk, Wv (key_heads head_dim, features)
///   Wo (features, heads head_dim)
///
/// ```cpp
/// #include <lora/lora.hpp>
///
/// int main() {
///   lora::Rng rng(1);
///   lora::MultiHeadAttention<float> layer({.heads = 4, .head_dim = 16}, 64, rng);
///   lora::attach(layer, {.rank = 8, .alpha = 16}, {.modules = {"query", "value"}}, rng);
///   const lora::Sequences sequences({5, 3});  // two texts, of 5 and 3 tokens
///   const Eigen::MatrixXf x = Eigen::MatrixXf::Random(64, sequences.total());
///   lora::MultiHeadAttention<float>::Cache cache;
///   const Eigen::MatrixXf y = layer.forward(x, sequences, cache);
///   const Eigen::MatrixXf dx = layer.backward(x, y, cache);
///   return dx.allFinite() && lora::count_parameters(layer).trainable == 4 * 8 * 64 ? 0 : 1;
/// }
/// ```
///
/// The layers are public: adapters, files and merging work on them as on any Linear, and a model that knows them by
/// other names lists them itself. The names here are BERT's: self.query, self.key, self.value, output.dense.
///
/// In cross attention, or where only some columns are wanted, k and v come from another matrix than q: the forms with a
/// memory (features, memory's tokens), sequence s of x attending to sequence s of memory.
///
/// A pass keeps q, k, v and the output of attention, which the layers' own passes read, and a number for each head and
/// token; never the probabilities. Not a Layer (nn/layer.hpp), because forward is given the sequences; backward has the
/// same form, because the pass keeps them.
template <class S>
class MultiHeadAttention : public detail::CachedPass<MultiHeadAttention<S>, S> {
  using Thin = detail::CachedPass<MultiHeadAttention<S>, S>;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;

  Linear<S> query, key, value;
  Linear<S> output;

  struct Kept {
    typename Linear<S>::Kept query, key, value, output;
    Buffer<S> q, k, v, o;
    Buffer<S> lse;  ///< (heads, tokens)
    Sequences queries, keys;
    KeptPass pass;       ///< of the queries
    Index samples = -1;  ///< of x; -1: no pass that backward could follow

    Index bytes() const {
      return query.bytes() + key.bytes() + value.bytes() + output.bytes() + q.bytes() + k.bytes() + v.bytes() +
             o.bytes() + lse.bytes();
    }
  };
  using Cache = detail::LayerCache<S, Dynamic, Dynamic, Dynamic, Kept, Scratch>;
  template <int>
  using CacheFor = Cache;

  /// New layers with PyTorch's default initialization. Throws ConfigError for the shape, ShapeError if features is
  /// below 1.
  MultiHeadAttention(const AttentionShape& shape, Index features, Rng& rng)
      : query({.in = features, .out = checked(shape).query_rows()}, rng),
        key({.in = features, .out = shape.key_rows()}, rng),
        value({.in = features, .out = shape.key_rows()}, rng),
        output({.in = shape.query_rows(), .out = features}, rng),
        shape_(shape) {}
  /// Existing layers. Throws ConfigError for the shape, ShapeError if they do not fit it.
  MultiHeadAttention(const AttentionShape& shape, Linear<S> its_query, Linear<S> its_key, Linear<S> its_value,
                     Linear<S> its_output)
      : query(std::move(its_query)),
        key(std::move(its_key)),
        value(std::move(its_value)),
        output(std::move(its_output)),
        shape_(checked(shape)) {
    const auto check = [](const char* layer, Index given, const char* what, const char* of, Index expected) {
      detail::check_extent(layer_name(), layer, given, what, of, expected);
    };
    check("query", query.out_features(), "outputs", "heads x head_dim", shape.query_rows());
    check("key", key.out_features(), "outputs", "key_heads x head_dim", shape.key_rows());
    check("value", value.out_features(), "outputs", "key_heads x head_dim", shape.key_rows());
    check("output", output.in_features(), "inputs", "heads x head_dim", shape.query_rows());
    check("key", key.in_features(), "inputs", "the inputs of query", query.in_features());
    check("value", value.in_features(), "inputs", "the inputs of query", query.in_features());
  }

  using Thin::backward;

  /// Writes y (features, tokens). kept: receives what backward needs; null if no backward pass follows. Throws
  /// ShapeError unless the sequences have the columns of x, or if a segment cuts one, and what the layers throw.
  void forward(const Columns& x, const Sequences& sequences, MutableColumns y, Kept* kept, Scratch& scratch,
               const Pass& pass) const {
    forward(x, x, sequences, sequences, y, kept, scratch, pass, pass);
  }
  /// With keys and values from memory; memory_pass is for its columns.
  void forward(const Columns& x, const Columns& memory, const Sequences& queries, const Sequences& keys,
               MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass, const Pass& memory_pass) const {
    const detail::Caller who(layer_name(), "forward");
    detail::check_pass_input(who, x, in_features());
    detail::check_cols(who, "x", x.cols(), "the columns of the sequences", queries.total());
    detail::check_rows(who, "memory", memory.rows(), "in_features", key.in_features());
    detail::check_cols(who, "memory", memory.cols(), "the columns of its sequences", keys.total());
    if (kept == nullptr) {
      const auto q = scratch.borrow<S>(), k = scratch.borrow<S>(), v = scratch.borrow<S>(), o = scratch.borrow<S>();
      return run(x, memory, queries, keys, y, {*q, *k, *v, *o}, nullptr, scratch, pass, memory_pass);
    }
    kept->samples = -1;
    run(x, memory, queries, keys, y, {kept->q, kept->k, kept->v, kept->o}, kept, scratch, pass, memory_pass);
    kept->queries = queries;
    kept->keys = keys;
    kept->pass.assign(pass);
    kept->samples = x.cols();
  }

  /// Returns y, a view into the cache.
  template <class X>
  auto forward(const Eigen::MatrixBase<X>& x, const Sequences& sequences, Cache& cache, const Pass& pass = {}) const {
    static_assert(detail::require_same_scalar<S, X>());
    const detail::Caller who(layer_name(), "forward");
    detail::check_pass_input(who, x, in_features());
    const Columns input(x.derived());
    detail::check_apart(who, "x", input, cache.y.view());
    auto y = cache.y.resize(out_features(), x.cols());
    forward(input, sequences, y, &cache.kept, cache.scratch, pass);
    return std::as_const(cache.y).view();
  }
  /// y as a new matrix.
  template <class X>
  Matrix<S> operator()(const Eigen::MatrixBase<X>& x, const Sequences& sequences) const {
    static_assert(detail::require_same_scalar<S, X>());
    Matrix<S> y(out_features(), x.cols());
    Scratch scratch;
    forward(x.derived(), sequences, y, nullptr, scratch, {});
    return y;
  }

  /// Gradients accumulate; writes dx (features, tokens). x is the input of the forward pass. Throws what
  /// check_backward does.
  void backward(const Columns& x, const Columns& dy, MutableColumns dx, Kept& kept, Scratch& scratch) {
    check_backward({layer_name(), "backward"}, x, dy, kept);
    propagate(x, x, dy, &dx, &dx, kept, scratch);
  }
  /// Without dx, goes no further down than there is something to train.
  void backward(const Columns& x, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    check_backward({layer_name(), "backward"}, x, dy, kept);
    propagate(x, x, dy, nullptr, nullptr, kept, scratch);
  }
  /// With keys and values from memory: writes dx, and d_memory (features, memory's tokens).
  void backward(const Columns& x, const Columns& memory, const Columns& dy, MutableColumns dx, MutableColumns d_memory,
                Kept& kept, Scratch& scratch) {
    check_backward({layer_name(), "backward"}, x, memory, dy, kept);
    propagate(x, memory, dy, &dx, &d_memory, kept, scratch);
  }
  void backward(const Columns& x, const Columns& memory, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    check_backward({layer_name(), "backward"}, x, memory, dy, kept);
    propagate(x, memory, dy, nullptr, nullptr, kept, scratch);
  }

  /// Throws what backward would throw, StateError or ShapeError, before any layer has added to its gradients.
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    check_backward(who, x, x, dy, kept);
  }
  void check_backward(const detail::Caller& who, const auto& x, const auto& memory, const auto& dy,
                      const Kept& kept) const {
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), kept.samples);
    query.check_backward(who, x, kept.q.view(), kept.query);  // of the sizes of the gradients
    key.check_backward(who, memory, kept.k.view(), kept.key);
    value.check_backward(who, memory, kept.v.view(), kept.value);
    output.check_backward(who, kept.o.view(), dy, kept.output);
  }
  /// Whether backward after such a pass would add to a gradient.
  bool trains(const Kept& kept) const { return trains_below(kept) || output.trains(kept.output); }

  const AttentionShape& shape() const& { return shape_; }
  const AttentionShape& shape() const&& = delete;
  Index in_features() const { return query.in_features(); }
  Index out_features() const { return output.out_features(); }

  static constexpr const char* layer_name() { return "MultiHeadAttention"; }

  static void visit(auto& self, auto&& f) {
    f("self.query", self.query);
    f("self.key", self.key);
    f("self.value", self.value);
    f("output.dense", self.output);
  }

 private:
  struct Buffers {
    Buffer<S>&q, &k, &v, &o;
  };

  static const AttentionShape& checked(const AttentionShape& shape) {
    validate(shape, layer_name());
    return shape;
  }

  void run(const Columns& x, const Columns& memory, const Sequences& queries, const Sequences& keys, MutableColumns& y,
           const Buffers& at, Kept* kept, Scratch& scratch, const Pass& pass, const Pass& memory_pass) const {
    const auto apply = [&](const Linear<S>& layer, const Columns& in, Buffer<S>& buffer, typename Linear<S>::Kept* own,
                           const Pass& its_pass) {
      auto out = buffer.resize(layer.out_features(), in.cols());
      layer.forward(in, out, own, scratch, its_pass);
      return out;
    };
    const auto q = apply(query, x, at.q, kept == nullptr ? nullptr : &kept->query, pass);
    const auto k = apply(key, memory, at.k, kept == nullptr ? nullptr : &kept->key, memory_pass);
    const auto v = apply(value, memory, at.v, kept == nullptr ? nullptr : &kept->value, memory_pass);
    auto o = at.o.resize(shape_.query_rows(), x.cols());
    if (kept == nullptr) {
      attention<S>(q, k, v, shape_, queries, keys, o, nullptr, scratch, pass);
      output.forward(o, y, nullptr, scratch, pass);
    } else {
      MutableColumns lse = kept->lse.resize(shape_.heads, x.cols());
      attention<S>(q, k, v, shape_, queries, keys, o, &lse, scratch, pass);
      output.forward(o, y, &kept->output, scratch, pass);
    }
  }

  bool trains_below(const Kept& kept) const {
    return query.trains(kept.query) || key.trains(kept.key) || value.trains(kept.value);
  }

  /// dx, d_memory: both or none; in self-attention the same, which becomes the sum of the three parts.
  void propagate(const Columns& x, const Columns& memory, const Columns& dy, MutableColumns* dx,
                 MutableColumns* d_memory, Kept& kept, Scratch& scratch) {
    if (dx == nullptr && !trains_below(kept))
      return output.backward(kept.o.view(), dy, no_gradient, kept.output, scratch);
    const auto first = scratch.borrow<S>(), second = scratch.borrow<S>(), third = scratch.borrow<S>(),
               fourth = scratch.borrow<S>();
    auto d_o = first->resize(shape_.query_rows(), x.cols());
    output.backward(kept.o.view(), dy, d_o, kept.output, scratch);
    auto dq = second->resize(shape_.query_rows(), x.cols());
    auto dk = third->resize(shape_.key_rows(), memory.cols()), dv = fourth->resize(shape_.key_rows(), memory.cols());
    attention_backward<S>(kept.q.view(), kept.k.view(), kept.v.view(), shape_, kept.queries, kept.keys, kept.o.view(),
                          kept.lse.view(), d_o, dq, dk, dv, scratch, kept.pass.pass());
    if (dx == nullptr) {
      query.backward(x, dq, no_gradient, kept.query, scratch);
      key.backward(memory, dk, no_gradient, kept.key, scratch);
      value.backward(memory, dv, no_gradient, kept.value, scratch);
      return;
    }
    query.backward(x, dq, *dx, kept.query, scratch);
    auto more = first->resize(memory.rows(), memory.cols());
    if (d_memory == dx) {
      key.backward(memory, dk, more, kept.key, scratch);
      *dx += more;
    } else {
      key.backward(memory, dk, *d_memory, kept.key, scratch);
    }
    value.backward(memory, dv, more, kept.value, scratch);
    *d_memory += more;
  }

  AttentionShape shape_;
};

}  // namespace lora::inline LORA_ABI
