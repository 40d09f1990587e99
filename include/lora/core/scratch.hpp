#pragma once
/// Temporary memory of a pass: one Scratch for each thread that runs passes, shared by all layers.
///
/// What backward reads later is in each layer's Kept instead. Memory is freed only at the end, so after the largest
/// pass of every kind nothing allocates.

#include "lora/core/buffer.hpp"

#include <memory>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

template <class T>
inline constexpr char type_tag = 0;

/// Identifies a type without run-time type information (RTTI).
template <class T>
const void* tag_of() {
  return &type_tag<T>;
}

/// One object of each requested type, constructed on request. T: default-constructible, copyable, with bytes().
class Slots {
 public:
  Slots() = default;
  Slots(Slots&&) = default;
  Slots& operator=(Slots&&) = default;
  Slots(const Slots& other) {
    for (const auto& slot : other.slots_) add(slot->copy());
  }
  Slots& operator=(const Slots& other) { return *this = Slots(other); }
  ~Slots() = default;

  template <class T>
  T& get() {
    Slot* slot = slot_of(tag_of<T>());
    if (slot == nullptr) slot = add(std::unique_ptr<Slot>(new Held<T>()));
    return static_cast<Held<T>*>(slot)->value;
  }
  /// Null if there is none yet.
  template <class T>
  T* find() {
    Slot* const slot = slot_of(tag_of<T>());
    return slot == nullptr ? nullptr : &static_cast<Held<T>*>(slot)->value;
  }
  Index bytes() const {
    Index sum = 0;
    for (const auto& slot : slots_) sum += slot->bytes();
    return sum;
  }

 private:
  struct Slot {
    const void* tag;
    explicit Slot(const void* own) : tag(own) {}
    virtual ~Slot() = default;
    virtual std::unique_ptr<Slot> copy() const = 0;
    virtual Index bytes() const = 0;
  };
  template <class T>
  struct Held : Slot {
    T value{};
    Held() : Slot(tag_of<T>()) {}
    std::unique_ptr<Slot> copy() const override { return std::unique_ptr<Slot>(new Held(*this)); }
    Index bytes() const override { return value.bytes(); }
  };

  Slot* slot_of(const void* tag) const {
    for (const auto& slot : slots_) {
      if (slot->tag == tag) return slot.get();
    }
    return nullptr;
  }
  Slot* add(std::unique_ptr<Slot> slot) {
    slots_.push_back(std::move(slot));
    return slots_.back().get();
  }

  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace detail

/// Lends buffers for a scope, and holds one object of each type that an adapter requests:
///
///   const auto hidden = scratch.borrow<float>();      // until the end of the scope; nested layers get others
///   auto h = hidden->resize(width, samples);
///
/// Not thread-safe: for one thread at a time.
class Scratch {
  template <class S>
  struct Pool {
    std::vector<std::unique_ptr<Buffer<S>>> free;
    Index lent_bytes = 0;

    Pool() = default;
    Pool(const Pool&) {}  // a copy starts empty: the original's buffers may be in use
    Pool& operator=(const Pool&) = delete;
    Index bytes() const {
      Index sum = lent_bytes;
      for (const auto& buffer : free) sum += buffer->bytes();
      return sum;
    }
  };

 public:
  template <class S>
  class Borrowed {
   public:
    explicit Borrowed(Pool<S>& pool) : pool_(pool) {
      if (pool.free.empty()) {
        buffer_ = std::make_unique<Buffer<S>>();
      } else {
        buffer_ = std::move(pool.free.back());
        pool.free.pop_back();
        pool.lent_bytes += before_ = buffer_->bytes();
      }
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    ~Borrowed() {
      pool_.lent_bytes -= before_;
      pool_.free.push_back(std::move(buffer_));
    }
    Buffer<S>& operator*() const { return *buffer_; }
    Buffer<S>* operator->() const { return buffer_.get(); }

   private:
    Pool<S>& pool_;
    std::unique_ptr<Buffer<S>> buffer_;
    Index before_ = 0;
  };

  template <class S>
  Borrowed<S> borrow() {
    return Borrowed<S>(slots_.get<Pool<S>>());
  }
  /// The only T: the caller must not call anything that may request it too while using it.
  template <class T>
  T& get() {
    return slots_.get<T>();
  }
  /// Bytes held, whether in use or not.
  Index bytes() const { return slots_.bytes(); }

 private:
  detail::Slots slots_;
};

}  // namespace lora::inline LORA_ABI
