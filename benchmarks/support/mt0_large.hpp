#pragma once
/// mt0-large, tensor by tensor, from its architecture: 1,229,581,312 numbers.
///
/// An encoder and a decoder of 24 layers each, width 1,024, 16 heads of 64, gated feed-forward of 2,816, a vocabulary
/// of 250,112 with an output head of its own, no biases, norms with a weight only.
/// Source: Muennighoff et al. 2022, arXiv:2211.01786; the architecture is mT5's, Xue et al. 2020, arXiv:2010.11934.

#include "lora/model/accounting.hpp"

#include <string>
#include <vector>

namespace benchmarks {

/// rank: of LoRA on the q and v projections of every attention; 0 for none.
inline std::vector<lora::LayerShape> mt0_large(lora::Index rank) {
  constexpr lora::Index vocabulary = 250112, width = 1024, layers = 24, heads = 16, head_width = 64, hidden = 2816;
  constexpr lora::Index attention_width = heads * head_width, position_buckets = 32;
  std::vector<lora::LayerShape> shapes;

  const auto table = [&](const std::string& name, lora::Index out, lora::Index in, lora::Index count) {
    shapes.push_back({.name = name, .out = out, .in = in, .count = count, .product = false});
  };
  const auto linear = [&](const std::string& name, lora::Index out, lora::Index in, lora::Index own_rank = 0) {
    shapes.push_back({.name = name, .out = out, .in = in, .rank = own_rank, .count = layers});
  };
  const auto attention = [&](const std::string& name) {
    linear(name + ".q", attention_width, width, rank);
    linear(name + ".k", attention_width, width);
    linear(name + ".v", attention_width, width, rank);
    linear(name + ".o", width, attention_width);
  };
  const auto stack = [&](const std::string& name, bool decoder) {
    attention(name + ".SelfAttention");
    table(name + ".SelfAttention.relative_attention_bias", position_buckets, heads, 1);  // in the first layer only
    if (decoder) attention(name + ".EncDecAttention");
    linear(name + ".DenseReluDense.wi_0", hidden, width);
    linear(name + ".DenseReluDense.wi_1", hidden, width);
    linear(name + ".DenseReluDense.wo", width, hidden);
    table(name + ".layer_norm", width, 1, layers * (decoder ? 3 : 2));
    table(name + ".final_layer_norm", width, 1, 1);
  };

  table("shared", vocabulary, width, 1);
  stack("encoder", false);
  stack("decoder", true);
  shapes.push_back({.name = "lm_head", .out = vocabulary, .in = width});
  return shapes;
}

}  // namespace benchmarks
