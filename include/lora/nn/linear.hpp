#pragma once
/// The linear layer of a model:   y = W x + b, trained in full, frozen, or frozen with named adapters.

#include "lora/adapters/adapter_set.hpp"
#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/init.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/base/any_base.hpp"
#include "lora/core/layer_pass.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/thin_product.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Sizes of a new layer, by name: PyTorch orders them (in, out), W is (out, in).   {.in = 64, .out = 128}
struct LinearShape {
  Index in = 0;
  Index out = 0;
  bool bias = true;
};

/// The config of a kind of adapter: it names the kind, which is constructed from a base, the config and an Rng.
template <class C, class S>
concept AdapterConfig = requires {
  typename C::template Kind<S>;
  requires AdapterKind<typename C::template Kind<S>>;
  requires std::is_constructible_v<typename C::template Kind<S>, const AnyBase<S>&, const C&, Rng&>;
};

/// x (in, samples), y (out, samples), W (out, in), b (out) or none.
///
/// ```cpp
/// #include <lora/nn/linear.hpp>
///
/// int main() {
///   lora::Rng rng(1);
///   lora::Linear<float> layer({.in = 64, .out = 128}, rng);                // trains W and b
///   layer.attach("alice", lora::LoraConfig{.rank = 8, .alpha = 16}, rng);  // from now on W is frozen
///   layer.attach("bob", lora::LoraConfig{.rank = 4, .alpha = 4}, rng);     // attached and selected, alone
///   layer.select_sum({{"alice", 0.7}, {"bob", 0.3}});
///   const Eigen::MatrixXf x = Eigen::MatrixXf::Random(64, 3);
///   const Eigen::MatrixXf y = layer(x);                                    // W x + b + 0.7 alice + 0.3 bob
///   layer.select_none();                                                   // the base, bit for bit
///   return layer.merged() == layer.dense() && y.allFinite() ? 0 : 1;
/// }
/// ```
///
/// The first attach() freezes the layer by packing W into a Frozen base that copies of the layer share; a constructor
/// takes any other AnyBase. A frozen layer holds any number of named adapters of any kind. A pass uses the one that it
/// names (Pass::adapter) or, by default, the layer's selection: one, none or a weighted sum. Switching adapters on and
/// off is exact to the bit, because nothing is ever added into W0.
///
/// forward is const and stores nothing in the layer: many threads may run it at once, each with its own cache or Kept
/// and Scratch. backward adds to the gradients of the adapters that the pass used, so passes of different adapters may
/// run backward at once. attach, select and detach must not run concurrently; on a frozen layer passes may run
/// meanwhile. Results of the calls with a cache are views into it, valid until its next use.
template <class S>
class Linear : public detail::CachedPass<Linear<S>, S> {
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;
  using Thin = detail::CachedPass<Linear<S>, S>;

 public:
  using Scalar = S;
  static constexpr int Out = Dynamic;
  static constexpr int In = Dynamic;

  /// Columns that one selection of adapters computed: the whole batch, or a segment of a mixed batch.
  struct Piece {
    Index first = 0, count = 0;
    std::shared_ptr<const Selection<S>> choice;  ///< null: W alone
    Pass settings;                               ///< its seed, step and first sample
    std::vector<Index> numbers;                  ///< Pass::columns of it
    std::size_t slot = 0;                        ///< of its first adapter in Kept::adapters

    Pass pass() const {
      Pass own = settings;
      own.columns = numbers;
      return own;
    }

    std::size_t size() const { return choice ? choice->choices.size() : 0; }
    /// Whether its adapters add to W0 x. If not, its only adapter computes the columns from W0.
    bool sums() const { return size() != 1 || choice->choices[0].part->adapter.summable(); }
  };

  /// What forward keeps for backward: not the input; for each adapter what its kind keeps (z = s A x).
  struct Kept {
    std::vector<Piece> pieces;            ///< ascending by column
    std::vector<detail::Slots> adapters;  ///< one for each adapter of each piece
    std::vector<std::size_t> order;       ///< of the pass's segments: the number of that of each piece
    Index samples = -1;                   ///< -1: no pass that backward could follow
    std::uint64_t layer = 0;              ///< the layer that ran the pass

    Index bytes() const {
      Index sum = 0;
      for (const detail::Slots& slots : adapters) sum += slots.bytes();
      return sum;
    }
  };
  using Cache = detail::LayerCache<S, Dynamic, Dynamic, Dynamic, Kept, Scratch>;
  template <int>
  using CacheFor = Cache;

