// Compiled for each target that links lora::compiled, with the flags of that target; compiled_double.cpp beside it.
#define LORA_COMPILED_FLOAT template
#include "lora/compiled.hpp"
#include "lora/transformers/bert.hpp"
#include "lora/transformers/distilbert.hpp"
#include "lora/transformers/roberta.hpp"
