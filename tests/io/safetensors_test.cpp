#include "lora/io/safetensors.hpp"

#include "io/files.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "support/catch.hpp"

#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

using lora::Dtype;
using lora::Safetensors;
using lora_test::contains;
using lora_test::message_of;
using lora_test::safetensors;
using lora_test::write_file;

namespace {

/// One tensor "t", whose data begins `offset` bytes after a multiple of 64.
std::string one(Dtype dtype, const std::string& shape, const std::string& data, std::size_t offset = 0) {
  std::string header = "{\"t\":{\"dtype\":\"" + std::string(lora::name(dtype)) + "\",\"shape\":" + shape +
                       ",\"data_offsets\":[0," + std::to_string(data.size()) + "]}}";
  while ((8 + header.size()) % 64 != offset) header += ' ';
  return safetensors(header, data);
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Safetensors in_memory(const std::string& file) { return Safetensors::in_memory(lora_test::as_bytes(file), "f"); }

constexpr lora::FileAccess both[] = {lora::FileAccess::map, lora::FileAccess::read};

}  // namespace

TEST_CASE("An object that is there has been checked: nothing makes an empty one") {
  STATIC_REQUIRE_FALSE(std::is_default_constructible_v<Safetensors>);
  const auto file = one(Dtype::f32, "[1]", bytes_of<float>({7}));
  auto first = in_memory(file);
  const auto second = std::move(first);
  CHECK(first.tensors().size() == 1);  // NOLINT(bugprone-use-after-move): moving is copying
  CHECK(second.read<float>("t")(0) == 7);
}

TEST_CASE("A tensor of one's own type is the file's own memory") {
  const lora_test::TemporaryFolder folder;
  write_file(folder / "file", one(Dtype::f32, "[2,3]", bytes_of<float>({1, 2, 3, 4, 5, 6})));
  for (const auto access : both) {
    const auto file = Safetensors::open(folder / "file", {.access = access});
    const auto t = file.tensor<float>("t");
    CHECK_FALSE(t.is_copy());
    CHECK(static_cast<const void*>(t.data()) == file.bytes("t").data());
    CHECK(t == Eigen::MatrixXf{{1, 2, 3}, {4, 5, 6}});
    const Eigen::VectorXf product = t * Eigen::Vector3f(1, 10, 100);
    CHECK(product == Eigen::Vector2f(321, 654));
  }
}

TEST_CASE("A view keeps its file, also after it was deleted") {
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "file", one(Dtype::f64, "[2]", bytes_of<double>({1.5, -2})));
  for (const auto access : both) {
    const auto view = [&] { return Safetensors::open(path, {.access = access}).tensor<double>("t"); }();
    CHECK(view == Eigen::Vector2d(1.5, -2));
    CHECK(view.owner());
  }
  const auto view = Safetensors::open(path).tensor<double>("t");
  std::filesystem::remove(path);
  CHECK(view(1) == -2);
}

TEST_CASE("Data that is not aligned is copied, whatever its offset, and reads the same") {
  const lora_test::TemporaryFolder folder;
  for (std::size_t offset = 0; offset < 16; ++offset) {
    const auto path = write_file(folder / "file", one(Dtype::f64, "[2,2]", bytes_of<double>({1, 2, 3, 4}), offset));
    for (const auto access : both) {
      const auto file = Safetensors::open(path, {.access = access});
      const auto t = file.tensor<double>("t");
      CHECK(t.is_copy() == (offset % alignof(double) != 0));
      CHECK(reinterpret_cast<std::uintptr_t>(t.data()) % alignof(double) == 0);
      CHECK(t == Eigen::Matrix2d{{1, 2}, {3, 4}});
      CHECK(file.read<double>("t") == t);
      CHECK(file.read<float>("t") == t.cast<float>());
    }
  }
}

