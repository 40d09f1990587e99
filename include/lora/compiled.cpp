// Compiled for each target that links lora::compiled, with the flags of that target.
#define LORA_COMPILED_HERE
#include "lora/compiled.hpp"
