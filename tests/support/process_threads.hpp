#pragma once

#include "lora/parallel/processes.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace lora_test {

/// Threads that act as processes: what they tell each other lies in a queue for each pair. A thread that ends early
/// wakes those who wait for it, with an error.
class Threads {
 public:
  /// Those of one machine, or each of its own.
  explicit Threads(int count, bool one_machine = false) : count_(count), one_machine_(one_machine) {}

  /// Runs f(processes) on each thread; the texts of what they threw, or "".
  std::vector<std::string> run(const std::function<void(lora::Processes&)>& f) {
    std::vector<std::string> errors(static_cast<std::size_t>(count_));
    std::vector<std::thread> threads;
    for (int k = 0; k < count_; ++k) {
      threads.emplace_back([&, k] {
        One one(*this, k);
        try {
          f(one);
        } catch (const std::exception& error) {
          errors[static_cast<std::size_t>(k)] = error.what();
        }
        const std::lock_guard lock(mutex_);
        ended_[k] = true;
        changed_.notify_all();
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
  }

  int messages = 0;  ///< of send
  std::size_t largest = 0;

 private:
  struct One final : lora::Processes {
    One(Threads& own_all, int own_number) : all(&own_all), own(own_number) {}
    int count() const override { return all->count_; }
    int number() const override { return own; }
    std::string host() const override { return own < 2 ? "alpha" : "beta"; }
    void send(int to, std::span<const std::byte> bytes) override {
      all->put(own, to, bytes);
      const std::lock_guard lock(all->mutex_);
      ++all->messages;
      all->largest = std::max(all->largest, bytes.size());
    }
    std::size_t receive(int from, std::span<std::byte> bytes) override {
      const std::vector<std::byte> message = all->get(from, own);
      if (message.size() > bytes.size()) throw lora::Error("the message was truncated");
      std::copy(message.begin(), message.end(), bytes.begin());
      return message.size();
    }
    void broadcast(std::span<std::byte> bytes) override {
      if (own > 0) {
        receive(0, bytes);
      } else {
        for (int k = 1; k < count(); ++k) all->put(0, k, bytes);
      }
    }
    std::vector<std::string> gather(const std::string& text) override {
      for (int k = 0; k < count(); ++k) all->put(own, k, std::as_bytes(std::span(text)));
      std::vector<std::string> texts;
      for (int k = 0; k < count(); ++k) {
        const std::vector<std::byte> bytes = all->get(k, own);
        texts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      }
      return texts;
    }
    std::unique_ptr<Processes> machine() override {
      if (all->one_machine_) return std::make_unique<One>(*all, own);
      return std::make_unique<lora::OneProcess>();
    }
    Threads* all;
    int own;
  };

  void put(int from, int to, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex_);
    queues_[{from, to}].emplace_back(bytes.begin(), bytes.end());
    changed_.notify_all();
  }
  std::vector<std::byte> get(int from, int to) {
    std::unique_lock lock(mutex_);
    auto& queue = queues_[{from, to}];
    changed_.wait(lock, [&] { return !queue.empty() || ended_[from]; });
    if (queue.empty()) throw lora::Error("a process has ended");
    std::vector<std::byte> bytes = std::move(queue.front());
    queue.pop_front();
    return bytes;
  }

  int count_;
  bool one_machine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> queues_;
  std::map<int, bool> ended_;
};

}  // namespace lora_test
