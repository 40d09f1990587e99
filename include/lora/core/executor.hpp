#pragma once
/// Who may help with a loop: what a pass gives to the products that it computes.

#include "lora/core/function_ref.hpp"
#include "lora/core/scalar.hpp"

namespace lora::inline LORA_ABI {

/// Threads, or whatever else can run the rounds of a loop. lora::Workers (parallel/workers.hpp) is one; a program that
/// has its own pool derives from this. Give it to a pass, and it must outlive the backward pass that belongs to it:
///
///   lora::Workers workers(2);
///   layer.forward(x, cache, {.executor = &workers});
///
/// Products are split by their shape alone, and no sum is ever split: results have the same bits for any executor, and
/// for none.
class Executor {
 public:
  virtual ~Executor() = default;

  /// How many threads may run rounds at once, the caller's included.
  virtual int threads() const = 0;

  /// Calls f(0), ..., f(count - 1), each once, in any order, on any threads, and returns true when all are done. False
  /// if nobody can help now, and nothing was called. If f throws, no more rounds begin, and share throws the same when
  /// all that have begun are done. `work`: about how many multiply-adds it all is. Safe to call from many threads, and
  /// from within f.
  virtual bool share(Index count, detail::FunctionRef<void(Index)> f, double work) = 0;

 protected:
  Executor() = default;
  Executor(const Executor&) = default;
  Executor& operator=(const Executor&) = default;
};

}  // namespace lora::inline LORA_ABI
