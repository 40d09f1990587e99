#pragma once
/// Text: for the target lora::io, which needs nlohmann/json. Neither lora.hpp nor io.hpp includes it; models take ids.

#include "lora/text/encoding.hpp"
#include "lora/text/tokenizer.hpp"
