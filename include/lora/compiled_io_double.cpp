// As compiled_io.cpp.
#define LORA_COMPILED_IO_DOUBLE_HERE
#include "lora/io.hpp"
#include "lora/lora.hpp"
