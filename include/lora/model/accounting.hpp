#pragma once
/// The cost of a training step or an inference, from shapes alone: parameters, bytes and floating-point operations.
///
///   const auto cost = lora::account({{.name = "q", .out = 1024, .in = 1024, .rank = 8, .count = 24}}, samples);
///
/// For a weight W (out, in), factors of rank r and N samples (columns; tokens, in a language model), with i = in and
/// o = out, two operations for each multiply-add of a matrix product:
///
///              forward             backward
///   full       2Nio                4Nio                 dW = dy x^T, dx = W^T dy
///   frozen     2Nio                2Nio                 dx
///   LoRA       2N(io + r(i+o))     2Nio + 4Nr(i+o)      dx, and B^T dy, dB, dA, A^T g; A x is kept from forward
///   merged     2Nio
///
/// Every layer is counted with its dx, 2Nio and for LoRA 2Nri, because a list of shapes does not say which layer comes
/// first; .input_gradient = false leaves it out, as backward with no_gradient does. Not counted, because they are of
/// lower order: biases, activations, norms, dropout. Not counted, because they are not layers: the products between
/// activations in attention.
///
/// Sources: Hu et al. 2021, arXiv:2106.09685, section 4; Cherniuk et al. 2023, arXiv:2312.03415 (the first plan of
/// forward and of backward, with A x kept).

#include "lora/core/error.hpp"
#include "lora/core/parameters.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

/// Operations of one AdamW step for each trained element: the gradient's factor 1, m 3, v 4, the update 5 (one
/// division, one square root), the parameter with its decay 2. Multiplications, additions, divisions and roots count 1
/// each.
inline constexpr Index adamw_flops_per_parameter = 15;
/// m and v.
inline constexpr Index adam_moments = 2;

/// A layer W (out, in), or any other tensor, to be counted.
struct LayerShape {
  std::string name = {};
  Index out = 0;
  Index in = 0;
  Index rank = 0;              ///< total rank of the selected low-rank factors; 0: none
  bool bias = false;           ///< has b (out)
  bool trained = false;        ///< W is trained; factors always are, unless frozen_a or frozen_b says otherwise
  bool trained_bias = false;   ///< b is trained
  Index count = 1;             ///< number of layers of this shape
  bool product = true;         ///< false: a table or a norm's weight, which takes memory but no product
  bool input_gradient = true;  ///< false: backward does not need dx, as in a first layer
  Index frozen_a = 0;          ///< rows of A, of `rank`, that are not trained
  Index frozen_b = 0;          ///< columns of B, of `rank`, that are not trained
  Index extra = 0;             ///< further elements that the selected adapters train, such as a copy of b
  Index idle = 0;              ///< further elements that are kept: inactive adapters, the base under a trained copy
  Index bytes_per_number = 4;  ///< of weights, gradients, moments and activations alike
  Index weight_bytes = -1;     ///< of W as its base holds it; negative: in out bytes_per_number
  bool inert = false;          ///< the scale of selected factors is 0: they change nothing and cannot learn
};

/// Peak memory of training in bytes, counted by its elements, without the allocator's overhead.
struct Bytes {
  Index weights = 0;      ///< everything that is listed, inactive adapters too; shared tensors count twice
  Index gradients = 0;    ///< one element for each trained one
  Index optimizer = 0;    ///< Adam's two moments for each trained element
  Index activations = 0;  ///< what forward keeps: y (out, N) and A x (rank, N) of every layer; x is the caller's
  Index workspace = 0;  ///< what backward adds, shared by all layers: the three largest dx (in, N), as a network needs
                        ///< them, and the largest B^T dy (rank, N)

  Index total() const { return weights + gradients + optimizer + activations + workspace; }
};

/// Floating-point operations.
struct Flops {
  Index forward = 0;
  Index backward = 0;
  Index step = 0;  ///< of AdamW

  Index total() const { return forward + backward + step; }
};

