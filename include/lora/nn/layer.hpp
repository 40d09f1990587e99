#pragma once
/// The concept of a layer of a network. The laws in testing/layer_laws.hpp say what must hold.

#include "lora/core/layer_pass.hpp"
#include "lora/core/visit.hpp"

#include <concepts>

namespace lora::inline LORA_ABI {

/// x, dx (in, samples), y, dy (out, samples):
///
///   forward(x, y, &kept, scratch, pass) const    writes y; kept null: no backward pass follows
///   backward(x, dy, dx, kept, scratch)           gradients accumulate (+=); writes dx, unless it is no_gradient
///   check_backward(who, x, dy, kept) const       throws what backward would throw, and changes nothing
///   trains(kept) const                           whether backward of that pass would add to a gradient
///
/// Kept is what forward keeps for backward, one for each layer, without the input, which the network keeps; Scratch is
/// one for each thread, shared by all layers. Both report their bytes(). The calls with a Cache, layer.forward(x,
/// cache) and layer.backward(x, dy, cache), come from deriving from detail::CachedPass.
template <class L>
concept Layer = Visitable<L> && std::default_initializable<typename L::Kept> &&
                requires(L& layer, const L& constant, const Eigen::Ref<const Matrix<typename L::Scalar>>& x,
                         Eigen::Ref<Matrix<typename L::Scalar>, 0, Eigen::OuterStride<>> out, typename L::Kept& kept,
                         Scratch& scratch, const Pass& pass, const detail::Caller& who) {
                  constant.forward(x, out, &kept, scratch, pass);
                  layer.backward(x, x, out, kept, scratch);
                  layer.backward(x, x, no_gradient, kept, scratch);
                  constant.check_backward(who, x, x, kept);
                  { constant.trains(kept) } -> std::convertible_to<bool>;
                  { constant.in_features() } -> std::convertible_to<Index>;
                  { constant.out_features() } -> std::convertible_to<Index>;
                  { kept.bytes() } -> std::convertible_to<Index>;
                };

}  // namespace lora::inline LORA_ABI
