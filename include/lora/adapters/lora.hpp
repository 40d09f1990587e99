#pragma once
/// Low-rank adaptation:   y = W0 x + s B (A x)
///
///   W0 (out, in)     frozen, held by the base
///   A  (rank, in)    trained, starts Gaussian
///   B  (out, rank)   trained, starts at zero: a new adapter changes nothing
///   s                alpha / rank, or alpha / sqrt(rank)
///   x  (in, samples), y (out, samples)
///
/// The delta s B A is never formed: two thin products cost 2 samples rank (in + out) floating-point operations instead
/// of 2 samples in out. With dropout in training, A sees M .* x / (1 - p); the base always sees x.
///
/// Source: Hu et al. 2021, arXiv:2106.09685v2, equation (3); scaling section 4.1. rsLoRA: arXiv:2312.03732.

#include "lora/adapters/adapter.hpp"
#include "lora/adapters/dropout.hpp"
#include "lora/adapters/init.hpp"
#include "lora/adapters/lora_config.hpp"
#include "lora/kernels/arithmetic.hpp"
#include "lora/kernels/thin_product.hpp"
#include "lora/kernels/wide_low_rank.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace lora::inline LORA_ABI {

/// Rows, Cols, Rank: compile-time sizes or Dynamic.
template <class S, int Rows, int Cols, int Rank>
struct Lora {
  using Scalar = S;
  using Config = LoraConfig;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  RowMajorParameter<S, Rank, In> A;
  Parameter<S, Out, Rank> B;
  double alpha = 0;
  Scaling scaling = Scaling::alpha_over_rank;
  Dropout<S, In> dropout;

  // ---- The method. s: the scale times the adapter's weight in a sum; input: x, or mask .* x / (1 - p) with dropout.

  template <int N>
  using Input = Eigen::Ref<const Matrix<S, In, N>>;
  template <int N>
  using Low = Eigen::Ref<const Matrix<S, Rank, N>>;

  template <int N>
  struct Kept {
    Buffer<S, Rank, N> z;  ///< s A input
    S s{};
    Index bytes() const { return z.bytes(); }
  };
  template <int N>
  struct Scratch {
    Buffer<S, Rank, N> g;
    typename Dropout<S, In>::template Scratch<N> dropout;
    Index bytes() const { return g.bytes() + dropout.bytes(); }
  };

  /// y = W0 x + B z,   z = s A input
  template <int N>
  void forward(const FrozenBase auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch,
               const Pass& pass, S weight = S(1)) const {
    const Low<N> z = project<N>(x, kept, scratch, pass, weight);
    lora::apply(base, x, y, B.value, z, pass.executor);
  }

  /// y += B z
  template <int N>
  void add(const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass, S weight) const {
    const Low<N> z = project<N>(x, kept, scratch, pass, weight);
    detail::add_low_rank(B.value, z, y, pass.executor);
  }

  /// dx = W0^T dy + A^T g,   g = s B^T dy,   dB += dy z^T,   dA += g input^T
  template <int N>
  void backward(const FrozenBase auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& kept,
                Scratch<N>& scratch, const Pass& pass) {
    const Low<N> g = accumulate<N>(x, dy, kept, scratch, pass);
    if constexpr (wants_gradient<decltype(dx)>) {
      if (!dropout.drops(pass)) {
        lora::apply_transposed(base, dy, dx, std::as_const(A.value).transpose(), g, pass.executor);
      } else {
        base.apply_transposed(dy, dx, pass.executor);
        add_input_gradient<N>(g, dx, scratch, pass);
      }
    }
  }

  /// dx += A^T g; dA and dB as in backward
  template <int N>
  void add_backward(const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass) {
    const Low<N> g = accumulate<N>(x, dy, kept, scratch, pass);
    if constexpr (wants_gradient<decltype(dx)>) add_input_gradient<N>(g, dx, scratch, pass);
  }

 private:
  /// z = s A input
  template <int N>
  Low<N> project(const Input<N>& x, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass, S weight) const {
    kept.s = weight * scale();
    auto z = kept.z.resize(rank(), x.cols());
    dropout.template for_each_input<N>(x, pass, scratch.dropout, [&](Index first, const Input<N>& input) {
      detail::thin_product(A.value.transpose(), input, detail::columns_of(z, first, input.cols()), pass.executor);
    });
    detail::multiply_by(kept.s, z.data(), z.size(), z.data());
    return z;
  }

