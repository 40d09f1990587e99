/// Attention, forward and backward: nanoseconds a token and head, and the share of the peak, beside Eigen's products.
///
///   attention [--out DIR] [--quick]
///
/// Useful multiply-adds only: forward 2 head_dim for each pair of a query and a key that it sees, backward 5. One
/// thread; medians of this thread's processor time, of runs in turns, and the peak of the same run. Another compiler or
/// kind of processor:
///
///   CXX=clang++ LORA_ARCH=x86-64-v3 benchmarks/run.sh attention

#include <cmath>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/interleaved.hpp"
#include "benchmarks/support/roof.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/lora.hpp"

namespace {

using lora::Index;
using Matrix = lora::Matrix<float>;

struct Case {
  Index sequences, tokens, heads, key_heads, head_dim;
  bool causal = false;

  std::string name() const {
    return std::to_string(sequences) + " x " + std::to_string(tokens) + ", " + std::to_string(heads) +
           (key_heads < heads ? " (" + std::to_string(key_heads) + ")" : "") + " heads of " + std::to_string(head_dim) +
           (causal ? ", causal" : "");
  }
  Index columns() const { return sequences * tokens; }
  double pairs() const {
    const double all = static_cast<double>(tokens) * static_cast<double>(causal ? tokens + 1 : tokens);
    return static_cast<double>(sequences * heads) * (causal ? all / 2 : all);
  }
};

class Measurement {
 public:
  explicit Measurement(const Case& what)
      : case_(what),
        shape_{.heads = what.heads,
               .key_heads = what.key_heads,
               .head_dim = what.head_dim,
               .mask = what.causal ? lora::AttentionMask::causal : lora::AttentionMask::none},
        sequences_(lora::Sequences::of_one_length(what.sequences, what.tokens)) {
    lora::Rng rng(1);
    for (Matrix* each : {&q_, &d_o_}) fill(*each, shape_.query_rows(), rng);
    for (Matrix* each : {&k_, &v_}) fill(*each, shape_.key_rows(), rng);
    o_ = dq_ = q_;
    dk_ = dv_ = k_;
    lse_.resize(what.heads, what.columns());
  }

  void forward() {
    lora::detail::MutableColumns<float> lse(lse_);
    lora::attention<float>(q_, k_, v_, shape_, sequences_, sequences_, o_, &lse, scratch_);
  }
  void backward() {
    lora::attention_backward<float>(q_, k_, v_, shape_, sequences_, sequences_, o_, lse_, d_o_, dq_, dk_, dv_,
                                    scratch_);
  }

  /// The same by Eigen's products, with all queries of a head together.
  void eigen_forward() {
    each_head([&](auto q, auto k, auto v, Index row, Index, Index first) {
      const Index tokens = q.cols();
      P_.noalias() = (k.transpose() * scale()) * q;
      for (Index c = 0; c < tokens; ++c) {
        const Index seen = case_.causal ? c + 1 : tokens;
        auto column = P_.col(c).head(seen).array();
        const float most = column.maxCoeff();
        column = (column - most).exp();
        const float sum = column.sum();
        column *= 1 / sum;
        P_.col(c).tail(tokens - seen).setZero();
        lse_(row / case_.head_dim, first + c) = most + std::log(sum);
      }
      o_.block(row, first, case_.head_dim, tokens).noalias() = v * P_;
    });
  }
  void eigen_backward() {
    dk_.setZero();
    dv_.setZero();
    each_head([&](auto q, auto k, auto v, Index row, Index key_row, Index first) {
      const Index tokens = q.cols(), dim = case_.head_dim;
      const auto d_o = d_o_.block(row, first, dim, tokens);
      P_.noalias() = (k.transpose() * scale()) * q;
      E_.noalias() = v.transpose() * d_o;
      for (Index c = 0; c < tokens; ++c) {
        const Index seen = case_.causal ? c + 1 : tokens;
        auto p = P_.col(c).head(seen).array();
        auto e = E_.col(c).head(seen).array();
        p = (p - lse_(row / dim, first + c)).exp();
        e = p * (e - d_o.col(c).dot(o_.col(first + c).segment(row, dim))) * scale();
        P_.col(c).tail(tokens - seen).setZero();
        E_.col(c).tail(tokens - seen).setZero();
      }
      dv_.block(key_row, first, dim, tokens).noalias() += d_o * P_.transpose();
      dq_.block(row, first, dim, tokens).noalias() = k * E_;
      dk_.block(key_row, first, dim, tokens).noalias() += q * E_.transpose();
    });
  }

