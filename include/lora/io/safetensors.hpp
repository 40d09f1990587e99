#pragma once
/// Reading safetensors: an object that exists only if its file has passed every check.
///
/// ```cpp
/// #include <lora/io/safetensors.hpp>
/// #include <lora/io/safetensors_writer.hpp>
/// #include <iostream>
///
/// int main() {
///   const Eigen::MatrixXf W = Eigen::MatrixXf::Random(4, 3);
///   lora::save_safetensors("model.safetensors", {{"fc1.weight", W}, {"fc1.bias", Eigen::VectorXf::Zero(4)}});
///   const auto file = lora::Safetensors::open("model.safetensors");  // or model.safetensors.index.json: several files
///   for (const auto& tensor : file.tensors()) std::cout << tensor.name << ": " << lora::name(tensor.dtype) << '\n';
///   const auto view = file.tensor<float>("fc1.weight");            // F32 only; the file's own memory, no copy
///   const Eigen::MatrixXd copy = file.read<double>("fc1.weight");  // F64, F32, F16 or BF16, converted
///   return view == W && copy == W.cast<double>() ? 0 : 1;
/// }
/// ```
///
/// A tensor (rows, cols) is a matrix, (n) a column of n, () is 1 x 1. Tensors of more dimensions, dtypes without a C++
/// scalar, and tensors without elements that have more than 2^24 rows or columns are available as bytes.

#include "lora/core/scalar.hpp"
#include "lora/io/detail/definitions.hpp"
#include "lora/io/detail/elements.hpp"
#include "lora/io/detail/shard_index.hpp"
#include "lora/io/detail/sort_by.hpp"
#include "lora/io/dtype.hpp"
#include "lora/io/file_bytes.hpp"
#include "lora/io/file_error.hpp"
#include "lora/io/safetensors_header.hpp"
#include "lora/io/stored_matrix.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lora::inline LORA_ABI {

struct SafetensorsOptions {
  FileAccess access = FileAccess::map;
  SafetensorsLimits limits = {};
};

/// One tensor as stored in the file: row-major, little-endian, of any alignment.
struct StoredTensor {
  std::string name;
  Dtype dtype;
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> bytes;
  std::size_t file;  // position in Safetensors::files()
};

/// A copy shares the file. All functions may be called from several threads at once.
class Safetensors {
 public:
  // Declared so that there is no move, which would leave an empty object behind.
  Safetensors(const Safetensors&) = default;
  Safetensors& operator=(const Safetensors&) = default;

  /// Opens and checks a file. Throws FileError if it cannot be read, FormatError if its content is not valid; see
  /// read_safetensors_header. Cost: O(n log n) in the number of tensors, whatever their size (with FileAccess::map).
  ///
  /// If `path` is an index (its name ends with .json), all files that it lists are opened as one object. Every tensor
  /// of the index is in the file that it names, and no two files have one of the same name; else FormatError. Tensors
  /// that are in a file but not in the index are left out, see unlisted(). Metadata are kept if equal in all files.
  static Safetensors open(const std::filesystem::path& path, const SafetensorsOptions& options = {});

  /// As above for a file in memory, which the caller keeps alive; messages begin with `name`.
  static Safetensors in_memory(std::span<const std::byte> file, std::string name = "memory",
                               const SafetensorsLimits& limits = {});

  /// All tensors, sorted by name (byte by byte).
  const std::vector<StoredTensor>& tensors() const& { return contents_->tensors; }
  const std::vector<StoredTensor>& tensors() const&& = delete;
  const Metadata& metadata() const& { return contents_->metadata; }
  const Metadata& metadata() const&& = delete;
  /// The paths of the files that were opened: one, or those of a sharded model.
  const std::vector<std::string>& files() const& { return contents_->paths; }
  const std::vector<std::string>& files() const&& = delete;
  /// Tensors in the files of a sharded model that its index does not list, sorted; they cannot be read.
  const std::vector<std::string>& unlisted() const& { return contents_->unlisted; }
  const std::vector<std::string>& unlisted() const&& = delete;

  /// Null if there is none of this name.
  const StoredTensor* find(std::string_view name) const&;
  const StoredTensor* find(std::string_view name) const&& = delete;

