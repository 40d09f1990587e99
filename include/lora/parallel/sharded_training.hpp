#pragma once
/// Training on batches that are divided into shards: the same bits for any number of processes.
///
///   the batch's gradient   G = (g_0 + ... + g_{S-1}) / N      g_k  the sum of the gradients of shard k's samples
///                                                             N    how many samples, or tokens, count
///
/// g_k are added in the order of a fixed tree (parallel/shards.hpp), and divided once. Only the gradients of what is
/// trained travel: of LoRA the factors', kilobytes to megabytes, in one message for each edge of the tree between
/// processes, and one broadcast of the sum.
///
/// The loop of a training gains three lines: shards, add, sum.
///
/// ```cpp
/// #include <lora/lora.hpp>
/// #include <lora/parallel/sharded_training.hpp>
///
/// int main() {
///   lora::Rng rng(1);
///   const Eigen::MatrixXf x = Eigen::MatrixXf::Random(12, 30), target = Eigen::MatrixXf::Random(4, 30);
///   lora::LoraLinear<float> net(Eigen::MatrixXf::Random(4, 12), {.rank = 2, .dropout = 0.1}, rng);
///   lora::LoraLinear<float>::Cache cache;
///   lora::AdamW<float> optimizer({.lr = 1e-2});
///   Eigen::MatrixXf dy;
///   lora::OneProcess alone;  // or lora::MpiProcesses world(MPI_COMM_WORLD), of parallel/mpi.hpp
///   lora::ShardedTraining parallel(alone, net, {.shards = 8, .settings = {{"seed", "1"}}});
///   double loss = 0;
///   for (std::uint64_t step = 0; step < 50; ++step) {
///     for (const lora::Shard& shard : parallel.shards(net, 30)) {         // this process's; gradients are zero now
///       const auto columns = x.middleCols(shard.first, shard.count);
///       const auto y = net.forward(columns, cache, {.training = true, .step = step, .first_sample = shard.first});
///       const float sum =
///           lora::mean_squared_error(y, target.middleCols(shard.first, shard.count), &dy, {.normalizer = 1.0});
///       net.backward(columns, dy, cache, lora::no_gradient);
///       parallel.add(net, {.loss = sum, .count = double(shard.count)});   // takes the gradients
///     }
///     loss = parallel.sum(net).mean();                                    // gradients: the mean over the batch
///     optimizer.step(net);
///   }
///   return loss < 1 ? 0 : 1;
/// }
/// ```

#include "lora/core/parameters.hpp"
#include "lora/parallel/digest.hpp"
#include "lora/parallel/processes.hpp"
#include "lora/parallel/shards.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct ShardedConfig {
  /// S, of every batch. As many processes at most can share the work, and the bits depend on it; 1 to 32 a process.
  Index shards = 1;
  /// What must be the same on all processes, beside the model: {"seed", "1"}, {"data", Digest().add(pixels).text()}.
  std::map<std::string, std::string> settings = {};
  /// In bytes; what is larger is sent in pieces.
  std::size_t largest_message = std::size_t(1) << 30;
};

/// Of some samples: the sum of their losses, and how many samples, or tokens, count.
struct LossSum {
  double loss = 0;
  double count = 0;
  double mean() const { return count > 0 ? loss / count : 0; }
};

/// What the sums of this process have cost so far: the messages that it has sent and the broadcasts it took part in,
/// their bytes, and the time in sum(), which includes waiting for slower processes.
struct ShardTraffic {
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;
  double seconds = 0;
};

/// What a file or a report needs of the build: two builds that differ in it may differ in bits.
inline std::string build_description() {
  std::string text = "lora " LORA_VERSION_STRING ", packets of " + std::to_string(LORA_DETAIL_PACKETS) +
                     " bytes, Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." +
                     std::to_string(EIGEN_MAJOR_VERSION) + "." + std::to_string(EIGEN_MINOR_VERSION);
#ifdef __VERSION__
  text += ", compiler " __VERSION__;
#endif
#ifdef __FMA__
  text += ", FMA";
#endif
#ifdef __OPTIMIZE__
  text += ", optimized";
#endif
  return text;
}

