#pragma once
/// An encoder with a head that classifies texts.

#include "lora/model/targets.hpp"
#include "lora/nn/activations.hpp"
#include "lora/nn/pooling.hpp"
#include "lora/transformers/detail/encoder_memory.hpp"
#include "lora/transformers/detail/token_pass.hpp"

#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// logits = Wo drop(f(Wd h + bd)) + bo, h the last hidden state of the first token of each text
///
///   logits (num_labels, texts)   Wd (hidden_size, hidden_size)   Wo (num_labels, hidden_size)
///
/// f, whether h is dropped too, and the paths are those of the type (transformers/bert.hpp, ...). The last block
/// computes only what the first tokens need, which changes no gradient.
template <class S, class Type>
class SequenceClassifier : public detail::TokenPass<SequenceClassifier<S, Type>, S> {
  using Thin = detail::TokenPass<SequenceClassifier, S>;
  using Head = typename Type::SequenceHead;
  using Activation = typename Head::Activation;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;
  using ModelType = Type;
  /// What comes before the encoder's paths.
  static constexpr const char* root = Type::root;
  static constexpr const char* task_type = "SEQ_CLS";
  /// Targets of LoRA as PEFT has them for this type, and the head in full.
  template <class T = Type>  // a template, so that clang 14 can instantiate the class for types without
    requires requires { T::default_targets(); }
  static Targets default_targets() {
    Targets targets = T::default_targets();
    targets.modules_to_save = Head::modules_to_save();
    return targets;
  }

  struct Kept {
    typename detail::Encoder<S>::Kept encoder;
    typename Linear<S>::Kept dense, output;
    Buffer<S> first, bent;  ///< h, f(Wd h + bd), (hidden_size, texts)
    std::vector<Index> columns;
    Sequences queries;
    KeptPass pass;  ///< of these columns
    Index texts = -1;

    Index bytes() const { return encoder.bytes() + dense.bytes() + output.bytes() + first.bytes() + bent.bytes(); }
  };
  using Cache = detail::TokenCache<S, Kept>;

  detail::Encoder<S> encoder;
  Linear<S> dense, output;

  /// A new model. Throws ConfigError.
  SequenceClassifier(const EncoderConfig& config, Rng& rng)
      : SequenceClassifier(config, NewLayers<S>(rng, detail::checked_range(config, layer_name()))) {}
  /// Layers of a source. Throws ConfigError, and what the source throws.
  SequenceClassifier(const EncoderConfig& config, LayerSource<S>&& source) : SequenceClassifier(config, source) {}
  SequenceClassifier(const EncoderConfig& config, LayerSource<S>& source)
      : encoder(Type::paths, detail::checked(config, layer_name()), root, source),
        dense(source.linear(Head::dense, {.in = config.hidden_size, .out = config.hidden_size})),
        output(source.linear(Head::output, {.in = config.hidden_size, .out = config.num_labels})),
        config_(config) {}

  using Thin::backward;
  using Thin::forward;

  /// Writes logits (num_labels, texts). Throws ValueError for an id that is not in the vocabulary or a text that is
  /// too long, ShapeError.
  void forward(const Tokens& tokens, MutableColumns logits, Kept* kept, Scratch& scratch, const Pass& pass) const;

  /// Gradients accumulate. tokens are those of the forward pass, dlogits is (num_labels, texts). Throws StateError,
  /// ShapeError, and changes nothing then.
  void backward(const Tokens& tokens, const Columns& dlogits, Kept& kept, Scratch& scratch);

  /// What the passes of a batch of such texts hold, as things train now, or if everything did: see report().
  PassBytes pass_bytes(const Sequences& texts, int threads = 1, bool everything = false) const {
    const Index numbers = encoder.features() * texts.count();
    return detail::pass_bytes(
        encoder,
        {.texts = texts, .chosen = texts.count(), .threads = threads, .everything = everything, .lent_backward = 2},
        [&](detail::LentSizes& lent) {
          for (const std::size_t k : {0U, 1U}) lent.lend(k, numbers);
          const Index adapters = detail::adapter_numbers(dense, texts.count(), lent) +
                                 detail::adapter_numbers(output, texts.count(), lent);
          return 2 * numbers + out_features() * texts.count() + (everything ? 0 : adapters);
        });
  }
  bool trains(const Kept& kept) const {
    return encoder.trains(kept.encoder) || dense.trains(kept.dense) || output.trains(kept.output);
  }
  const EncoderConfig& config() const& { return config_; }
  const EncoderConfig& config() const&& = delete;
  Index out_features() const { return output.out_features(); }
  static Index out_columns(const Tokens& tokens) { return tokens.count(); }

