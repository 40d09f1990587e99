#pragma once
/// A thread pool whose threads share the rounds of a loop.
///
///   caller    opens a region --- takes rounds, 0, 1, ... ------------ waits for the last --- goes on
///   others    spin, or sleep         take rounds, count - 1, count - 2, ...
///
/// All threads share one atomic number, the ticket: which region is open, and which of its rounds are not taken yet. A
/// thread takes a round by changing the ticket. Nobody waits for a thread that has taken none, so one that is late,
/// because it slept or was descheduled, costs nothing. Rounds are taken from both ends, so that in a region like the
/// last one a thread finds its data in its cache.

#include "lora/core/error.hpp"
#include "lora/core/executor.hpp"
#include "lora/core/scalar.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace lora::inline LORA_ABI {

/// for_each(count, f) calls f(0), ..., f(count - 1), each once, in any order, on this thread and the others.
///
/// ```cpp
/// #include <lora/lora.hpp>
/// #include <lora/parallel/workers.hpp>
/// #include <vector>
///
/// int main() {
///   lora::Workers workers(2);
///   std::vector<int> squares(8);
///   workers.for_each(8, [&](lora::Index k) { squares[static_cast<std::size_t>(k)] = static_cast<int>(k * k); });
///
///   lora::Rng rng(1);
///   lora::Linear<float> layer({.in = 512, .out = 512}, rng);
///   lora::Linear<float>::Cache alone, shared;
///   const Eigen::MatrixXf x = Eigen::MatrixXf::Random(512, 64), y = layer.forward(x, alone);
///   return layer.forward(x, shared, {.executor = &workers}) == y && squares[7] == 49 ? 0 : 1;  // the same bits
/// }
/// ```
///
/// A region costs less than half a microsecond if the last one has just ended: threads spin for a tenth of a
/// millisecond before they sleep. It does not allocate. If f throws, no further rounds begin, and for_each rethrows
/// when those in progress have ended. f runs under the caller's floating-point environment.
///
/// Any number of threads may call for_each at once, also from within f: one of them gets the help of the other threads,
/// the rest run their rounds alone. No call may be in progress when Workers is destroyed.
class Workers final : public Executor {
 public:
  /// `threads` in total, including the caller's. Throws ConfigError if it is below 1.
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
  ~Workers() override { stop(); }

  int threads() const override { return static_cast<int>(threads_.size()) + 1; }

  void for_each(Index count, const auto& f) {
    for (Index begin = 0; begin < count; begin += most_rounds) {
      const Index rounds = std::min(count - begin, most_rounds);
      const auto next = [&](Index k) { f(begin + k); };
      if (share(rounds, next, worth_waking)) continue;
      for (Index k = 0; k < rounds; ++k) next(k);
    }
  }