  /// W and b uniform in (-1/sqrt(in), 1/sqrt(in)), PyTorch's default. Throws ShapeError if a size is below 1.
  Linear(const LinearShape& shape, Rng& rng) {
    detail::check_not_empty("Linear", "the weight", shape.out, shape.in);
    const double bound = 1.0 / std::sqrt(static_cast<double>(shape.in));
    Matrix<S> weight(shape.out, shape.in);
    fill_uniform(weight, bound, rng);
    weight_.emplace(std::move(weight));
    if (!shape.bias) return;
    Vector<S> bias(shape.out);
    fill_uniform(bias, bound, rng);
    bias_.emplace(std::move(bias));
  }

  /// A given weight, to be trained further. Throws ShapeError if W is empty or b does not fit.
  explicit Linear(Matrix<S> W, std::optional<Vector<S>> b = std::nullopt) : weight_(std::move(W)) {
    detail::check_not_empty("Linear", "the weight", out_features(), in_features());
    set_bias(std::move(b));
  }
  /// As above, with any matrix expression, such as a transpose.
  template <class Derived>
  explicit Linear(const Eigen::MatrixBase<Derived>& W, std::optional<Vector<S>> b = std::nullopt)
      : Linear(Matrix<S>(W), std::move(b)) {}

  /// A frozen weight, shared with its other owners. Throws ShapeError if b does not fit.
  explicit Linear(AnyBase<S> W0, std::optional<Vector<S>> b = std::nullopt) : base_(std::move(W0)) {
    set_bias(std::move(b));
  }
  template <RunTimeBase B>
    requires(std::is_same_v<typename B::Scalar, S>)
  explicit Linear(B W0, std::optional<Vector<S>> b = std::nullopt) : Linear(AnyBase<S>(std::move(W0)), std::move(b)) {}

  /// A frozen weight with one adapter, called "default". Throws ConfigError, or ShapeError if b does not fit.
  Linear(AnyBase<S> W0, const LoraConfig& config, Rng& rng) : Linear(std::move(W0)) { attach("default", config, rng); }
  Linear(AnyBase<S> W0, Vector<S> b, const LoraConfig& config, Rng& rng)
      : Linear(std::move(W0), std::optional<Vector<S>>(std::move(b))) {
    attach("default", config, rng);
  }
  /// As above, with an adapter of any kind.
  template <AdapterConfig<S> C>
  Linear(AnyBase<S> W0, const C& config, Rng& rng) : Linear(std::move(W0)) {
    attach("default", config, rng);
  }

  /// Freezes the layer if it is not frozen yet, adds an adapter constructed from its config, and selects it alone.
  /// Throws NameError or ConfigError, and changes nothing then.
  template <AdapterConfig<S> C>
  void attach(std::string_view name, const C& config, Rng& rng);
  void attach(std::string_view name, const LoraConfig& config, Rng& rng);

  /// As above, with an existing adapter of any kind: factors, factors that start from this weight (ResidualLora, from
  /// pissa or olora of dense()), a trained copy, or only a bias (NoAdapter). Throws ShapeError if it does not fit this
  /// layer, StateError if it has a bias and the layer has none, NameError.
  void attach(std::string_view name, AnyAdapter<S> adapter, std::optional<Vector<S>> bias = std::nullopt) {
    check_fits(adapter, bias);
    adapters_.check_new_name(name);
    freeze();
    adapters_.insert(name, std::move(adapter), std::move(bias));
  }

  /// A copy of W and b, trained in full, that belongs to the adapter (PEFT's modules_to_save).
  void attach_full(std::string_view name) { attach(name, FullWeight<S>(dense()), copy_of_bias()); }

  /// A trained copy of b alone. Throws StateError if the layer has no bias.
  void attach_bias(std::string_view name) {
    if (!bias_) throw StateError("Linear::attach_bias: the layer has no bias");
    attach(name, NoAdapter<S>(), copy_of_bias());
  }

