#pragma once
/// Jobs on the threads of an executor, each with memory from the scratch.

#include "lora/core/executor.hpp"
#include "lora/core/scratch.hpp"

#include <algorithm>
#include <atomic>

namespace lora::inline LORA_ABI::detail {

/// How many threads share `count` jobs. work: about how many multiply-adds all of them take together.
inline Index job_workers(Index count, int threads, double work) {
  return work >= 2.5e5 ? std::clamp<Index>(threads, 1, std::max<Index>(count, 1)) : 1;
}

/// Calls job(k, memory) for k = 0, ..., count - 1, on the threads of an executor if there is one. Each thread has
/// `size` numbers of memory.
template <class S>
void for_each_job(Index count, Index size, Scratch& scratch, Executor* executor, double work, const auto& job) {
  const Index workers = executor == nullptr ? 1 : job_workers(count, executor->threads(), work);
  const auto borrowed = scratch.borrow<S>();
  S* const memory = borrowed->resize(size, workers).data();
  std::atomic<Index> next = 0;
  const auto worker = [&](Index own) {
    for (Index k = next++; k < count; k = next++) job(k, memory + own * size);
  };
  if (workers > 1 && executor->share(workers, worker, work)) return;
  worker(0);
}

}  // namespace lora::inline LORA_ABI::detail
