#pragma once
// What every function that a peers/*.py calls does with an exception.

#include <exception>
#include <iostream>

namespace peers {

/// 0, or 1 after printing what f threw.
int run(auto&& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}

}  // namespace peers
