#pragma once
/// The accounting as text: adapters compared with full fine-tuning and merged inference.

#include "lora/core/sequences.hpp"
#include "lora/model/accounting.hpp"
#include "lora/model/shapes.hpp"

#include <array>
#include <charconv>
#include <concepts>
#include <ostream>
#include <string>
#include <vector>

namespace lora::inline LORA_ABI {

namespace detail {

/// In groups of three digits: 1,231,940,608
inline std::string grouped(Index number) {
  std::string text = std::to_string(number);
  for (std::size_t place = text.size(); place > 3;) text.insert(place -= 3, 1, ',');
  return text;
}

/// With a decimal point in every locale.
inline std::string fixed(double value, int digits) {
  std::array<char, 400> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed, digits);
  return std::string(buffer.data(), end.ptr);
}

/// Three digits and a decimal prefix: scaled(4711000, "B") = "4.71 MB".
inline std::string scaled(Index number, const char* unit) {
  constexpr std::array prefixes = {"", "k", "M", "G", "T", "P", "E"};
  auto value = static_cast<double>(number);
  std::size_t power = 0;
  while (value >= 999.5 && power + 1 < prefixes.size()) value /= 1000, ++power;
  const int digits = power == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fixed(value, digits) + " " + prefixes[power] + unit;
}

}  // namespace detail

/// The line that PEFT's print_trainable_parameters prints:
///   trainable params: 2,359,296 || all params: 1,231,940,608 || trainable%: 0.1915
inline std::string trainable_parameters(const ParameterCount& count) {
  return "trainable params: " + detail::grouped(count.trainable) + " || all params: " + detail::grouped(count.total) +
         " || trainable%: " + detail::fixed(count.percent(), 4);
}

template <class T>
std::string trainable_parameters(const T& model) {
  return trainable_parameters(count_parameters(model));
}

/// An Account to be printed: std::cout << lora::report(net, batch);
struct Report {
  Account account;
  std::string text() const;
};

/// The account of a model and a batch of `samples` columns, the memory of passes that of linear layers in a chain: a
/// remark names what else there is. Throws ShapeError for samples below 1.
template <class T>
Report report(const T& model, Index samples) {
  const std::vector<LayerShape> shapes = shapes_of(model);
  Report report{account(shapes, samples)};
  std::string others;
  Index more = -1;
  for (const LayerShape& shape : shapes) {
    if (shape.product || shape.name.empty()) continue;
    if (more++ < 0) others = shape.name;
  }
  if (more < 0) return report;
  if (more > 0) others += " and " + std::to_string(more) + " more";
  report.account.remarks.push_back("the memory of passes is that of linear layers, without what the layers of " +
                                   others + " keep or borrow");
  return report;
}

/// The account of a model whose layers are not one chain of matrices, such as an encoder, and a batch of texts of these
/// lengths: it says itself what its passes hold. `threads`: of the executor. Memory is that of the selected adapters'
/// own step; dropout of their inputs and a loss add to it. Operations are those of the linear layers, each for all
/// tokens. Throws ShapeError for a batch without a token.
///
///   const lora::Report report = lora::report(model, tokens.sequences());
///   report.account.current.bytes.total();   // the peak of a step with AdamW
template <class T>
  requires requires(const T& model, const Sequences& texts) {
    { model.pass_bytes(texts, 1, true) } -> std::same_as<PassBytes>;
  }
Report report(const T& model, const Sequences& texts, int threads = 1) {
  Report report{account(shapes_of(model), texts.total())};
  const auto set = [&](Cost& cost, bool everything) {
    const PassBytes bytes = model.pass_bytes(texts, threads, everything);
    cost.bytes.activations = bytes.kept;
    cost.bytes.workspace = bytes.scratch;
  };
  set(report.account.current, false);
  set(report.account.full, true);
  return report;
}

/// The same from shapes alone.
inline Report report(const std::vector<LayerShape>& shapes, Index samples) { return {account(shapes, samples)}; }

/// The line of PEFT, a table, and the remarks.
inline std::string Report::text() const {
  using Row = std::array<std::string, 5>;
  const Cost &current = account.current, &full = account.full, &merged = account.merged;
  std::vector<Row> rows = {Row{account.samples == 1 ? "1 sample" : detail::grouped(account.samples) + " samples",
                               account.adapted ? "LoRA" : "as it is", "full fine-tuning", "ratio", "merged inference"}};
  const auto add = [&](const char* name, auto&& read, auto&& show) {
    const Index a = read(current), b = read(full);
    const double ratio = b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b);
    rows.push_back(
        {name, show(a), show(b), b == 0 ? "" : detail::fixed(ratio, ratio < 0.1 ? 4 : 2), show(read(merged))});
  };
  const auto bytes = [](Index number) { return detail::scaled(number, "B"); };
  const auto flops = [](Index number) { return detail::scaled(number, "FLOP"); };
  add("trained parameters", [](const Cost& cost) { return cost.parameters.trainable; }, detail::grouped);
  add("all parameters", [](const Cost& cost) { return cost.parameters.total; }, detail::grouped);
  add("weights", [](const Cost& cost) { return cost.bytes.weights; }, bytes);
  add("gradients", [](const Cost& cost) { return cost.bytes.gradients; }, bytes);
  add("Adam's moments", [](const Cost& cost) { return cost.bytes.optimizer; }, bytes);
  add("kept by forward", [](const Cost& cost) { return cost.bytes.activations; }, bytes);
  add("added by backward", [](const Cost& cost) { return cost.bytes.workspace; }, bytes);
  add("memory in all", [](const Cost& cost) { return cost.bytes.total(); }, bytes);
  add("forward", [](const Cost& cost) { return cost.flops.forward; }, flops);
  add("backward", [](const Cost& cost) { return cost.flops.backward; }, flops);
  add("AdamW step", [](const Cost& cost) { return cost.flops.step; }, flops);
  add("operations in all", [](const Cost& cost) { return cost.flops.total(); }, flops);

  std::array<std::size_t, 5> widths{};
  for (const Row& row : rows) {
    for (std::size_t k = 0; k < row.size(); ++k) widths[k] = std::max(widths[k], row[k].size());
  }
  std::string text = trainable_parameters(current.parameters) + "\n\n";
  for (const Row& row : rows) {
    for (std::size_t k = 0; k < row.size(); ++k) {
      const std::string padding(widths[k] - row[k].size(), ' ');
      text += k == 0 ? row[k] + padding : "  " + padding + row[k];
    }
    text += "\n";
  }
  for (const std::string& remark : account.remarks) text += "note: " + remark + "\n";
  return text;
}

inline std::ostream& operator<<(std::ostream& out, const Report& report) { return out << report.text(); }

}  // namespace lora::inline LORA_ABI
