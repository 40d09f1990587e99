#pragma once
/// The frozen weights of a model once on each machine, for all its processes.
///
///   lora::MpiProcesses world(MPI_COMM_WORLD);
///   Net net = lora::share_base(world, [] { return load_net("base.safetensors"); });
///
///   process 0 of a machine    loads, packs, writes the frozen weights into a file in memory, uses those
///   the others, one by one    load, compare theirs with the file, byte by byte, use those of the file
///
/// All map the file, which has no name any more before a byte is written: nothing is left behind, however processes
/// end, and its memory is free when the last of them has freed its model or has ended; nobody waits for anybody then.
/// POSIX only, as io.

#include "lora/base/shared_bytes.hpp"
#include "lora/core/visit.hpp"
#include "lora/parallel/digest.hpp"
#include "lora/parallel/processes.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// There is not enough memory that processes can share, or it cannot be used.
struct SharedMemoryError : Error {
  using Error::Error;
};

struct SharedBaseConfig {
  /// A folder in memory, with room for all frozen weights of one model. Containers often have 64 MB there: give them
  /// more (docker run --shm-size=8g), or another folder.
  std::filesystem::path directory = "/dev/shm";
};

namespace detail {

/// A whole file in memory; unmaps it.
class SharedMapping {
 public:
  SharedMapping(int file, std::size_t size, bool writable) : size_(size) {
    address_ = ::mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
    if (address_ == MAP_FAILED) {
      fail<SharedMemoryError>("share_base", std::string("the shared memory cannot be mapped: ") + std::strerror(errno));
    }
  }
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;
  ~SharedMapping() { ::munmap(address_, size_); }

  std::byte* data() const { return static_cast<std::byte*>(address_); }
  void protect() { ::mprotect(address_, size_, PROT_READ); }

 private:
  void* address_;
  std::size_t size_;
};

/// A frozen weight of a model.
struct FrozenPart {
  std::string name;
  SharedBytes block;
  std::size_t offset = 0;  ///< in the file; parts that share memory share it there

  std::string text() const {
    return name + " (" + std::to_string(block.size) + " bytes, at " + std::to_string(offset) + ")";
  }
};

/// The parts with their places, each at a multiple of 64 bytes, and the bytes of all.
template <class T>
std::pair<std::vector<FrozenPart>, std::size_t> frozen_parts(T& model) {
  std::vector<FrozenPart> parts;
  std::map<const std::byte*, std::size_t> offsets;
  std::size_t size = 0;
  visit_modules(model, [&](const Path& path, auto& module) {
    if constexpr (requires { module.set_frozen_storage(module.frozen_storage()); }) {
      const SharedBytes block = module.frozen_storage();
      if (block.data == nullptr) return;
      const auto [found, added] = offsets.emplace(block.data.get(), size);
      if (added) size += (block.size + 63) / 64 * 64;
      parts.push_back({path.str(), block, found->second});
    }
  });
  return {std::move(parts), size};
}

/// Moves every part to its place in the mapping, and frees its own memory.
template <class T>
void use_shared(T& model, const std::vector<FrozenPart>& parts, const std::shared_ptr<SharedMapping>& mapping) {
  std::size_t k = 0;
  visit_modules(model, [&](const Path&, auto& module) {
    if constexpr (requires { module.set_frozen_storage(module.frozen_storage()); }) {
      if (module.frozen_storage().data == nullptr) return;
      const FrozenPart& part = parts[k++];
      module.set_frozen_storage(
          {std::shared_ptr<const std::byte>(mapping, mapping->data() + part.offset), part.block.size});
    }
  });
}

/// Memory that was freed back to the system: the allocator would keep it.
inline void trim_heap() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

inline std::string in_megabytes(double bytes) {
  return std::to_string(static_cast<long long>(bytes / 1e6 + 0.5)) + " MB";
}

/// A new file of this size, its memory reserved. Throws SharedMemoryError, with what is needed and what there is.
class SharedFile {
 public:
  SharedFile(const std::filesystem::path& directory, std::size_t size)
      : name_((directory / "lora-base-XXXXXX").string()) {
    struct ::statvfs system{};
    if (::statvfs(directory.c_str(), &system) != 0) {
      fail<SharedMemoryError>("share_base",
                              "the folder " + directory.string() + " cannot be used: " + std::strerror(errno));
    }
    const double free = static_cast<double>(system.f_bavail) * static_cast<double>(system.f_frsize);
    const auto refuse = [&](int error) {
      fail<SharedMemoryError>("share_base",
                              directory.string() + " has " + in_megabytes(free) + " free, the frozen weights need " +
                                  in_megabytes(static_cast<double>(size)) + " (" + std::to_string(size) + " bytes)" +
                                  (error == 0 ? "" : std::string(" (") + std::strerror(error) + ")") +
                                  ": expected more shared memory, as by docker run --shm-size, or another .directory");
    };
    if (free < static_cast<double>(size)) refuse(0);
    descriptor_ = ::mkostemp(name_.data(), O_CLOEXEC);
    if (descriptor_ < 0) {
      fail<SharedMemoryError>("share_base", name_ + " cannot be created: " + std::strerror(errno));
    }
    const int error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(size));
    if (error == 0) return;
    ::close(descriptor_);
    ::unlink(name_.c_str());
    refuse(error);
  }
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  ~SharedFile() {
    ::close(descriptor_);
    ::unlink(name_.c_str());
  }

