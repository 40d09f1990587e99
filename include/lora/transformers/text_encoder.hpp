#pragma once
/// An encoder without a head: texts in, a vector for each token or each text out.

#include "lora/model/targets.hpp"
#include "lora/nn/pooling.hpp"
#include "lora/transformers/detail/encoder_memory.hpp"
#include "lora/transformers/detail/token_pass.hpp"

#include <optional>
#include <string>
#include <type_traits>

namespace lora::inline LORA_ABI {

/// y = the last hidden state, (hidden_size, tokens).   Type: a type of model, such as BertType (transformers/bert.hpp)
///
/// ```cpp
/// #include <lora/transformers/bert.hpp>
///
/// int main() {
///   lora::Rng rng(1);
///   const lora::EncoderConfig config{.vocab_size = 100, .hidden_size = 32, .num_hidden_layers = 2,
///                                    .num_attention_heads = 4, .intermediate_size = 64};
///   const lora::BertModel<float> model(config, rng);
///   const Eigen::MatrixXf sentences = model.sentence_embeddings({{5, 17, 3}, {42, 7}});
///   return sentences.cols() == 2 && std::abs(sentences.col(0).norm() - 1) < 1e-5f ? 0 : 1;
/// }
/// ```
///
/// A batch is token ids without padding. Positions, attention and pooling look at the texts; to all else it is one
/// matrix. Paths are those of the type's plain model in transformers.
template <class S, class Type>
class TextEncoder : public detail::TokenPass<TextEncoder<S, Type>, S> {
  using Thin = detail::TokenPass<TextEncoder, S>;
  using Columns = detail::Columns<S>;
  using MutableColumns = detail::MutableColumns<S>;

 public:
  using Scalar = S;
  using ModelType = Type;
  /// What comes before the encoder's paths.
  static constexpr const char* root = "";
  static constexpr const char* task_type = "FEATURE_EXTRACTION";
  template <class T = Type>  // a template, so that clang 14 can instantiate the class for types without
    requires requires { T::default_targets(); }
  static Targets default_targets() {
    return T::default_targets();
  }

  using Kept = typename detail::Encoder<S>::Kept;
  using Cache = detail::TokenCache<S, Kept>;

  detail::Encoder<S> encoder;
  /// Of models that have one, so that it is saved and loaded; no pass applies it.
  std::optional<Linear<S>> pooler;

  /// A new model. Throws ConfigError.
  TextEncoder(const EncoderConfig& config, Rng& rng)
      : TextEncoder(config, NewLayers<S>(rng, detail::checked_range(config, layer_name()))) {}
  /// Layers of a source. Throws ConfigError, and what the source throws.
  TextEncoder(const EncoderConfig& config, LayerSource<S>&& source) : TextEncoder(config, source) {}
  TextEncoder(const EncoderConfig& config, LayerSource<S>& source)
      : encoder(Type::paths, detail::checked(config, layer_name()), root, source), config_(config) {
    if constexpr (requires { Type::pooler; }) {
      if (!source.has(Type::pooler)) return;
      pooler.emplace(source.linear(Type::pooler, {.in = config.hidden_size, .out = config.hidden_size}));
    }
  }

  using Thin::backward;
  using Thin::forward;

  /// Writes y (hidden_size, tokens). Throws ValueError for an id that is not in the vocabulary or a text that is too
  /// long, ShapeError.
  void forward(const Tokens& tokens, MutableColumns y, Kept* kept, Scratch& scratch, const Pass& pass) const;
  /// Gradients accumulate. tokens are those of the forward pass, dy is (hidden_size, tokens). Throws StateError,
  /// ShapeError.
  void backward(const Tokens& tokens, const Columns& dy, Kept& kept, Scratch& scratch);

  /// For each text the mean of its columns of y, with length 1: (hidden_size, texts). What sentence-transformers
  /// computes with models such as all-MiniLM-L6-v2.
  Matrix<S> sentence_embeddings(const Tokens& tokens, const Pass& pass = {}) const {
    const Matrix<S> y = (*this)(tokens, pass);
    Matrix<S> means(out_features(), tokens.count());
    mean_pool<S>(y, tokens.sequences(), means);
    normalize<S>(means, means);
    return means;
  }

  /// What the passes of a batch of such texts hold, as things train now, or if everything did: see report().
  PassBytes pass_bytes(const Sequences& texts, int threads = 1, bool everything = false) const {
    return detail::pass_bytes(encoder, {.texts = texts, .threads = threads, .everything = everything},
                              [&](detail::LentSizes&) { return out_features() * texts.total(); });
  }
  bool trains(const Kept& kept) const { return encoder.trains(kept); }
  const EncoderConfig& config() const& { return config_; }
  const EncoderConfig& config() const&& = delete;
  Index out_features() const { return config_.hidden_size; }
  static Index out_columns(const Tokens& tokens) { return tokens.sequences().total(); }

  static constexpr const char* layer_name() { return Type::model_name; }
  static void visit(auto& self, auto&& f) {
    std::remove_cvref_t<decltype(self.encoder)>::visit(self.encoder, f);
    if constexpr (requires { Type::pooler; }) {
      if (self.pooler) f(Type::pooler, *self.pooler);
    }
  }

 private:
  EncoderConfig config_;
};

template <class S, class Type>
void TextEncoder<S, Type>::forward(const Tokens& tokens, MutableColumns y, Kept* kept, Scratch& scratch,
                                   const Pass& pass) const {
  encoder.forward(tokens, y, kept, scratch, pass);
}

template <class S, class Type>
void TextEncoder<S, Type>::backward(const Tokens& tokens, const Columns& dy, Kept& kept, Scratch& scratch) {
  encoder.backward(tokens, dy, kept, scratch);
}

}  // namespace lora::inline LORA_ABI
