// expect: lora reports errors by exceptions
// flags: -fno-exceptions
#include "lora/lora.hpp"
