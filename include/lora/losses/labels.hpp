#pragma once
/// The classes of the samples of a batch, in whatever the caller has them.

#include "lora/core/scalar.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <ranges>
#include <type_traits>
#include <utility>

namespace lora::inline LORA_ABI {

/// The label that PyTorch and Hugging Face give to what shall not count: padding, the user's part of a conversation.
inline constexpr std::int64_t ignored_label = -100;

namespace detail {

template <class L>
concept IntegerRange = std::ranges::contiguous_range<const L> && std::ranges::sized_range<const L> &&
                       std::is_integral_v<std::ranges::range_value_t<const L>>;

template <class L>
concept EigenIntegers = std::is_base_of_v<Eigen::DenseBase<L>, L> && std::is_integral_v<typename L::Scalar> &&
                        bool(L::IsVectorAtCompileTime) && (int(L::Flags) & int(Eigen::DirectAccessBit)) != 0;

}  // namespace detail

/// A view of integers: std::vector<int>, <long> or <std::uint8_t>, an array, a span, Eigen::VectorXi or any other
/// vector of integers of Eigen, or a list: softmax_cross_entropy(logits, {0, 2, 1}). As an argument it copies nothing;
/// it holds as long as what it was made of.
class Labels {
 public:
  Labels(std::initializer_list<std::int64_t> list)  // for calls with {0, 2, 1}
      : data_(list.begin()), size_(static_cast<Index>(list.size())), get_(&get<std::int64_t>) {}

  template <class L>
    requires(!std::is_same_v<L, Labels>)
  Labels(const L& labels) {  // NOLINT(google-explicit-constructor)
    if constexpr (detail::EigenIntegers<L>) {
      data_ = labels.data();
      size_ = labels.size();
      stride_ = labels.innerStride();
      get_ = &get<typename L::Scalar>;
    } else if constexpr (detail::IntegerRange<L>) {
      data_ = std::ranges::data(labels);
      size_ = static_cast<Index>(std::ranges::size(labels));
      get_ = &get<std::remove_cv_t<std::ranges::range_value_t<const L>>>;
    } else {
      static_assert(detail::IntegerRange<L>,
                    "lora: labels are integers in memory: a std::vector, array or span of an integer type, or an Eigen "
                    "vector of one (an expression: add .eval()).");
    }
  }

  Index size() const { return size_; }
  /// Numbers beyond the range of the result become the largest: no class, and never ignored.
  std::int64_t operator[](Index sample) const { return get_(data_, sample * stride_); }

 private:
  template <class T>
  static std::int64_t get(const void* data, Index at) {
    constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
    const T label = static_cast<const T*>(data)[at];
    if constexpr (std::is_unsigned_v<T> && sizeof(T) >= sizeof(largest)) {
      if (label > static_cast<T>(largest)) return largest;
    }
    return static_cast<std::int64_t>(label);
  }

  const void* data_ = nullptr;
  Index size_ = 0;
  Index stride_ = 1;
  std::int64_t (*get_)(const void*, Index) = nullptr;
};

/// How many labels count: those that are not `ignored`. The normalizer of micro-batches.
inline Index count_labels(const Labels& labels, std::int64_t ignored = ignored_label) {
  Index count = 0;
  for (Index j = 0; j < labels.size(); ++j) {
    if (labels[j] != ignored) ++count;
  }
  return count;
}

}  // namespace lora::inline LORA_ABI
