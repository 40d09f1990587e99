#pragma once
/// Low-rank adaptation for C++. This header includes all that needs only Eigen/Core, in reading order.

#include "lora/version.hpp"

// What everything stands on: numbers and orientation, errors, random numbers, parameters and their listing.
#include "lora/core/buffer.hpp"
#include "lora/core/denormals.hpp"
#include "lora/core/error.hpp"
#include "lora/core/huge_pages.hpp"
#include "lora/core/packet.hpp"
#include "lora/core/parameter.hpp"
#include "lora/core/parameters.hpp"
#include "lora/core/path.hpp"
#include "lora/core/random.hpp"
#include "lora/core/scalar.hpp"
#include "lora/core/visit.hpp"

// The frozen weight.
#include "lora/base/concept.hpp"
#include "lora/base/dense.hpp"
#include "lora/base/frozen.hpp"
#include "lora/base/merged_panels.hpp"
#include "lora/base/packed.hpp"
#include "lora/base/packed_product.hpp"
#include "lora/base/packed_transposed.hpp"
#include "lora/base/panel_layout.hpp"
#include "lora/base/plan.hpp"
#include "lora/base/side_by_side.hpp"
#include "lora/base/streamed_transposed.hpp"
#include "lora/base/thin.hpp"
#include "lora/base/tile_kernel.hpp"
#include "lora/base/tile_store.hpp"
#include "lora/base/unpacked_product.hpp"

// What is trained beside it.
#include "lora/adapters/adapted.hpp"
#include "lora/adapters/adapter_set.hpp"
#include "lora/adapters/concept.hpp"
#include "lora/adapters/config.hpp"
#include "lora/adapters/dropout.hpp"
#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/init.hpp"
#include "lora/adapters/lora.hpp"
#include "lora/adapters/module_names.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/adapters/offset_lora.hpp"
#include "lora/adapters/pass.hpp"

// Enough network to use it.
#include "lora/nn/activations.hpp"
#include "lora/nn/linear.hpp"
#include "lora/nn/mlp.hpp"

// What training needs besides.
#include "lora/losses/mean_squared_error.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/clip.hpp"
#include "lora/optim/parameter_group.hpp"
#include "lora/optim/schedule.hpp"
#include "lora/optim/sgd.hpp"

// Whole models: adapters by name, and what they cost.
#include "lora/peft/accounting.hpp"
#include "lora/peft/adaptable.hpp"
#include "lora/peft/attach.hpp"
#include "lora/peft/match.hpp"
#include "lora/peft/merge.hpp"
#include "lora/peft/pattern.hpp"
#include "lora/peft/pattern_syntax.hpp"
#include "lora/peft/report.hpp"
