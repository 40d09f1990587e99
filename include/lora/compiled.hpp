#pragma once
/// The common layers and AdamW, compiled once for a program instead of in each of its files: for float and double,
/// frozen and packed, with LoRA, a trained copy or a bias. The CMake target lora::compiled compiles lora/compiled.cpp
/// with the flags of the target that links it, and lora.hpp then includes this header.

#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/adapters/residual_lora.hpp"
#include "lora/model/match.hpp"
#include "lora/nn/attention.hpp"
#include "lora/nn/linear.hpp"
#include "lora/optim/adam.hpp"

#ifdef LORA_COMPILED_HERE
#define LORA_DETAIL_INSTANCE template
#else
#define LORA_DETAIL_INSTANCE extern template
#endif

#define LORA_DETAIL_INSTANCES(S)                                                                                     \
  LORA_DETAIL_INSTANCE void detail::packed_product<S>(const detail::PanelLayout<S>&, const S*,                       \
                                                      const detail::Columns<S>&, detail::MutableColumns<S>,          \
                                                      const detail::LowRankTerm<S>&, Executor*);                     \
  LORA_DETAIL_INSTANCE void detail::packed_transposed<S>(const detail::PanelLayout<S>&, const S*,                    \
                                                         const detail::Columns<S>&, detail::MutableColumns<S>,       \
                                                         const detail::LowRankTerm<S>&, Executor*);                  \
  LORA_DETAIL_INSTANCE void detail::unpacked_product<S>(const detail::Columns<S>&, const detail::Columns<S>&,        \
                                                        detail::MutableColumns<S>, Executor*);                       \
  LORA_DETAIL_INSTANCE void detail::thin_product_by_tiles<S>(const detail::Columns<S>&, const detail::Columns<S>&,   \
                                                             detail::MutableColumns<S>, Executor*);                  \
  LORA_DETAIL_INSTANCE void detail::add_thin_outer_by_tiles<S>(const detail::Columns<S>&, const detail::Columns<S>&, \
                                                               detail::MutableColumns<S>, Executor*);                \
  LORA_DETAIL_INSTANCE void detail::add_low_rank_by_tiles<S>(const detail::Columns<S>&, const detail::Columns<S>&,   \
                                                             detail::MutableColumns<S>, Executor*);                  \
  LORA_DETAIL_INSTANCE std::shared_ptr<const AnyBase<S>::Interface> AnyBase<S>::hold(Packed<S>);                     \
  LORA_DETAIL_INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(Lora<S>);                       \
  LORA_DETAIL_INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(ResidualLora<S>);               \
  LORA_DETAIL_INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(FullWeight<S>);                 \
  LORA_DETAIL_INSTANCE std::unique_ptr<AnyAdapter<S>::Interface> AnyAdapter<S>::hold(NoAdapter<S>);                  \
  LORA_DETAIL_INSTANCE void attention<S>(const detail::Columns<S>&, const detail::Columns<S>&,                       \
                                         const detail::Columns<S>&, const AttentionShape&, const Sequences&,         \
                                         const Sequences&, detail::MutableColumns<S>, detail::MutableColumns<S>*,    \
                                         Scratch&, const Pass&);                                                     \
  LORA_DETAIL_INSTANCE void attention_backward<S>(                                                                   \
      const detail::Columns<S>&, const detail::Columns<S>&, const detail::Columns<S>&, const AttentionShape&,        \
      const Sequences&, const Sequences&, const detail::Columns<S>&, const detail::Columns<S>&,                      \
      const detail::Columns<S>&, detail::MutableColumns<S>, detail::MutableColumns<S>, detail::MutableColumns<S>,    \
      Scratch&, const Pass&);                                                                                        \
  LORA_DETAIL_INSTANCE class Linear<S>;                                                                              \
  LORA_DETAIL_INSTANCE class BasicAdam<S, true>;

namespace lora::inline LORA_ABI {

LORA_DETAIL_INSTANCES(float)
LORA_DETAIL_INSTANCES(double)
LORA_DETAIL_INSTANCE std::vector<ModuleMatch> detail::match_layers<LoraConfig>(const ModelPaths&, const LoraConfig&,
                                                                               const Targets&, const Caller&,
                                                                               const TargetWords&, LeftOut);
LORA_DETAIL_INSTANCE std::vector<ModuleMatch> detail::match_modules<LoraConfig>(const ModelPaths&, const LoraConfig&,
                                                                                const Targets&, const Caller&,
                                                                                const TargetWords&);

}  // namespace lora::inline LORA_ABI

#undef LORA_DETAIL_INSTANCES
#undef LORA_DETAIL_INSTANCE
