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

#include <algorithm>
#include <limits>
#include <utility>

namespace lora {

/// Rows, Cols, Rank: compile-time sizes or Dynamic.
template <class S, int Rows = Dynamic, int Cols = Dynamic, int Rank = Dynamic>
struct Lora {
  using Scalar = S;
  using Config = LoraConfig;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;
  static constexpr const char* layer_name = "LoraLinear";

  RowMajorParameter<S, Rank, In> A;
  Parameter<S, Out, Rank> B;
  double alpha = 0;
  Scaling scaling = Scaling::alpha_over_rank;
  double dropout = 0;
  std::uint64_t stream = 0;  ///< tells the dropout masks of different layers apart

  /// Throws ConfigError for a setting out of range, or a rank other than the compile-time one.
  Lora(Index out, Index in, const LoraConfig& config, Rng& rng)
      : alpha(config.alpha), scaling(config.scaling), dropout(config.dropout) {
    validate(config, "Lora");
    if (Rank != Dynamic && config.rank != Rank) {
      detail::fail<ConfigError>("Lora", "rank is " + std::to_string(config.rank) +
                                            ", expected the compile-time Rank = " + std::to_string(Rank));
    }
    detail::check_scale<S>(config, "Lora");
    if constexpr (Out != Dynamic) detail::check_extent("Lora", "the adapter", out, "outputs", "Out", Out);
    if constexpr (In != Dynamic) detail::check_extent("Lora", "the adapter", in, "inputs", "In", In);
    detail::check_factors_fit<S>(out, in, config.rank, "Lora");
    stream = rng();  // only now: a refused config leaves the generator where it was
    A.value.resize(config.rank, in);
    initialize_a(A.value, config.init, rng);
    B.value.setZero(out, config.rank);
  }

  Index rank() const { return A.value.rows(); }
  S scale() const { return S(scaling_factor(alpha, rank(), scaling)); }

  /// What forward keeps: z = s A x, (rank, samples). Dropout is applied and undone in blocks of samples, so that no
  /// second copy of x exists.
  template <int Samples = Dynamic>
  struct Cache {
    Buffer<S, Rank, Samples> z, g;
    Buffer<S, In, Samples> mask, masked;
    Pass pass;
    S factor{};

    Index bytes() const { return z.bytes() + g.bytes() + mask.bytes() + masked.bytes(); }
  };

  /// Throws StateError unless `cache` is that of a forward pass of factors of this rank with as many samples.
  template <int N>
  void check_backward(const detail::Caller& who, const Cache<N>& cache, Index samples) const {
    if (cache.z.rows() == rank() && cache.z.cols() == samples) return;
    detail::fail<StateError>(who, "this cache is another layer's: it holds A x of rank " +
                                      std::to_string(cache.z.rows()) + ", expected " + std::to_string(rank()));
  }

  /// y = W0 x + weight s B (A x)
  template <int N>
  void forward(const FrozenBase auto& base, const auto& x, auto& y, Cache<N>& cache, const Pass& pass,
               S weight = S(1)) const {
    lora::apply(base, x, y, B.value, project<N>(x, cache, pass, weight), pass.executor);
  }

  /// y += weight s B (A x)
  template <int N>
  void add(const auto& x, auto& y, Cache<N>& cache, const Pass& pass, S weight) const {
    detail::add_low_rank(B.value, project<N>(x, cache, pass, weight), y, pass.executor);
  }

  template <int N>
  void backward(const FrozenBase auto& base, const auto& x, const auto& dy, auto&& dx, Cache<N>& cache) {
    const Low<N> g = accumulate<N>(x, dy, cache);
    if constexpr (wants_gradient<decltype(dx)>) {
      // forward: y = W0 x + B z, z = s A x   =>   dx = W0^T dy + A^T g
      if (!drops(cache.pass)) {
        lora::apply_transposed(base, dy, dx, std::as_const(A.value).transpose(), g, cache.pass.executor);
      } else {
        base.apply_transposed(dy, dx, cache.pass.executor);
        add_input_gradient(dx, cache);
      }
    }
  }

  /// dx += weight s A^T (B^T dy), and the gradients
  template <int N>
  void add_backward(const auto& x, const auto& dy, auto&& dx, Cache<N>& cache) {
    accumulate<N>(x, dy, cache);
    if constexpr (wants_gradient<decltype(dx)>) add_input_gradient(dx, cache);
  }

  /// block += weight s B A[:, first : first + block.cols()]
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto&, S weight = S(1)) const {
    const Matrix<W> wide_b = W(weight * scale()) * B.value.template cast<W>();
    const Matrix<W> wide_a = A.value.middleCols(first, block.cols()).template cast<W>();
    // column by column, on rows that stay in the cache: a matrix product in W would cost a second of compile time
    constexpr Index tile = 256;
    for (Index row = 0; row < block.rows(); row += tile) {
      const Index rows = std::min(tile, block.rows() - row);
      for (Index j = 0; j < block.cols(); ++j) {
        block.col(j).segment(row, rows).noalias() += wide_b.middleRows(row, rows) * wide_a.col(j);
      }
    }
  }

