#pragma once
/// Processes that work on one training, and what they tell each other. MpiProcesses (parallel/mpi.hpp) are those that
/// mpirun has started; OneProcess is a program that runs alone.

#include "lora/core/error.hpp"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Something that all processes must have in common differs between them: the model, a setting, the build. The same
/// text on every process: what, and on which processes of which hosts.
struct DifferenceError : Error {
  using Error::Error;
};

/// Every call is made by one thread of each process. What all take part in, broadcast, gather and machine, is called
/// by all of them in the same order. An implementation throws an Error when a process cannot be reached.
class Processes {
 public:
  virtual ~Processes() = default;

  virtual int count() const = 0;
  /// Of this one, from 0.
  virtual int number() const = 0;
  /// Of this machine, for messages.
  virtual std::string host() const = 0;

  /// Returns when the bytes may be overwritten. Messages from one process to another arrive in order.
  virtual void send(int to, std::span<const std::byte> bytes) = 0;
  /// Waits for the next message of a process; returns its size, which may be smaller than that of `bytes`, not
  /// larger.
  virtual std::size_t receive(int from, std::span<std::byte> bytes) = 0;
  /// Process 0's bytes, as many on every process, to all.
  virtual void broadcast(std::span<std::byte> bytes) = 0;
  /// The texts of all processes, in their order, on every process.
  virtual std::vector<std::string> gather(const std::string& text) = 0;
  /// Those of this machine, which share its memory.
  virtual std::unique_ptr<Processes> machine() = 0;

 protected:
  Processes() = default;
  Processes(const Processes&) = default;
  Processes& operator=(const Processes&) = default;
};

class OneProcess final : public Processes {
 public:
  int count() const override { return 1; }
  int number() const override { return 0; }
  std::string host() const override { return "localhost"; }
  void send(int, std::span<const std::byte>) override {}
  std::size_t receive(int, std::span<std::byte>) override { return 0; }
  void broadcast(std::span<std::byte>) override {}
  std::vector<std::string> gather(const std::string& text) override { return {text}; }
  std::unique_ptr<Processes> machine() override { return std::make_unique<OneProcess>(); }
};

/// Runs f on process 0 while the others wait: what must happen once, such as save_checkpoint. What f throws there is
/// thrown on; on the others it is an Error with its text.
template <class F>
void once(Processes& processes, F&& f) {
  std::string failed;
  std::exception_ptr thrown;
  if (processes.number() == 0) {
    try {
      f();
    } catch (const std::exception& error) {
      failed = error.what();
      thrown = std::current_exception();
    } catch (...) {
      failed = "an exception that is no std::exception";
      thrown = std::current_exception();
    }
    if (thrown && failed.empty()) failed = "an exception without a text";
  }
  std::uint64_t size = failed.size();
  processes.broadcast(std::as_writable_bytes(std::span(&size, 1)));
  if (size == 0) return;
  failed.resize(size);
  processes.broadcast(std::as_writable_bytes(std::span(failed)));
  if (thrown) std::rethrow_exception(thrown);
  detail::fail<Error>("once", "process 0 threw: " + failed);
}

namespace detail {

/// Parts of any bytes as one text and back: a size, a colon, the part.
inline std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += std::to_string(part.size()) + ":" + part;
  return text;
}
inline std::vector<std::string> parted(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t colon = text.find(':', at);
    const std::size_t size = std::stoull(text.substr(at, colon - at));
    parts.push_back(text.substr(colon + 1, size));
    at = colon + 1 + size;
  }
  return parts;
}

/// "process 0 (alpha)", "processes 1, 3 (beta)"
inline std::string names_of(const std::vector<std::size_t>& numbers, const std::vector<std::string>& hosts) {
  std::string text = numbers.size() == 1 ? "process " : "processes ", where;
  std::vector<std::string> seen;
  for (std::size_t k = 0; k < numbers.size(); ++k) {
    text += (k == 0 ? "" : ", ") + std::to_string(numbers[k]);
    const std::string& host = hosts[numbers[k]];
    bool known = false;
    for (const std::string& other : seen) known = known || other == host;
    if (known) continue;
    where += (seen.empty() ? "" : ", ") + host;
    seen.push_back(host);
  }
  return text + " (" + where + ")";
}

/// Throws DifferenceError on every process unless `values` is one and the same on all: it says `what` differs, and
/// who has which value.
inline void check_equal(const Caller& who, const std::string& what, const std::vector<std::string>& values,
                        const std::vector<std::string>& hosts) {
  std::vector<std::pair<std::string, std::vector<std::size_t>>> groups;
  for (std::size_t process = 0; process < values.size(); ++process) {
    std::size_t k = 0;
    while (k < groups.size() && groups[k].first != values[process]) ++k;
    if (k == groups.size()) groups.push_back({values[process], {}});
    groups[k].second.push_back(process);
  }
  if (groups.size() < 2) return;
  std::string text;
  for (std::size_t k = 0; k < groups.size(); ++k) {
    text += std::string(k == 0 ? "" : "; ") + names_of(groups[k].second, hosts) +
            (groups[k].second.size() == 1 ? " has " : " have ") + groups[k].first;
  }
  fail<DifferenceError>(who, what + " differs between processes: " + text);
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
