#pragma once
/// Low-rank adaptation for C++. This header includes all that needs only Eigen/Core, in reading order. By name come
/// lora/linalg/*.hpp (singular values and what follows from them), the adapters that start from them (pissa.hpp,
/// olora.hpp), lora/parallel/*.hpp (threads), lora/testing/*.hpp (laws for types of your own), lora/io.hpp (files).

#include "lora/version.hpp"

// What everything stands on.
#include "lora/core/buffer.hpp"      // memory of a pass that grows and never shrinks
#include "lora/core/denormals.hpp"   // tiny numbers taken as zero
#include "lora/core/error.hpp"       // what is thrown
#include "lora/core/executor.hpp"    // threads that share the products of a pass
#include "lora/core/parameter.hpp"   // a tensor and its gradient
#include "lora/core/parameters.hpp"  // what follows from it: count, freeze, zero, gather
#include "lora/core/pass.hpp"        // what a pass adds: training, seed, step
#include "lora/core/path.hpp"        // names such as "layers.3.fc1.weight"
#include "lora/core/random.hpp"      // the same random numbers on every machine
#include "lora/core/scalar.hpp"      // which numbers; W is (out, in), samples are columns
#include "lora/core/visit.hpp"       // one listing per type

// The frozen weight.
#include "lora/base/dense.hpp"        // a plain matrix
#include "lora/base/frozen.hpp"       // the one that layers hold
#include "lora/base/frozen_base.hpp"  // the concept
#include "lora/base/packed.hpp"       // in the order in which products read it

// What is trained beside it.
#include "lora/adapters/adapted.hpp"        // one of them, by value
#include "lora/adapters/adapter.hpp"        // the concept
#include "lora/adapters/adapter_set.hpp"    // any number of them, by name
#include "lora/adapters/dropout.hpp"        // masks that need no memory
#include "lora/adapters/full_weight.hpp"    // a trained copy
#include "lora/adapters/init.hpp"           // how A starts
#include "lora/adapters/lora.hpp"           // y = W0 x + s B (A x)
#include "lora/adapters/lora_config.hpp"    // rank, alpha, dropout, ...
#include "lora/adapters/module_names.hpp"   // which layers
#include "lora/adapters/no_adapter.hpp"     // nothing
#include "lora/adapters/residual_lora.hpp"  // the same from a part of W0

// Enough network to use it.
#include "lora/nn/activations.hpp"
#include "lora/nn/linear.hpp"       // the layer of a model
#include "lora/nn/lora_linear.hpp"  // one frozen matrix with LoRA
#include "lora/nn/mlp.hpp"

// What training needs besides.
#include "lora/losses/mean_squared_error.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/clip.hpp"
#include "lora/optim/optimizer.hpp"  // the concept
#include "lora/optim/optimizer_state.hpp"
#include "lora/optim/parameter_group.hpp"
#include "lora/optim/schedule.hpp"
#include "lora/optim/sgd.hpp"

// Whole models: adapters by name, and what they cost.
#include "lora/model/accounting.hpp"  // parameters, bytes, operations
#include "lora/model/adaptable.hpp"   // which layers take adapters
#include "lora/model/attach.hpp"      // attach, select, detach
#include "lora/model/match.hpp"       // target_modules and its relatives
#include "lora/model/merge.hpp"       // into the weights
#include "lora/model/pattern.hpp"     // regular expressions for their names
#include "lora/model/report.hpp"      // as text
#include "lora/model/shapes.hpp"      // of a model