  /// Throws NameError.
  const StoredTensor& at(std::string_view name) const&;
  const StoredTensor& at(std::string_view name) const&& = delete;

  /// The bytes of any tensor. They are valid as long as a copy of this object exists.
  std::span<const std::byte> bytes(std::string_view name) const& { return at(name).bytes; }
  std::span<const std::byte> bytes(std::string_view name) const&& = delete;

  /// Gives the memory of a tensor back to the system, where the file is mapped: its pages are read again when they are
  /// touched. For a program that has copied what it needs. Throws NameError.
  void release(std::string_view name) const;

  /// Strict: throws DtypeError unless the tensor is stored as S (float: F32, double: F64, integers of their size and
  /// sign), ShapeError if it has more than two dimensions, NameError if there is none. No copy, see StoredMatrix.
  template <StoredScalar S>
  StoredMatrix<S> tensor(std::string_view name) const {
    const StoredTensor& tensor = at(name);
    if (tensor.dtype != dtype_of<S>()) {
      refuse<DtypeError>(tensor, "dtype is " + std::string(lora::name(tensor.dtype)) + ", expected " +
                                     std::string(lora::name(dtype_of<S>())) +
                                     (is_real(tensor.dtype) && is_real(dtype_of<S>()) ? "; read converts" : ""));
    }
    const auto [rows, cols] = matrix_shape(tensor);
    const auto address = reinterpret_cast<std::uintptr_t>(tensor.bytes.data());
    if (detail::stored_as_is<S>(tensor.dtype) && address % alignof(S) == 0) {
      return {reinterpret_cast<const S*>(tensor.bytes.data()), rows, cols, contents_, false};
    }
    const auto copy = std::make_shared<Eigen::Matrix<S, Dynamic, Dynamic, Eigen::RowMajor>>(rows, cols);
    detail::load_elements(tensor.bytes.data(), tensor.dtype, rows, cols, copy->data(), cols, Index{1});
    return {copy->data(), rows, cols, copy, true};
  }

  /// A copy, converted to S. float and double are read from F64, F32, F16 and BF16; the conversion is exact, except for
  /// F64 to float, which rounds to nearest even (beyond the range of float to infinity). Integers are not converted.
  /// Throws as tensor does.
  template <StoredScalar S>
  Matrix<S> read(std::string_view name) const {
    const StoredTensor& tensor = at(name);
    const auto [rows, cols] = matrix_shape(tensor);
    check_readable<S>(tensor);
    Matrix<S> result(rows, cols);
    load(tensor, result);
    return result;
  }

  /// As read, into an existing matrix, map or block of the tensor's shape; for a vector also a row. Throws ShapeError
  /// for another shape, and writes nothing then.
  template <class Derived>
    requires StoredScalar<typename Derived::Scalar>
  void read_into(std::string_view name, Eigen::DenseBase<Derived>& to) const {
    const StoredTensor& tensor = at(name);
    auto [rows, cols] = matrix_shape(tensor);
    if (tensor.shape.size() == 1 && Index{to.rows()} == 1) std::swap(rows, cols);
    check_readable<typename Derived::Scalar>(tensor);
    if (to.rows() != rows || to.cols() != cols) {
      refuse<ShapeError>(tensor, "shape is " + shape_text(tensor) + ", expected " + std::to_string(to.rows()) + " x " +
                                     std::to_string(to.cols()));
    }
    load(tensor, to.derived());
  }

 private:
  struct Contents {
    std::string title;  // begins messages that are not about a tensor
    std::vector<FileBytes> files;
    std::vector<std::string> paths;
    std::vector<StoredTensor> tensors;
    std::vector<std::string> unlisted;
    Metadata metadata;

    void add(std::string path, FileBytes file, const SafetensorsLimits& limits);

    void add(std::string path, std::span<const std::byte> file, const SafetensorsLimits& limits);

    void sort();
  };

