#pragma once
/// Files: for lora::io, which needs nlohmann/json. Not a part of lora.hpp.

// What can go wrong, number formats, and half types as bits.
#include "lora/io/dtype.hpp"
#include "lora/io/elements.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/half.hpp"
#include "lora/io/transpose.hpp"

// The operating system: bytes of a file, and files that are replaced whole.
#include "lora/io/atomic_file.hpp"
#include "lora/io/file_bytes.hpp"
#include "lora/io/posix.hpp"
#include "lora/io/temporary.hpp"

// JSON that nobody has to trust.
#include "lora/io/json.hpp"

// Safetensors, both ways.
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_header.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "lora/io/shard_index.hpp"
#include "lora/io/tensor_to_save.hpp"

// Models: base weights by name, and training that is resumed.
#include "lora/io/checkpoint.hpp"
#include "lora/io/mismatch.hpp"
#include "lora/io/weights.hpp"

// Adapters as directories of Hugging Face PEFT.
#include "lora/io/adapter_kinds.hpp"
#include "lora/io/load_adapter.hpp"
#include "lora/io/peft_blocks.hpp"
#include "lora/io/peft_config.hpp"
#include "lora/io/peft_describe.hpp"
#include "lora/io/peft_files.hpp"
#include "lora/io/peft_layers.hpp"
#include "lora/io/peft_open.hpp"
#include "lora/io/peft_settings.hpp"
#include "lora/io/peft_support.hpp"
#include "lora/io/peft_tensor_check.hpp"
#include "lora/io/save_adapter.hpp"
