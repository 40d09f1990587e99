#pragma once
/// File access: for the target lora::io, which needs nlohmann/json. lora.hpp does not include it.

// Adapters as directories of Hugging Face PEFT.
#include "lora/io/adapter_kinds.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/save_adapter.hpp"

// Models: base weights by name, and checkpoints.
#include "lora/io/checkpoint.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/pretrained.hpp"  // published ones, of lora/transformers/
#include "lora/io/weights.hpp"

// Safetensors, both ways.
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_header.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/io/stored_matrix.hpp"
#include "lora/io/tensor_to_save.hpp"

// Building blocks: dtypes, half types as bits, the bytes of a file, atomic replacement of files.
#include "lora/io/atomic_file.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/file_bytes.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/half.hpp"
#include "lora/io/posix.hpp"