  explicit Safetensors(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

  static Safetensors open_listed(const std::filesystem::path& index, const SafetensorsOptions& options);

  static std::string shape_text(const StoredTensor& tensor);

  template <class E>
  [[noreturn]] void refuse(const StoredTensor& tensor, const std::string& text) const {
    detail::fail<E>(std::string_view(files()[tensor.file]), "tensor " + detail::shown(tensor.name) + ": " + text);
  }

  std::pair<Index, Index> matrix_shape(const StoredTensor& tensor) const;

  template <class S>
  void check_readable(const StoredTensor& tensor) const {
    if (tensor.dtype == dtype_of<S>() || (std::floating_point<S> && is_real(tensor.dtype))) return;
    refuse<DtypeError>(tensor, "dtype is " + std::string(name(tensor.dtype)) + ", expected " +
                                   std::string(std::floating_point<S> ? detail::real_dtypes : name(dtype_of<S>())));
  }

  template <class Derived>
  static void load(const StoredTensor& tensor, Derived& to) {
    const Index inner = to.innerStride(), outer = to.outerStride();
    detail::load_elements(tensor.bytes.data(), tensor.dtype, Index{to.rows()}, Index{to.cols()}, to.derived().data(),
                          Derived::IsRowMajor ? outer : inner, Derived::IsRowMajor ? inner : outer);
  }

  std::shared_ptr<const Contents> contents_;
};

#ifdef LORA_IO_DEFINITIONS

LORA_IO_INLINE Safetensors Safetensors::open(const std::filesystem::path& path, const SafetensorsOptions& options) {
  if (path.extension() == ".json") return open_listed(path, options);
  auto contents = std::make_shared<Contents>();
  contents->add(path.string(), FileBytes::open(path, options.access), options.limits);
  contents->sort();
  return Safetensors(std::move(contents));
}

LORA_IO_INLINE Safetensors Safetensors::in_memory(std::span<const std::byte> file, std::string name,
                                                  const SafetensorsLimits& limits) {
  auto contents = std::make_shared<Contents>();
  contents->add(std::move(name), file, limits);
  contents->sort();
  return Safetensors(std::move(contents));
}

LORA_IO_INLINE const StoredTensor* Safetensors::find(std::string_view name) const& {
  const auto& all = contents_->tensors;
  const auto found = std::lower_bound(all.begin(), all.end(), name,
                                      [](const auto& tensor, auto wanted) { return tensor.name < wanted; });
  return found != all.end() && found->name == name ? &*found : nullptr;
}

LORA_IO_INLINE const StoredTensor& Safetensors::at(std::string_view name) const& {
  if (const auto* tensor = find(name)) return *tensor;
  detail::fail<NameError>(std::string_view(contents_->title), "there is no tensor " + detail::shown(name) +
                                                                  " among its " + std::to_string(tensors().size()));
}

LORA_IO_INLINE void Safetensors::release(std::string_view name) const {
  const StoredTensor& tensor = at(name);
  if (tensor.file < contents_->files.size()) contents_->files[tensor.file].release(tensor.bytes);
}

LORA_IO_INLINE std::string Safetensors::shape_text(const StoredTensor& tensor) {
  std::string text = "(";
  for (const std::uint64_t dimension : tensor.shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dimension);
  return text + ")";
}

LORA_IO_INLINE std::pair<Index, Index> Safetensors::matrix_shape(const StoredTensor& tensor) const {
  const auto& shape = tensor.shape;
  if (shape.size() > 2) {
    refuse<ShapeError>(tensor, "shape is " + shape_text(tensor) + ", expected at most 2 dimensions; bytes gives any");
  }
  // If one dimension is 0, no byte bounds the other. It takes no memory, but loops of Eigen and of programs count it.
  constexpr std::uint64_t most = std::uint64_t{1} << 24;
  if (tensor.bytes.empty() && std::any_of(shape.begin(), shape.end(), [](std::uint64_t d) { return d > most; })) {
    refuse<ShapeError>(tensor, "shape is " + shape_text(tensor) + ", expected at most " + std::to_string(most) +
                                   " rows or columns of a matrix without elements");
  }
  return {shape.empty() ? Index{1} : static_cast<Index>(shape[0]),
          shape.size() < 2 ? Index{1} : static_cast<Index>(shape[1])};
}

LORA_IO_INLINE void Safetensors::Contents::add(std::string path, FileBytes file, const SafetensorsLimits& limits) {
  files.push_back(std::move(file));
  add(std::move(path), files.back().bytes(), limits);
}

LORA_IO_INLINE void Safetensors::Contents::add(std::string path, std::span<const std::byte> file,
                                               const SafetensorsLimits& limits) {
  auto header = read_safetensors_header(path, file, limits);
  const auto data = file.subspan(header.data_start);
  for (auto& entry : header.tensors) {
    tensors.push_back(
        {std::move(entry.name), entry.dtype, std::move(entry.shape),
         data.subspan(static_cast<std::size_t>(entry.begin), static_cast<std::size_t>(entry.end - entry.begin)),
         paths.size()});
  }
  if (paths.empty()) {
    title = path;
    metadata = std::move(header.metadata);
  } else {
    std::erase_if(metadata, [&](const auto& pair) {
      const auto other = header.metadata.find(pair.first);
      return other == header.metadata.end() || other->second != pair.second;
    });
  }
  paths.push_back(std::move(path));
}

LORA_IO_INLINE void Safetensors::Contents::sort() {
  detail::sort_by(tensors, [](const auto& a, const auto& b) { return a.name < b.name; });
}

LORA_IO_INLINE Safetensors Safetensors::open_listed(const std::filesystem::path& index,
                                                    const SafetensorsOptions& options) {
  const std::string index_path = index.string();
  const std::string_view who = index_path;
  const FileBytes bytes = FileBytes::open(index, options.access);
  const auto file_of = detail::weight_map(
      who, {reinterpret_cast<const char*>(bytes.bytes().data()), bytes.bytes().size()}, options.limits.tensors);

  auto contents = std::make_shared<Contents>();
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of) names.insert(file);
  for (const auto& file : names) {
    const auto path = index.parent_path() / file;
    contents->add(path.string(), FileBytes::open(path, options.access), options.limits);
  }
  contents->title = index_path;
  contents->sort();