struct Cost {
  ParameterCount parameters;
  Bytes bytes;
  Flops flops;
};

/// What the passes of a model hold: what forward keeps for backward, and what both borrow.
struct PassBytes {
  Index kept = 0, scratch = 0;
};

/// current: as the shapes say; inference if nothing is trained.   full: all of the base trained, no adapters. merged:
/// inference with the adapters merged into the base.
struct Account {
  Index samples = 0;
  Cost current, full, merged;
  bool adapted = false;              ///< some layer has low-rank factors
  std::vector<std::string> remarks;  ///< ranks that save nothing, factors that cannot learn
};

/// in out / (in + out): at this rank the factors have as many elements as W, and forward costs twice as much.
inline double break_even_rank(Index out, Index in) {
  return out + in == 0 ? 0 : static_cast<double>(out) * static_cast<double>(in) / static_cast<double>(out + in);
}

namespace detail {

/// Throws ShapeError that names the layer, the field and its value.
inline void validate(const LayerShape& shape) {
  const auto check = [&](const char* field, Index given, Index least, Index most, const std::string& expected) {
    if (given >= least && given <= most) return;
    fail<ShapeError>("account", "layer " + in_quotes(shape.name) + ": " + field + " is " + std::to_string(given) +
                                    ", expected " + expected);
  };
  constexpr Index any = std::numeric_limits<Index>::max();
  check("out", shape.out, 0, any, "0 or more");
  check("in", shape.in, 0, any, "0 or more");
  check("rank", shape.rank, 0, any, "0 (no factors) or more");
  check("count", shape.count, 0, any, "0 or more");
  check("frozen_a", shape.frozen_a, 0, shape.rank, "0 to rank = " + std::to_string(shape.rank));
  check("frozen_b", shape.frozen_b, 0, shape.rank, "0 to rank = " + std::to_string(shape.rank));
  check("extra", shape.extra, 0, any, "0 or more");
  check("idle", shape.idle, 0, any, "0 or more");
  check("bytes_per_number", shape.bytes_per_number, 1, 64, "1 to 64");
  check("weight_bytes", shape.weight_bytes, -1, any, "-1 (as its elements say) or more");
}

/// An upper bound of any sum in an Account, for all layers of this shape.
inline double magnitude(const LayerShape& shape, Index samples) {
  const auto d = [](Index number) { return static_cast<double>(number); };
  const double numbers = (d(shape.out) + 1) * (d(shape.in) + 1) + d(shape.rank) * (d(shape.out) + d(shape.in) + 2) +
                         d(shape.extra) + d(shape.idle);
  return (numbers + std::max(0.0, d(shape.weight_bytes))) * d(shape.count) *
         std::max(6 * d(samples) + 14, 4 * d(shape.bytes_per_number) + 2 * d(samples));
}

inline std::string remark_on(const LayerShape& shape) {
  const auto named = [&](const char* word) { return shape.name.empty() ? "" : word + shape.name; };
  const Index least = std::min(shape.in, shape.out);
  if (shape.inert) {
    return "alpha is 0" + named(" in ") + ": the factors change nothing and will never learn";
  }
  if (shape.rank > least) {
    return "rank " + std::to_string(shape.rank) + " exceeds min(in, out) = " + std::to_string(least) + named(" of ") +
           ": it can do no more than rank " + std::to_string(least);
  }
  if (shape.rank * (shape.in + shape.out) >= shape.in * shape.out) {
    const std::string numbers = std::to_string(shape.rank * (shape.in + shape.out));
    return "rank " + std::to_string(shape.rank) + " saves nothing" + named(" in ") + ": its factors have " + numbers +
           " numbers, the weight " + std::to_string(shape.in * shape.out);
  }
  return {};
}

/// Adds the cost of shape.count layers to a sum. held: bytes of W beyond those of its elements.
inline void add(Cost& sum, const LayerShape& shape, Index total, Index trainable, Index held, Index activations,
                const Flops& flops) {
  const Index n = shape.count;
  sum.parameters.total += n * total;
  sum.parameters.trainable += n * trainable;
  sum.bytes.weights += n * (total * shape.bytes_per_number + held);
  sum.bytes.gradients += n * trainable * shape.bytes_per_number;
  sum.bytes.optimizer += n * trainable * shape.bytes_per_number * adam_moments;
  sum.bytes.activations += n * activations * shape.bytes_per_number;
  sum.flops.forward += n * flops.forward;
  sum.flops.backward += n * flops.backward;
  sum.flops.step += n * trainable * adamw_flops_per_parameter;
}

/// The memory that all layers share in backward.
class Workspace {
 public:
  void add(Index dx, Index g, Index count) {
    for (Index k = 0; k < std::min<Index>(count, 3); ++k) {
      *std::min_element(largest_.begin(), largest_.end()) =
          std::max(dx, *std::min_element(largest_.begin(), largest_.end()));
    }
    if (count > 0) g_ = std::max(g_, g);
  }
  Index bytes() const { return std::accumulate(largest_.begin(), largest_.end(), g_); }