/// Three calls for each step, on every process, even one that has no samples: shards, add for each of its shards,
/// sum. A process that throws between them must end, which ends the others (see Mpi): they wait for it.
///
/// Every number is the same, bit for bit, for any number of processes up to that of shards. After the first step
/// nothing allocates; log2(S) + 2 sums of gradients are in memory at most.
class ShardedTraining {
 public:
  /// Compares all processes: the build, the settings, which tensors the model has, every element of them, and what is
  /// trained. So call it when weights and checkpoints are loaded. `processes` must outlive this object.
  /// Throws on every process: DifferenceError that names what differs; ConfigError if there are fewer shards than
  /// processes or none.   Cost: about that of reading the model once.
  template <class T>
  ShardedTraining(Processes& processes, const T& model, ShardedConfig config)
      : processes_(&processes), config_(std::move(config)), host_(processes.host()) {
    std::map<std::string, std::string> settings = config_.settings;
    settings.insert({{"the build", build_description()}, {"the number of shards", std::to_string(config_.shards)}});
    check_same(model, settings);
    if (config_.shards < 1) {
      detail::fail<ConfigError>(name, "shards is " + std::to_string(config_.shards) + ", expected at least 1");
    }
    if (config_.shards < processes.count()) {
      detail::fail<ConfigError>(name, "there are " + std::to_string(processes.count()) + " processes for " +
                                          std::to_string(config_.shards) + " shards, expected at most one for each");
    }
    if (config_.largest_message < header_bytes) {
      detail::fail<ConfigError>(name, "largest_message is " + std::to_string(config_.largest_message) +
                                          ", expected at least " + std::to_string(header_bytes));
    }
    tree_ = {config_.shards, processes.count(), processes.number()};
  }

  /// The comparison of the constructor, at any later time and for anything that should be the same.
  template <class T>
  void check_same(const T& model, const std::map<std::string, std::string>& settings = {}) {
    const std::vector<std::string> hosts = processes_->gather(host_);
    std::vector<std::string> own;
    for (const auto& [key, value] : settings) own.insert(own.end(), {key, value});
    compare_settings(processes_->gather(detail::joined(own)), hosts);
    detail::check_same_tensors(name, *processes_, tensor_digests(model), hosts);
  }

  /// Begins a step: sets the gradients to zero, those of one adapter if it is for one, and returns this process's
  /// shards of the batch, ascending; empty ones are left out. Valid until the next call. Throws StateError if the
  /// last step has not ended, or nothing is trained; ValueError for samples < 0, NameError for a handle whose adapter
  /// the model does not have.
  template <class T>
  std::span<const Shard> shards(T& model, Index samples, const AdapterHandle& adapter = {}) {
    if (open_) throw StateError("ShardedTraining::shards: the last step has not ended, expected sum() first");
    if (samples < 0) {
      detail::fail<ValueError>("ShardedTraining::shards",
                               "samples is " + std::to_string(samples) + ", expected 0 or more");
    }
    zero_gradients(model, adapter);
    adapter_ = adapter;
    if (!matches(model)) lay_out(model);
    if (layout_.empty()) throw StateError("ShardedTraining::shards: nothing in the model is trained");
    samples_ = samples;
    shards_.clear();
    next_ = 0;
    for (Index k = tree_.own().first; k < tree_.own().end; ++k) {
      const Shard shard = shard_of(samples, config_.shards, k);
      if (shard.count > 0) shards_.push_back(shard);
    }
    open_ = true;
    return shards_;
  }

