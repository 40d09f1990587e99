#pragma once
/// Many independent pieces of work on all processors.

#include <algorithm>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace examples {

/// Calls job(0), ..., job(count - 1), begun in this order, on as many threads as there are processors or as asked, and
/// returns when all are done. After each of them on_done(how many are done) is called, by one thread at a time.
/// If a job throws, no more are begun, and what it threw is thrown again here.
inline void in_parallel(
    int count, const std::function<void(int)>& job, const std::function<void(int)>& on_done = [](int) {},
    unsigned threads = std::thread::hardware_concurrency()) {
  std::mutex mutex;
  std::exception_ptr failure;
  int begun = 0, done = 0;
  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (begun < count && !failure) {
      const int own = begun++;
      lock.unlock();
      try {
        job(own);
        lock.lock();
        on_done(++done);
      } catch (...) {
        if (!lock.owns_lock()) lock.lock();
        if (!failure) failure = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  for (unsigned t = 1; t < std::clamp(threads, 1u, static_cast<unsigned>(std::max(count, 1))); ++t) {
    others.emplace_back(work);
  }
  work();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace examples
