#pragma once
/// The processes that run an example together.

#include <lora/parallel/processes.hpp>
#ifdef LORA_EXAMPLES_MPI
#include <lora/parallel/mpi.hpp>
#endif

#include <ios>
#include <iostream>

namespace examples {

/// Those that mpirun has started (examples/run.sh NAME --processes N); without MPI, this one alone. While it lives,
/// only process 0 prints. Construct it where an error leaves its block: the other processes then end, too
/// (lora::Mpi).
class World {
 public:
  World() {
    if (is_first()) return;
    std::cout.setstate(std::ios::badbit);
    std::cerr.setstate(std::ios::badbit);
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() { std::cerr.clear(); }

  lora::Processes& processes() { return processes_; }
  bool is_first() const { return processes_.number() == 0; }

 private:
#ifdef LORA_EXAMPLES_MPI
  lora::Mpi mpi_;
  lora::MpiProcesses processes_{MPI_COMM_WORLD};
#else
  lora::OneProcess processes_;
#endif
};

}  // namespace examples
