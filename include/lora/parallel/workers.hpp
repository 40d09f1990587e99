#pragma once
/// Threads that share the rounds of a loop.
///
///   caller    opens a region ------ takes rounds ------------ waits for the last ---- goes on
///   others    look out, or sleep       take rounds, each the next that nobody has
///
/// There is one number on which all agree, the ticket: which region is open, and how many of its rounds nobody has
/// taken. Whoever lowers it has a round. Nobody waits for a thread that has taken none, so one that is late, because it
/// slept or because another program has its processor, costs nothing.

#include "lora/core/error.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace lora {

/// for_each(count, f) calls f(0), ..., f(count - 1), each once, in any order, on this thread and the others.
///
///   lora::Workers workers(2);
///   workers.for_each(8, [&](lora::Index k) { ... });
///
/// A region costs less than a microsecond if the last one has just ended: threads look out for work for a tenth of a
/// millisecond before they sleep. It takes no heap. If f throws, no more rounds begin, and for_each throws the same
/// when all that have begun are done. f runs under the caller's floating-point environment.
///
/// Any number of threads may call for_each at once, also from within f: one of them has the others' help, the rest run
/// their rounds themselves. No call may be under way when Workers is destroyed.
class Workers {
 public:
  /// `threads` in all, the caller's included. Throws ConfigError unless there is one at least.
  explicit Workers(int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))) {
    if (threads < 1) {
      detail::fail<ConfigError>("Workers", "threads is " + std::to_string(threads) + ", expected at least 1");
    }
    threads_.reserve(static_cast<std::size_t>(threads - 1));
    try {
      while (this->threads() < threads) threads_.emplace_back([this] { serve(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers() { stop(); }

  int threads() const { return static_cast<int>(threads_.size()) + 1; }

  void for_each(Index count, const auto& f) {
    using Function = std::remove_cvref_t<decltype(f)>;
    if (count < 2 || count > most_rounds || !begin()) {
      for (Index k = 0; k < count; ++k) f(k);
      return;
    }
    Region region(count, std::addressof(f),
                  [](const void* function, Index k) { (*static_cast<const Function*>(function))(k); });
    share(region);
    taken_.store(false, std::memory_order_release);
    if (region.error) std::rethrow_exception(region.error);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Index most_rounds = 1 << 30;
  static constexpr auto lookout = std::chrono::microseconds(100);

  /// One call of for_each. It lives on the caller's stack: others may look at it while they have a round of it.
  struct Region {
    using Call = void (*)(const void*, Index);

    Region(Index rounds, const void* f, Call how) : count(rounds), function(f), call(how) { std::fegetenv(&numbers); }

    void run(Index k) noexcept {
      if (failed.load(std::memory_order_relaxed)) return;
      try {
        call(function, k);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }

    Index count;
    const void* function;
    Call call;
    std::fenv_t numbers;  ///< rounding, and what becomes of denormals
    std::atomic<bool> failed = false;
    std::exception_ptr error;                 ///< of whoever failed first
    alignas(64) std::atomic<Index> done = 0;  ///< rounds that others have finished
  };

  /// Whether this call has the others' help.
  bool begin() {
    if (threads_.empty() || taken_.exchange(true, std::memory_order_acquire)) return false;
    if (resume_ == Clock::time_point() || Clock::now() >= resume_) return true;
    taken_.store(false, std::memory_order_release);
    return false;
  }

  void share(Region& region) {
    const auto start = Clock::now();
    region_.store(&region, std::memory_order_relaxed);
    const std::uint64_t number = announce(region.count);
    Index own = 0, k = 0;
    for (; claim(number, k) != nullptr; ++own) region.run(k);
    const Index others = region.count - own;
    if (region.done.load(std::memory_order_acquire) != others) wait(region, others, start, own);
  }

  /// A new region with so many rounds.
  std::uint64_t announce(Index rounds) {
    const std::uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    // In one order with asleep_: whoever goes to sleep sees the new ticket, or is seen here.
    ticket_.store(number << 32 | static_cast<std::uint64_t>(rounds), std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    return number & 0xffffffff;
  }

  /// Takes a round k of the region with this number; null if nothing is left of it. While a round is not finished its
  /// region stays, and region_ is that one.
  Region* claim(std::uint64_t number, Index& k) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (ticket >> 32 == number && (ticket & 0xffffffff) != 0) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        continue;
      }
      Region* const region = region_.load(std::memory_order_relaxed);
      k = region->count - static_cast<Index>(ticket & 0xffffffff);
      return region;
    }
    return nullptr;
  }

  /// A thread that does not come back in the time of two rounds has lost its processor to another program. Then this
  /// one is given up too, so that the system can put that thread here; and for a while, which makes what was lost a
  /// thirtieth, nothing is shared.
  void wait(const Region& region, Index others, Clock::time_point start, Index own) {
    const auto begin = Clock::now();
    const auto patience = begin + lookout + 2 * (begin - start) / std::max<Index>(own, 1);
    auto now = begin;
    for (; region.done.load(std::memory_order_acquire) != others; now = Clock::now()) {
      if (now < patience) {
        relax();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    }
    if (now >= patience) resume_ = now + 30 * (now - begin);
  }

  void serve() {
    std::uint64_t number = 0;
    while (look_out(number)) {
      Region* region = nullptr;
      Index finished = 0, k = 0;
      for (Region* mine = nullptr; (mine = claim(number, k)) != nullptr; ++finished) {
        if (region == nullptr) std::fesetenv(&mine->numbers);
        region = mine;
        region->run(k);
      }
      if (region != nullptr) region->done.fetch_add(finished, std::memory_order_release);
    }
  }

  /// Returns when there is another region than `number`, which becomes its number; false when all is over.
  bool look_out(std::uint64_t& number) {
    const auto changed = [&] { return ticket_.load(std::memory_order_seq_cst) >> 32 != number; };
    const auto until = Clock::now() + lookout;
    while (!changed() && Clock::now() < until) relax();
    if (!changed()) {
      std::unique_lock lock(mutex_);
      asleep_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, changed);
      asleep_.fetch_sub(1, std::memory_order_relaxed);
    }
    number = ticket_.load(std::memory_order_acquire) >> 32;
    return !over_.load(std::memory_order_relaxed);
  }

  void stop() {
    over_.store(true, std::memory_order_relaxed);
    announce(0);
    for (std::thread& thread : threads_) thread.join();
  }

  /// A moment in which a thread that shares this core goes first.
  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#else
    std::this_thread::yield();
#endif
  }

  alignas(64) std::atomic<std::uint64_t> ticket_ = 0;  // number of the region << 32 | rounds that nobody has taken
  alignas(64) std::atomic<Region*> region_ = nullptr;
  std::atomic<int> asleep_ = 0;
  std::atomic<bool> over_ = false;
  alignas(64) std::atomic<bool> taken_ = false;  // a caller has the others' help; resume_ is its own
  Clock::time_point resume_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

}  // namespace lora