  /// Takes the gradients of the next shard, which backward has just added up, and sets them to zero. `own` has the
  /// sum of the losses, from which the gradients are: that of a mean loss with .normalizer = 1. Throws StateError if
  /// there is no shard left, or the model is not that of shards(); ValueError unless 0 <= own.count is finite.
  template <class T>
  void add(T& model, const LossSum& own) {
    constexpr const char* who = "ShardedTraining::add";
    if (!open_ || next_ == shards_.size()) {
      detail::fail<StateError>(who, open_ ? "all shards of this process have been added, expected sum()"
                                          : "no step has begun, expected shards() first");
    }
    if (!(own.count >= 0 && std::isfinite(own.count))) {
      detail::fail<ValueError>(who, "count is " + detail::text_of(own.count) + ", expected a finite number, 0 or more");
    }
    check_layout(who, model);
    const std::size_t buffer = take();
    Header header = own_header();
    header.present = 1;
    header.loss = own.loss;
    header.count = own.count;
    put(buffer, header);
    std::size_t k = 0;
    each_trained(model, [&](auto& parameter, auto scalar) {
      const Tensor& tensor = layout_[k];
      auto elements = view<decltype(scalar)>(buffer, tensor);
      const bool reached = parameter.grad.size() == tensor.size;
      flag(buffer, k++) = std::byte(reached ? 1 : 0);
      if (reached) {
        elements = detail::flat(parameter.grad);
        detail::flat(parameter.grad).setZero();
      } else {
        elements.setZero();
      }
    });
    const Index number = shards_[next_++].number;
    push({{number, number + 1}, buffer});
  }

  /// Ends a step: afterwards the gradients of what is trained are the means over the batch, the same on every
  /// process, ready for clip_gradient_norm and the optimizer; and the result is the loss of the whole batch. If
  /// nothing counts, gradients are not divided. Throws StateError if a shard is missing, or the model is not that of
  /// shards(); DifferenceError, on every process, if the processes are in different steps, or were given batches of
  /// different sizes.
  template <class T>
  LossSum sum(T& model) {
    constexpr const char* who = "ShardedTraining::sum";
    if (!open_ || next_ != shards_.size()) {
      detail::fail<StateError>(who, !open_ ? "no step has begun, expected shards() first"
                                           : std::to_string(shards_.size() - next_) + " of " +
                                                 std::to_string(shards_.size()) + " shards have not been added");
    }
    check_layout(who, model);
    const auto start = std::chrono::steady_clock::now();
    fault_ = own_header();
    const std::size_t reduced = reduce(tree_.root());
    const std::size_t buffer = reduced == none ? take() : reduced;
    Header header = reduced == none ? own_header() : get(buffer);
    if (fault_.fault != 0) header.set_fault(fault_);
    share(buffer, header);
    check(who, header);
    if (header.present != 0) {
      std::size_t k = 0;
      each_trained(model, [&](auto& parameter, auto scalar) {
        using S = decltype(scalar);
        const Tensor& tensor = layout_[k];
        if (flag(buffer, k++) == std::byte(0)) return;  // no pass has reached it
        parameter.gradient();
        auto gradient = detail::flat(parameter.grad);
        gradient = view<S>(buffer, tensor);
        if (header.count > 0) gradient = (gradient.template cast<double>() / header.count).template cast<S>();
      });
    }
    give_back_all();
    open_ = false;
    ++step_;
    traffic_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {header.loss, header.count};
  }

  const ShardTraffic& traffic() const& { return traffic_; }
  const ShardTraffic& traffic() const&& = delete;
  Processes& processes() const { return *processes_; }
  const ShardedConfig& config() const& { return config_; }
  const ShardedConfig& config() const&& = delete;

 private:
  static constexpr const char* name = "ShardedTraining";
  static constexpr std::size_t none = static_cast<std::size_t>(-1), header_bytes = 128;

  /// Where a trained parameter is in a buffer.
  struct Tensor {
    std::uint64_t identity = 0;  ///< of its path and scalar; the same on every process
    Index size = 0;
    std::size_t offset = 0;
    bool wide = false;  ///< double
  };

  enum class Fault : std::int64_t { none, step, samples, parameters };

