// expect: lora needs C\+\+20
// flags: -std=c++17
#include "lora/lora.hpp"