  static void visit(auto& self, auto&& f) {
    f("A", self.A);
    f("B", self.B);
  }

 private:
  // Few types of operands mean few products for the compiler to build, which is most of the time that it takes.
  template <int N>
  using Input = Eigen::Ref<const Matrix<S, In, N>>;
  template <int N>
  using Low = Eigen::Ref<const Matrix<S, Rank, N>>;  // of rank rows: z and g

  bool drops(const Pass& pass) const { return pass.training && dropout > 0; }

  /// z = weight s A (mask .* x)
  template <int N>
  Low<N> project(const Input<N>& x, Cache<N>& cache, const Pass& pass, S weight) const {
    cache.pass = pass;
    cache.factor = weight * scale();
    auto z = cache.z.resize(rank(), x.cols());
    for_each_input<N>(x, cache, [&](Index first, const Input<N>& input) {
      detail::thin_product(A.value.transpose(), input, columns_of(z, first, input.cols()), pass.executor);
    });
    z *= cache.factor;
    return z;
  }

  /// Adds dA and dB; returns g = weight s B^T dy, the gradient of A's output, (rank, samples).
  template <int N>
  Low<N> accumulate(const Input<N>& x, const auto& dy, Cache<N>& cache) {
    // forward: y += B z   =>   dB = dy z^T, dz = B^T dy
    Executor* const executor = cache.pass.executor;
    if (B.trainable) detail::add_thin_outer(dy, Low<N>(cache.z.view()), B.gradient(), executor);
    auto g = cache.g.resize(rank(), dy.cols());
    detail::thin_product(B.value, dy, g, executor);
    g *= cache.factor;
    // forward: z = s A (mask .* x)   =>   dA = s dz (mask .* x)^T
    if (A.trainable) {
      for_each_input<N>(x, cache, [&](Index first, const Input<N>& input) {
        detail::add_thin_outer(input, Low<N>(g.middleCols(first, input.cols())), A.gradient().transpose(), executor);
      });
    }
    return g;
  }

  /// forward: z = s A (mask .* x)   =>   dx += mask .* (A^T g)
  template <int N>
  void add_input_gradient(auto& dx, Cache<N>& cache) const {
    const Low<N> g(cache.g.view());
    if (!drops(cache.pass)) {
      detail::add_low_rank(A.value.transpose(), g, dx, cache.pass.executor);
      return;
    }
    for_each_mask(dx.cols(), cache, [&](Index first, const auto& mask) {
      auto part = cache.masked.resize(dx.rows(), mask.cols());
      part.setZero();
      detail::add_low_rank(A.value.transpose(), Low<N>(g.middleCols(first, mask.cols())), part, cache.pass.executor);
      columns_of(dx, first, mask.cols()) += mask.cwiseProduct(part);
    });
  }

  /// f(first, input) with the adapter's input: x itself, or mask .* x for consecutive blocks of samples.
  template <int N>
  void for_each_input(const Input<N>& x, Cache<N>& cache, auto&& f) const {
    if (!drops(cache.pass)) return f(Index(0), x);
    for_each_mask(x.cols(), cache, [&](Index first, const auto& mask) {
      auto masked = cache.masked.resize(x.rows(), mask.cols());
      masked = mask.cwiseProduct(x.middleCols(first, mask.cols()));
      f(first, Input<N>(masked));
    });
  }

  /// f(first, mask) for consecutive blocks of samples; a compile-time number of samples is one block.
  template <int N>
  void for_each_mask(Index samples, Cache<N>& cache, auto&& f) const {
    const DropoutMask dropout_mask(dropout, stream, cache.pass);
    const Index block = N == Dynamic ? std::min<Index>(samples, 64) : samples;
    for (Index first = 0; first < samples; first += block) {
      auto mask = cache.mask.resize(A.value.cols(), std::min(block, samples - first));
      dropout_mask.fill(mask, first);
      f(first, mask);
    }
  }

  /// The columns first, first + 1, ... of a matrix or view, as the view that a Buffer gives: one type for all products.
  template <class M>
  static auto columns_of(M& matrix, Index first, Index count) {
    using View = typename Buffer<S, M::RowsAtCompileTime, M::ColsAtCompileTime>::View;
    return View(matrix.data() + first * matrix.rows(), matrix.rows(), count);
  }
};

static_assert(AdditiveAdapter<Lora<float>> && Adapter<Lora<double, 4, 3, 2>, Dense<double, 4, 3>>);

}  // namespace lora
