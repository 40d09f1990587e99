/// What a matrix keeps when its rank is cut down: a picture, handwritten digits, and a trained network.
///
/// 1. A picture is a matrix. The truncated SVD is the nearest matrix of every rank, and its error is known beforehand:
///    ||A - A_r||_F = sqrt(sigma_{r+1}^2 + sigma_{r+2}^2 + ...). Here it is measured, at every rank, beside others.
/// 2. The digits are a matrix too, one digit a column. PCA and NMF write all of them as sums of the same 16 pictures.
/// 3. So is every layer of a network. Each becomes two thin ones, W ~ B A, and the network is tested again.
///
/// The picture of 1 is computed by this program, in plotting/scene.hpp. The digits are real handwriting.

#include "plotting/line_chart.hpp"
#include "plotting/picture_grid.hpp"
#include "plotting/scene.hpp"
#include "support/files.hpp"
#include "support/program.hpp"
#include "support/progress.hpp"
#include "support/table.hpp"
#include "support/training.hpp"

#include <lora/linalg/factored_svd.hpp>
#include <lora/linalg/factorizations/nmf.hpp>
#include <lora/linalg/factorizations/pca.hpp>
#include <lora/linalg/factorizations/pivoted.hpp>
#include <lora/linalg/rank.hpp>
#include <lora/linalg/truncated_svd.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::MatrixXf;
using examples::Digits;
using examples::percent;
using examples::with_commas;
using Numbers = std::vector<double>;

/// Where every part leaves its figures and its pictures.
struct Results {
  nlohmann::ordered_json json;
  std::filesystem::path folder;

  void picture(const std::string& name, const std::string& svg) const { examples::write_file(folder / name, svg); }
};

/// 1, 2, 4, ..., at most `largest`.
std::vector<Index> powers_of_two(Index largest) {
  std::vector<Index> ranks;
  for (Index r = 1; r <= largest; r *= 2) ranks.push_back(r);
  return ranks;
}

/// f(1), ..., f(n)
Numbers at_every_rank(Index n, const std::function<double(Index)>& f) {
  Numbers values;
  for (Index r = 1; r <= n; ++r) values.push_back(f(r));
  return values;
}

double at_rank(const Numbers& values, Index r) { return values[static_cast<std::size_t>(r - 1)]; }

// 1. A picture

/// A way to a matrix of rank r near A, and its errors ||A - X||_F / ||A||_F at the ranks 1, 2, ..., n.
struct Method {
  std::string name, id;
  std::function<MatrixXd(const MatrixXd& A, Index r)> approximation;
  Numbers errors = {};
};

std::vector<Method> measured_methods(const MatrixXd& A) {
  using lora::SvdMethod;
  const auto svd = [](SvdMethod method) {
    return
        [method](const MatrixXd& M, Index r) { return lora::truncated_svd(M, {.rank = r, .method = method}).matrix(); };
  };
  std::vector<Method> methods = {
      {"truncated SVD", "svd", svd(SvdMethod::exact)},
      {"randomized SVD", "randomized", svd(SvdMethod::randomized)},
      {"pivoted QR", "pivoted_qr", [](const MatrixXd& M, Index r) { return lora::pivoted_qr(M, r).matrix(); }},
      {"pivoted LU", "pivoted_lu", [](const MatrixXd& M, Index r) { return lora::pivoted_lu(M, r).matrix(); }}};
  const auto count = static_cast<Index>(methods.size());
  examples::Progress progress("approximations", count * A.rows());
  Index done = 0;
  for (Method& method : methods) {
    method.errors = at_every_rank(A.rows(), [&](Index r) {
      progress.update(++done, method.name);
      return (A - method.approximation(A, r)).norm() / A.norm();
    });
  }
  progress.finish(std::to_string(count) + " methods at " + std::to_string(A.rows()) + " ranks");
  return methods;
}

