#pragma once
/// A named tensor to be stored.

#include "lora/core/finite.hpp"
#include "lora/core/scalar.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/elements.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/file_error.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Refers to the matrix it is given, whose elements are read when the file is written; a temporary is kept. Copies
/// refer to the same elements.
class TensorToSave {
 public:
  /// A matrix (rows, cols) of float, double or integers, of any storage order and strides; any expression. The stored
  /// shape is [rows, cols], or [n] for a vector at compile time. float and double may be stored as F64, F32, F16 or
  /// BF16, rounded once to nearest even; writing throws ValueError if that makes a finite number infinite. Throws
  /// DtypeError if the elements cannot be stored as dtype.
  template <class M>
    requires requires(const std::remove_reference_t<M>& m) {
      typename std::remove_reference_t<M>::Scalar;
      m.derived();
    }
  TensorToSave(std::string name, M&& matrix, std::optional<Dtype> dtype = {}) : name_(std::move(name)) {
    using Derived = std::remove_cvref_t<decltype(matrix.derived())>;
    using S = typename Derived::Scalar;
    static_assert(StoredScalar<S>, "lora: float, double and integers can be stored; anything else as bytes");
    dtype_ = dtype.value_or(dtype_of<S>());
    if (dtype_ != dtype_of<S>() && !(std::floating_point<S> && is_real(dtype_))) refuse_dtype(dtype_of<S>());
    constexpr bool has_memory = bool(Eigen::internal::traits<Derived>::Flags & Eigen::DirectAccessBit);
    constexpr bool owns_memory = std::is_base_of_v<Eigen::PlainObjectBase<Derived>, Derived>;
    if constexpr (!has_memory || (owns_memory && !std::is_lvalue_reference_v<M>)) {
      const auto kept = std::make_shared<const typename Derived::PlainObject>(std::forward<M>(matrix));
      look_at(*kept);
      owner_ = kept;
    } else {
      look_at(matrix.derived());
    }
  }

  /// Bytes as in the file: row-major and little-endian. Throws ShapeError unless their number fits dtype and shape.
  TensorToSave(std::string name, Dtype dtype, std::vector<std::uint64_t> shape, std::span<const std::byte> bytes)
      : name_(std::move(name)), dtype_(dtype), shape_(std::move(shape)), data_(bytes.data()), contiguous_(true) {
    const auto size = bit_count(dtype, shape_);
    if (!size || *size % 8 != 0 || *size / 8 != bytes.size()) {
      detail::fail<ShapeError>("TensorToSave", "tensor " + detail::shown(name_) + " has " +
                                                   std::to_string(bytes.size()) + " bytes, expected " +
                                                   (size ? std::to_string(*size) + " bits" : "at most 2^64 bits") +
                                                   " for its dtype and shape");
    }
  }

  const std::string& name() const { return name_; }
  Dtype dtype() const { return dtype_; }
  const std::vector<std::uint64_t>& shape() const { return shape_; }
  std::uint64_t byte_size() const { return *bit_count(dtype_, shape_) / 8; }

  /// Throws ValueError `who: tensor "w" is 90000 at (0, 3), ...` if a finite number becomes infinite in the dtype. One
  /// pass over the elements; none if they are stored as they are.
  void check_range(const detail::Caller& who) const {
    if (find_ != nullptr) find_(*this, who);
  }

  /// Calls sink(std::span<const std::byte>) with the bytes of the file, piece by piece: at most 4 MiB are converted
  /// at once, and memory that already has these bytes is passed as it is.
  template <class Sink>
  void write_to(Sink&& sink) const {
    if (contiguous_)
      return sink(std::span(static_cast<const std::byte*>(data_), static_cast<std::size_t>(byte_size())));
    if (rows_ == 0 || cols_ == 0) return;
    const auto element = static_cast<Index>(bits(dtype_) / 8);
    const Index most = (Index{1} << 22) / element;
    const Index width = std::min(cols_, most);
    const Index height = std::min(rows_, most / width);
    std::vector<std::byte> piece(static_cast<std::size_t>(width * height * element));
    for (Index row = 0; row < rows_; row += height) {
      for (Index col = 0; col < cols_; col += width) {
        const Index rows = std::min(height, rows_ - row), cols = std::min(width, cols_ - col);
        store_(*this, row, col, rows, cols, piece.data());
        sink(std::span<const std::byte>(piece).first(static_cast<std::size_t>(rows * cols * element)));
      }
    }
  }

