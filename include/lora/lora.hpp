#pragma once
/// Low-rank adaptation for C++. This header includes everything that needs only Eigen/Core, in reading order. Include
/// separately: lora/linalg/*.hpp (singular values, low-rank factors), the adapters that start from them (pissa.hpp,
/// olora.hpp), lora/parallel/*.hpp (threads), lora/testing/*.hpp (laws for custom types), lora/io.hpp (files).

#include "lora/version.hpp"

// clang-format off: the order is the reader's

// Foundations.
#include "lora/core/scalar.hpp"          // scalars; W is (out, in), samples are columns
#include "lora/core/error.hpp"           // the exceptions
#include "lora/core/random.hpp"          // the same random numbers on every machine
#include "lora/core/parameter.hpp"       // a tensor and its gradient
#include "lora/core/any_parameter.hpp"   // the same, type-erased
#include "lora/core/path.hpp"            // names such as "layers.3.fc1.weight"
#include "lora/core/visit.hpp"           // one listing per type
#include "lora/core/parameters.hpp"      // functions of a listing: count, freeze, zero, gather
#include "lora/core/buffer.hpp"          // memory that grows and never shrinks
#include "lora/core/scratch.hpp"         // temporary memory that all layers share
#include "lora/core/function_ref.hpp"    // a function as an argument
#include "lora/core/executor.hpp"        // parallel loops
#include "lora/core/adapter_handle.hpp"  // the adapter of a pass
#include "lora/core/sequences.hpp"       // which columns belong together
#include "lora/core/pass.hpp"            // the options of a pass: training, seed, step, adapter, executor
#include "lora/core/layer_pass.hpp"      // common to the passes of all layers
#include "lora/core/denormals.hpp"       // flushed to zero
#include "lora/core/finite.hpp"          // infinity and NaN, found

// The frozen weight.
#include "lora/base/frozen_base.hpp"  // the concept
#include "lora/base/shared_bytes.hpp" // its elements as one block of bytes
#include "lora/base/dense.hpp"        // a plain matrix
#include "lora/base/packed.hpp"       // packed into panels, the order in which products read it
#include "lora/base/frozen.hpp"       // one of these two, by scalar and sizes
#include "lora/base/any_base.hpp"     // any of them: what layers hold

// The adapters.
#include "lora/adapters/adapter.hpp"          // the concept
#include "lora/adapters/lora_config.hpp"      // rank, alpha, dropout, ...
#include "lora/adapters/init.hpp"             // how A is initialized
#include "lora/adapters/dropout.hpp"          // masks that need no memory
#include "lora/adapters/lora.hpp"             // y = W0 x + s B (A x)
#include "lora/adapters/residual_lora.hpp"    // LoRA that starts from a part of W0
#include "lora/adapters/full_weight.hpp"      // a trained copy of W0
#include "lora/adapters/no_adapter.hpp"       // no change, or only a bias
#include "lora/adapters/adapter_setting.hpp"  // what files store of one
#include "lora/adapters/any_adapter.hpp"      // any of them: what layers hold
#include "lora/adapters/adapter_set.hpp"      // any number, by name
#include "lora/adapters/adapted.hpp"          // one, held by value: the static form

// Layers and networks.
#include "lora/nn/layer.hpp"        // the concept
#include "lora/nn/linear.hpp"       // the layer of a model
#include "lora/nn/lora_linear.hpp"  // one frozen matrix with LoRA
#include "lora/nn/activations.hpp"
#include "lora/nn/softmax.hpp"
#include "lora/nn/mlp.hpp"
#include "lora/nn/embedding.hpp"
#include "lora/nn/layer_norm.hpp"
#include "lora/nn/rms_norm.hpp"
#include "lora/nn/attention.hpp"    // exact, within each sequence of a batch
#include "lora/nn/multi_head_attention.hpp"

// Losses and optimizers.
#include "lora/losses/labels.hpp"        // classes, as integers of any type
#include "lora/losses/loss_options.hpp"  // weights, and the mean over the parts of a batch
#include "lora/losses/mean_squared_error.hpp"
#include "lora/losses/softmax_cross_entropy.hpp"
#include "lora/optim/optimizer.hpp"  // the concept
#include "lora/optim/parameter_group.hpp"
#include "lora/optim/optimizer_state.hpp"
#include "lora/optim/sgd.hpp"
#include "lora/optim/adam.hpp"
#include "lora/optim/schedule.hpp"
#include "lora/optim/clip.hpp"

// Whole models: adapters by name, and what they cost.
#include "lora/model/adaptable.hpp"     // which layers take adapters
#include "lora/model/module_names.hpp"  // names, or a pattern
#include "lora/model/targets.hpp"       // which layers receive an adapter
#include "lora/model/pattern.hpp"       // regular expressions for names
#include "lora/model/match.hpp"         // what each layer receives, and the reason
#include "lora/model/attach.hpp"        // attach, select, detach
#include "lora/model/handle.hpp"        // an adapter for a pass
#include "lora/model/merge.hpp"         // into the weights
#include "lora/model/accounting.hpp"    // parameters, bytes, operations
#include "lora/model/shapes.hpp"        // of a model
#include "lora/model/report.hpp"        // as text

#ifdef LORA_COMPILED  // by the target lora::compiled
#include "lora/compiled.hpp"
#endif