/// At half its size, which is enough to look at, and as a PictureGrid has it: 0 is white.
std::vector<float> pixels_of(const MatrixXd& picture) {
  std::vector<float> pixels;
  for (Index row = 0; row + 1 < picture.rows(); row += 2) {
    for (Index column = 0; column + 1 < picture.cols(); column += 2) {
      pixels.push_back(static_cast<float>(1 - picture.block<2, 2>(row, column).mean()));
    }
  }
  return pixels;
}

std::string rank_pictures(const MatrixXd& A, const Numbers& errors) {
  examples::PictureGrid grid{.title = "A picture as a matrix of rank 1, 2, 4, …", .size = 160};
  const auto add = [&](const MatrixXd& picture, const std::string& caption, const std::string& note) {
    if (grid.rows.empty() || grid.rows.back().pictures.size() == 4) grid.rows.emplace_back();
    grid.rows.back().pictures.push_back({.pixels = pixels_of(picture), .caption = caption, .note = note});
  };
  for (const Index r : powers_of_two(64)) {
    const double share = static_cast<double>(r * (A.rows() + A.cols())) / static_cast<double>(A.size());
    add(lora::truncated_svd(A, {.rank = r}).matrix(), "rank " + std::to_string(r),
        "error " + percent(at_rank(errors, r)) + ", size " + percent(share, share < 0.1 ? 1 : 0));
  }
  add(A, "the picture", with_commas(A.size()) + " numbers");
  return examples::picture_grid(grid);
}

std::string error_chart(const Numbers& theorem, const std::vector<Method>& methods) {
  const Numbers ranks =
      at_every_rank(static_cast<Index>(theorem.size()), [](Index r) { return static_cast<double>(r); });
  examples::LineChart chart{.title = "Distance from the picture to matrices of rank r",
                            .x_label = "rank r",
                            .y_label = "‖A − X‖ / ‖A‖",
                            .series = {{.name = "theorem", .x = ranks, .y = theorem}},
                            .log_x = true,
                            .log_y = true,
                            .y_low = 1e-3,
                            .y_high = 1.0};
  for (const Method& method : methods) chart.series.push_back({.name = method.name, .x = ranks, .y = method.errors});
  chart.series[1].dots = true;
  chart.series[2].dashed = true;
  return examples::line_chart(chart);
}

std::string error_table(const Numbers& theorem, const std::vector<Method>& methods) {
  examples::Table table({"rank", "theorem", "truncated SVD", "randomized SVD", "pivoted QR", "pivoted LU"});
  for (const Index r : powers_of_two(static_cast<Index>(theorem.size()))) {
    std::vector<std::string> cells = {std::to_string(r), percent(at_rank(theorem, r), 2)};
    for (const Method& method : methods) cells.push_back(percent(at_rank(method.errors, r), 2));
    table.add(cells);
  }
  return table.text();
}

