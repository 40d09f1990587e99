#pragma once
/// LoRA that starts from a part of W0, less that part:   y = W0 x + s (B A - B0 A0) x
///
///   A  (rank, in), B  (out, rank)   trained, start as A0 and B0
///   A0 (rank, in), B0 (out, rank)   constant: listed and counted, never trained; saved with an adapter (to_lora), not
///                                   in a checkpoint, as W0 is not
///   s                               the trained pair's alpha / rank or alpha / sqrt(rank), for both pairs
///
/// Others overwrite W0 by the residual base W0 - s B0 A0 and train B A on it. Here W0 is unchanged: it stays shared,
/// the model without the adapter is exact, and a new adapter, whose two terms cancel, changes the output only by
/// rounding.
///
/// Dropout in training is that of the residual base: only the trained pair sees M .* x / (1 - p), the constant pair
/// sees x. So a new adapter is neutral in training without dropout, and in expectation with it. Cost in addition to
/// LoRA: one more thin product pair forward, one for dx, and the memory of A0 and B0.
///
/// pissa.hpp and olora.hpp construct one from W0. Source: Meng, Wang & Zhang 2024, arXiv:2404.02948, section 3 (the
/// residual base).

#include "lora/adapters/lora.hpp"
#include "lora/core/parameters.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>

namespace lora::inline LORA_ABI {

/// Rows, Cols, Rank: compile-time sizes or Dynamic.
template <class S, int Rows = Dynamic, int Cols = Dynamic, int Rank = Dynamic>
class ResidualLora {
 public:
  using Scalar = S;
  using Pair = Lora<S, Rows, Cols, Rank>;
  using Joined = Lora<S, Rows, Cols, Rank == Dynamic ? Dynamic : 2 * Rank>;
  static constexpr int Out = Rows;
  static constexpr int In = Cols;

  Pair trained;

  /// Starts with B0 A0 = B A. Throws ShapeError if the factors do not fit each other.
  explicit ResidualLora(Pair initial) : ResidualLora(initial, initial) {}

  /// A pair `now` that has been trained from `start`, of which only the factors are used. Throws ShapeError if the
  /// factors do not fit each other.
  ResidualLora(Pair now, Pair start) : trained(std::move(now)), start_(std::move(start)) {
    detail::check_cols("ResidualLora", "B", trained.B.value.cols(), "the rank of A", trained.rank());
    detail::check_cols("ResidualLora", "B0", start_.B.value.cols(), "the rank of A0", start_.rank());
    detail::check_cols("ResidualLora", "A0", start_.A.value.cols(), "the columns of A", trained.A.value.cols());
    detail::check_rows("ResidualLora", "B0", start_.B.value.rows(), "the rows of B", trained.B.value.rows());
    detail::freeze_parameter(start_.A);
    detail::freeze_parameter(start_.B);
    start_.scaling = Scaling::alpha_over_rank;
    start_.alpha = static_cast<double>(start_.rank());  // scale 1: s comes with every call
    start_.dropout = {};
  }

  Index rank() const { return trained.rank(); }
  S scale() const { return trained.scale(); }
  const auto& A0() const { return start_.A.value; }
  const auto& B0() const { return start_.B.value; }

  template <int N>
  struct Kept {
    typename Pair::template Kept<N> trained, start;
    Index bytes() const { return trained.bytes() + start.bytes(); }
  };
  template <int N>
  using Scratch = typename Pair::template Scratch<N>;

  /// y = W0 x + weight s (B A - B0 A0) x
  template <int N>
  void forward(const FrozenBase auto& base, const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch,
               const Pass& pass, S weight = S(1)) const {
    trained.forward(base, x, y, kept.trained, scratch, pass, weight);
    start_.add(x, y, kept.start, scratch, pass, -weight * scale());
  }

  /// y += weight s (B A - B0 A0) x
  template <int N>
  void add(const auto& x, auto&& y, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass, S weight) const {
    trained.add(x, y, kept.trained, scratch, pass, weight);
    start_.add(x, y, kept.start, scratch, pass, -weight * scale());
  }

  template <int N>
  void backward(const FrozenBase auto& base, const auto& x, const auto& dy, auto&& dx, Kept<N>& kept,
                Scratch<N>& scratch, const Pass& pass) {
    // forward: y = W0 x + s B A (mask .* x) - s B0 A0 x
    //   =>   dx = W0^T dy + s mask .* (A^T B^T dy) - s A0^T B0^T dy, and dA, dB as if the last term were not there
    trained.backward(base, x, dy, dx, kept.trained, scratch, pass);
    if constexpr (wants_gradient<decltype(dx)>) start_.add_backward(x, dy, dx, kept.start, scratch, pass);
  }

