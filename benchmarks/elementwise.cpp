/// What is done element by element beside the products of a step: activations, softmax, dropout masks, biases, losses,
/// and AdamW with its clipping. The squared error beside Eigen's expressions for it; the activations beside the scalar
/// form of the same functions, of std::erfc, std::exp and std::tanh.
///
///   elementwise [--out DIR] [--quick]
///
/// Nanoseconds an element, one thread, on matrices of 1024 x 16 that stay in cache; medians of this thread's processor
/// time, of runs in turns. Another compiler or kind of processor:
///
///   CXX=clang++ LORA_ARCH=x86-64-v3 benchmarks/run.sh elementwise

#include <cmath>
#include <filesystem>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/interleaved.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/lora.hpp"

namespace {

using lora::Index;
using lora::Matrix;

constexpr Index rows = 1024, cols = 16;

/// In single steps, as a loop over std::exp and the like does it.
template <class Formula, class S>
void scalar_forward(const Matrix<S>& x, Matrix<S>& y) {
  for (Index k = 0; k < x.size(); ++k) y(k) = Formula::Value::scalar(x(k));
}
template <class Formula, class S>
void scalar_backward(const Matrix<S>& x, const Matrix<S>& y, const Matrix<S>& dy, Matrix<S>& dx) {
  const Matrix<S>& at = Formula::needs_input ? x : y;
  for (Index k = 0; k < x.size(); ++k) dx(k) = Formula::Gradient::scalar(at(k), dy(k));
}

struct SoftmaxFormula {
  template <class S>
  static void forward(const Matrix<S>& x, Matrix<S>& y) {
    for (Index j = 0; j < x.cols(); ++j) {
      const S largest = x.col(j).maxCoeff();
      S sum = 0;
      for (Index i = 0; i < x.rows(); ++i) sum += y(i, j) = std::exp(x(i, j) - largest);
      y.col(j) /= sum;
    }
  }
  template <class S>
  static void backward(const Matrix<S>& y, const Matrix<S>& dy, Matrix<S>& dx) {
    for (Index j = 0; j < y.cols(); ++j) {
      S sum = 0;
      for (Index i = 0; i < y.rows(); ++i) sum += y(i, j) * dy(i, j);
      for (Index i = 0; i < y.rows(); ++i) dx(i, j) = y(i, j) * (dy(i, j) - sum);
    }
  }
};

template <class S>
class Measurement {
 public:
  explicit Measurement(bool quick)
      : effort_{.repetitions = quick ? 3 : 15, .seconds = quick ? 1e-3 : 5e-3},
        x_(rows, cols),
        dy_(rows, cols),
        y_(rows, cols),
        dx_(rows, cols),
        other_(rows, cols) {
    lora::Rng rng(1);
    for (Index k = 0; k < x_.size(); ++k) {
      x_(k) = static_cast<S>(3 * rng.normal());
      dy_(k) = static_cast<S>(rng.normal());
    }
  }

  template <class Activation, class Formula>
  void activation(const std::string& name) {
    Activation::forward(x_, y_);
    scalar_forward<Formula>(x_, other_);
    check_same(name, y_, other_);
    Activation::backward(x_, y_, dy_, dx_);
    scalar_backward<Formula>(x_, y_, dy_, other_);
    check_same(name, dx_, other_);
    const auto seconds = benchmarks::measure(
        {[&] { Activation::forward(x_, other_); }, [&] { Activation::backward(x_, y_, dy_, dx_); },
         [&] { scalar_forward<Formula>(x_, other_); }, [&] { scalar_backward<Formula>(x_, y_, dy_, dx_); }},
        effort_);
    add(name, seconds);
  }

  void softmax() {
    lora::Softmax::forward(x_, y_);
    SoftmaxFormula::forward(x_, other_);
    check_same("softmax", y_, other_);
    const auto seconds = benchmarks::measure(
        {[&] { lora::Softmax::forward(x_, other_); }, [&] { lora::Softmax::backward(x_, y_, dy_, dx_); },
         [&] { SoftmaxFormula::forward(x_, other_); }, [&] { SoftmaxFormula::backward(y_, dy_, dx_); }},
        effort_);
    add("softmax", seconds);
  }

  /// What has no backward of its own.
  void rest() {
    const lora::Vector<S> bias = x_.col(0);
    const lora::DropoutMask mask(0.1, 1, lora::Pass{.training = true, .seed = 1});
    const auto seconds = benchmarks::measure(
        {[&] { lora::detail::add_to_columns<S>(bias, y_); }, [&] { mask.fill(other_, 0); }, [&] { y_ = x_; }}, effort_);
    add("bias", {seconds[0]});
    add("dropout mask", {seconds[1]});
    add("copy", {seconds[2]});
  }

