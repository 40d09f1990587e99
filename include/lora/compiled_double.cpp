// As compiled.cpp.
#define LORA_COMPILED_DOUBLE template
#include "lora/compiled.hpp"
#include "lora/transformers/bert.hpp"
#include "lora/transformers/distilbert.hpp"
#include "lora/transformers/roberta.hpp"