  /// dx += weight s (A^T B^T - A0^T B0^T) dy, and the gradients of A and B
  template <int N>
  void add_backward(const auto& x, const auto& dy, auto&& dx, Kept<N>& kept, Scratch<N>& scratch, const Pass& pass) {
    trained.add_backward(x, dy, dx, kept.trained, scratch, pass);
    if constexpr (wants_gradient<decltype(dx)>) start_.add_backward(x, dy, dx, kept.start, scratch, pass);
  }

  /// block += weight s (B A - B0 A0)[:, first : first + block.cols()]
  template <class W>
  void add_delta(Matrix<W>& block, Index first, const auto& base, S weight = S(1)) const {
    trained.add_delta(block, first, base, weight);
    start_.add_delta(block, first, base, -weight * scale());
  }

  /// The same delta as an ordinary LoRA of twice the rank, for tools that do not know A0 and B0: B' = [B -B0], A' = [A;
  /// A0], and alpha' such that s is the same. Exact; alpha' is rounded once with alpha / sqrt(rank). If it is trained
  /// further, A0 and B0 are trained too, and dropout applies to their input.
  Joined to_lora() const {
    const Index joined_rank = rank() + start_.rank();
    const double growth = static_cast<double>(joined_rank) / static_cast<double>(rank());
    const double factor = trained.scaling == Scaling::alpha_over_rank ? growth : std::sqrt(growth);
    Rng unused(0);
    Joined joined(B0().rows(), A0().cols(),
                  {.rank = joined_rank,
                   .alpha = trained.alpha * factor,
                   .dropout = trained.dropout.probability,
                   .scaling = trained.scaling},
                  unused);
    joined.dropout.stream = trained.dropout.stream;
    const auto& A = trained.A.value;  // row after row; B column after column: they are halves of a block
    const auto& B = trained.B.value;
    std::copy_n(A0().data(), A0().size(), std::copy_n(A.data(), A.size(), joined.A.value.data()));
    std::transform(B0().data(), B0().data() + B0().size(), std::copy_n(B.data(), B.size(), joined.B.value.data()),
                   std::negate<>());
    return joined;
  }

  static void visit(auto& self, auto&& f) {
    f("A", self.trained.A);
    f("B", self.trained.B);
    f("A0", std::as_const(self.start_.A.value));
    f("B0", std::as_const(self.start_.B.value));
  }

  // AdapterKind. Files store it as to_lora(), an ordinary LoRA of twice the rank.

  static constexpr const char* peft_type = "LORA";
  static constexpr bool summable = true;
  static constexpr bool shared = false;

  void check_fits(const detail::Caller& who, Index out, Index in) const {
    trained.check_fits(who, out, in);
    detail::check_cols(who, "A0", A0().cols(), "in_features", in);
    detail::check_rows(who, "B0", B0().rows(), "out_features", out);
  }
  AdapterCount count() const {
    AdapterCount count = trained.count();
    count.rank += start_.rank();  // A0 and B0 take part in all products but those of gradients
    count.frozen_a += start_.rank();
    count.frozen_b += start_.rank();
    return count;
  }
  double max_weight() const { return trained.max_weight(); }
  static void describe(auto& self, auto&& table) {
    const Joined joined = self.to_lora();
    Joined::describe(joined, table);
  }

 private:
  Pair start_;  // never trained, without dropout, of scale 1
};

namespace detail {

/// Checks the config of an adapter that starts from W0. Throws ConfigError for settings that no start can satisfy.
template <class S>
void check_start(const Caller& who, const LoraConfig& config) {
  validate(config, who);
  check_scale<S>(config, who);
  if (S(scaling_factor(config.alpha, config.rank, config.scaling)) > S(0)) return;
  fail<ConfigError>(who, "alpha is " + text_of(config.alpha) +
                             ", expected a scale above 0: with 0 the factors would never be trained, below 0 B A would "
                             "take away the part of W0 that it starts from");
}

/// The adapter that starts as A, B. Draws as many random numbers as a new Lora of this config.
template <class S>
ResidualLora<S> residual_lora(const LoraConfig& config, Matrix<S> B, RowMajorMatrix<S> A, Rng& rng) {
  Lora<S> pair(B.rows(), A.cols(), config, rng);
  pair.A.value = std::move(A);
  pair.B.value = std::move(B);
  return ResidualLora<S>(std::move(pair));
}

}  // namespace detail

static_assert(AdapterKind<ResidualLora<float>> && Adapter<ResidualLora<double, 4, 3, 2>, Dense<double, 4, 3>>);

}  // namespace lora::inline LORA_ABI
