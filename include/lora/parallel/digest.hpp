#pragma once
/// A short number for many bytes, by which processes find out whether they have the same ones.

#include "lora/core/visit.hpp"
#include "lora/parallel/processes.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace lora::inline LORA_ABI {

/// 64 bits of a sequence of bytes. Two sequences that differ in one word always differ in it, others but for one pair
/// in 2^64; it is no protection against someone who looks for such a pair.   Cost: about that of reading the bytes
/// once.
class Digest {
 public:
  /// The digest of `a`, then `b` differs from that of both in one piece.
  Digest& add(std::span<const std::byte> bytes) {
    std::size_t at = 0;
    for (; at + sizeof(lanes_) <= bytes.size(); at += sizeof(lanes_)) {
      for (std::size_t k = 0; k < lanes_.size(); ++k) mix(lanes_[k], word(bytes.data() + at + 8 * k, 8));
    }
    for (std::size_t k = 0; at < bytes.size(); ++k, at += 8) {
      mix(lanes_[k], word(bytes.data() + at, std::min<std::size_t>(8, bytes.size() - at)));
    }
    mix(lanes_[0], bytes.size());
    return *this;
  }
  Digest& add(std::string_view text) { return add(std::as_bytes(std::span(text.data(), text.size()))); }
  template <class Number>
    requires std::is_arithmetic_v<Number>
  Digest& add(Number number) {
    using Wide = std::conditional_t<std::is_integral_v<Number>, std::uint64_t, double>;
    const auto wide = static_cast<Wide>(number);
    return add(std::as_bytes(std::span(&wide, 1)));
  }
  template <class Derived>
  Digest& add(const Eigen::PlainObjectBase<Derived>& matrix) {
    add(static_cast<std::uint64_t>(matrix.rows()));
    return add(std::as_bytes(std::span(matrix.data(), static_cast<std::size_t>(matrix.size()))));
  }

  std::uint64_t value() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t lane : lanes_) mix(sum, lane);
    return sum;
  }
  /// 16 hexadecimal digits.
  std::string text() const {
    std::string digits(16, '0');
    std::uint64_t rest = value();
    for (std::size_t k = 16; k-- > 0; rest >>= 4) digits[k] = "0123456789abcdef"[rest & 15];
    return digits;
  }

 private:
  /// One to one for each of the two arguments.
  static void mix(std::uint64_t& lane, std::uint64_t word) {
    lane = (lane ^ word) * 0x9E3779B97F4A7C15ull;
    lane ^= lane >> 32;
  }
  static std::uint64_t word(const std::byte* from, std::size_t size) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, from, size);
    return bits;
  }

  std::array<std::uint64_t, 4> lanes_ = {1, 2, 3, 4};
};

/// The digest of one tensor of a model: of its name, shape, elements, and of whether it is trained.
struct TensorDigest {
  std::string name;  ///< with its shape: "fc1.weight (128 x 64)"
  std::uint64_t value = 0;
};

namespace detail {

/// The elements in the order in which they lie in memory, that of a base as its products read them.
template <class T>
void add_elements(Digest& digest, const T& tensor) {
  const auto bytes = [](const auto* data, Index size) {
    return std::as_bytes(std::span(data, static_cast<std::size_t>(size)));
  };
  if constexpr (requires { tensor.storage(); }) {
    const auto block = tensor.storage();
    digest.add({block.data.get(), block.size});
  } else if constexpr (requires { tensor.data(), tensor.innerStride(), tensor.innerSize(); }) {
    const bool vector = tensor.outerSize() == 1;
    if (tensor.innerStride() == 1 && (vector || tensor.outerStride() == tensor.innerSize())) {
      digest.add(bytes(tensor.data(), tensor.size()));
    } else {
      const auto plain = tensor.eval();
      digest.add(bytes(plain.data(), plain.size()));
    }
  } else if constexpr (requires { tensor.dense(); }) {
    add_elements(digest, tensor.dense());
  } else {
    const Matrix<typename T::Scalar> plain = tensor;
    digest.add(bytes(plain.data(), plain.size()));
  }
}

}  // namespace detail

/// The digests of all tensors of a model, in listing order.   Cost: that of reading them once; a base that is not
/// held as run-time bases are (base/any_base.hpp) is expanded for a moment.
template <class T>
std::vector<TensorDigest> tensor_digests(const T& model) {
  std::vector<TensorDigest> digests;
  visit_tensors(model, [&](const Path& path, const auto& tensor) {
    Digest digest;
    Index rows = 0, cols = 0;
    bool trained = false;  // a frozen parameter and a constant are the same to a training
    if constexpr (ParameterLike<std::remove_reference_t<decltype(tensor)>>) {
      rows = tensor.value.rows();
      cols = tensor.value.cols();
      trained = is_trained(path, tensor);
      detail::add_elements(digest, tensor.value);
    } else {
      rows = tensor.rows();
      cols = tensor.cols();
      detail::add_elements(digest, tensor);
    }
    const std::string name = path.str() + " (" + std::to_string(rows) + " x " + std::to_string(cols) + ")";
    digests.push_back({name, digest.add(name).add(trained).value()});
  });
  return digests;
}

/// One number for a whole model.
template <class T>
std::uint64_t model_digest(const T& model) {
  Digest digest;
  for (const TensorDigest& tensor : tensor_digests(model)) digest.add(tensor.value);
  return digest.value();
}

namespace detail {

/// Throws DifferenceError on every process, with the first tensor that differs, unless all processes have the same
/// ones.
inline void check_same_tensors(const Caller& who, Processes& processes, const std::vector<TensorDigest>& own,
                               const std::vector<std::string>& hosts) {
  Digest whole;
  for (const TensorDigest& tensor : own) whole.add(tensor.value);
  const std::vector<std::string> all = processes.gather(whole.text() + " " + std::to_string(own.size()));
  if (std::all_of(all.begin(), all.end(), [&](const std::string& other) { return other == all.front(); })) return;
  std::string values;  // only now those of each tensor travel
  for (const TensorDigest& tensor : own) values += Digest().add(tensor.value).text();
  const std::vector<std::string> digests = processes.gather(values);
  const auto digest_of = [&](const std::string& of, std::size_t tensor) {
    return of.substr(std::min(16 * tensor, of.size()), 16);
  };
  const auto differs = [&](std::size_t tensor) {
    return std::any_of(digests.begin(), digests.end(), [&](const std::string& other) {
      return digest_of(other, tensor) != digest_of(digests.front(), tensor);
    });
  };
  std::size_t first = 0;
  while (!differs(first)) ++first;
  const std::string text =
      first < own.size() ? own[first].name + " with digest " + digest_of(values, first) : "no tensor of this number";
  check_equal(who, "tensor " + std::to_string(first) + " of the model", processes.gather(text), hosts);
}

}  // namespace detail
}  // namespace lora::inline LORA_ABI
