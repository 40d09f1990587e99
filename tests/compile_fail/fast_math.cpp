// expect: lora needs NaN and infinity
// flags: -ffast-math
#include "lora/lora.hpp"
