#include "support/nmf.hpp"

LORA_TEST_NMF(template, float)
LORA_TEST_NMF(template, double)
