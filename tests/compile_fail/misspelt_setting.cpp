// expect: ranks
#include "lora/adapters/lora_config.hpp"

#ifdef LORA_CONTROL
const lora::LoraConfig config{.rank = 8, .alpha = 16};
#else
const lora::LoraConfig config{.ranks = 8, .alpha = 16};
#endif
