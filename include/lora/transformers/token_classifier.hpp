#pragma once
/// An encoder with a head that classifies each token.

#include "lora/model/targets.hpp"
#include "lora/transformers/detail/encoder_memory.hpp"
#include "lora/transformers/detail/token_pass.hpp"

namespace lora::inline LORA_ABI {

/// logits = Wo drop(h) + bo, h the last hidden state
///
///   logits (num_labels, tokens)   Wo (num_labels, hidden_size)
template <class S, class Type>
class TokenClassifier : public detail::TokenPass<TokenClassifier<S, Type>, S> {
  using Thin = detail::TokenPass<TokenClassifier, S>;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;
  using ModelType = Type;
  /// What comes before the encoder's paths.
  static constexpr const char* root = Type::root;
  static constexpr const char* task_type = "TOKEN_CLS";
  /// Targets of LoRA as PEFT has them for this type, and the head in full.
  template <class T = Type>  // a template, so that clang 14 can instantiate the class for types without
    requires requires { T::default_targets(); }
  static Targets default_targets() {
    Targets targets = T::default_targets();
    targets.modules_to_save = {"classifier"};
    return targets;
  }

  struct Kept {
    typename detail::Encoder<S>::Kept encoder;
    typename Linear<S>::Kept output;
    Buffer<S> hidden;  ///< drop(h)
    KeptPass pass;
    Index samples = -1;

    Index bytes() const { return encoder.bytes() + output.bytes() + hidden.bytes(); }
  };
  using Cache = detail::TokenCache<S, Kept>;

  detail::Encoder<S> encoder;
  Linear<S> output;

  /// A new model. Throws ConfigError.
  TokenClassifier(const EncoderConfig& config, Rng& rng)
      : TokenClassifier(config, NewLayers<S>(rng, detail::checked_range(config, layer_name()))) {}
  /// Layers of a source. Throws ConfigError, and what the source throws.
  TokenClassifier(const EncoderConfig& config, LayerSource<S>&& source) : TokenClassifier(config, source) {}
  TokenClassifier(const EncoderConfig& config, LayerSource<S>& source)
      : encoder(Type::paths, detail::checked(config, layer_name()), root, source),
        output(source.linear("classifier", {.in = config.hidden_size, .out = config.num_labels})),
        config_(config) {}

  using Thin::backward;
  using Thin::forward;

  /// Writes logits (num_labels, tokens). Throws ValueError for an id that is not in the vocabulary or a text that is
  /// too long, ShapeError.
  void forward(const Tokens& tokens, MutableColumns logits, Kept* kept, Scratch& scratch, const Pass& pass) const;

  /// Gradients accumulate. tokens are those of the forward pass, dlogits is (num_labels, tokens). Throws StateError,
  /// ShapeError, and changes nothing then.
  void backward(const Tokens& tokens, const Columns& dlogits, Kept& kept, Scratch& scratch);

  /// What the passes of a batch of such texts hold, as things train now, or if everything did: see report().
  PassBytes pass_bytes(const Sequences& texts, int threads = 1, bool everything = false) const {
    const Index numbers = encoder.features() * texts.total();
    return detail::pass_bytes(
        encoder, {.texts = texts, .threads = threads, .everything = everything, .lent_forward = 1, .lent_backward = 1},
        [&](detail::LentSizes& lent) {
          lent.lend(0, numbers);
          const Index adapters = detail::adapter_numbers(output, texts.total(), lent);
          return numbers + out_features() * texts.total() + (everything ? 0 : adapters);
        });
  }
  bool trains(const Kept& kept) const { return encoder.trains(kept.encoder) || output.trains(kept.output); }
  const EncoderConfig& config() const& { return config_; }
  const EncoderConfig& config() const&& = delete;
  Index out_features() const { return output.out_features(); }
  static Index out_columns(const Tokens& tokens) { return tokens.sequences().total(); }

  static constexpr const char* layer_name() { return Type::token_classifier_name; }
  static void visit(auto& self, auto&& f) {
    f(Type::module, self.encoder);
    f("classifier", self.output);
  }

 private:
  double dropout() const { return Type::token_dropout(config_); }

  EncoderConfig config_;
};

template <class S, class Type>
void TokenClassifier<S, Type>::forward(const Tokens& tokens, MutableColumns logits, Kept* kept, Scratch& scratch,
                                       const Pass& pass) const {
  if (kept != nullptr) kept->samples = -1;
  const auto borrowed = scratch.borrow<S>();
  auto hidden = (kept == nullptr ? *borrowed : kept->hidden).resize(encoder.features(), out_columns(tokens));
  encoder.forward(tokens, hidden, kept == nullptr ? nullptr : &kept->encoder, scratch, pass);
  detail::drop<S>(hidden, dropout(), detail::classifier_stream, pass, scratch);
  output.forward(hidden, logits, kept == nullptr ? nullptr : &kept->output, scratch, pass);
  if (kept == nullptr) return;
  kept->pass.assign(pass);
  kept->samples = hidden.cols();
}

template <class S, class Type>
void TokenClassifier<S, Type>::backward(const Tokens& tokens, const Columns& dlogits, Kept& kept, Scratch& scratch) {
  const detail::Caller who(layer_name(), "backward");
  const auto hidden = kept.hidden.view();
  detail::check_pass_gradient(who, hidden, dlogits, encoder.features(), out_features(), kept.samples);
  encoder.check_backward(who, tokens, hidden, kept.encoder);
  output.check_backward(who, hidden, dlogits, kept.output);
  if (!encoder.trains(kept.encoder)) return output.backward(hidden, dlogits, no_gradient, kept.output, scratch);
  const auto borrowed = scratch.borrow<S>();
  auto gradient = borrowed->resize(hidden.rows(), hidden.cols());
  output.backward(hidden, dlogits, gradient, kept.output, scratch);
  detail::drop<S>(gradient, dropout(), detail::classifier_stream, kept.pass.pass(), scratch);
  encoder.backward(tokens, gradient, kept.encoder, scratch);
}

}  // namespace lora::inline LORA_ABI
