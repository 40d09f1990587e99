// Compiled by whoever links lora::compiled, with his flags.
#define LORA_COMPILED_HERE
#include "lora/compiled.hpp"