  /// Adds dA and dB; returns g = s B^T dy, the gradient of A's output, (rank, samples).
  template <int N>
  Low<N> accumulate(const Input<N>& x, const auto& dy, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass) {
    if (kept.z.rows() != rank() || kept.z.cols() != dy.cols()) {
      detail::fail<StateError>("Lora::backward", "the pass kept A x of rank " + std::to_string(kept.z.rows()) +
                                                     ", expected " + std::to_string(rank()) +
                                                     ": the factors are not those of the forward pass");
    }
    // forward: y += B z   =>   dB = dy z^T, dz = B^T dy
    if (B.trainable) detail::add_thin_outer(dy, Low<N>(kept.z.view()), B.gradient(), pass.executor);
    auto g = scratch.g.resize(rank(), dy.cols());
    detail::thin_product(std::as_const(B.value), dy, g, pass.executor);
    detail::multiply_by(kept.s, g.data(), g.size(), g.data());
    // forward: z = s A input   =>   dA = s dz input^T
    if (A.trainable) {
      dropout.template for_each_input<N>(x, pass, scratch.dropout, [&](Index first, const Input<N>& input) {
        detail::add_thin_outer(input, Low<N>(detail::columns_of(g, first, input.cols())), A.gradient().transpose(),
                               pass.executor);
      });
    }
    return g;
  }

  /// forward: z = s A (mask .* x)   =>   dx += mask .* (A^T g)
  template <int N>
  void add_input_gradient(const Low<N>& g, auto& dx, Scratch<N>& scratch, const Pass& pass) const {
    if (!dropout.drops(pass)) return detail::add_low_rank(A.value.transpose(), g, dx, pass.executor);
    dropout.template add_gradient<N>(dx, pass, scratch.dropout, [&](Index first, auto& block) {
      detail::fill_with_zeros(block);
      const Eigen::Map<const Matrix<S, Rank, N>> some(g.data() + first * g.rows(), g.rows(), block.cols());
      detail::add_low_rank(A.value.transpose(), Low<N>(some), block, pass.executor);
    });
  }

 public:
  // ---- Construction, merging and listing.

  /// New factors for a base. Throws ConfigError for a setting out of range, or a rank other than the compile-time one.
  Lora(const FrozenBase auto& base, const LoraConfig& config, Rng& rng) : Lora(base.rows(), base.cols(), config, rng) {}
  Lora(Index out, Index in, const LoraConfig& config, Rng& rng) : alpha(config.alpha), scaling(config.scaling) {
    check(out, in, config);
    try {
      A.value.resize(config.rank, in);
      B.value.setZero(out, config.rank);
    } catch (const std::bad_alloc&) {
      detail::fail_too_large(out, in, config.rank, "Lora");
    }
    dropout = {config.dropout, rng()};  // only now: a refused config draws no random numbers
    initialize_a(A.value, config.init, rng);
  }

  Index rank() const { return A.value.rows(); }
  /// s
  S scale() const { return S(scaling_factor(alpha, rank(), scaling)); }

  /// block += weight s B A[:, first : first + block.cols()]
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto&, S weight = S(1)) const {
    detail::add_wide_low_rank(W(weight * scale()), B.value, A.value, first, block);
  }

  static void visit(auto& self, auto&& f) {
    f("A", self.A);
    f("B", self.B);
  }

  // AdapterKind.

  static constexpr const char* peft_type = "LORA";
  static constexpr bool summable = true;
  static constexpr bool shared = false;

  void check_fits(const detail::Caller& who, Index out, Index in) const {
    detail::check_cols(who, "A", A.value.cols(), "in_features", in);
    detail::check_rows(who, "B", B.value.rows(), "out_features", out);
    detail::check_cols(who, "B", B.value.cols(), "the rank of A", rank());
  }
  AdapterCount count() const {
    return {.rank = rank(),
            .frozen_a = A.trainable ? 0 : rank(),
            .frozen_b = B.trainable ? 0 : rank(),
            .inert = scale() == S(0)};
  }
  double max_weight() const {
    const double s = std::abs(scaling_factor(alpha, rank(), scaling));
    return detail::largest_finite<S>() / std::max(s, 1.0);
  }
  static void describe(auto& self, auto&& table) {
    table.setting("r", self.rank());
    table.setting("lora_alpha", self.alpha);
    table.setting("lora_dropout", self.dropout.probability);
    table.setting("use_rslora", self.scaling == Scaling::alpha_over_sqrt_rank);
    table.tensor("lora_A.weight", self.A);
    table.tensor("lora_B.weight", self.B);
  }

 private:
  static void check(Index out, Index in, const LoraConfig& config) {
    validate(config, "Lora");
    if (Rank != Dynamic && config.rank != Rank) {
      detail::fail<ConfigError>("Lora", "rank is " + std::to_string(config.rank) +
                                            ", expected the compile-time Rank = " + std::to_string(Rank));
    }
    detail::check_scale<S>(config, "Lora");
    if constexpr (Out != Dynamic) detail::check_extent("Lora", "the adapter", out, "outputs", "Out", Out);
    if constexpr (In != Dynamic) detail::check_extent("Lora", "the adapter", in, "inputs", "In", In);
    detail::check_factors_fit<S>(out, in, config.rank, "Lora");
  }
};

static_assert(AdapterKind<Lora<float>> && Adapter<Lora<double, 4, 3, 2>, Dense<double, 4, 3>>);

}  // namespace lora::inline LORA_ABI