TEST_CASE("Dimensions: a scalar is 1 x 1, one is a column, two are rows and columns, zero is nothing") {
  const auto size_of = [](const std::string& shape, std::size_t count) {
    const auto file = one(Dtype::f32, shape, bytes_of(std::vector<float>(count, 3)));
    const auto t = in_memory(file).tensor<float>("t");
    const auto m = in_memory(file).read<float>("t");
    CHECK(m.rows() == t.rows());
    CHECK(m.cols() == t.cols());
    CHECK(m == t);
    return std::pair(t.rows(), t.cols());
  };
  using Size = std::pair<Eigen::Index, Eigen::Index>;
  CHECK(size_of("[]", 1) == Size(1, 1));
  CHECK(size_of("[5]", 5) == Size(5, 1));
  CHECK(size_of("[2,3]", 6) == Size(2, 3));
  CHECK(size_of("[1,3]", 3) == Size(1, 3));
  CHECK(size_of("[0]", 0) == Size(0, 1));
  CHECK(size_of("[2,0]", 0) == Size(2, 0));
  CHECK(size_of("[0,2]", 0) == Size(0, 2));
}

TEST_CASE("More than two dimensions, and dimensions beyond all matrices, are there as bytes only") {
  const auto three = one(Dtype::f32, "[1,2,1]", bytes_of<float>({1, 2}));
  CHECK(message_of<lora::ShapeError>([&] { in_memory(three).tensor<float>("t"); }) ==
        "f: tensor \"t\": shape is (1, 2, 1), expected at most 2 dimensions; bytes gives any");
  CHECK_THROWS_AS(in_memory(three).read<double>("t"), lora::ShapeError);
  const Safetensors file = in_memory(three);
  CHECK(file.bytes("t").size() == 8);
  CHECK(file.at("t").shape == std::vector<std::uint64_t>{1, 2, 1});

  const auto huge = one(Dtype::f32, "[0,9223372036854775808]", "");
  CHECK_THAT(message_of<lora::ShapeError>([&] { in_memory(huge).tensor<float>("t"); }),
             contains("\"t\": shape is (0, 9223372036854775808), expected at most 16777216 rows or columns"));
  CHECK_THROWS_AS(in_memory(huge).read<float>("t"), lora::ShapeError);
}

TEST_CASE("F5: no extent that no byte bounds makes a loop: every position, type, and entry") {
  const std::vector<std::string> extents{"0",
                                         "1",
                                         "2",
                                         "16777216",
                                         "16777217",
                                         "2147483648",
                                         "4611686018427387904",
                                         "9223372036854775807",
                                         "18446744073709551615"};
  int read = 0, refused = 0;
  const auto attempt = [&](auto&& f) {
    try {
      f();
      ++read;
    } catch (const lora::Error&) {
      ++refused;
    }
  };
  for (const Dtype dtype : {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::u8, Dtype::i64}) {
    for (const auto& first : extents) {
      for (const auto& second : extents) {
        const std::string shapes[] = {"[0," + first + "]", "[" + first + ",0]", "[" + first + ",0," + second + "]",
                                      "[" + first + "," + second + "]", "[" + first + "]"};
        for (const std::string& shape : shapes) {
          const std::string bytes = one(dtype, shape, "");
          attempt([&] {
            const Safetensors file = in_memory(bytes);
            CHECK(file.bytes("t").size() <= bytes.size());
          });
          attempt([&] { in_memory(bytes).read<double>("t"); });
          attempt([&] { in_memory(bytes).read<float>("t"); });
          attempt([&] { in_memory(bytes).read<std::uint8_t>("t"); });
          attempt([&] { in_memory(bytes).read<std::int64_t>("t"); });
          // What reaches a program can be looped over, as Eigen does for a copy.
          attempt([&] { Eigen::MatrixXf(in_memory(bytes).tensor<float>("t")); });
          attempt([&] { Eigen::MatrixXd(in_memory(bytes).tensor<double>("t")); });
          Eigen::MatrixXd there(2, 3), tall(lora::Index{1} << 24, 0), wide(0, lora::Index{1} << 24);
          attempt([&] { in_memory(bytes).read_into("t", there); });
          attempt([&] { in_memory(bytes).read_into("t", tall); });
          attempt([&] { in_memory(bytes).read_into("t", wide); });
        }
      }
    }
  }
  CHECK(read > 0);
  CHECK(refused > 0);
}