 private:
  /// own: that of the elements.
  [[noreturn]] void refuse_dtype(Dtype own) const;

  template <class Derived>
  void look_at(const Derived& matrix) {
    using S = typename Derived::Scalar;
    data_ = matrix.data();
    rows_ = matrix.rows();
    cols_ = matrix.cols();
    row_step_ = Derived::IsRowMajor ? matrix.outerStride() : matrix.innerStride();
    col_step_ = Derived::IsRowMajor ? matrix.innerStride() : matrix.outerStride();
    shape_ = {static_cast<std::uint64_t>(rows_), static_cast<std::uint64_t>(cols_)};
    if (Derived::IsVectorAtCompileTime) shape_ = {static_cast<std::uint64_t>(matrix.size())};
    contiguous_ =
        detail::stored_as_is<S>(dtype_) && (cols_ == 1 || col_step_ == 1) && (rows_ == 1 || row_step_ == cols_);
    store_ = [](const TensorToSave& tensor, Index row, Index col, Index rows, Index cols, std::byte* to) {
      const S* const from = static_cast<const S*>(tensor.data_) + row * tensor.row_step_ + col * tensor.col_step_;
      detail::store_elements(from, tensor.row_step_, tensor.col_step_, rows, cols, tensor.dtype_, to);
    };
    if constexpr (std::floating_point<S>) {
      constexpr double largest = static_cast<double>(std::numeric_limits<S>::max());
      if (detail::smallest_infinite(dtype_) <= largest) find_ = check_range_of<S>;
    }
  }

  template <class S>
  static void check_range_of(const TensorToSave& tensor, const detail::Caller& who) {
    const S* const data = static_cast<const S*>(tensor.data_);
    const double limit = detail::smallest_infinite(tensor.dtype_);
    if (!detail::first_not_below(limit, data, tensor.rows_, tensor.cols_, tensor.row_step_, tensor.col_step_)) return;
    for (Index row = 0; row < tensor.rows_; ++row) {
      for (Index col = 0; col < tensor.cols_; ++col) {
        const S number = data[row * tensor.row_step_ + col * tensor.col_step_];
        // Infinity and NaN are stored as such.
        if (!std::isfinite(number) || static_cast<double>(std::abs(number)) < limit) continue;
        detail::fail<ValueError>(who, "tensor " + detail::shown(tensor.name_) + " is " + detail::text_of(number) + " " +
                                          detail::shown_place({row, col}, tensor.shape_.size() == 1) +
                                          ", which is infinite as " + std::string(lora::name(tensor.dtype_)) +
                                          "; store it as a wider type");
      }
    }
  }

  using Store = void (*)(const TensorToSave&, Index row, Index col, Index rows, Index cols, std::byte* to);

  std::string name_;
  Dtype dtype_ = Dtype::u8;
  std::vector<std::uint64_t> shape_;
  const void* data_ = nullptr;
  bool contiguous_ = false;  // data_ are the bytes of the file
  Index rows_ = 0, cols_ = 0, row_step_ = 0, col_step_ = 0;
  Store store_ = nullptr;
  void (*find_)(const TensorToSave&, const detail::Caller& who) = nullptr;  // if the dtype is narrower
  std::shared_ptr<const void> owner_;
};

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE void TensorToSave::refuse_dtype(Dtype own) const {
  detail::fail<DtypeError>(
      "TensorToSave", "tensor " + detail::shown(name_) + ": " + std::string(lora::name(own)) + " cannot be stored as " +
                          std::string(lora::name(dtype_)) +
                          (is_real(own) ? ", expected " + std::string(detail::real_dtypes) : std::string()));
}

#endif  // LORA_IO_DEFINITIONS

}  // namespace lora::inline LORA_ABI