  /// Removes an adapter. The selection of the others does not change, and the base stays frozen. Throws NameError.
  void detach(std::string_view name) { adapters_.erase(name); }
  /// Selects one adapter, alone, with weight 1. Throws NameError.
  void select(std::string_view name) { adapters_.select(name); }
  /// Selects the base alone, bit for bit as before.
  void select_none() { adapters_.select_none(); }
  /// Selects a weighted sum: layer.select_sum({{"formal", 0.7}, {"legal", 0.3}}). Throws NameError or ConfigError.
  void select_sum(const std::vector<AdapterWeight>& chosen) { adapters_.select_sum(chosen); }

  /// Stops training W and b, and packs W, which is shared and constant from then on; both copies are in memory
  /// meanwhile. Outputs do not change by a bit. attach calls it; a second call does nothing.
  void freeze() {
    if (!frozen()) freeze_as(packed_weight());
  }
  bool frozen() const { return base_.has_value(); }

  using Thin::backward;
  using Thin::forward;

  /// Writes y (out, samples). kept: receives what backward needs; null if no backward pass follows. scratch: that of
  /// this thread. Throws ShapeError for sizes that do not fit, NameError for a handle that does not know this layer.
  void forward(const Columns& x, MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass) const;

  /// Gradients accumulate; writes dx (in, samples). x is the input of the forward pass. Throws what check_backward
  /// does.
  void backward(const Columns& x, const Columns& dy, MutableColumns dx, Kept& kept, Scratch& scratch) {
    propagate(x, dy, &dx, kept, scratch);
  }
  void backward(const Columns& x, const Columns& dy, NoGradient, Kept& kept, Scratch& scratch) {
    propagate(x, dy, nullptr, kept, scratch);
  }

  /// Throws what backward would throw, StateError or ShapeError, and changes nothing: for a network that checks all
  /// layers before any of them adds to its gradients.
  void check_backward(const detail::Caller& who, const auto& x, const auto& dy, const Kept& kept) const {
    detail::check_pass_gradient(who, x, dy, in_features(), out_features(), kept.samples);
    if (kept.layer != number_) detail::fail<StateError>(who, "this cache has seen the pass of another layer");
  }

  /// Whether backward after such a pass would add to a gradient.
  bool trains(const Kept& kept) const {
    if (!frozen()) return weight_->trainable || (bias_ && bias_->trainable);
    for (const Piece& piece : kept.pieces) {
      for (std::size_t k = 0; k < piece.size(); ++k) {
        const NamedAdapter<S>& part = *piece.choice->choices[k].part;
        if (part.adapter.count().trains() || (part.bias && part.bias->trainable)) return true;
      }
    }
    return false;
  }

  /// W0 plus the deltas of the selected adapters, (out, in), rounded once. The layer is unchanged.
  Matrix<S> merged() const;
  /// The sum of the deltas of the selected adapters, (out, in).
  Matrix<S> delta() const {
    Matrix<S> weight = Matrix<S>::Zero(out_features(), in_features());
    add_delta_to(weight);
    return weight;
  }
  /// The bias in effect, (out); empty if the layer has none.
  Vector<S> merged_bias() const {
    Vector<S> sum = Vector<S>::Zero(bias_ ? out_features() : 0);
    add_bias(*adapters_.selection(), sum);
    return sum;
  }

  Index in_features() const { return frozen() ? base_->cols() : weight_->value.cols(); }
  Index out_features() const { return frozen() ? base_->rows() : weight_->value.rows(); }
  /// W or W0, (out, in), without adapters, as a new matrix.
  Matrix<S> dense() const { return frozen() ? base_->dense() : weight_->value; }
  /// The base that holds W0. Throws StateError if the layer is not frozen.
  const AnyBase<S>& base() const& {
    if (!frozen()) throw StateError("Linear::base: the layer is not frozen; dense() gives its weight");
    return *base_;
  }
  const AnyBase<S>& base() const&& = delete;
  /// The bytes of W0 as its base holds them; null if the layer is not frozen. And the same weight over another block of
  /// these bytes, such as memory that processes share (parallel/shared_base.hpp): throws what AnyBase::over does,
  /// StateError if the layer is not frozen. Not while a pass runs.
  SharedBytes frozen_storage() const { return frozen() ? base_->storage() : SharedBytes(); }
  void set_frozen_storage(const SharedBytes& block) { base_ = base().over(block); }
  /// Bytes of W, or of W0 as its base holds it.
  Index weight_bytes() const {
    return frozen() ? base_->bytes() : weight_->value.size() * static_cast<Index>(sizeof(S));
  }
  /// b, without adapters; null if the layer has none.
  const Vector<S>* bias() const& { return bias_ ? &bias_->value : nullptr; }
  const Vector<S>* bias() const&& = delete;
  const AdapterSet<S>& adapters() const& { return adapters_; }
  const AdapterSet<S>& adapters() const&& = delete;
  /// One adapter, to read and to change in place: layer.adapter("bob").as<Lora<float>>().B.value. The reference is
  /// valid until it is detached. Throws NameError.
  NamedAdapter<S>& adapter(std::string_view name) & { return adapters_.at(name); }
  const NamedAdapter<S>& adapter(std::string_view name) const& { return adapters_.at(name); }
  const NamedAdapter<S>& adapter(std::string_view name) const&& = delete;

