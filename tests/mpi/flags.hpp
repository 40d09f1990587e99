#pragma once
/// The flags of the programs that tests/mpi/run.sh starts.

#include <map>
#include <string>

namespace lora_test {

/// --name=value, or --name
inline std::map<std::string, std::string> flags_of(int argc, char** argv) {
  std::map<std::string, std::string> flags;  // --name=value
  for (int k = 1; k < argc; ++k) {
    const std::string flag = argv[k] + 2;
    const auto equals = flag.find('=');
    flags[flag.substr(0, equals)] = equals == std::string::npos ? "" : flag.substr(equals + 1);
  }
  return flags;
}

}  // namespace lora_test