  /// What a message begins with.
  struct Header {
    std::int64_t step = 0, samples = 0;
    std::uint64_t layout = 0;
    std::int64_t present = 0;  ///< whether gradients follow
    double loss = 0, count = 0;
    /// What differs, and who has which value: passed on until all know it.
    std::int64_t fault = 0, process = 0, value = 0, other_process = 0, other_value = 0;

    void set_fault(const Header& from) {
      fault = from.fault;
      process = from.process;
      value = from.value;
      other_process = from.other_process;
      other_value = from.other_value;
    }
  };
  static_assert(sizeof(Header) <= header_bytes && std::is_trivially_copyable_v<Header>);

  /// The sum of a node, in a buffer.
  struct Part {
    detail::ShardNode node;
    std::size_t buffer = none;
  };

  /// f(parameter, S()) for each parameter that is trained in this step.
  template <class T>
  void each_trained(T& model, auto&& f) {
    visit_parameters(model, [&](const Path& path, auto& parameter) {
      using S = typename std::remove_cvref_t<decltype(parameter.value)>::Scalar;
      static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>,
                    "lora: the gradients that processes exchange are of float or double.");
      if (detail::is_trained_for(adapter_, path, parameter)) f(parameter, S());
    });
  }

  /// f(identity, size, wide) for each parameter that is trained in this step.
  template <class T>
  void each_identity(T& model, auto&& f) {
    visit_parameters(model, [&](const Path& path, auto& parameter) {
      using S = typename std::remove_cvref_t<decltype(parameter.value)>::Scalar;
      if (detail::is_trained_for(adapter_, path, parameter)) {
        f(path.hash() * 2 + sizeof(S) / 8, parameter.value.size(), sizeof(S) == 8);
      }
    });
  }

  template <class T>
  bool matches(T& model) {
    std::size_t k = 0;
    bool same = true;
    each_identity(model, [&](std::uint64_t identity, Index size, bool) {
      same = same && k < layout_.size() && layout_[k].identity == identity && layout_[k].size == size;
      ++k;
    });
    return same && k == layout_.size();
  }

  template <class T>
  void lay_out(T& model) {
    const auto round_up = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
    layout_.clear();
    each_identity(model,
                  [&](std::uint64_t identity, Index size, bool wide) { layout_.push_back({identity, size, 0, wide}); });
    bytes_ = round_up(header_bytes + layout_.size());
    Digest digest;
    for (Tensor& tensor : layout_) {
      tensor.offset = bytes_;
      bytes_ = round_up(bytes_ + static_cast<std::size_t>(tensor.size) * (tensor.wide ? 8 : 4));
      digest.add(tensor.identity).add(static_cast<std::uint64_t>(tensor.size));
    }
    layout_digest_ = digest.value();
    for (auto& buffer : buffers_) buffer.resize(bytes_);
  }

  template <class T>
  void check_layout(const char* who, T& model) {
    if (matches(model)) return;
    detail::fail<StateError>(who,
                             "the trained parameters are not those of shards(), expected the same in all of a step");
  }

  // Buffers.

  std::size_t take() {
    if (free_.empty()) {
      buffers_.emplace_back(bytes_);
      free_.reserve(buffers_.size());
      return buffers_.size() - 1;
    }
    const std::size_t buffer = free_.back();
    free_.pop_back();
    return buffer;
  }
  void give_back_all() {
    parts_.clear();
    free_.clear();
    for (std::size_t k = buffers_.size(); k-- > 0;) free_.push_back(k);
  }

  Header get(std::size_t buffer) const {
    Header header;
    std::memcpy(&header, buffers_[buffer].data(), sizeof(header));
    return header;
  }
  void put(std::size_t buffer, const Header& header) { std::memcpy(buffers_[buffer].data(), &header, sizeof(header)); }
  std::byte& flag(std::size_t buffer, std::size_t tensor) { return buffers_[buffer][header_bytes + tensor]; }
  template <class S>
  Eigen::Map<Vector<S>> view(std::size_t buffer, const Tensor& tensor) {
    return {reinterpret_cast<S*>(buffers_[buffer].data() + tensor.offset), tensor.size};
  }

  Header own_header() const {
    Header header;
    header.step = step_;
    header.samples = samples_;
    header.layout = layout_digest_;
    return header;
  }

  // The tree.

  /// left += right; the buffer of right is free again. A gradient that no pass has reached is zero.
  void combine(std::size_t left, std::size_t right) {
    Header header = get(left);
    const Header other = get(right);
    header.loss += other.loss;
    header.count += other.count;
    put(left, header);
    for (std::size_t k = 0; k < layout_.size(); ++k) {
      flag(left, k) |= flag(right, k);
      if (layout_[k].wide) {
        view<double>(left, layout_[k]) += view<double>(right, layout_[k]);
      } else {
        view<float>(left, layout_[k]) += view<float>(right, layout_[k]);
      }
    }
    free_.push_back(right);
  }

  bool is_empty(const detail::ShardNode& node) const {
    return samples_ * node.first / config_.shards == samples_ * node.end / config_.shards;
  }

  /// Adds a part, and then what can be added: as long as the other part of its parent is this process's and complete.
  void push(Part part) {
    while (part.node != tree_.root()) {
      const detail::ShardNode parent = tree_.parent(part.node);
      if (!tree_.has_all(parent)) break;
      const bool is_left = parent.left() == part.node;
      if (is_left && !is_empty(parent.right())) break;
      if (!is_left && !is_empty(parent.left())) {
        combine(parts_.back().buffer, part.buffer);
        part.buffer = parts_.back().buffer;
        parts_.pop_back();
      }
      part.node = parent;
    }
    parts_.push_back(part);
  }

  /// The buffer with the sum of a node, on the process that computes it, if it is not empty. Every process walks the
  /// tree in this order, so that none waits for one that waits for it.
  std::size_t reduce(const detail::ShardNode& node) {
    if (!tree_.has_some(node)) return none;
    if (tree_.has_all(node)) {
      for (const Part& part : parts_) {
        if (part.node == node) return part.buffer;
      }
      return none;
    }
    const Index computes = tree_.owner(node.first), sends = tree_.owner(node.middle());
    const std::size_t left = reduce(node.left());
    std::size_t right = reduce(node.right());
    if (computes != sends) {
      if (sends == tree_.process) send_part(static_cast<int>(computes), right);
      if (computes == tree_.process) right = receive_part(static_cast<int>(sends));
    }
    if (computes != tree_.process) return none;
    if (left == none || right == none) return left == none ? right : left;
    combine(left, right);
    return left;
  }

  /// Calls f(first, count) for pieces of at most the largest message.
  void in_pieces(std::size_t bytes, auto&& f) const {
    for (std::size_t first = 0; first < bytes; first += config_.largest_message) {
      f(first, std::min(config_.largest_message, bytes - first));
    }
  }

  void send_part(int to, std::size_t buffer) {
    Header header = buffer == none ? own_header() : get(buffer);
    if (fault_.fault != 0) header.set_fault(fault_);
    if (buffer == none) {
      processes_->send(to, std::as_bytes(std::span(&header, 1)));
      count_message(sizeof(header));
      return;
    }
    put(buffer, header);
    in_pieces(bytes_, [&](std::size_t first, std::size_t count) {
      processes_->send(to, std::span<const std::byte>(buffers_[buffer]).subspan(first, count));
      count_message(count);
    });
    free_.push_back(buffer);
  }

  std::size_t receive_part(int from) {
    const std::size_t buffer = take();
    const std::span<std::byte> all(buffers_[buffer]);
    std::size_t received = processes_->receive(from, all.first(std::min(bytes_, config_.largest_message)));
    const Header header = get(buffer);
    if (fault_.fault == 0) compare(header, from);
    if (fault_.fault == 0 && header.present != 0) {
      in_pieces(bytes_, [&](std::size_t first, std::size_t count) {
        if (first > 0) received += processes_->receive(from, all.subspan(first, count));
      });
      if (received == bytes_) return buffer;
      detail::fail<Error>(name, "process " + std::to_string(from) + " sent " + std::to_string(received) +
                                    " bytes, expected " + std::to_string(bytes_));
    }
    free_.push_back(buffer);
    return none;
  }

  void count_message(std::size_t bytes) {
    ++traffic_.messages;
    traffic_.bytes += bytes;
  }

  /// Notes the first thing in which a message's sender differs from this process.
  void compare(const Header& header, int from) {
    if (header.fault != 0) return fault_.set_fault(header);
    const auto note = [&](Fault fault, std::int64_t own, std::int64_t other) {
      if (fault_.fault != 0 || own == other) return;
      fault_.fault = static_cast<std::int64_t>(fault);
      fault_.process = tree_.process;
      fault_.value = own;
      fault_.other_process = from;
      fault_.other_value = other;
    };
    note(Fault::step, step_, header.step);
    note(Fault::samples, samples_, header.samples);
    note(Fault::parameters, static_cast<std::int64_t>(layout_digest_), static_cast<std::int64_t>(header.layout));
  }

  static void check(const char* who, const Header& header) {
    if (header.fault == 0) return;
    const auto says = [](std::int64_t process, const std::string& what) {
      return "process " + std::to_string(process) + " " + what;
    };
    switch (static_cast<Fault>(header.fault)) {
      case Fault::step:
        detail::fail<DifferenceError>(who,
                                      says(header.process, "is in step " + std::to_string(header.value)) + ", " +
                                          says(header.other_process, "in step " + std::to_string(header.other_value)));
      case Fault::samples:
        detail::fail<DifferenceError>(
            who, says(header.process, "was given a batch of " + std::to_string(header.value) + " samples") + ", " +
                     says(header.other_process, "one of " + std::to_string(header.other_value)));
      default:
        detail::fail<DifferenceError>(
            who, says(header.process, "trains other parameters than process " + std::to_string(header.other_process)));
    }
  }

  /// Process 0's header and sum to all.
  void share(std::size_t buffer, Header& header) {
    if (processes_->count() == 1) return;
    processes_->broadcast(std::as_writable_bytes(std::span(&header, 1)));
    count_message(sizeof(header));
    if (header.fault != 0 || header.present == 0) return;
    in_pieces(bytes_, [&](std::size_t first, std::size_t count) {
      processes_->broadcast(std::span(buffers_[buffer]).subspan(first, count));
      count_message(count);
    });
  }

  // The comparison at the start.

  void compare_settings(const std::vector<std::string>& gathered, const std::vector<std::string>& hosts) const {
    std::vector<std::map<std::string, std::string>> settings;
    std::map<std::string, int> keys;
    for (const std::string& text : gathered) {
      const std::vector<std::string> parts = detail::parted(text);
      auto& own = settings.emplace_back();
      for (std::size_t k = 0; k + 1 < parts.size(); k += 2) {
        own[parts[k]] = parts[k + 1];
        keys[parts[k]] = 0;
      }
    }
    for (const auto& [key, _] : keys) {
      std::vector<std::string> values;
      for (const auto& own : settings) {
        const auto found = own.find(key);
        values.push_back(found == own.end() ? "none" : detail::in_quotes(found->second));
      }
      detail::check_equal(name, key.starts_with("the ") ? key : "the setting " + key, values, hosts);
    }
  }

  Processes* processes_;
  ShardedConfig config_;
  std::string host_;
  detail::ShardTree tree_;
  AdapterHandle adapter_;
  std::vector<Shard> shards_;  // this process's of the step
  std::size_t next_ = 0;       // of them, to be added
  bool open_ = false;          // a step has begun
  std::int64_t step_ = 0;
  Index samples_ = 0;
  std::vector<Tensor> layout_;
  std::uint64_t layout_digest_ = 0;
  std::size_t bytes_ = 0;
  std::vector<std::vector<std::byte>> buffers_;
  std::vector<std::size_t> free_;
  std::vector<Part> parts_;
  Header fault_;
  ShardTraffic traffic_;
};

}  // namespace lora::inline LORA_ABI