 private:
  std::array<Index, 3> largest_{};
  Index g_ = 0;
};

}  // namespace detail

/// The total cost of all layers. Throws ShapeError for samples below 1 or a size below 0, ValueError if a sum would
/// exceed 64 bits. Cost: O(layers), exact integers.
inline Account account(const std::vector<LayerShape>& shapes, Index samples) {
  if (samples < 1) throw ShapeError("account: samples is " + std::to_string(samples) + ", expected at least 1");
  Account result;
  result.samples = samples;
  double magnitude = 0;
  detail::Workspace workspace, full_workspace;
  for (const LayerShape& shape : shapes) {
    detail::validate(shape);
    magnitude += detail::magnitude(shape, samples);
    if (magnitude > 9e18)
      throw ValueError("account: the sums exceed 64 bits at layer " + detail::in_quotes(shape.name));

    const Index i = shape.in, o = shape.out, r = shape.rank;
    const Index N = shape.product ? samples : 0;
    const Index dx = shape.input_gradient ? N : 0;
    const Index base = o * i + (shape.bias ? o : 0);
    const Index row_a = r - shape.frozen_a, column_b = r - shape.frozen_b;
    const Index trainable = (shape.trained ? o * i : 0) + (shape.bias && shape.trained_bias ? o : 0) + row_a * i +
                            column_b * o + shape.extra;

    const Index held = shape.weight_bytes < 0 ? 0 : shape.weight_bytes - o * i * shape.bytes_per_number;
    detail::add(result.current, shape, base + r * (i + o) + shape.extra + shape.idle, trainable, held, N * (o + r),
                {.forward = 2 * N * (o * i + r * (i + o)),
                 .backward = 2 * dx * (o * i + r * i) + 2 * N * (r * o + row_a * i + column_b * o) +
                             (shape.trained ? 2 * N * o * i : 0)});
    detail::add(result.full, shape, base, base, 0, N * o,
                {.forward = 2 * N * o * i, .backward = 2 * N * o * i + 2 * dx * o * i});
    detail::add(result.merged, shape, base, 0, held, N * o, {.forward = 2 * N * o * i});
    workspace.add(dx * i * shape.bytes_per_number, N * r * shape.bytes_per_number, shape.count);
    full_workspace.add(dx * i * shape.bytes_per_number, 0, shape.count);

    if (shape.rank == 0 || !shape.product || shape.count == 0) continue;
    result.adapted = true;
    if (std::string remark = detail::remark_on(shape); !remark.empty()) result.remarks.push_back(std::move(remark));
  }
  if (result.current.parameters.trainable == 0) {
    result.current.flops.backward = 0;
  } else {
    result.current.bytes.workspace = workspace.bytes();
  }
  result.full.bytes.workspace = full_workspace.bytes();
  return result;
}

}  // namespace lora::inline LORA_ABI