  /// As for_each if other threads can help now; else returns false and calls nothing. `work`: about how many
  /// multiply-adds all rounds take together. Sleeping threads are woken when a million have accumulated, because waking
  /// takes some microseconds.
  bool share(Index count, detail::FunctionRef<void(Index)> f, double work) override {
    if (count < 2 || count > most_rounds || !ready(work) || taken_.exchange(true, std::memory_order_acquire)) {
      return false;
    }
    Region region(count, f);
    run(region);
    taken_.store(false, std::memory_order_release);
    if (region.error) std::rethrow_exception(region.error);
    return true;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Index most_rounds = 0xffff;
  static constexpr double worth_waking = 1e6;
  static constexpr auto lookout = std::chrono::microseconds(100);
  static constexpr auto longest_pause = std::chrono::milliseconds(250);

  /// One call of for_each. It lives on the caller's stack: others may access it only while they have one of its rounds.
  struct Region {
    Region(Index rounds, detail::FunctionRef<void(Index)> f) : count(rounds), function(f) { std::fegetenv(&numbers); }

    void run(Index k) noexcept {
      if (failed.load(std::memory_order_relaxed)) return;
      try {
        function(k);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }

    Index count;
    detail::FunctionRef<void(Index)> function;
    std::fenv_t numbers;  ///< rounding mode and handling of denormals
    std::atomic<bool> failed = false;
    std::exception_ptr error;                 ///< the first one thrown
    alignas(64) std::atomic<Index> done = 0;  ///< rounds that others have finished
  };

  bool ready(double work) {
    if (threads_.empty() || taken_.load(std::memory_order_relaxed)) return false;
    const Clock::rep resume = resume_.load(std::memory_order_relaxed);
    if (resume != 0 && Clock::now().time_since_epoch().count() < resume) return false;
    if (!asleep_.load(std::memory_order_relaxed)) return true;
    work += asked_.load(std::memory_order_relaxed);
    asked_.store(work < worth_waking ? work : 0, std::memory_order_relaxed);
    if (work < worth_waking) return false;
    wake();
    return true;
  }

  void run(Region& region) {
    const auto start = Clock::now();
    region_.store(&region, std::memory_order_relaxed);
    const std::uint64_t number = announce(region.count);
    if (asleep_.load()) wake();  // a thread has fallen asleep since ready() checked
    Index own = 0, k = 0;
    for (; claim(number, true, k) != nullptr; ++own) region.run(k);
    const Index others = region.count - own;
    if (region.done.load(std::memory_order_acquire) != others) wait(region, others, start, own);
  }

  /// Opens a new region with `rounds` rounds; returns its number.
  std::uint64_t announce(Index rounds) {
    const std::uint64_t number = (number_of(ticket_.load(std::memory_order_relaxed)) + 1) & 0xffffffff;
    ticket_.store(number << 32 | static_cast<std::uint64_t>(rounds));
    return number;
  }

  // A ticket: the number of the region << 32 | the first remaining round << 16 | the last remaining round + 1.
  static std::uint64_t number_of(std::uint64_t ticket) { return ticket >> 32; }
  static std::uint64_t first_of(std::uint64_t ticket) { return ticket >> 16 & 0xffff; }
  static std::uint64_t last_of(std::uint64_t ticket) { return ticket & 0xffff; }

  /// Takes the first or last remaining round k of the region with this number; null if none remains. A region stays
  /// while one of its rounds is not finished, so region_ is that region.
  Region* claim(std::uint64_t number, bool first, Index& k) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (number_of(ticket) == number && first_of(ticket) < last_of(ticket)) {
      const std::uint64_t rest = first ? ticket + (1 << 16) : ticket - 1;
      if (!ticket_.compare_exchange_weak(ticket, rest, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      k = static_cast<Index>(first ? first_of(ticket) : last_of(rest));
      return region_.load(std::memory_order_relaxed);
    }
    return nullptr;
  }

  /// Waits for the rounds of other threads. One that takes longer than two rounds has lost its core to another program;
  /// then this thread sleeps too, so that the system can run the other one here.
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
    if (now >= patience) pause(begin, now);
  }

  /// After a wait nothing is shared for a while: twice as long as the wait, or twice the last pause if that has only
  /// just ended. So a permanent competitor costs little, and a short-lived one is soon forgotten.
  void pause(Clock::time_point begin, Clock::time_point end) {
    const Clock::time_point resumed{Clock::duration(resume_.load(std::memory_order_relaxed))};
    const bool again = begin - resumed < 4 * pause_;
    pause_ = std::clamp<Clock::duration>(again ? 2 * pause_ : 2 * (end - begin), lookout, longest_pause);
    resume_.store((end + pause_).time_since_epoch().count(), std::memory_order_relaxed);
  }

  void serve() {
    std::uint64_t number = 0;
    while (look_out(number)) {
      Region* region = nullptr;
      Index finished = 0, k = 0;
      for (Region* mine = nullptr; (mine = claim(number, false, k)) != nullptr; ++finished) {
        if (region == nullptr) std::fesetenv(&mine->numbers);
        region = mine;
        region->run(k);
      }
      if (region != nullptr) region->done.fetch_add(finished, std::memory_order_release);
    }
  }

  /// Waits for a region other than `number`, and sets `number` to its number; returns false when the pool stops.
  bool look_out(std::uint64_t& number) {
    const auto changed = [&] { return number_of(ticket_.load()) != number; };
    while (!changed()) {
      const auto until = Clock::now() + lookout;
      while (!changed() && Clock::now() < until) {
        for (int k = 0; k < 16 && !changed(); ++k) relax();
      }
      if (!changed()) sleep(changed);
      if (over_.load(std::memory_order_relaxed)) return false;
    }
    number = number_of(ticket_.load(std::memory_order_acquire));
    return true;
  }

  /// Sets asleep_ first and then reads the ticket; the caller changes the ticket first and then reads asleep_. So at
  /// least one of them sees the other.
  void sleep(const auto& changed) {
    std::unique_lock lock(mutex_);
    asleep_.store(true);
    const std::uint64_t calls = calls_;
    wake_.wait(lock, [&] { return changed() || calls_ != calls || over_.load(std::memory_order_relaxed); });
  }

  void wake() {
    const std::lock_guard lock(mutex_);
    asleep_.store(false, std::memory_order_relaxed);
    ++calls_;
    wake_.notify_all();
  }

  void stop() {
    over_.store(true, std::memory_order_relaxed);
    wake();
    for (std::thread& thread : threads_) thread.join();
  }

  /// A spin-wait hint: lets another hardware thread of this core go first.
  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#else
    std::this_thread::yield();
#endif
  }

  alignas(64) std::atomic<std::uint64_t> ticket_ = 0;
  alignas(64) std::atomic<Region*> region_ = nullptr;
  std::atomic<bool> asleep_ = false;  // some threads are
  std::atomic<bool> over_ = false;
  alignas(64) std::atomic<bool> taken_ = false;  // a caller has the help of the other threads
  std::atomic<double> asked_ = 0;                // work of regions that did not justify waking
  std::atomic<Clock::rep> resume_ = 0;           // when the last pause ends
  Clock::duration pause_{};                      // its length; owned by the caller that has taken_
  std::mutex mutex_;
  std::condition_variable wake_;
  std::uint64_t calls_ = 0;  // calls of wake(), guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace lora::inline LORA_ABI
