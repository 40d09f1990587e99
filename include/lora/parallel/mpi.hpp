#pragma once
/// Processes that mpirun has started, on one machine or many. The only header that needs MPI; link lora::mpi.
///
///   int main() {
///     lora::Mpi mpi;
///     lora::MpiProcesses world(MPI_COMM_WORLD);
///     ... lora::ShardedTraining parallel(world, net, {.shards = 64});   // parallel/sharded_training.hpp
///   }
///
///   mpirun -np 4 ./program                           on this machine
///   mpirun --host alpha:2,beta:2 ./program           on two

// The C++ interface that MPI had until 2012, which would have to be linked.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include "lora/parallel/processes.hpp"

#include <array>
#include <climits>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#if MPI_VERSION < 3
#error "lora needs MPI 3 or newer"
#endif

namespace lora::inline LORA_ABI {

/// A call of MPI has failed; the message has MPI's own text.
struct MpiError : Error {
  using Error::Error;
};

namespace detail {

/// Throws MpiError `who: text of MPI` unless `code` is success.
inline void check_mpi(const char* who, int code) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int size = 0;
  if (MPI_Error_string(code, text.data(), &size) != MPI_SUCCESS) size = 0;
  fail<MpiError>(who, size > 0 ? std::string(text.data(), static_cast<std::size_t>(size))
                               : "MPI returned error " + std::to_string(code));
}

/// Set when an exception has left the processes behind, in the middle of what they do together.
inline bool& left_by_exception() {
  static bool left = false;
  return left;
}

}  // namespace detail

/// Starts MPI, and ends it: the first object of main.
///
/// When an exception has left its block, or that of MpiProcesses, MPI is not ended: that would wait for the other
/// processes, which wait for this one. The process ends without, mpirun sees that, and ends the others, within seconds,
/// as it does if a process is killed. So let the exception end the process, or catch it outside of MpiProcesses, print
/// it, and return something other than 0.
class Mpi {
 public:
  /// Throws StateError if MPI is initialized already, or cannot be with MPI_THREAD_FUNNELED: this thread alone calls
  /// MPI, beside others that compute.
  Mpi() : exceptions_(std::uncaught_exceptions()) {
    int initialized = 0, given = 0;
    detail::check_mpi("Mpi", MPI_Initialized(&initialized));
    if (initialized != 0)
      throw StateError("Mpi: MPI is initialized already, expected one Mpi, or none and MPI_Init_thread");
    detail::check_mpi("Mpi", MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given));
    if (given < MPI_THREAD_FUNNELED) throw StateError("Mpi: this MPI is without threads, expected MPI_THREAD_FUNNELED");
  }
  Mpi(const Mpi&) = delete;
  Mpi& operator=(const Mpi&) = delete;
  ~Mpi() {
    if (std::uncaught_exceptions() <= exceptions_ && !detail::left_by_exception()) MPI_Finalize();
  }

 private:
  int exceptions_;
};

/// The processes of a communicator, of which this makes its own copy.
class MpiProcesses final : public Processes {
 public:
  /// All processes of the communicator construct it together. Throws StateError if MPI is not initialized, was ended,
  /// or was initialized without MPI_THREAD_FUNNELED; MpiError.
  explicit MpiProcesses(MPI_Comm communicator) {
    check_started();
    check(MPI_Comm_dup(communicator, &communicator_));
    read();
  }
  MpiProcesses(const MpiProcesses&) = delete;
  MpiProcesses& operator=(const MpiProcesses&) = delete;
  ~MpiProcesses() override {
    if (std::uncaught_exceptions() > exceptions_) {
      detail::left_by_exception() = true;
      return;
    }
    int over = 0;
    if (MPI_Finalized(&over) == MPI_SUCCESS && over == 0) MPI_Comm_free(&communicator_);
  }

  int count() const override { return count_; }
  int number() const override { return number_; }
  std::string host() const override {
    std::array<char, MPI_MAX_PROCESSOR_NAME> text{};
    int size = 0;
    check(MPI_Get_processor_name(text.data(), &size));
    return {text.data(), static_cast<std::size_t>(size)};
  }

  void send(int to, std::span<const std::byte> bytes) override {
    check(MPI_Send(bytes.data(), size_of(bytes.size()), MPI_BYTE, to, tag, communicator_));
  }
  std::size_t receive(int from, std::span<std::byte> bytes) override {
    MPI_Status status;
    int size = 0;
    check(MPI_Recv(bytes.data(), size_of(bytes.size()), MPI_BYTE, from, tag, communicator_, &status));
    check(MPI_Get_count(&status, MPI_BYTE, &size));
    return static_cast<std::size_t>(size);
  }
  void broadcast(std::span<std::byte> bytes) override {
    check(MPI_Bcast(bytes.data(), size_of(bytes.size()), MPI_BYTE, 0, communicator_));
  }
  std::vector<std::string> gather(const std::string& text) override {
    const int own = size_of(text.size());
    std::vector<int> sizes(static_cast<std::size_t>(count_)), starts(sizes.size());
    check(MPI_Allgather(&own, 1, MPI_INT, sizes.data(), 1, MPI_INT, communicator_));
    std::size_t sum = 0;
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      starts[k] = size_of(sum);
      sum += static_cast<std::size_t>(sizes[k]);
    }
    std::string all(static_cast<std::size_t>(size_of(sum)), '\0');
    check(MPI_Allgatherv(text.data(), own, MPI_CHAR, all.data(), sizes.data(), starts.data(), MPI_CHAR, communicator_));
    std::vector<std::string> texts;
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      texts.push_back(all.substr(static_cast<std::size_t>(starts[k]), static_cast<std::size_t>(sizes[k])));
    }
    return texts;
  }
  std::unique_ptr<Processes> machine() override {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split_type(communicator_, MPI_COMM_TYPE_SHARED, number_, MPI_INFO_NULL, &part));
    return std::unique_ptr<Processes>(new MpiProcesses(part, Owned()));
  }

 private:
  struct Owned {};
  static constexpr int tag = 1;

  MpiProcesses(MPI_Comm communicator, Owned) : communicator_(communicator) { read(); }

  void read() {
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN));
    check(MPI_Comm_size(communicator_, &count_));
    check(MPI_Comm_rank(communicator_, &number_));
  }

  static void check_started() {
    int started = 0, over = 0, threads = 0;
    check(MPI_Initialized(&started));
    check(MPI_Finalized(&over));
    if (started == 0 || over != 0) {
      throw StateError(std::string("MpiProcesses: MPI ") + (over != 0 ? "was ended" : "is not initialized") +
                       ", expected a lora::Mpi in main, or MPI_Init_thread");
    }
    check(MPI_Query_thread(&threads));
    if (threads < MPI_THREAD_FUNNELED) {
      throw StateError(
          "MpiProcesses: MPI was initialized with MPI_THREAD_SINGLE, expected MPI_THREAD_FUNNELED or more");
    }
  }

  static void check(int code) { detail::check_mpi("MpiProcesses", code); }

  /// Sizes of MPI are ints.
  static int size_of(std::size_t size) {
    if (size > static_cast<std::size_t>(INT_MAX)) {
      detail::fail<MpiError>("MpiProcesses", std::to_string(size) + " bytes in one message, expected fewer than 2 GiB");
    }
    return static_cast<int>(size);
  }

  MPI_Comm communicator_ = MPI_COMM_NULL;
  int count_ = 1, number_ = 0;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace lora::inline LORA_ABI