TEST_CASE("Strict access wants the type that is stored") {
  const auto half = one(Dtype::f16, "[1]", "ab");
  const auto single = one(Dtype::f32, "[1]", "abcd");
  const auto integer = one(Dtype::i64, "[1]", "abcdefgh");
  CHECK(message_of<lora::DtypeError>([&] { in_memory(half).tensor<float>("t"); }) ==
        "f: tensor \"t\": dtype is F16, expected F32; read converts");
  CHECK(message_of<lora::DtypeError>([&] { in_memory(single).tensor<double>("t"); }) ==
        "f: tensor \"t\": dtype is F32, expected F64; read converts");
  CHECK(message_of<lora::DtypeError>([&] { in_memory(integer).tensor<double>("t"); }) ==
        "f: tensor \"t\": dtype is I64, expected F64");
  CHECK(message_of<lora::DtypeError>([&] { in_memory(integer).read<double>("t"); }) ==
        "f: tensor \"t\": dtype is I64, expected F64, F32, F16 or BF16");
  CHECK(message_of<lora::DtypeError>([&] { in_memory(single).read<std::int32_t>("t"); }) ==
        "f: tensor \"t\": dtype is F32, expected I32");
  CHECK(message_of<lora::NameError>([&] { in_memory(single).tensor<float>("T"); }) ==
        "f: there is no tensor \"T\" among its 1");
  const Safetensors file = in_memory(single);
  CHECK_THROWS_AS(file.bytes(""), lora::NameError);
  CHECK(file.find("T") == nullptr);
}

TEST_CASE("All number formats are read as float and double, exactly but for F64 to float") {
  const std::vector<double> values = {0, -0.0, 1, -2.5, 0x1p-14, 65504, HUGE_VAL};
  const Eigen::Map<const Eigen::VectorXd> x(values.data(), static_cast<Eigen::Index>(values.size()));
  std::string file;
  lora::write_safetensors(
      [&](std::span<const std::byte> bytes) { file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); },
      {{"F64", x}, {"F32", x, Dtype::f32}, {"F16", x, Dtype::f16}, {"BF16", x, Dtype::bf16}});
  const auto opened = in_memory(file);
  for (const auto* name : {"F64", "F32", "F16", "BF16"}) {
    INFO(name);
    CHECK(lora::name(opened.at(name).dtype) == name);
    Eigen::VectorXd expected = x;
    if (name == std::string("BF16")) expected(5) = 65536;  // 8 significant bits
    CHECK(opened.read<double>(name) == expected);
    CHECK(opened.read<float>(name) == expected.cast<float>());
    CHECK(std::signbit(opened.read<float>(name)(1)));
  }
  const auto rounding = one(Dtype::f64, "[4]", bytes_of<double>({1 + 0x1p-24, 1 + 0x3p-24, 1e300, std::nan("")}));
  const auto rounded = in_memory(rounding).read<float>("t");
  CHECK(rounded(0) == 1.0f);
  CHECK(rounded(1) == 1.0f + 0x1p-22f);
  CHECK(rounded(2) == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(rounded(3)));
}

