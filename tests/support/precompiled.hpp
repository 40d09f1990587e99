#pragma once

// Compiled once for all test executables.
#include <Eigen/Core>
#include <string>
#include <vector>

#include "lora/compiled.hpp"  // IWYU pragma: keep
#include "support/catch.hpp"
