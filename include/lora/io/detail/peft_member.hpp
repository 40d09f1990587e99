#pragma once
/// What save_adapter reads of a layer, without its type: the rules are compiled once for all models.

#include "lora/adapters/full_weight.hpp"
#include "lora/adapters/no_adapter.hpp"
#include "lora/adapters/residual_lora.hpp"
#include "lora/core/finite.hpp"
#include "lora/core/visit.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/described.hpp"
#include "lora/io/detail/peft_describe.hpp"
#include "lora/io/detail/peft_files.hpp"
#include "lora/io/detail/product_error.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/tensor_to_save.hpp"
#include "lora/model/adaptable.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI::detail {

inline constexpr std::string_view save_non_finite_advice =
    "; SaveAdapterOptions{.allow_non_finite = true} saves them as they are";

/// The tensors of an adapter, which refer to the model's memory.
struct PeftTensors {
  std::optional<Dtype> dtype = {};  ///< see SaveAdapterOptions
  bool allow_non_finite = false;
  std::vector<TensorToSave> all = {};

  /// Throws ValueError, naming tensor and place, for infinity and NaN.
  template <class M>
  void add(std::string_view path, std::string_view part, M&& matrix) {
    const std::string key = peft_key(path, part);
    if (!allow_non_finite) check_finite("save_adapter", "tensor " + shown(key), matrix, save_non_finite_advice);
    all.push_back(TensorToSave(key, std::forward<M>(matrix), dtype));
  }
};

/// One layer and, if there is one, its adapter of the name that is saved; both must outlive it.
class PeftMember {
 public:
  explicit PeftMember(std::string path) : path_(std::move(path)) {}
  PeftMember(const PeftMember&) = delete;
  PeftMember& operator=(const PeftMember&) = delete;
  virtual ~PeftMember() = default;

  const std::string& path() const { return path_; }
  virtual bool has_adapter() const = 0;
  /// Adds those of all its adapters.
  virtual void add_names(std::set<std::string>& names) const = 0;
  virtual bool has_own_bias() const = 0;
  /// Of the adapter: empty if there is none.
  virtual std::string_view kind() const = 0;
  /// Throws ConfigError if its kind lists less than it has (described.hpp).
  virtual void check_described(const Caller& who) const = 0;
  virtual std::vector<AdapterSetting> settings() const = 0;
  /// Throws ConfigError for an adapter of a kind that is not LORA.
  virtual PeftLayer layer() const = 0;
  /// Adds the tensors of an adapter of kind LORA. Throws ValueError, also for a product that the dtype cannot hold.
  virtual void add_to(PeftTensors& tensors, Bias bias) const = 0;
  /// Adds those of an adapter of another kind.
  virtual void add_kind_to(PeftTensors& tensors) const = 0;

 private:
  std::string path_;
};

/// matrix 2^exponent: exact unless a number leaves the range of normal ones.
template <class M>
M scaled_by_power(const M& matrix, int exponent) {
  M scaled = matrix;
  std::for_each(scaled.data(), scaled.data() + scaled.size(), [exponent](auto& x) { x = std::ldexp(x, exponent); });
  return scaled;
}

/// What to multiply A with, and divide B by, so that the rounded factors give the product: 2^shift. 0 as long as the
/// factors survive as they are, so that they are stored as they are. Throws ValueError if the product would be off by
/// more than 2^-11, or twice the dtype's rounding, because each factor is rounded once: in F16, 2^-10.
template <class S>
int balancing_shift(const std::string& path, const Lora<S>& factors, std::optional<Dtype> stored) {
  const Dtype dtype = stored.value_or(dtype_of<S>());
  if (smallest_infinite(dtype) > static_cast<double>(std::numeric_limits<S>::max())) return 0;  // nothing is rounded
  const auto numbers = [](const auto& matrix) {
    return std::span<const S>(matrix.data(), static_cast<std::size_t>(matrix.size()));
  };
  const std::span<const S> A = numbers(factors.A.value), B = numbers(factors.B.value);
  const auto largest = [](std::span<const S> factor) {  // infinite if an element is not finite
    double magnitude = 0;
    for (const S x : factor) {
      const double own = std::isfinite(x) ? std::abs(static_cast<double>(x)) : std::numeric_limits<double>::infinity();
      magnitude = std::max(magnitude, own);
    }
    return magnitude;
  };
  const double largest_a = largest(A), largest_b = largest(B);
  if (std::isinf(largest_a) || std::isinf(largest_b)) return 0;  // refused, or saved on purpose
  const double most = std::max(2 * rounding_of(dtype), 0x1p-11);
  const double as_is = product_error(A, B, factors.rank(), 0, dtype);
  if (as_is <= most) return 0;
  const auto exponent_of = [](double number) {
    int exponent = 0;
    std::frexp(number, &exponent);
    return exponent;
  };
  const int shift = (exponent_of(largest_b) - exponent_of(largest_a)) / 2;
  const double balanced = product_error(A, B, factors.rank(), shift, dtype);
  if (balanced <= most) return shift;
  fail<ValueError>(Caller("save_adapter", path), "as " + std::string(name(dtype)) + " the factors A (at most " +
                                                     text_of(largest_a) + ") and B (at most " + text_of(largest_b) +
                                                     ") give a product that is off by " +
                                                     text_of(100 * std::min(as_is, balanced)) + " %; save them as F32");
}

