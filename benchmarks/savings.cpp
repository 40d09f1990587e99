/// What LoRA saves against full fine-tuning: parameters, bytes and operations counted, time measured.
///
///   savings [--out DIR] [--quick]
///
/// One training step sets the gradients to zero and runs forward, backward and AdamW on a batch whose dy is given. LoRA
/// and full fine-tuning take turns in one process and one thread; times are medians. Before a case is timed its results
/// are checked: what is counted against the model, the gradients against products in double, the merged weight against
/// the unmerged one. A difference ends the program.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "benchmarks/support/interleaved.hpp"
#include "benchmarks/support/mt0_large.hpp"
#include "examples/support/files.hpp"
#include "examples/support/program.hpp"
#include "examples/support/table.hpp"
#include "examples/support/text.hpp"
#include "lora/lora.hpp"

namespace {

using benchmarks::Effort;
using benchmarks::Timing;
using Eigen::MatrixXd;
using Eigen::MatrixXf;
using lora::Index;

constexpr Index samples = 128;
constexpr double epsilon = std::numeric_limits<float>::epsilon();

MatrixXf random_matrix(Index rows, Index cols, double bound, lora::Rng& rng) {
  MatrixXf matrix(rows, cols);
  lora::fill_uniform(matrix, bound, rng);
  return matrix;
}

MatrixXf random_weight(Index out, Index in, lora::Rng& rng) {
  return random_matrix(out, in, 1 / std::sqrt(static_cast<double>(in)), rng);
}

/// B starts at zero, where dA is zero and merging changes nothing: checks need another start.
template <class Model>
void leave_zero(Model& model, lora::Rng& rng) {
  lora::visit_parameters(model, [&](const lora::Path& path, auto& parameter) {
    if (path.in_adapter()) lora::fill_uniform(parameter.value, 0.1, rng);
  });
}

/// The difference relative to the expected matrix, in the Frobenius norm, may be 4 sqrt(terms) epsilon.
void check_close(const std::string& what, const MatrixXf& given, const MatrixXd& expected, Index terms) {
  const double error = (given.cast<double>() - expected).norm() / expected.norm();
  const double bound = 4 * std::sqrt(static_cast<double>(terms)) * epsilon;
  if (error <= bound) return;
  throw std::runtime_error(what + ": relative error " + examples::significant(error, 3) + ", at most " +
                           examples::significant(bound, 3) + " was expected");
}

void check_equal(const std::string& what, Index given, Index expected) {
  if (given == expected) return;
  throw std::runtime_error(what + ": " + std::to_string(given) + ", expected " + std::to_string(expected));
}

/// A model with all that a training step needs.
template <class Model>
class Trainer {
 public:
  Trainer(Model model, MatrixXf x, MatrixXf dy) : model_(std::move(model)), x_(std::move(x)), dy_(std::move(dy)) {}

  void gradients() {
    lora::zero_gradients(model_);
    model_.forward(x_, cache_);
    if constexpr (requires { model_.layers(); }) {
      model_.backward(x_, dy_, cache_, lora::no_gradient);
    } else {
      model_.backward(x_, dy_, cache_);
    }
  }
  void step() {
    gradients();
    optimizer_.step(model_);
  }
  auto infer() { return model_.forward(x_, cache_); }

  void check_account(const lora::Cost& cost) {
    const lora::ParameterCount count = lora::count_parameters(model_);
    check_equal("trained numbers", cost.parameters.trainable, count.trainable);
    check_equal("numbers", cost.parameters.total, count.total);
    check_equal("bytes of moments", cost.bytes.optimizer, static_cast<Index>(optimizer_.state().bytes()));
  }

  Model& model() { return model_; }
  const MatrixXf& x() const { return x_; }
  const MatrixXf& dy() const { return dy_; }
  const auto& cache() const { return cache_; }