  const std::string& name() const { return name_; }
  int descriptor() const { return descriptor_; }

 private:
  std::string name_;
  int descriptor_ = -1;
};

/// What has gone wrong on a process, to be told to the others.
struct Failure {
  std::exception_ptr own;
  std::string kind, text;

  explicit operator bool() const { return !kind.empty(); }
  /// Calls f unless something has gone wrong.
  void attempt(auto&& f) {
    if (*this) return;
    try {
      f();
    } catch (const SharedMemoryError& error) {
      set("memory", error.what());
    } catch (const DifferenceError& error) {
      set("difference", error.what());
    } catch (const std::exception& error) {
      set("error", error.what());
    } catch (...) {
      set("error", "an exception that is no std::exception");
    }
  }
  void set(const char* of, const char* what) {
    own = std::current_exception();
    kind = of;
    text = what;
  }
  std::string written() const { return *this ? joined({kind, text}) : ""; }
};

/// Whether something has gone wrong on one of these processes.
inline bool any_failed(Processes& processes, const Failure& failure) {
  for (const std::string& text : processes.gather(failure.written())) {
    if (!text.empty()) return true;
  }
  return false;
}

/// Throws on every process what has gone wrong on one; on that one, its own exception.
inline void check_all(Processes& processes, const Failure& failure, const std::vector<std::string>& hosts) {
  const std::vector<std::string> texts = processes.gather(failure.written());
  if (failure.own) std::rethrow_exception(failure.own);
  for (std::size_t k = 0; k < texts.size(); ++k) {
    if (texts[k].empty()) continue;
    const auto parts = parted(texts[k]);
    const std::string text = parts[1] + ", on " + names_of({k}, hosts);
    if (parts[0] == "memory") throw SharedMemoryError(text);
    if (parts[0] == "difference") throw DifferenceError(text);
    throw Error(text);
  }
}

}  // namespace detail

