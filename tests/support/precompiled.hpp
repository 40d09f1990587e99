#pragma once

// Compiled once for all test executables.
#include <Eigen/Core>
#include <string>
#include <vector>

#include "support/catch.hpp"