TEST_CASE("Integers are read as themselves") {
  const auto check = [](auto value) {
    using T = decltype(value);
    const std::vector<T> values = {std::numeric_limits<T>::min(), value, std::numeric_limits<T>::max()};
    for (const std::size_t offset : {0u, 1u}) {
      const auto file = one(lora::dtype_of<T>(), "[3]", bytes_of(values), offset);
      const Eigen::Map<const Eigen::Matrix<T, 3, 1>> expected(values.data());
      const Safetensors opened = in_memory(file);
      CHECK(opened.tensor<T>("t") == expected);
      CHECK(opened.read<T>("t") == expected);
    }
  };
  check(std::int8_t{-3});
  check(std::uint8_t{3});
  check(std::int16_t{-300});
  check(std::uint16_t{300});
  check(std::int32_t{-70'000});
  check(std::uint32_t{70'000});
  check(std::int64_t{-5'000'000'000});
  check(std::uint64_t{5'000'000'000});
}

TEST_CASE("Every dtype is there as bytes") {
  for (std::size_t i = 0; i < lora::dtype_count; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    const std::string data(lora::bits(dtype), static_cast<char>('a' + i));
    const auto file = one(dtype, "[8]", data);
    const Safetensors opened = in_memory(file);
    const auto bytes = opened.bytes("t");
    CHECK(std::memcmp(bytes.data(), data.data(), data.size()) == 0);
    CHECK(bytes.size() == data.size());
  }
}

TEST_CASE("Reading into memory that is there: any order, map or block of the right shape, else nothing is written") {
  std::vector<float> values(70 * 40);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const RowMajor expected = Eigen::Map<const RowMajor>(values.data(), 70, 40);
  const auto text = one(Dtype::f32, "[70,40]", bytes_of(values));
  const auto file = in_memory(text);

  Eigen::MatrixXf columns(70, 40);
  RowMajor rows(70, 40);
  Eigen::MatrixXd wide(70, 40);
  Eigen::MatrixXf large = Eigen::MatrixXf::Constant(100, 100, -1);
  RowMajor large_rows = RowMajor::Constant(100, 100, -1);
  file.read_into("t", columns);
  file.read_into("t", rows);
  file.read_into("t", wide);
  auto block = large.block(3, 5, 70, 40);
  file.read_into("t", block);
  auto rows_block = large_rows.block(3, 5, 70, 40);
  file.read_into("t", rows_block);
  CHECK(columns == expected);
  CHECK(rows == expected);
  CHECK(wide == expected.cast<double>());
  CHECK(block == expected);
  CHECK(rows_block == expected);
  CHECK(large.sum() == expected.sum() - (10'000 - 2'800));
  CHECK(large_rows == large);

  Eigen::MatrixXf wrong = Eigen::MatrixXf::Constant(40, 70, -1);
  CHECK(message_of<lora::ShapeError>([&] { file.read_into("t", wrong); }) ==
        "f: tensor \"t\": shape is (70, 40), expected 40 x 70");
  CHECK((wrong.array() == -1).all());

  const auto vector = one(Dtype::f32, "[3]", bytes_of<float>({1, 2, 3}));
  Eigen::Vector3f column;
  Eigen::RowVector3f row;
  in_memory(vector).read_into("t", column);
  in_memory(vector).read_into("t", row);
  CHECK(column == Eigen::Vector3f(1, 2, 3));
  CHECK(row == Eigen::RowVector3f(1, 2, 3));
  Eigen::RowVector3d other;
  CHECK_THROWS_AS(in_memory(vector).read_into("none", other), lora::NameError);
}

TEST_CASE("Tensors are listed by name, and found by it") {
  const auto text = safetensors(
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
      R"("B":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"\u00e9":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},)"
      R"("__metadata__":{"format":"pt"}})",
      "0123");
  const auto file = in_memory(text);
  std::string names;
  for (const auto& tensor : file.tensors()) names += tensor.name + ",";
  CHECK(names == ",B,b,\xc3\xa9,");
  CHECK(file.read<std::uint8_t>("\xc3\xa9")(0) == '3');
  CHECK(file.read<std::uint8_t>("")(0) == '1');
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.files() == std::vector<std::string>{"f"});
  CHECK(file.unlisted().empty());
  CHECK(file.find("bb") == nullptr);
}

TEST_CASE("A message names the file that was opened") {
  const lora_test::TemporaryFolder folder;
  const auto path = write_file(folder / "broken.safetensors", "x");
  CHECK_THAT(message_of<lora::FormatError>([&] { Safetensors::open(path); }),
             contains(path.string() + ": has 1 bytes"));
  CHECK_THROWS_AS(Safetensors::open(folder.path()), lora::FileError);
}

TEST_CASE("One file, read by many threads at once", "[threads]") {
  const lora_test::TemporaryFolder folder;
  write_file(folder / "file", one(Dtype::f32, "[2,3]", bytes_of<float>({1, 2, 3, 4, 5, 6}), 1));
  const auto file = Safetensors::open(folder / "file");
  std::vector<std::thread> threads;
  std::vector<float> sums(4, 0);
  for (std::size_t k = 0; k < sums.size(); ++k) {
    threads.emplace_back([&, k] {
      for (int i = 0; i < 500; ++i) {
        const auto copy = file;
        sums[k] = copy.tensor<float>("t").sum() + copy.read<float>("t").sum() +
                  Safetensors::open(folder / "file").tensor<float>("t").sum();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(sums == std::vector<float>(4, 63));
}
