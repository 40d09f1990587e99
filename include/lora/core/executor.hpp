#pragma once
/// Parallel loops: the interface through which a pass splits its products among threads.

#include "lora/core/function_ref.hpp"
#include "lora/core/scalar.hpp"

namespace lora::inline LORA_ABI {

/// Runs the iterations of a loop on several threads. lora::Workers (parallel/workers.hpp) is one; a program with its
/// own thread pool derives from this. It must outlive the backward pass that belongs to the pass it is given to:
///
///   lora::Workers workers(2);
///   layer.forward(x, cache, {.executor = &workers});
///
/// Products are split by their shape alone, and sums are never split: results have the same bits with any executor or
/// none.
class Executor {
 public:
  virtual ~Executor() = default;

  /// The max number of threads that run iterations at once, including the caller's.
  virtual int threads() const = 0;

  /// Calls f(0), ..., f(count - 1), each once, in any order, on any threads, and returns true when all are done.
  /// Returns false, without a call, if no thread is free to help. If f throws, no further calls begin, and share
  /// rethrows when those in progress have ended. `work`: about how many multiply-adds all calls take together. Safe to
  /// call from many threads, and from within f.
  virtual bool share(Index count, detail::FunctionRef<void(Index)> f, double work) = 0;

 protected:
  Executor() = default;
  Executor(const Executor&) = default;
  Executor& operator=(const Executor&) = default;
};

}  // namespace lora::inline LORA_ABI