/// Returns make(), a model, whose frozen weights lie in memory that the processes of this machine share: those of all
/// frozen Linear layers and of Embeddings in own memory, or of a part that has frozen_storage and set_frozen_storage
/// as they do. What is trained is each process's own. A process that is alone on its machine keeps its own weights.
///
/// Called by all processes. They take turns in make(), so that a machine has at most one copy more than afterwards.
/// Throws on every process: SharedMemoryError, before anything is written, if the folder has too little room;
/// DifferenceError, which names the weight, if processes or machines have different ones; what make() throws.
/// Cost: make() once for each process of a machine, one after another; with several machines, a digest of the
/// weights.
template <class Make>
auto share_base(Processes& processes, Make&& make, const SharedBaseConfig& config = {}) {
  constexpr const char* who = "share_base";
  using Model = std::remove_cvref_t<std::invoke_result_t<Make&>>;
  const std::vector<std::string> hosts = processes.gather(processes.host());
  const std::unique_ptr<Processes> machine = processes.machine();
  const bool first = machine->number() == 0;
  std::optional<Model> model;
  std::vector<detail::FrozenPart> parts;
  std::size_t size = 0;
  std::shared_ptr<detail::SharedMapping> mapping;
  detail::Failure failure;
  const auto load = [&] {
    model.emplace(make());
    std::tie(parts, size) = detail::frozen_parts(*model);
  };

  // The first one loads its model, and makes the file that the others map.
  std::optional<detail::SharedFile> file;
  std::string own;  // the file, its size, and its parts
  if (first) {
    failure.attempt([&] {
      load();
      if (machine->count() == 1 || size == 0) return;
      file.emplace(config.directory, size);
      mapping = std::make_shared<detail::SharedMapping>(file->descriptor(), size, true);
      std::vector<std::string> listing = {file->name(), std::to_string(size)};
      for (const auto& part : parts) listing.push_back(part.text());
      own = detail::joined(listing);
    });
  }
  const std::vector<std::string> listing = detail::parted(machine->gather(own).front());
  if (!first && !listing.empty()) {
    failure.attempt([&] {
      const int descriptor = ::open(listing[0].c_str(), O_RDONLY | O_CLOEXEC);
      if (descriptor < 0) {
        detail::fail<SharedMemoryError>(who, listing[0] + " cannot be opened: " + std::strerror(errno));
      }
      const auto close =
          std::unique_ptr<const int, void (*)(const int*)>(&descriptor, [](const int* of) { ::close(*of); });
      mapping = std::make_shared<detail::SharedMapping>(descriptor, std::stoull(listing[1]), false);
    });
  }
  bool failed = detail::any_failed(*machine, failure);
  file.reset();  // its name; the memory stays with those who have mapped it

  // Now it is written, and the others load theirs, one by one.
  for (int turn = 0; turn < machine->count() && !failed; ++turn) {
    if (turn == machine->number()) {
      failure.attempt([&] {
        if (!first) load();
        if (mapping == nullptr) return;
        for (std::size_t k = 0; k < std::max(parts.size(), listing.size() - 2); ++k) {
          const std::string given = k < parts.size() ? parts[k].text() : "missing";
          const std::string expected = k + 2 < listing.size() ? listing[k + 2] : "missing";
          if (given != expected) {
            detail::fail<DifferenceError>(who, "the frozen weight number " + std::to_string(k) + " is " + given +
                                                   ", on the first process of this machine it is " + expected);
          }
          std::byte* const place = mapping->data() + parts[k].offset;
          const SharedBytes& block = parts[k].block;
          if (first) {
            std::memcpy(place, block.data.get(), block.size);
          } else if (std::memcmp(place, block.data.get(), block.size) != 0) {
            detail::fail<DifferenceError>(
                who, "the weight of " + given + " has other elements than on the first process of this machine");
          }
        }
        if (first) mapping->protect();
        for (auto& part : parts) part.block.data = nullptr;
        detail::use_shared(*model, parts, mapping);
        detail::trim_heap();
      });
    }
    failed = detail::any_failed(*machine, failure);
  }
  detail::check_all(processes, failure, hosts);

  if (machine->count() < processes.count()) {
    std::vector<TensorDigest> digests;
    for (const auto& part : detail::frozen_parts(*model).first) {
      digests.push_back({part.text(), Digest().add(part.text()).add({part.block.data.get(), part.block.size}).value()});
    }
    detail::check_same_tensors(who, processes, digests, hosts);
  }
  return std::move(*model);
}

}  // namespace lora::inline LORA_ABI