  /// Identifies this layer in handles and Kept; a copy has another number.
  std::uint64_t number() const { return number_; }

  static constexpr const char* layer_name() { return "Linear"; }

  static void visit(auto& self, auto&& f) {
    if (self.frozen()) {
      f("weight", std::as_const(*self.base_));
      if (self.bias_) f("bias", std::as_const(self.bias_->value));
    } else {
      f("weight", *self.weight_);
      f("bias", self.bias_);
    }
    f("adapters", self.adapters_);
  }

 private:
  void set_bias(std::optional<Vector<S>> b) {
    if (!b) return;
    detail::check_rows("Linear", "the bias", b->rows(), "out_features", out_features());
    bias_.emplace(std::move(*b));
  }

  std::optional<Vector<S>> copy_of_bias() const {
    if (!bias_) return std::nullopt;
    return bias_->value;
  }

  AnyBase<S> packed_weight() const { return Frozen<S>(Eigen::Ref<const Matrix<S>>(weight_->value)); }
  void freeze_as(AnyBase<S> packed) {
    base_ = std::move(packed);
    weight_.reset();
    if (bias_) bias_->drop_gradient();
  }

  void check_fits(const AnyAdapter<S>& adapter, const std::optional<Vector<S>>& bias) const {
    adapter.check_fits("Linear::attach", out_features(), in_features());
    if (!bias) return;
    if (!bias_) {
      throw StateError("Linear::attach: the adapter brings a bias, but the layer has none to replace");
    }
    detail::check_rows("Linear::attach", "the trained bias", bias->rows(), "out_features", out_features());
  }

  /// The selection that a pass uses.
  std::shared_ptr<const Selection<S>> choose(const AdapterHandle& adapter) const {
    if (!adapter) return adapters_.selection();
    return std::static_pointer_cast<const Selection<S>>(adapter.choice_of(number_, "Linear::forward"));
  }

  void divide(const Pass& pass, Index samples, Kept& kept) const;
  void forward_frozen(const Columns& x, MutableColumns& y, Kept& kept, Scratch& scratch) const;
  /// Calls f(first, count) for the max ranges of columns whose adapters add to a shared product of the base.
  static void for_each_shared(const Kept& kept, auto&& f) {
    Index begin = 0, end = 0;
    for (const Piece& piece : kept.pieces) {
      if (!piece.sums()) {
        if (begin < end) f(begin, end - begin);
        begin = piece.first + piece.count;
      }
      end = piece.first + piece.count;
    }
    if (begin < end) f(begin, end - begin);
  }

  /// y += b + sum_k w_k (b_k - b) to every column; a single bias of weight 1 is added exactly.
  void add_bias(const Selection<S>& choice, MutableColumns y) const {
    if (!bias_) return;
    const auto& chosen = choice.choices;
    if (chosen.size() == 1 && chosen[0].part->bias && chosen[0].weight == 1.0) {
      return detail::add_to_columns(chosen[0].part->bias->value, y);
    }
    detail::add_to_columns(bias_->value, y);
    for (const auto& [part, weight] : chosen) {
      if (part->bias) detail::add_difference_to_columns(S(weight), part->bias->value, bias_->value, y);
    }
  }

  void propagate(const Columns& x, const Columns& dy, MutableColumns* dx, Kept& kept, Scratch& scratch);
  void add_delta_to(Matrix<S>& weight) const;

  std::optional<Parameter<S>> weight_;  // until it is frozen
  std::optional<AnyBase<S>> base_;      // after that
  std::optional<Parameter<S, Dynamic, 1>> bias_;
  AdapterSet<S> adapters_;
  detail::OwnNumber number_;
};

