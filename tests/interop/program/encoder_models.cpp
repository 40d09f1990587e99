// The C++ half of tests/interop/models.py: a published model with an adapter, run, trained and saved.
//
//   encoder_models SCALAR TYPE HEAD FOLDER OUT [STEPS [dropout]]
//
// SCALAR: double, or float for bert sequence alone. TYPE: bert, roberta, distilbert. HEAD: plain, sequence, token.
// FOLDER holds model/ and adapter/, and batch.safetensors
// with ids and perhaps types of all texts, their lengths, and labels, or for a plain model the gradient dy. OUT
// receives y, loss, all gradients and dropout masks; OUT.adapter the adapter after so many steps of AdamW.

#include "lora/io.hpp"
#include "lora/io/pretrained.hpp"
#include "lora/lora.hpp"
#include "lora/transformers/distilbert.hpp"
#include "lora/transformers/roberta.hpp"

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace {

using lora::Index;

template <class S>
struct Report {
  std::vector<lora::TensorToSave> tensors;

  void add(const std::string& name, const lora::Matrix<S>& matrix) {
    tensors.emplace_back(name, lora::Matrix<S>(matrix));
  }

  void add_mask(const std::string& name, double probability, std::uint64_t stream, const lora::Pass& pass, Index rows,
                Index columns) {
    lora::Matrix<S> mask(rows, columns);
    lora::DropoutMask(probability, stream, pass).fill(mask, 0);
    add(name, mask);
  }
};

std::vector<int> ints(const lora::Safetensors& file, const char* name) {
  const auto stored = file.tensor<std::int64_t>(name);
  std::vector<int> numbers;
  for (Index k = 0; k < stored.size(); ++k) numbers.push_back(static_cast<int>(stored(k)));
  return numbers;
}

template <class S>
void add_gradients(auto& model, Report<S>& report) {
  lora::visit_adaptable(model, [&](const lora::Path& path, auto& layer) {
    if (!layer.adapters().contains("default")) return;
    auto& member = layer.adapter("default");
    if (const auto* factors = member.adapter.template as<lora::Lora<S>>()) {
      report.add("gradient." + path.str() + ".lora_A", factors->A.grad);
      report.add("gradient." + path.str() + ".lora_B", factors->B.grad);
    }
    if (const auto* full = member.adapter.template as<lora::FullWeight<S>>()) {
      lora::visit_parameters(*full, [&](const lora::Path&, const auto& weight) {
        report.add("gradient." + path.str() + ".weight", weight.grad);
      });
      report.add("gradient." + path.str() + ".bias", member.bias->grad);
    }
  });
}

template <class Model>
void run(const std::string& folder, const std::string& out, int steps, bool training) {
  using S = typename Model::Scalar;
  Model model = lora::load_pretrained<Model>(folder + "/model");
  lora::load_adapter(model, folder + "/adapter");
  const auto file = lora::Safetensors::open(folder + "/batch.safetensors");
  const std::vector<int> ids = ints(file, "ids"), lengths = ints(file, "lengths");
  const std::vector<int> types = file.find("types") != nullptr ? ints(file, "types") : std::vector<int>();
  lora::Tokens tokens;
  std::size_t first = 0;
  for (const int length : lengths) {
    const auto some = [&](const std::vector<int>& all) {
      return all.empty() ? std::span<const int>() : std::span(all).subspan(first, std::size_t(length));
    };
    tokens.add(some(ids), some(types));
    first += std::size_t(length);
  }

  typename Model::Cache cache;
  lora::Matrix<S> dy;
  const auto step = [&](std::uint64_t number) {
    const auto y =
        model.forward(tokens, cache, {.training = training, .seed = 7, .step = number, .first_sample = 1000});
    S loss = 0;
    if (file.find("labels") != nullptr) {
      loss = lora::softmax_cross_entropy(y, ints(file, "labels"), &dy);
    } else {
      dy = file.read<S>("dy").transpose();
      loss = y.cwiseProduct(dy).sum();
    }
    lora::zero_gradients(model);
    model.backward(tokens, dy, cache);
    return loss;
  };
  Report<S> report;
  const S loss = step(0);
  report.add("loss", lora::Matrix<S>::Constant(1, 1, loss));
  report.add("y", lora::Matrix<S>(cache.y.view().transpose()));
  add_gradients<S>(model, report);
  if (training) {
    const lora::EncoderConfig& config = model.config();
    const lora::Pass pass{.training = true, .seed = 7, .first_sample = 1000};
    const Index n = tokens.sequences().total(), d = config.hidden_size;
    report.add_mask("mask.embeddings", config.hidden_dropout_prob, lora::detail::embeddings_stream, pass, d, n);
    for (Index l = 0; l < config.num_hidden_layers; ++l) {
      const std::string at = "mask." + std::to_string(l);
      for (Index h = 0; h < config.num_attention_heads; ++h) {
        report.add_mask(at + ".head." + std::to_string(h), config.attention_probs_dropout_prob,
                        lora::detail::block_stream(l) + std::uint64_t(h), pass, tokens.sequences().longest(), n);
      }
      report.add_mask(at + ".attention", config.hidden_dropout_prob, lora::detail::branch_stream(l), pass, d, n);
      report.add_mask(at + ".feed_forward", config.hidden_dropout_prob, lora::detail::branch_stream(l) + 1, pass, d, n);
    }
    const bool of_tokens = std::string_view(Model::task_type) == "TOKEN_CLS";
    const double p = of_tokens ? Model::ModelType::token_dropout(config) : config.classifier_dropout_or_hidden();
    report.add_mask("mask.classifier", p, lora::detail::classifier_stream, pass, d, n);
    report.add_mask("mask.classifier_input", p, lora::detail::second_classifier_stream, pass, d, n);
  }
  lora::AdamW<S> optimizer({.lr = 1e-2});
  for (int k = 0; k < steps; ++k) {
    step(static_cast<std::uint64_t>(k));
    optimizer.step(model);
  }
  if (steps > 0) lora::save_adapter(model, out + ".adapter");
  lora::save_safetensors(out, report.tensors);
}

void choose(const std::string& type, const std::string& head, const std::string& folder, const std::string& out,
            int steps, bool training) {
  const auto with = [&](auto of_type) {
    using Type = decltype(of_type);
    if (head == "plain") return run<lora::TextEncoder<double, Type>>(folder, out, steps, training);
    if (head == "token") return run<lora::TokenClassifier<double, Type>>(folder, out, steps, training);
    run<lora::SequenceClassifier<double, Type>>(folder, out, steps, training);
  };
  if (type == "bert") with(lora::BertType());
  if (type == "roberta") with(lora::RobertaType());
  if (type == "distilbert") with(lora::DistilBertType());
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> a(arguments + 1, arguments + count);
  if (a.size() < 5) return 2;
  try {
    const int steps = a.size() > 5 ? std::stoi(a[5]) : 0;
    const bool training = a.size() > 6 && a[6] == "dropout";
    if (a[0] == "float") {
      run<lora::BertForSequenceClassification<float>>(a[3], a[4], steps, training);
    } else {
      choose(a[1], a[2], a[3], a[4], steps, training);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