  /// With the derivative.
  void losses() {
    const std::vector<int> labels(static_cast<std::size_t>(cols), 3);
    const auto by_expressions = [&] {
      const auto difference = x_ - dy_;
      const auto n = static_cast<double>(x_.size());
      dx_ = static_cast<S>(2 / n) * difference;
      return static_cast<S>(difference.template cast<double>().cwiseAbs2().sum() / n);
    };
    const S ours = lora::mean_squared_error(x_, dy_, &other_), other = by_expressions();
    check_same("squared error", other_, dx_);
    if (std::abs(ours - other) > S(1e-5) * other) throw std::runtime_error("squared error: the losses do not agree");
    S sum = 0;
    const auto seconds = benchmarks::measure(
        {[&] { sum += lora::mean_squared_error(x_, dy_, &other_); }, [&] { sum += by_expressions(); },
         [&] { sum += lora::softmax_cross_entropy(x_, labels, &other_); }},
        effort_);
    add("squared error", {seconds[0]});
    add("squared error by Eigen", {seconds[1]});
    add("cross-entropy", {seconds[2]});
  }

  /// Clipping in place changes the gradients, so both forms copy them first.
  void optimizer() {
    lora::Parameter<S> p(x_);
    lora::AdamW<S> adamw;
    const auto seconds = benchmarks::measure({[&] { adamw.step(p); }, [&] { (void)lora::gradient_norm(p); },
                                              [&] {
                                                p.gradient() = dy_;
                                                lora::clip_gradient_norm(p, 1.0);
                                                adamw.step(p);
                                              },
                                              [&] {
                                                p.gradient() = dy_;
                                                adamw.step(p, 1, lora::clip_factor(p, 1.0).factor);
                                              }},
                                             effort_);
    add("AdamW's step", {seconds[0]});
    add("norm of gradients", {seconds[1]});
    add("copy, clip, step", {seconds[2]});
    add("copy, step with clip_factor", {seconds[3]});
  }

  std::string text() const { return table_.text(); }
  const nlohmann::ordered_json& json() const { return json_; }

 private:
  static void check_same(const std::string& what, const Matrix<S>& a, const Matrix<S>& b) {
    if ((a - b).norm() <= 100 * Eigen::NumTraits<S>::epsilon() * b.norm()) return;
    throw std::runtime_error(what + ": packets and single numbers do not agree");
  }

  void add(const std::string& name, const std::vector<benchmarks::Timing>& seconds) {
    const std::vector<std::string> columns = {"forward", "backward", "scalar_forward", "scalar_backward"};
    std::vector<std::string> cells = {name};
    std::vector<double> ns;
    for (std::size_t k = 0; k < seconds.size(); ++k) {
      ns.push_back(1e9 * seconds[k].median / static_cast<double>(x_.size()));
      cells.push_back(examples::significant(ns.back(), 2));
      json_[name][columns[k] + "_ns"] = ns.back();
    }
    cells.resize(5);
    cells.push_back(ns.size() < 4 ? "" : examples::fixed((ns[2] + ns[3]) / (ns[0] + ns[1]), 1));
    table_.add(cells);
  }

  benchmarks::Effort effort_;
  Matrix<S> x_, dy_, y_, dx_, other_;
  examples::Table table_{{"ns an element", "forward", "backward", "scalar: forward", "backward", "scalar / packets"}};
  nlohmann::ordered_json json_;
};

template <class S>
nlohmann::ordered_json measure(const char* scalar, bool quick) {
  namespace formulas = lora::detail;
  Measurement<S> measurement(quick);
  measurement.template activation<lora::Relu, formulas::ReluFormula>("relu");
  measurement.template activation<lora::Tanh, formulas::TanhFormula>("tanh");
  measurement.template activation<lora::Sigmoid, formulas::SigmoidFormula>("sigmoid");
  measurement.template activation<lora::Silu, formulas::SiluFormula>("silu");
  measurement.template activation<lora::Gelu, formulas::GeluFormula>("gelu");
  measurement.template activation<lora::GeluTanh, formulas::GeluTanhFormula>("gelu, tanh form");
  measurement.softmax();
  measurement.rest();
  measurement.losses();
  measurement.optimizer();
  std::cout << "Element by element, " << scalar << ", packets of " << lora::detail::Simd<S>::lanes << "\n\n"
            << measurement.text() << "\n";
  return measurement.json();
}

void run(const std::filesystem::path& out, bool quick) {
  nlohmann::ordered_json json;
  json["float"] = measure<float>("float", quick);
  json["double"] = measure<double>("double", quick);
  if (out.empty()) return;
  examples::write_file(out / "elementwise.json", json.dump(2) + "\n");
  std::cout << "Wrote elementwise.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  examples::Program program("elementwise",
                            "Activations, softmax, dropout masks, biases, losses and AdamW, ns an element.");
  program.add_option("--out", out, "folder for elementwise.json; without it none is written");
  program.add_flag("--quick", quick, "few repetitions, to see that everything runs");
  benchmarks::initialize(argc, argv);
  return program.run(argc, argv, [&] { run(out, quick); });
}