 private:
  Model model_;
  MatrixXf x_, dy_;
  typename Model::Cache cache_;
  lora::AdamW<float> optimizer_{{.lr = 1e-6}};
};

/// One case of the tables. Timings are absent where only shapes are counted.
struct Row {
  std::string name;
  Index rank = 0;
  lora::Account account;
  std::vector<Timing> timings = {};  // training step: LoRA, full;   inference: unmerged, merged
};

/// Steps once in both ways, checks what is counted, and takes the times.
Row measure_case(std::string name, Index rank, lora::Account account, auto& adapted, auto& full, auto& merged,
                 const Effort& effort) {
  adapted.step();
  full.step();
  adapted.check_account(account.current);
  full.check_account(account.full);
  const std::vector<std::function<void()>> functions = {[&] { adapted.step(); }, [&] { full.step(); },
                                                        [&] { adapted.infer(); }, [&] { merged.infer(); }};
  return {std::move(name), rank, std::move(account), benchmarks::measure(functions, effort)};
}

/// dA = s B^T dy x^T, dB = s dy (A x)^T, dx = W0^T dy + s A^T B^T dy, y = W0 x + s B A x, in double.
void check_layer(Trainer<lora::LoraLinear<float>>& trainer) {
  trainer.gradients();
  const auto& layer = trainer.model();
  const MatrixXd x = trainer.x().cast<double>(), dy = trainer.dy().cast<double>();
  const auto& adapter = layer.adapter("default").as<lora::Lora<float>>();
  const MatrixXd A = adapter.A.value.cast<double>(), B = adapter.B.value.cast<double>();
  const MatrixXd W0 = layer.base().dense().cast<double>();
  const double s = adapter.scale();
  const Index in = x.rows(), out = dy.rows();
  const MatrixXd g = s * B.transpose() * dy;
  check_close("y", trainer.cache().y.view(), W0 * x + s * B * (A * x), in);
  check_close("dA", adapter.A.grad, g * x.transpose(), samples + out);
  check_close("dB", adapter.B.grad, s * dy * (A * x).transpose(), samples + in);
  check_close("dx", trainer.cache().dx.view(), W0.transpose() * dy + A.transpose() * g, out);
  check_close("merged weight times x", layer.merged() * trainer.x(), trainer.infer().cast<double>(), in);
}

Row matrix_case(Index out, Index in, Index rank, const Effort& effort) {
  lora::Rng rng(1);
  const MatrixXf W = random_weight(out, in, rng), x = random_matrix(in, samples, 1, rng),
                 dy = random_matrix(out, samples, 1, rng);
  Trainer adapted(lora::LoraLinear<float>(W, {.rank = rank, .alpha = 16}, rng), x, dy);
  leave_zero(adapted.model(), rng);
  check_layer(adapted);
  Trainer full(lora::Linear<float>(W), x, dy);
  using Base = lora::Frozen<float>;
  Trainer merged(lora::Adapted<Base, lora::NoAdapter<float>>(Base(adapted.model().merged()), lora::NoAdapter<float>()),
                 x, dy);
  return measure_case(std::to_string(out) + "x" + std::to_string(in), rank,
                      lora::account(lora::shapes_of(adapted.model()), samples), adapted, full, merged, effort);
}

using Network = lora::Mlp<lora::Linear<float>>;

/// The same network in double, with the same factors.
lora::Mlp<lora::Linear<double>> in_double(Network& net, const lora::LoraConfig& config) {
  lora::Rng rng(1);
  std::vector<lora::Linear<double>> layers;
  for (const auto& layer : net.layers())
    layers.emplace_back(MatrixXd(layer.dense().cast<double>()), layer.bias()->cast<double>().eval());
  lora::Mlp<lora::Linear<double>> copy(std::move(layers));
  lora::attach(copy, config, rng);
  auto to = lora::gather<double>(copy);
  const auto from = lora::gather<float>(net);
  for (std::size_t k = 0; k < to.size(); ++k) to[k].value = from[k].value.cast<double>();
  return copy;
}

/// The example's network. Its first layer needs no dx.
Row mlp_case(Index rank, const Effort& effort) {
  lora::Rng rng(1);
  const std::vector<Index> widths = {64, 128, 128, 10};
  const lora::LoraConfig config{.rank = rank, .alpha = 16};
  const Network net(widths, rng);
  const MatrixXf x = random_matrix(widths.front(), samples, 1, rng), dy = random_matrix(widths.back(), samples, 1, rng);
  Trainer adapted(net, x, dy), full(net, x, dy);
  lora::attach(adapted.model(), config, rng);
  leave_zero(adapted.model(), rng);

  adapted.gradients();
  auto reference = in_double(adapted.model(), config);
  lora::Mlp<lora::Linear<double>>::Cache cache;
  const MatrixXd y = reference.forward(x.cast<double>(), cache);
  reference.backward(x.cast<double>(), dy.cast<double>(), cache, lora::no_gradient);
  check_close("y", adapted.infer(), y, 128);
  const auto given = lora::gather<float>(adapted.model());
  const auto expected = lora::gather<double>(reference);
  for (std::size_t k = 0; k < given.size(); ++k)
    check_close("gradient of " + given[k].name, given[k].grad, expected[k].grad, 3 * 128);

  std::vector<lora::Linear<float>> layers;
  for (const auto& layer : adapted.model().layers())
    layers.emplace_back(lora::Frozen<float>(layer.merged()), *layer.bias());
  Trainer merged(Network(std::move(layers)), x, dy);
  check_close("merged network", merged.infer(), y, 3 * 128);

  auto shapes = lora::shapes_of(adapted.model());
  shapes.front().input_gradient = false;
  return measure_case("MLP 64-128-128-10", rank, lora::account(shapes, samples), adapted, full, merged, effort);
}

/// A step of LoraLinear, forward and backward without optimizer, against the Eigen products it consists of.
std::vector<Timing> overhead(Index size, Index rank, const Effort& effort) {
  lora::Rng rng(1);
  const MatrixXf W = random_weight(size, size, rng), x = random_matrix(size, samples, 1, rng),
                 dy = random_matrix(size, samples, 1, rng);
  lora::LoraLinear<float> layer(W, {.rank = rank, .alpha = 16}, rng);
  leave_zero(layer, rng);
  const auto& adapter = layer.adapter("default").as<lora::Lora<float>>();
  const lora::RowMajorMatrix<float> A = adapter.A.value;
  const MatrixXf B = adapter.B.value;
  const float s = adapter.scale();
  lora::LoraLinear<float>::Cache cache;
  MatrixXf y(size, samples), z(rank, samples), g(rank, samples), dx(size, samples), dB = MatrixXf::Zero(size, rank);
  lora::RowMajorMatrix<float> dA = lora::RowMajorMatrix<float>::Zero(rank, size);

  const auto library = [&] {
    layer.forward(x, cache);
    layer.backward(x, dy, cache);
  };
  const auto products = [&] {
    z.noalias() = s * A * x;
    y.noalias() = W * x;
    y.noalias() += B * z;
    dB.noalias() += dy * z.transpose();
    g.noalias() = s * B.transpose() * dy;
    dA.noalias() += g * x.transpose();
    dx.noalias() = W.transpose() * dy;
    dx.noalias() += A.transpose() * g;
  };
  library();
  products();
  check_close("y", cache.y.view(), y.cast<double>(), size);
  check_close("dx", cache.dx.view(), dx.cast<double>(), size);
  check_close("dA", adapter.A.grad, dA.cast<double>(), samples);
  check_close("dB", adapter.B.grad, dB.cast<double>(), samples);
  return benchmarks::measure({library, products}, effort);
}

std::string duration(double seconds) {
  if (seconds < 1e-3) return examples::fixed(1e6 * seconds, 1) + " us";
  return examples::fixed(1e3 * seconds, seconds < 0.1 ? 2 : 1) + " ms";
}

double ratio(Index a, Index b) { return static_cast<double>(a) / static_cast<double>(b); }

std::string spread(const Timing& a, const Timing& b) { return examples::percent(std::max(a.spread, b.spread)); }

std::string scaled(Index number, const char* unit) {
  const auto value = static_cast<double>(number);
  if (value >= 1e9) return examples::significant(value / 1e9, 4) + " G" + unit;
  if (value >= 1e6) return examples::significant(value / 1e6, 4) + " M" + unit;
  return examples::significant(value / 1e3, 4) + " k" + unit;
}

void print_tables(const std::vector<Row>& rows, const std::vector<Timing>& overhead_times) {
  examples::Table counted({"counted", "rank", "trained", "of the base", "share", "PEFT's %", "bytes LoRA", "full",
                           "operations LoRA", "full"});
  examples::Table steps({"training step", "rank", "LoRA", "full", "LoRA/full", "counted", "spread"});
  examples::Table inference({"inference", "rank", "unmerged", "merged", "merged/unmerged", "counted", "spread"});
  for (const Row& row : rows) {
    const auto& [current, full, merged] = std::tie(row.account.current, row.account.full, row.account.merged);
    const Index trained = current.parameters.trainable, all = full.parameters.total;
    const std::string rank = std::to_string(row.rank);
    counted.add({row.name, rank, examples::with_commas(trained), examples::with_commas(all),
                 examples::percent(ratio(trained, all), 2), examples::fixed(current.parameters.percent(), 4),
                 scaled(current.bytes.total(), "B"), scaled(full.bytes.total(), "B"),
                 scaled(current.flops.total(), "FLOP"), scaled(full.flops.total(), "FLOP")});
    if (row.timings.empty()) continue;
    const auto& t = row.timings;
    steps.add({row.name, rank, duration(t[0].median), duration(t[1].median),
               examples::fixed(t[0].median / t[1].median, 2),
               examples::fixed(ratio(current.flops.total(), full.flops.total()), 2), spread(t[0], t[1])});
    inference.add({row.name, rank, duration(t[2].median), duration(t[3].median),
                   examples::fixed(t[3].median / t[2].median, 2),
                   examples::fixed(ratio(merged.flops.forward, current.flops.forward), 2), spread(t[2], t[3])});
  }
  const auto& [layer, products] = std::tie(overhead_times[0], overhead_times[1]);
  examples::Table hidden({"forward and backward", "rank", "LoraLinear", "plain Eigen products", "ratio", "spread"});
  hidden.add({"1024x1024", "8", duration(layer.median), duration(products.median),
              examples::fixed(layer.median / products.median, 3), spread(layer, products)});
  std::cout << samples << " samples, float, one thread; bytes and operations of a training step with AdamW;\n"
            << "mt0-large by its shapes alone, LoRA on q and v\n\n"
            << counted.text()
            << "\nmedians of processor time; spread: interquartile range / median, the larger of the two\n\n"
            << steps.text() << "\n"
            << inference.text() << "\n"
            << hidden.text();
}

std::string json(const std::vector<Row>& rows, const std::vector<Timing>& overhead_times, const Effort& effort) {
  nlohmann::ordered_json object;
  object["samples"] = samples;
  object["repetitions"] = effort.repetitions;
  for (const Row& row : rows) {
    std::string key = row.name + "_rank" + std::to_string(row.rank) + "_";
    std::replace(key.begin(), key.end(), ' ', '_');
    const auto set = [&](const std::string& name, auto value) { object[key + name] = value; };
    const auto set_cost = [&](const std::string& regime, const lora::Cost& cost) {
      set(regime + "_trained_parameters", cost.parameters.trainable);
      set(regime + "_parameters", cost.parameters.total);
      set(regime + "_bytes_weights", cost.bytes.weights);
      set(regime + "_bytes_gradients", cost.bytes.gradients);
      set(regime + "_bytes_optimizer", cost.bytes.optimizer);
      set(regime + "_bytes_activations", cost.bytes.activations);
      set(regime + "_bytes_workspace", cost.bytes.workspace);
      set(regime + "_flops_forward", cost.flops.forward);
      set(regime + "_flops_backward", cost.flops.backward);
      set(regime + "_flops_step", cost.flops.step);
    };
    set_cost("lora", row.account.current);
    set_cost("full", row.account.full);
    set_cost("merged", row.account.merged);
    if (row.timings.empty()) continue;
    const auto set_time = [&](const std::string& name, const Timing& timing) {
      set(name + "_seconds", timing.median);
      set(name + "_spread", timing.spread);
    };
    set_time("lora_training_step", row.timings[0]);
    set_time("full_training_step", row.timings[1]);
    set_time("unmerged_inference", row.timings[2]);
    set_time("merged_inference", row.timings[3]);
    set("training_step_ratio", row.timings[0].median / row.timings[1].median);
    set("inference_ratio", row.timings[3].median / row.timings[2].median);
  }
  object["overhead_lora_linear_seconds"] = overhead_times[0].median;
  object["overhead_eigen_seconds"] = overhead_times[1].median;
  object["overhead_ratio"] = overhead_times[0].median / overhead_times[1].median;
  object["overhead_spread"] = std::max(overhead_times[0].spread, overhead_times[1].spread);
  return object.dump(2) + "\n";
}

void run(const std::filesystem::path& out, bool quick) {
  const Effort effort = quick ? Effort{.repetitions = 3, .seconds = 0.001} : Effort{};
  std::vector<Row> rows;
  rows.push_back(matrix_case(100, 120, 20, effort));
  rows.push_back(matrix_case(100, 120, 8, effort));
  rows.push_back(matrix_case(200, 400, 8, effort));
  rows.push_back(matrix_case(768, 768, 8, effort));
  rows.push_back(matrix_case(4096, 1024, 8, effort));
  rows.push_back(matrix_case(4096, 4096, 8, effort));
  rows.push_back(mlp_case(8, effort));
  for (const Index rank : {8, 12}) {
    rows.push_back({"mt0-large", rank, lora::account(benchmarks::mt0_large(rank), samples)});
  }
  const auto overhead_times = overhead(1024, 8, quick ? effort : Effort{.repetitions = 41});

  print_tables(rows, overhead_times);
  if (out.empty()) return;
  examples::write_file(out / "savings.json", json(rows, overhead_times, effort));
  std::cout << "\nWrote savings.json to " << std::filesystem::absolute(out).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out;
  bool quick = false;
  benchmarks::initialize(argc, argv);
  examples::Program program("savings", "Compares LoRA with full fine-tuning, and merged with unmerged inference.");
  program.add_option("--out", out, "folder for savings.json; without it none is written");
  program.add_flag("--quick", quick, "few repetitions, to see that everything runs");
  return program.run(argc, argv, [&] { run(out, quick); });
}