void show_picture(const MatrixXd& A, Results& results) {
  const Index n = A.rows();
  const Eigen::VectorXd sigma = lora::singular_values(A);
  const std::vector<Method> methods = measured_methods(A);
  const Numbers& measured = methods[0].errors;
  const Numbers theorem = at_every_rank(n, [&](Index r) { return sigma.tail(n - r).norm() / A.norm(); });
  const Numbers certified =
      at_every_rank(n, [&](Index r) { return lora::truncated_svd(A, {.rank = r}).certificate.relative_error(); });
  double difference = 0;
  for (Index r = 1; r <= n; ++r) {
    difference = std::max(difference, std::abs(at_rank(measured, r) - at_rank(theorem, r)));
  }

  std::cout << "\nA picture of " << n << " x " << n << ", and how far matrices of rank r are from it:\n\n"
            << error_table(theorem, methods) << "\nTheorem and measurement differ by at most "
            << examples::significant(difference, 2) << " of ||A|| at any rank. Stable rank "
            << examples::fixed(lora::stable_rank(sigma), 2) << ", effective rank "
            << examples::fixed(lora::effective_rank(sigma), 1) << ", numerical rank " << lora::numerical_rank(A).rank
            << "; 99 % of the energy is in rank " << lora::rank_for_energy(sigma, 0.99) << ".\n\n";

  nlohmann::ordered_json& json = results.json;
  json["picture"] = "computed by examples/plotting/scene.hpp";
  json["picture_side"] = n;
  json["picture_stable_rank"] = lora::stable_rank(sigma);
  json["picture_effective_rank"] = lora::effective_rank(sigma);
  json["picture_numerical_rank"] = lora::numerical_rank(A).rank;
  json["picture_theorem_errors"] = theorem;
  json["picture_certified_errors"] = certified;
  json["picture_largest_difference_from_theorem"] = difference;
  for (const Method& method : methods) json["picture_" + method.id + "_errors"] = method.errors;
  for (const double share : {0.9, 0.99, 0.999}) {
    json["picture_rank_for_energy_" + examples::significant(share, 3)] = lora::rank_for_energy(sigma, share);
  }
  results.picture("ranks.svg", rank_pictures(A, measured));
  results.picture("errors.svg", error_chart(theorem, methods));
}

// 2. The digits

void show_digits(const Digits& digits, Results& results) {
  const MatrixXd X = digits.pixels.cast<double>();
  const auto pca = lora::pca(X, {.rank = 16});
  const auto nmf = lora::nmf(X, {.rank = 16, .max_iterations = 2000});
  const double pca_error = pca.certificate.frobenius_error / X.norm();
  const double nmf_error = (X - nmf.matrix()).norm() / X.norm();

  examples::Table table({"1,797 digits as sums of", "error", "smallest entry"});
  table.add({"PCA: their mean and 16 directions", percent(pca_error), examples::fixed(pca.components.minCoeff(), 2)});
  table.add({"NMF: 16 parts", percent(nmf_error), examples::fixed(nmf.W.minCoeff(), 2)});
  std::cout << table.text() << "\nPCA explains " << percent(pca.explained_variance_ratio.sum())
            << " of the variance. NMF took " << nmf.iterations << " iterations and "
            << (nmf.converged ? "converged" : "did not converge") << ".\n\n";

  const auto& ratio = pca.explained_variance_ratio;
  nlohmann::ordered_json& json = results.json;
  json["pca_explained_variance_ratio"] = Numbers(ratio.begin(), ratio.end());
  json["pca_relative_error"] = pca_error;
  json["nmf_relative_error"] = nmf_error;
  json["nmf_loss"] = nmf.loss;
  json["nmf_iterations"] = nmf.iterations;
  json["nmf_residual"] = nmf.residual;
  json["nmf_converged"] = nmf.converged;
  json["nmf_smallest_entry"] = std::min(nmf.W.minCoeff(), nmf.H.minCoeff());
  examples::PictureGrid grid{.title = "Handwritten digits, taken apart into 16 pictures"};
  examples::add_columns(grid, "PCA: plus and minus", pca.components, 8, true);
  examples::add_columns(grid, "NMF: plus only", nmf.W, 8);
  results.picture("components.svg", examples::picture_grid(grid));
}

// 3. A network

/// y = B (A x) + b, where W ~ B A.
struct ThinLayer {
  MatrixXf A, B;
  Eigen::VectorXf b;

  Index size() const { return A.size() + B.size() + b.size(); }
};

/// Every layer at this rank, or at the largest it can have.
std::vector<ThinLayer> compressed(const examples::Network& net, Index rank) {
  std::vector<ThinLayer> layers;
  for (const auto& layer : net.layers()) {
    const Index own_rank = std::min({rank, layer.in_features(), layer.out_features()});
    const auto factors = lora::balanced_factors(lora::truncated_svd(layer.dense().cast<double>(), {.rank = own_rank}));
    layers.push_back({factors.A.cast<float>(), factors.B.cast<float>(), *layer.bias()});
  }
  return layers;
}