  /// Both must agree before either is timed.
  void check() {
    eigen_forward();
    eigen_backward();
    const std::vector<Matrix> expected = {o_, dq_, dk_, dv_};
    forward();
    backward();
    const std::vector<Matrix> given = {o_, dq_, dk_, dv_};
    for (std::size_t k = 0; k < given.size(); ++k) {
      if ((given[k] - expected[k]).norm() <= 1e-5F * expected[k].norm()) continue;
      throw std::runtime_error(case_.name() + ": attention and Eigen's products do not agree");
    }
  }

  Index scratch_bytes() const { return scratch_.bytes(); }

 private:
  float scale() const { return static_cast<float>(shape_.scale_or_default()); }
  void fill(Matrix& matrix, Index rows, lora::Rng& rng) const {
    matrix.resize(rows, case_.columns());
    lora::fill_normal(matrix, 1, rng);
  }
  void each_head(const auto& f) {
    const Index dim = case_.head_dim, tokens = case_.tokens;
    for (Index s = 0; s < case_.sequences; ++s) {
      for (Index h = 0; h < case_.heads; ++h) {
        const Index key_row = h / (case_.heads / case_.key_heads) * dim;
        f(q_.block(h * dim, s * tokens, dim, tokens), k_.block(key_row, s * tokens, dim, tokens),
          v_.block(key_row, s * tokens, dim, tokens), h * dim, key_row, s * tokens);
      }
    }
  }

  Case case_;
  lora::AttentionShape shape_;
  lora::Sequences sequences_;
  Matrix q_, k_, v_, o_, lse_, d_o_, dq_, dk_, dv_, P_, E_;
  lora::Scratch scratch_;
};

void run(const std::filesystem::path& out, bool quick) {
  const double peak = benchmarks::multiply_add_peak();
  const benchmarks::Effort effort{.repetitions = quick ? 3 : 11, .seconds = quick ? 1e-3 : 2e-2};
  examples::Table table(
      {"ns a token and head", "forward", "of peak", "backward", "of peak", "Eigen: forward", "backward", "scratch"});
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  std::vector<Case> cases;
  for (const Index dim : {32, 64}) {
    for (const Index tokens : {64, 256, 1024}) cases.push_back({1024 / tokens, tokens, 12, 12, dim});
  }
  cases.push_back({4, 128, 12, 12, 64, true});
  cases.push_back({1, 1024, 12, 12, 64, true});
  cases.push_back({1, 256, 9, 3, 64, true});
  cases.push_back({40, 20, 12, 12, 32});
  for (const Case& what : cases) {
    Measurement measurement(what);
    measurement.check();
    const auto seconds =
        benchmarks::measure({[&] { measurement.forward(); }, [&] { measurement.backward(); },
                             [&] { measurement.eigen_forward(); }, [&] { measurement.eigen_backward(); }},
                            effort);
    const double tokens = static_cast<double>(what.columns() * what.heads);
    const double work = 2 * what.pairs() * static_cast<double>(what.head_dim);  // operations of one product
    const auto ns = [&](std::size_t k) { return 1e9 * seconds[k].median / tokens; };
    const auto share = [&](std::size_t k, int products) { return products * work / seconds[k].median / peak; };
    table.add({what.name(), examples::significant(ns(0), 3), examples::fixed(100 * share(0, 2), 0) + " %",
               examples::significant(ns(1), 3), examples::fixed(100 * share(1, 5), 0) + " %",
               examples::significant(ns(2), 3), examples::significant(ns(3), 3),
               std::to_string(measurement.scratch_bytes() / 1024) + " KiB"});
    json.push_back({{"case", what.name()},
                    {"forward_ns", ns(0)},
                    {"forward_share_of_peak", share(0, 2)},
                    {"backward_ns", ns(1)},
                    {"backward_share_of_peak", share(1, 5)},
                    {"eigen_forward_ns", ns(2)},
                    {"eigen_backward_ns", ns(3)},
                    {"scratch_bytes", measurement.scratch_bytes()}});
  }
  std::cout << "Attention, float, one thread; peak " << examples::fixed(peak / 1e9, 0) << " GFLOP/s\n\n"
            << table.text() << "\n";
  if (out.empty()) return;
  examples::write_file(out / "attention.json", json.dump(2) + "\n");
  std::cout << "Wrote attention.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  examples::Program program("attention", "Attention, forward and backward, ns a token and head.");
  program.add_option("--out", out, "folder for attention.json; without it none is written");
  program.add_flag("--quick", quick, "few repetitions, to see that everything runs");
  benchmarks::initialize(argc, argv);
  return program.run(argc, argv, [&] { run(out, quick); });
}
