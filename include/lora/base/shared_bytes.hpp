#pragma once
/// The elements of a frozen weight as one block of bytes with shared ownership.

#include "lora/core/error.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

/// A run-time base returns its elements as a block (storage()) and can be constructed over another block of the same
/// bytes (over()): private memory, a mapped file, memory shared by processes. A block of foreign memory holds its
/// owner:
///
///   SharedBytes block{std::shared_ptr<const std::byte>(mapping, mapping->data()), size};
struct SharedBytes {
  std::shared_ptr<const std::byte> data;
  std::size_t size = 0;

  /// The block of a matrix or vector, which it owns.
  template <class M>
  static SharedBytes of(std::shared_ptr<M> owner) {
    const auto* data = reinterpret_cast<const std::byte*>(owner->data());
    const std::size_t size = static_cast<std::size_t>(owner->size()) * sizeof(typename M::Scalar);
    return {std::shared_ptr<const std::byte>(std::move(owner), data), size};
  }

  /// The block as `elements` elements of S. Throws StateError if it is null, ShapeError for its size or alignment.
  template <class S>
  std::shared_ptr<const S> as(const detail::Caller& who, std::size_t elements) const {
    if (data == nullptr) detail::fail<StateError>(who, "the block is a null pointer, expected bytes to share");
    if (size != elements * sizeof(S)) {
      detail::fail<ShapeError>(
          who, "the block has " + std::to_string(size) + " bytes, expected " + std::to_string(elements * sizeof(S)));
    }
    if (reinterpret_cast<std::uintptr_t>(data.get()) % alignof(S) != 0) {
      detail::fail<ShapeError>(who, "the block is not aligned to " + std::to_string(alignof(S)) + " bytes");
    }
    return std::shared_ptr<const S>(data, reinterpret_cast<const S*>(data.get()));
  }
};

}  // namespace lora::inline LORA_ABI
