// Compiled for each target that links lora::compiled_io, with the flags of that target; compiled_io_double.cpp beside
// it.
#define LORA_COMPILED_IO_HERE
#include "lora/io.hpp"
#include "lora/lora.hpp"