template <class S>
class PeftMemberOf final : public PeftMember {
 public:
  /// bias: the layer's, or null.
  PeftMemberOf(std::string path, const Vector<S>* bias, const AdapterSet<S>& adapters, std::string_view name);

  bool has_adapter() const override { return named_ != nullptr; }
  void add_names(std::set<std::string>& names) const override {
    for (const auto& member : adapters_.members()) names.insert(member->name);
  }
  bool has_own_bias() const override { return named_ != nullptr && named_->bias; }
  std::string_view kind() const override {
    return named_ == nullptr ? std::string_view() : named_->adapter.peft_type();
  }
  void check_described(const Caller& who) const override { detail::check_described(who, path(), named_->adapter); }
  std::vector<AdapterSetting> settings() const override { return named_->adapter.settings(); }

  PeftLayer layer() const override {
    PeftLayer one;
    one.path = path();
    one.has_bias = bias_ != nullptr;
    if (named_ == nullptr) return one;
    one.own_bias = named_->bias.has_value();
    std::optional<Lora<S>> joined;
    if (const Lora<S>* factors = factors_of(joined)) {
      one.role = PeftLayer::Role::adapter;
      one.rank = factors->rank();
      one.alpha = factors->alpha;
      one.scaling = factors->scaling;
      one.dropout = factors->dropout.probability;
    } else if (named_->adapter.template as<FullWeight<S>>() != nullptr) {
      one.role = PeftLayer::Role::full;
    } else if (one.own_bias && named_->adapter.template as<NoAdapter<S>>() != nullptr) {
      one.role = PeftLayer::Role::bias;
    } else if (named_->adapter.template as<NoAdapter<S>>() == nullptr) {
      fail<ConfigError>("save_adapter", "layer " + in_quotes(one.path) + " has an adapter of a kind that is not LORA");
    }
    return one;
  }

  void add_to(PeftTensors& tensors, Bias bias) const override {
    const auto add_bias = [&](const char* part) {
      if (bias_ != nullptr) tensors.add(path(), part, has_own_bias() ? named_->bias->value : *bias_);
    };
    std::optional<Lora<S>> joined;
    if (const Lora<S>* factors = factors_of(joined)) {
      if (const int shift = balancing_shift(path(), *factors, tensors.dtype); shift != 0) {
        tensors.add(path(), "lora_A.weight", scaled_by_power(factors->A.value, shift));
        tensors.add(path(), "lora_B.weight", scaled_by_power(factors->B.value, -shift));
      } else if (joined) {
        tensors.add(path(), "lora_A.weight", std::move(joined->A.value));
        tensors.add(path(), "lora_B.weight", std::move(joined->B.value));
      } else {
        tensors.add(path(), "lora_A.weight", factors->A.value);
        tensors.add(path(), "lora_B.weight", factors->B.value);
      }
      if (bias != Bias::none) add_bias("base_layer.bias");
      return;
    }
    if (const auto* full = named_ == nullptr ? nullptr : named_->adapter.template as<FullWeight<S>>()) {
      tensors.add(path(), "weight", full->weight.value);
      return add_bias("bias");
    }
    if (bias == Bias::all) add_bias("bias");
  }

  void add_kind_to(PeftTensors& tensors) const override {
    named_->adapter.tensors([&](const AdapterTensor<const S>& tensor) {
      if (tensor.is_vector) {
        tensors.add(path(), tensor.name, Vector<S>(tensor.value.reshaped()));
      } else {
        tensors.add(path(), tensor.name, Matrix<S>(tensor.value));
      }
    });
  }

 private:
  /// The LoRA factors to be saved: an adapter that starts from a part of W0 becomes one of twice the rank.
  const Lora<S>* factors_of(std::optional<Lora<S>>& joined) const {
    if (named_ == nullptr) return nullptr;
    if (const auto* residual = named_->adapter.template as<ResidualLora<S>>()) joined.emplace(residual->to_lora());
    return joined ? &*joined : named_->adapter.template as<Lora<S>>();
  }

  const Vector<S>* bias_;
  const AdapterSet<S>& adapters_;
  const NamedAdapter<S>* named_;
};

template <class S>
PeftMemberOf<S>::PeftMemberOf(std::string path, const Vector<S>* bias, const AdapterSet<S>& adapters,
                              std::string_view name)
    : PeftMember(std::move(path)),
      bias_(bias),
      adapters_(adapters),
      named_(adapters.contains(name) ? &adapters.at(name) : nullptr) {}

LORA_IO_INSTANCE(class PeftMemberOf<float>)
LORA_IO_DOUBLE_INSTANCE(class PeftMemberOf<double>)

/// What save_adapter reads of a model: its layers, in listing order, and the names of all its modules.
struct PeftModel {
  std::vector<std::unique_ptr<const PeftMember>> layers;
  std::vector<std::string> modules;
};

template <class T>
PeftModel peft_model(const T& model, std::string_view name) {
  PeftModel parts;
  visit_modules(model, [&](const Path& path, const auto& module) {
    using Module = std::remove_cvref_t<decltype(module)>;
    parts.modules.push_back(path.str());
    if constexpr (Adaptable<Module>) {
      static_assert(require_peft_layer<Module>());
      parts.layers.push_back(
          std::make_unique<PeftMemberOf<typename Module::Scalar>>(path.str(), module.bias(), module.adapters(), name));
    }
  });
  return parts;
}

}  // namespace lora::inline LORA_ABI::detail