double accuracy(const std::vector<ThinLayer>& layers, const Digits& digits) {
  MatrixXf h = digits.pixels;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    h = (layers[l].B * (layers[l].A * h)).colwise() + layers[l].b;
    if (l + 1 < layers.size()) h = h.cwiseMax(0.0f);
  }
  return lora::accuracy(h, digits.labels);
}

/// in out / (in + out): two thin layers of a smaller rank are fewer numbers than W (out, in).
double break_even_rank(const lora::Linear<float>& layer) {
  const auto in = static_cast<double>(layer.in_features()), out = static_cast<double>(layer.out_features());
  return in * out / (in + out);
}

void show_network(const Digits& digits, std::uint64_t seed, Results& results) {
  const auto [train, held_out] = examples::split(digits);
  const examples::Network net = examples::digits_network(train, seed);
  const auto size = static_cast<double>(lora::count_parameters(net).total);
  const double whole = examples::accuracy(net, held_out);

  Numbers sizes, accuracies, break_even;
  for (Index r = 1; r <= 128; ++r) {
    const std::vector<ThinLayer> layers = compressed(net, r);
    sizes.push_back(0);
    for (const ThinLayer& layer : layers) sizes.back() += static_cast<double>(layer.size());
    accuracies.push_back(accuracy(layers, held_out));
  }

  examples::Table table({"every layer at rank", "numbers stored", "of the network's", "held-out digits read"});
  for (const Index r : powers_of_two(128)) {
    table.add({std::to_string(r), with_commas(static_cast<Index>(at_rank(sizes, r))),
               percent(at_rank(sizes, r) / size, 0), percent(at_rank(accuracies, r))});
  }
  table.add({"the network itself", with_commas(static_cast<Index>(size)), "100 %", percent(whole)});
  std::cout << '\n' << table.text() << "\nTwo thin layers are smaller than one";
  for (const auto& layer : net.layers()) {
    break_even.push_back(break_even_rank(layer));
    std::cout << (break_even.size() == 1 ? ": " : ", ") << layer.in_features() << " -> " << layer.out_features()
              << " at ranks below " << examples::fixed(break_even.back(), 1);
  }
  std::cout << ".\n";

  nlohmann::ordered_json& json = results.json;
  json["network_size"] = size;
  json["network_accuracy"] = whole;
  json["network_break_even_ranks"] = break_even;
  json["compressed_sizes"] = sizes;
  json["compressed_accuracies"] = accuracies;
  json["held_out_digits"] = held_out.count();
  json["seed"] = seed;
  results.picture(
      "compression.svg",
      examples::line_chart({.title = "A network whose layers have rank 1, 2, …, 128",
                            .x_label = "numbers stored",
                            .y_label = "held-out digits read",
                            .series = {{.name = "every layer as two thin ones", .x = sizes, .y = accuracies},
                                       {.name = "the network itself", .x = {size}, .y = {whole}, .dots = true}},
                            .log_x = true,
                            .percent_y = true,
                            .y_low = 0.0,
                            .y_high = 1.0}));
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out = "low_rank";
  std::uint64_t seed = 1;
  examples::Program program("low_rank", "Cuts a picture, handwritten digits and a network down to low rank.");
  program.add_option("--seed", seed, "of the network's weights and the order of the digits");
  program.add_option("--out", out, "folder for report.json and the pictures");
  return program.run(argc, argv, [&] {
    Results results{{}, out};
    const Digits digits = examples::load_digits();
    show_picture(examples::rendered_scene(160), results);
    show_digits(digits, results);
    show_network(digits, seed, results);
    examples::write_file(results.folder / "report.json", results.json.dump(2) + "\n");
    std::cout << "\nWrote report.json, ranks.svg, errors.svg, components.svg and compression.svg to "
              << std::filesystem::absolute(results.folder).string() << "\n";
  });
}
