#pragma once
/// The result of Safetensors::tensor: a tensor (rows, cols) as a matrix that can be used like any other in Eigen.

#include "lora/core/scalar.hpp"

#include <memory>
#include <utility>

namespace lora::inline LORA_ABI {

/// A matrix in the memory of a file: an Eigen::Map that keeps the file open; a copy as a plain Map or Ref does not. If
/// the file's bytes cannot be used as they are (not aligned to S, as older writers left them, or a machine that is not
/// little-endian) it holds a copy of them instead.
template <class S>
class StoredMatrix : public Eigen::Map<const Eigen::Matrix<S, Dynamic, Dynamic, Eigen::RowMajor>> {
  using Base = Eigen::Map<const Eigen::Matrix<S, Dynamic, Dynamic, Eigen::RowMajor>>;

 public:
  StoredMatrix(const S* data, Index rows, Index cols, std::shared_ptr<const void> owner, bool is_copy)
      : Base(data, rows, cols), owner_(std::move(owner)), is_copy_(is_copy) {}
  StoredMatrix(const StoredMatrix&) = default;
  StoredMatrix& operator=(const StoredMatrix&) = delete;

  bool is_copy() const { return is_copy_; }
  /// What has to live as long as data() is used.
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  bool is_copy_;
};

}  // namespace lora::inline LORA_ABI
