#pragma once
/// The layers of a model that receive an adapter; its config describes the adapter itself.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"
#include "lora/model/module_names.hpp"

#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

/// The defaults mean all layers that take adapters. The rules are PEFT's: model/match.hpp.
struct Targets {
  /// Layers that receive an adapter (PEFT's target_modules). Empty: all.
  ModuleNames modules = {};
  /// Layers that do not receive one, whatever `modules` says (exclude_modules).
  ModuleNames exclude = {};
  /// Restricts the layers that `modules` matches by suffix to the blocks with these numbers: 3 in
  /// "model.layers.3.q_proj" (layers_to_transform). Empty: all blocks.
  std::vector<Index> blocks = {};
  /// The name before that number, such as "layers"; a regular expression (layers_pattern). Empty: any name.
  std::vector<std::string> block_names = {};
  /// Layers that are trained in full, as a copy that belongs to the adapter, with all layers inside them.
  std::vector<std::string> modules_to_save = {};

  bool operator==(const Targets&) const = default;
};

/// Throws ConfigError for fields that contradict each other.
inline void validate(const Targets& targets, const detail::Caller& who = "Targets") {
  if (targets.modules.is_pattern() && !targets.blocks.empty()) {
    detail::fail<ConfigError>(who, "blocks (layers_to_transform) goes with a list of modules, not with a pattern");
  }
  if (targets.blocks.empty() && !targets.block_names.empty()) {
    detail::fail<ConfigError>(who, "block_names (layers_pattern) is given without blocks (layers_to_transform)");
  }
}

}  // namespace lora::inline LORA_ABI