  static constexpr const char* layer_name() { return Head::name; }
  static void visit(auto& self, auto&& f) {
    f(Type::module, self.encoder);
    f(Head::dense, self.dense);
    f(Head::output, self.output);
  }

 private:
  double dropout() const { return config_.classifier_dropout_or_hidden(); }

  EncoderConfig config_;
};

template <class S, class Type>
void SequenceClassifier<S, Type>::forward(const Tokens& tokens, MutableColumns logits, Kept* kept, Scratch& scratch,
                                          const Pass& pass) const {
  Kept& own = kept == nullptr ? scratch.get<Kept>() : *kept;  // without backward, only what is small is used
  own.texts = -1;
  first_columns(tokens.sequences(), own.columns);
  if (tokens.count() > 0) own.queries.assign(tokens.count(), 1);
  auto first = own.first.resize(encoder.features(), tokens.count());
  encoder.forward(tokens, own.columns, own.queries, first, kept == nullptr ? nullptr : &own.encoder, scratch, pass);
  own.pass.assign(pass, own.columns);
  const Pass some = own.pass.pass();
  if constexpr (Head::drops_input) {
    detail::drop<S>(first, dropout(), detail::second_classifier_stream, some, scratch);
  }
  auto bent = own.bent.resize(first.rows(), first.cols());
  dense.forward(first, bent, kept == nullptr ? nullptr : &own.dense, scratch, some);
  Activation::forward(bent, bent);
  detail::drop<S>(bent, dropout(), detail::classifier_stream, some, scratch);
  output.forward(bent, logits, kept == nullptr ? nullptr : &own.output, scratch, some);
  if (kept != nullptr) own.texts = tokens.count();
}

template <class S, class Type>
void SequenceClassifier<S, Type>::backward(const Tokens& tokens, const Columns& dlogits, Kept& kept, Scratch& scratch) {
  const detail::Caller who(layer_name(), "backward");
  const auto bent = kept.bent.view();
  detail::check_pass_gradient(who, bent, dlogits, encoder.features(), out_features(), kept.texts);
  encoder.check_backward(who, tokens, kept.first.view(), kept.encoder);
  dense.check_backward(who, kept.first.view(), bent, kept.dense);
  output.check_backward(who, bent, dlogits, kept.output);
  const bool below = encoder.trains(kept.encoder);
  if (!below && !dense.trains(kept.dense)) return output.backward(bent, dlogits, no_gradient, kept.output, scratch);
  const Pass some = kept.pass.pass();
  const auto first = scratch.borrow<S>(), second = scratch.borrow<S>();
  auto gradient = first->resize(bent.rows(), bent.cols());
  output.backward(bent, dlogits, gradient, kept.output, scratch);
  // forward: bent = drop(f(u)); f' is a function of f(u), and where that was dropped, so is its gradient
  detail::drop<S>(gradient, dropout(), detail::classifier_stream, some, scratch);
  auto undropped = second->resize(bent.rows(), bent.cols());
  undropped = bent;
  if (some.training) undropped *= static_cast<S>(1 - dropout());
  static_assert(!Activation::needs_input);
  Activation::backward(undropped, undropped, gradient, gradient);
  const auto top = kept.first.view();
  if (!below) return dense.backward(top, gradient, no_gradient, kept.dense, scratch);
  dense.backward(top, gradient, undropped, kept.dense, scratch);
  if constexpr (Head::drops_input) {
    detail::drop<S>(undropped, dropout(), detail::second_classifier_stream, some, scratch);
  }
  encoder.backward(tokens, undropped, kept.encoder, scratch);
}

}  // namespace lora::inline LORA_ABI
