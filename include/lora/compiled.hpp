#pragma once
/// The common layers and AdamW, compiled once for a program instead of in each of its files: for float and double,
/// frozen and packed, with LoRA, a trained copy or a bias. The CMake target lora::compiled compiles lora/compiled.cpp
/// and lora/compiled_double.cpp with the flags of the target that links it, and lora.hpp then includes this header; so
/// do the models of lora/transformers/, whose instances are at the end of their own headers. For files there is
/// lora::compiled_io (io/detail/definitions.hpp).

#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/adapters/residual_lora.hpp"
#include "lora/model/match.hpp"
#include "lora/nn/attention.hpp"
#include "lora/nn/embedding.hpp"
#include "lora/nn/encoder_block.hpp"
#include "lora/nn/feed_forward.hpp"
#include "lora/nn/layer_norm.hpp"
#include "lora/nn/linear.hpp"
#include "lora/nn/multi_head_attention.hpp"
#include "lora/optim/adam.hpp"

#define LORA_DETAIL_INSTANCES(INSTANCE, S)                                                                             \
  INSTANCE void detail::packed_product<S>(const detail::PanelLayout<S>&, const S*, const detail::Columns<S>&,          \
                                          detail::MutableColumns<S>, const detail::LowRankTerm<S>&, Executor*);        \
  INSTANCE void detail::packed_transposed<S>(const detail::PanelLayout<S>&, const S*, const detail::Columns<S>&,       \
                                             detail::MutableColumns<S>, const detail::LowRankTerm<S>&, Executor*);     \
  INSTANCE void detail::unpacked_product<S>(const detail::Columns<S>&, const detail::Columns<S>&,                      \
                                            detail::MutableColumns<S>, Executor*);                                     \
  INSTANCE void detail::thin_product_by_tiles<S>(const detail::Columns<S>&, const detail::Columns<S>&,                 \
                                                 detail::MutableColumns<S>, Executor*);                                \
  INSTANCE void detail::add_thin_outer_by_tiles<S>(const detail::Columns<S>&, const detail::Columns<S>&,               \
                                                   detail::MutableColumns<S>, Executor*);                              \
  INSTANCE void detail::add_low_rank_by_tiles<S>(const detail::Columns<S>&, const detail::Columns<S>&,                 \
                                                 detail::MutableColumns<S>, Executor*);                                \
  INSTANCE std::shared_ptr<const AnyBase<S>::Interface> AnyBase<S>::hold(Packed<S>);                                   \
  INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(Lora<S>);                                     \
  INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(ResidualLora<S>);                             \
  INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(FullWeight<S>);                               \
  INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(NoAdapter<S>);                                \
  INSTANCE void attention<S>(const detail::Columns<S>&, const detail::Columns<S>&, const detail::Columns<S>&,          \
                             const AttentionShape&, const Sequences&, const Sequences&, detail::MutableColumns<S>,     \
                             detail::MutableColumns<S>*, Scratch&, const Pass&);                                       \
  INSTANCE void attention_backward<S>(const detail::Columns<S>&, const detail::Columns<S>&, const detail::Columns<S>&, \
                                      const AttentionShape&, const Sequences&, const Sequences&,                       \
                                      const detail::Columns<S>&, const detail::Columns<S>&, const detail::Columns<S>&, \
                                      detail::MutableColumns<S>, detail::MutableColumns<S>, detail::MutableColumns<S>, \
                                      Scratch&, const Pass&);                                                          \
  INSTANCE class AdapterSet<S>;                                                                                        \
  INSTANCE void detail::drop<S>(detail::MutableColumns<S>, double, std::uint64_t, const Pass&, Scratch&);              \
  INSTANCE class Linear<S>;                                                                                            \
  INSTANCE class detail::Norm<LayerNorm<S>, S, true>;                                                                  \
  INSTANCE class LayerNorm<S>;                                                                                         \
  INSTANCE class Embedding<S>;                                                                                         \
  INSTANCE class MultiHeadAttention<S>;                                                                                \
  INSTANCE class FeedForward<S>;                                                                                       \
  INSTANCE class EncoderBlock<S>;                                                                                      \
  INSTANCE class OptimizerState<S, 2>;                                                                                 \
  INSTANCE class BasicAdam<S, true>;

namespace lora::inline LORA_ABI {

LORA_DETAIL_INSTANCES(LORA_COMPILED_FLOAT, float)
LORA_DETAIL_INSTANCES(LORA_COMPILED_DOUBLE, double)
LORA_COMPILED_FLOAT std::vector<ModuleMatch> detail::match_layers<LoraConfig>(const ModelPaths&, const LoraConfig&,
                                                                              const Targets&, const Caller&,
                                                                              const TargetWords&, LeftOut);
LORA_COMPILED_FLOAT std::vector<ModuleMatch> detail::match_modules<LoraConfig>(const ModelPaths&, const LoraConfig&,
                                                                               const Targets&, const Caller&,
                                                                               const TargetWords&);

}  // namespace lora::inline LORA_ABI

#undef LORA_DETAIL_INSTANCES