template <class S>
template <AdapterConfig<S> C>
void Linear<S>::attach(std::string_view name, const C& config, Rng& rng) {
  adapters_.check_new_name(name);
  using Kind = typename C::template Kind<S>;
  std::optional<Vector<S>> bias;
  if (detail::bias_of(config) != Bias::none) bias = copy_of_bias();
  if (frozen()) return attach(name, Kind(*base_, config, rng), std::move(bias));
  AnyBase<S> packed = packed_weight();
  Kind adapter(packed, config, rng);
  check_fits(adapter, bias);
  freeze_as(std::move(packed));
  adapters_.insert(name, std::move(adapter), std::move(bias));
}

template <class S>
void Linear<S>::attach(std::string_view name, const LoraConfig& config, Rng& rng) {
  attach<LoraConfig>(name, config, rng);
}

template <class S>
void Linear<S>::forward(const Columns& x, MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass) const {
  detail::check_pass_input("Linear::forward", x, in_features());
  detail::check_rows("Linear::forward", "y", y.rows(), "out_features", out_features());
  detail::check_cols("Linear::forward", "y", y.cols(), "the columns of x", x.cols());
  Kept& own = kept != nullptr ? *kept : scratch.get<Kept>();
  own.samples = -1;  // an exception below must not leave a half-filled one that backward would accept
  own.layer = number_;
  divide(pass, x.cols(), own);
  if (frozen()) {
    forward_frozen(x, y, own, scratch);
  } else {
    multiply_like<Frozen<S>>(weight_->value, x, y, pass.executor);  // freezing changes no bit of y
    if (bias_) detail::add_to_columns(bias_->value, y);
  }
  own.samples = kept != nullptr ? x.cols() : -1;
}

/// The pieces of a pass: one, or one for each segment.
template <class S>
void Linear<S>::divide(const Pass& pass, Index samples, Kept& kept) const {
  constexpr const char* who = "Linear::forward";
  const auto keep = [&](Piece& piece, const Pass& own) {
    piece.choice = choose(own.adapter);
    piece.settings = own;
    piece.settings.adapter = {};
    piece.settings.columns = {};
    piece.numbers.assign(own.columns.begin(), own.columns.end());
  };
  if (!pass.columns.empty()) {
    detail::check_extent(who, "the pass", static_cast<Index>(pass.columns.size()), "column numbers", "the columns of x",
                         samples);
  }
  kept.pieces.resize(std::max<std::size_t>(pass.segments.size(), 1));
  if (pass.segments.empty()) {
    Piece& all = kept.pieces[0];
    keep(all, pass);
    all.first = 0;
    all.count = samples;
  } else if (pass.adapter) {
    detail::fail<ConfigError>(who, "the pass names an adapter and has segments, expected one of the two");
  }
  kept.order.resize(pass.segments.size());
  std::iota(kept.order.begin(), kept.order.end(), std::size_t(0));
  std::sort(kept.order.begin(), kept.order.end(),
            [&](std::size_t a, std::size_t b) { return pass.segments[a].first < pass.segments[b].first; });
  for (std::size_t k = 0; k < pass.segments.size(); ++k) {
    const Segment& segment = pass.segments[kept.order[k]];
    Piece& piece = kept.pieces[k];
    piece.first = segment.first;
    piece.count = segment.count;
    keep(piece, detail::pass_of(pass, segment));
  }
  Index next = 0;
  std::size_t slots = 0;
  for (Piece& piece : kept.pieces) {
    if (piece.count < 1 || piece.first != next) {
      detail::fail<ShapeError>(who, "a segment has the columns " + std::to_string(piece.first) + " to " +
                                        std::to_string(piece.first + piece.count - 1) +
                                        ", expected one that begins at " + std::to_string(next) +
                                        ": segments cover each column once");
    }
    next += piece.count;
    piece.slot = slots;
    slots += piece.size();
  }
  detail::check_extent(who, "the pass", next, "columns in its segments", "the columns of x", samples);
  if (kept.adapters.size() < slots) kept.adapters.resize(slots);
}