  auto& tensors = contents->tensors;
  const auto twice =
      std::adjacent_find(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != tensors.end()) {
    detail::fail<FormatError>(who, "tensor " + detail::shown(twice->name) + " is in two files: " +
                                       contents->paths[twice->file] + " and " + contents->paths[(twice + 1)->file]);
  }
  const auto in = [&](const StoredTensor& tensor) {
    return std::filesystem::path(contents->paths[tensor.file]).filename().string();
  };
  auto listed = file_of.begin();
  const auto check_listed_before = [&](const std::string* name) {
    if (listed != file_of.end() && (!name || listed->first < *name)) {
      detail::fail<FormatError>(who, "lists tensor " + detail::shown(listed->first) + " in " +
                                         detail::shown(listed->second) + ", where it is not");
    }
  };
  // Both are sorted by name.
  std::vector<StoredTensor> kept;
  for (auto& tensor : tensors) {
    check_listed_before(&tensor.name);
    if (listed == file_of.end() || listed->first != tensor.name) {
      contents->unlisted.push_back(std::move(tensor.name));
      continue;
    }
    if (listed->second != in(tensor)) {
      detail::fail<FormatError>(who, "lists tensor " + detail::shown(tensor.name) + " in " +
                                         detail::shown(listed->second) + ", but it is in " + in(tensor));
    }
    ++listed;
    kept.push_back(std::move(tensor));
  }
  check_listed_before(nullptr);
  tensors = std::move(kept);
  return Safetensors(std::move(contents));
}

#endif  // LORA_IO_DEFINITIONS

LORA_IO_INSTANCE(Matrix<float> Safetensors::read<float>(std::string_view) const)
LORA_IO_DOUBLE_INSTANCE(Matrix<double> Safetensors::read<double>(std::string_view) const)
LORA_IO_INSTANCE(StoredMatrix<float> Safetensors::tensor<float>(std::string_view) const)
LORA_IO_DOUBLE_INSTANCE(StoredMatrix<double> Safetensors::tensor<double>(std::string_view) const)

}  // namespace lora::inline LORA_ABI
