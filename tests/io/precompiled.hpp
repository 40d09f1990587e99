#pragma once

// Compiled once for the tests of files.
#include "lora/io.hpp"  // IWYU pragma: keep
#include "support/precompiled.hpp"