template <class S>
void Linear<S>::forward_frozen(const Columns& x, MutableColumns& y, Kept& kept, Scratch& scratch) const {
  static const Selection<S> none;
  const auto run = [&](const Piece& piece, const Columns& some_x, MutableColumns some_y, bool alone) {
    const Pass pass = piece.pass();
    for (std::size_t k = 0; k < piece.size(); ++k) {
      const auto& [part, weight] = piece.choice->choices[k];
      detail::Slots& slot = kept.adapters[piece.slot + k];
      if (k == 0 && alone) {
        part->adapter.forward(*base_, some_x, some_y, slot, scratch, pass, S(weight));
      } else {
        part->adapter.add(some_x, some_y, slot, scratch, pass, S(weight));
      }
    }
    add_bias(piece.choice ? *piece.choice : none, some_y);
  };
  if (kept.pieces.size() == 1) {  // the base may fuse the first adapter's term
    const Piece& all = kept.pieces[0];
    if (all.size() == 0) base_->apply(x, y, all.settings.executor);
    return run(all, x, y, true);
  }
  for_each_shared(kept, [&](Index first, Index count) {
    base_->apply(detail::middle_columns(x, first, count), detail::middle_columns(y, first, count),
                 kept.pieces[0].settings.executor);
  });
  for (const Piece& piece : kept.pieces) {
    run(piece, detail::middle_columns(x, piece.first, piece.count), detail::middle_columns(y, piece.first, piece.count),
        !piece.sums());
  }
}

template <class S>
void Linear<S>::propagate(const Columns& x, const Columns& dy, MutableColumns* dx, Kept& kept, Scratch& scratch) {
  check_backward("Linear::backward", x, dy, kept);
  Executor* const executor = kept.pieces[0].settings.executor;
  if (!frozen()) {
    // forward: y = W x + b   =>   dW = dy x^T, db = the sum of dy over the samples, dx = W^T dy
    if (weight_->trainable) detail::add_thin_outer(dy, x, weight_->gradient(), executor);
    if (bias_ && bias_->trainable) detail::add_sum_of_columns(S(1), dy, bias_->gradient());
    if (dx != nullptr) detail::thin_product(weight_->value, dy, *dx, executor);
    return;
  }
  const auto run = [&](const Piece& piece, const Columns& some_x, const Columns& some_dy, MutableColumns* some_dx,
                       bool alone) {
    const Pass pass = piece.pass();
    for (std::size_t k = 0; k < piece.size(); ++k) {
      const auto& [part, weight] = piece.choice->choices[k];
      detail::Slots& slot = kept.adapters[piece.slot + k];
      // forward: y += w_k (b_k - b)   =>   db_k = w_k times the sum of dy over the samples
      if (part->bias && part->bias->trainable) {
        detail::add_sum_of_columns(S(weight), some_dy, part->bias->gradient());
      }
      if (k == 0 && alone) {
        part->adapter.backward(*base_, some_x, some_dy, some_dx, slot, scratch, pass);
      } else {
        part->adapter.add_backward(some_x, some_dy, some_dx, slot, scratch, pass);
      }
    }
  };
  if (kept.pieces.size() == 1) {
    if (kept.pieces[0].size() == 0 && dx != nullptr) base_->apply_transposed(dy, *dx, executor);
    return run(kept.pieces[0], x, dy, dx, true);
  }
  if (dx != nullptr) {
    for_each_shared(kept, [&](Index first, Index count) {
      base_->apply_transposed(detail::middle_columns(dy, first, count), detail::middle_columns(*dx, first, count),
                              executor);
    });
  }
  for (const Piece& piece : kept.pieces) {
    const auto some = [&](auto& matrix) { return detail::middle_columns(matrix, piece.first, piece.count); };
    if (dx == nullptr) {
      run(piece, some(x), some(dy), nullptr, !piece.sums());
    } else {
      MutableColumns some_dx = some(*dx);
      run(piece, some(x), some(dy), &some_dx, !piece.sums());
    }
  }
}

template <class S>
Matrix<S> Linear<S>::merged() const {
  const auto now = adapters_.selection();
  if (now->choices.size() == 1) {
    if (const Matrix<S>* replacement = now->choices[0].part->adapter.replacement()) return *replacement;
  }
  Matrix<S> weight = dense();
  add_delta_to(weight);
  return weight;
}

template <class S>
void Linear<S>::add_delta_to(Matrix<S>& weight) const {
  if (!frozen()) return;
  const auto now = adapters_.selection();
  add_rounded_once<S>(weight, [&](auto& block, Index first) {
    for (const auto& [part, factor] : now->choices) part->adapter.add_delta(block, first, *base_, S(factor));
  });
}

}  // namespace lora::inline LORA_ABI
