#include "io/faulty_files.hpp"
#include "io/files.hpp"
#include "lora/io/safetensors.hpp"
#include "lora/io/safetensors_writer.hpp"
#include "support/catch.hpp"

#include <thread>

using lora::Dtype;
using lora::Safetensors;
using lora::TensorToSave;
using lora_test::contains;
using lora_test::FaultyFiles;
using lora_test::message_of;
using lora_test::read_file;

namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::string written(const std::vector<TensorToSave>& tensors, const lora::Metadata& metadata = {}) {
  std::string file;
  lora::write_safetensors(
      [&](std::span<const std::byte> bytes) { file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); },
      tensors, metadata);
  return file;
}

Safetensors reread(const std::string& file) { return Safetensors::in_memory(lora_test::as_bytes(file), "f"); }

Eigen::MatrixXf counting(Eigen::Index rows, Eigen::Index cols) {
  Eigen::MatrixXf m(rows, cols);
  for (Eigen::Index i = 0; i < m.size(); ++i) m(i) = static_cast<float>(i);
  return m;
}

}  // namespace

TEST_CASE("A saved file reads as it was, and opens in Python by its metadata") {
  const lora_test::TemporaryFolder folder;
  const Eigen::MatrixXf A = counting(3, 5);
  const Eigen::VectorXd b = Eigen::Vector3d(1, 2, 3);
  lora::save_safetensors(folder / "file", {{"a", A}, {"b", b}});
  const auto file = Safetensors::open(folder / "file");
  CHECK(file.metadata() == lora::Metadata{{"format", "pt"}});
  CHECK(file.tensor<float>("a") == A);
  CHECK(file.tensor<double>("b") == b);
  CHECK(file.at("a").shape == std::vector<std::uint64_t>{3, 5});
  CHECK(file.at("b").shape == std::vector<std::uint64_t>{3});
  lora::save_safetensors(folder / "one", {{"a", A}}, {});
  const auto one = Safetensors::open(folder / "one");
  CHECK(one.metadata().empty());
}

TEST_CASE("Matrices of any order, strides and kind are stored row by row") {
  const Eigen::MatrixXf A = counting(40, 70);
  const RowMajor R = A;
  const Eigen::MatrixXf large = counting(100, 100);
  const RowMajor large_rows = large;
  const Eigen::Map<const Eigen::MatrixXf, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> strided(
      large.data(), 10, 20, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(200, 3));
  const Eigen::Ref<const Eigen::MatrixXf> ref = large.middleCols(2, 9);
  const Eigen::Matrix<float, 2, 3> fixed{{1, 2, 3}, {4, 5, 6}};
  const std::vector<TensorToSave> tensors = {
      {"columns", A},
      {"rows", R},
      {"transposed", A.transpose()},
      {"block", large.block(3, 4, 5, 6)},
      {"rows block", large_rows.block(3, 4, 5, 6)},
      {"some rows", large_rows.middleRows(3, 4)},
      {"strided", strided},
      {"ref", ref},
      {"fixed", fixed},
      {"expression", 2 * A + A},
      {"temporary", Eigen::MatrixXf(A * 2)},
      {"zero", Eigen::MatrixXf(0, 3)},
      {"one", Eigen::MatrixXf::Constant(1, 1, 7)},
  };
  const auto text = written(tensors);
  const auto file = reread(text);
  CHECK(file.read<float>("columns") == A);
  CHECK(file.read<float>("rows") == A);
  CHECK(file.read<float>("transposed") == A.transpose());
  CHECK(file.read<float>("block") == large.block(3, 4, 5, 6));
  CHECK(file.read<float>("rows block") == large.block(3, 4, 5, 6));
  CHECK(file.read<float>("some rows") == large.middleRows(3, 4));
  CHECK(file.read<float>("strided") == strided);
  CHECK(file.read<float>("ref") == large.middleCols(2, 9));
  CHECK(file.read<float>("fixed") == fixed);
  CHECK(file.read<float>("expression") == 3 * A);
  CHECK(file.read<float>("temporary") == 2 * A);
  CHECK(file.at("zero").shape == std::vector<std::uint64_t>{0, 3});
  CHECK(file.at("one").shape == std::vector<std::uint64_t>{1, 1});
}

TEST_CASE("Vectors are of one dimension: columns, rows, and parts of matrices, with their strides") {
  const Eigen::MatrixXf A = counting(5, 4);
  const auto text =
      written({{"column", A.col(2)}, {"row", A.row(1)}, {"diagonal", A.diagonal()}, {"n x 1", counting(3, 1)}});
  const auto file = reread(text);
  CHECK(file.at("column").shape == std::vector<std::uint64_t>{5});
  CHECK(file.at("row").shape == std::vector<std::uint64_t>{4});
  CHECK(file.at("n x 1").shape == std::vector<std::uint64_t>{3, 1});
  CHECK(file.read<float>("column") == A.col(2));
  CHECK(file.read<float>("row") == A.row(1).transpose());
  CHECK(file.read<float>("diagonal") == A.diagonal());
}

TEST_CASE("Matrices larger than one piece, wide and tall, and converted") {
  for (const auto& [rows, cols] : {std::pair<int, int>{3, 500'000}, {500'000, 3}, {2, 1'200'000}, {1400, 1401}}) {
    const Eigen::MatrixXf A = counting(rows, cols);
    const Eigen::MatrixXd D = A.cast<double>();
    const auto text = written({{"f", A}, {"d", D}, {"to f", D, Dtype::f32}, {"to d", A, Dtype::f64}});
    const auto file = reread(text);
    for (const auto* name : {"f", "d", "to f", "to d"}) CHECK(file.read<float>(name) == A);
    CHECK(file.at("to f").dtype == Dtype::f32);
    CHECK(file.at("to d").dtype == Dtype::f64);
  }
}

TEST_CASE("Halves are rounded once") {
  const Eigen::Vector2d x(1.0 + 0x1p-11 + 0x1p-40, 1.0 + 0x1p-8 + 0x1p-40);
  const auto text = written({{"half", x, Dtype::f16}, {"bfloat", x, Dtype::bf16}});
  CHECK(reread(text).read<double>("half")(0) == 1 + 0x1p-10);
  CHECK(reread(text).read<double>("bfloat")(1) == 1 + 0x1p-7);
}

TEST_CASE("Bytes of any dtype and shape") {
  const std::string data = "abcdef";
  const auto text = written({{"f6", Dtype::f6_e3m2, {4, 2}, lora_test::as_bytes(data)},
                             {"three", Dtype::u8, {1, 2, 3}, lora_test::as_bytes(data)},
                             {"scalar", Dtype::u8, {}, lora_test::as_bytes("x")},
                             {"none", Dtype::c64, {3, 0}, {}}});
  const auto file = reread(text);
  CHECK(file.at("three").shape == std::vector<std::uint64_t>{1, 2, 3});
  CHECK(file.read<std::uint8_t>("scalar")(0) == 'x');
  CHECK(file.bytes("f6").size() == 6);

  const auto error_of = [&](Dtype dtype, std::vector<std::uint64_t> shape) {
    return message_of<lora::ShapeError>([&] { TensorToSave("t", dtype, std::move(shape), lora_test::as_bytes(data)); });
  };
  CHECK(error_of(Dtype::f32, {2}) ==
        "TensorToSave: tensor \"t\" has 6 bytes, expected 64 bits for its dtype and shape");
  CHECK_THAT(error_of(Dtype::f4, {11}), contains("expected 44 bits"));
  CHECK_THAT(error_of(Dtype::f64, {1ull << 60}), contains("expected at most 2^64 bits"));
}

TEST_CASE("What cannot be written is refused before the old file is touched") {
  const lora_test::TemporaryFolder folder;
  const auto path = lora_test::write_file(folder / "file", "old");
  const Eigen::Vector2f v(1, 2);
  const auto save = [&](const std::vector<TensorToSave>& tensors, const lora::Metadata& metadata = {}) {
    lora::save_safetensors(path, tensors, metadata);
  };
  CHECK(message_of<lora::NameError>([&] { save({{"a", v}, {"b", v}, {"a", v}}); }) ==
        "save_safetensors: two tensors are named \"a\"");
  CHECK_THAT(message_of<lora::NameError>([&] { save({{"a", v}, {"a", v, Dtype::f16}}); }), contains("two tensors"));
  CHECK_THAT(message_of<lora::NameError>([&] { save({{"__metadata__", v}}); }), contains("cannot be named"));
  CHECK_THAT(message_of<lora::NameError>([&] { save({{"\xff", v}}); }), contains("is not UTF-8"));
  CHECK_THAT(message_of<lora::ValueError>([&] { save({}, {{"k", "\xc0\x80"}}); }),
             contains("metadata \"k\" is not UTF-8"));
  CHECK_THAT(message_of<lora::ValueError>([&] { save({}, {{"\x80", ""}}); }), contains("is not UTF-8"));
  CHECK(message_of<lora::FormatError>([&] { save({}, {{"k", std::string(32'000'000, 'x')}}); }) ==
        "save_safetensors: names, shapes and metadata take 32000032 bytes, expected at most 32000000");
  CHECK(message_of<lora::DtypeError>([&] { TensorToSave("t", v, Dtype::i32); }) ==
        "TensorToSave: tensor \"t\": F32 cannot be stored as I32, expected F64, F32, F16 or BF16");
  CHECK_THROWS_AS(TensorToSave("t", Eigen::Vector2i(1, 2), Dtype::f32), lora::DtypeError);
  CHECK(read_file(path) == "old");
  CHECK(folder.names() == std::set<std::string>{"file"});
}

TEST_CASE("A header of more values than are read again is not written") {
  std::vector<TensorToSave> tensors;
  const std::byte one{1};
  const auto add = [&] {
    tensors.emplace_back(std::to_string(tensors.size()), Dtype::u8, std::vector<std::uint64_t>(64, 1),
                         std::span(&one, 1));
  };
  while (tensors.size() < 28'571) add();
  const std::string text = written(tensors);
  const auto file = reread(text);
  CHECK(file.tensors().size() == 28'571);  // 70 values each
  add();
  CHECK(message_of<lora::FormatError>([&] { written(tensors); }) ==
        "save_safetensors: names, shapes and metadata are 2000042 values, expected at most 2000000");
}

TEST_CASE("A header of exactly 32 MB is written and read") {
  const std::string start = R"({"__metadata__":{"k":")";
  const auto text = written({}, {{"k", std::string(32'000'000 - start.size() - 3, 'x')}});
  CHECK(text.size() == 32'000'008);
  const auto file = reread(text);
  CHECK(file.metadata().at("k").size() == 32'000'000 - start.size() - 3);
}

TEST_CASE("Metadata is written by name, with what JSON needs escaped") {
  const lora::Metadata metadata = {{"b", "\"\n\xc3\xa9"}, {"a", std::string("\0\x1f", 2)}, {"", ""}};
  const auto text = written({}, metadata);
  CHECK_THAT(text, contains(R"({"__metadata__":{"":"","a":"\u0000\u001f","b":"\"\n)"));
  const auto file = reread(text);
  CHECK(file.metadata() == metadata);
}

TEST_CASE("Saving over the file that the tensors are mapped from") {
  const lora_test::TemporaryFolder folder;
  const auto path = folder / "file";
  const Eigen::MatrixXf A = counting(300, 400);
  lora::save_safetensors(path, {{"a", A}, {"b", Eigen::Vector2f(1, 2)}});
  const auto file = Safetensors::open(path);
  const auto a = file.tensor<float>("a");
  REQUIRE_FALSE(a.is_copy());
  lora::save_safetensors(path, {{"a", 2 * a}, {"c", a}});
  CHECK(a == A);  // still the old contents
  CHECK(file.tensor<float>("b")(1) == 2);
  const auto again = Safetensors::open(path);
  CHECK(again.tensor<float>("a") == 2 * A);
  CHECK(again.tensor<float>("c") == A);
  lora::save_safetensors(path, {{"c", again.tensor<float>("c")}});
  CHECK(Safetensors::open(path).tensor<float>("c") == A);
}

TEST_CASE("Each system call that fails leaves the old file readable") {
  const Eigen::MatrixXf A = counting(200, 300);
  for (int k = 1;; ++k) {
    const lora_test::TemporaryFolder folder;
    const auto path = folder / "file";
    lora::save_safetensors(path, {{"a", A}});
    FaultyFiles::reset(k, ENOSPC);
    const auto error =
        message_of<lora::FileError>([&] { lora::save_safetensors<FaultyFiles>(path, {{"a", 2 * A}, {"b", A}}); });
    if (FaultyFiles::calls < k) break;
    INFO(error);
    const bool is_new = error.empty();  // closing what is in place already reports nothing
    const auto file = Safetensors::open(path);
    const bool in_place = is_new || error.find("is in place") != error.npos;
    CHECK(file.tensor<float>("a") == (in_place ? 2.0f : 1.0f) * A);
    CHECK(file.tensors().size() == (in_place ? 2 : 1));
    CHECK(folder.names() == std::set<std::string>{"file"});
    REQUIRE(k < 50);
  }
  CHECK(FaultyFiles::calls >= 11);
}

TEST_CASE("Two that save at once: whoever opens the file meanwhile finds one of both, whole", "[threads]") {
  const lora_test::TemporaryFolder folder;
  const auto path = folder / "file";
  const auto save = [&](float value) {
    const Eigen::MatrixXf A = Eigen::MatrixXf::Constant(100, 100, value);
    lora::save_safetensors(path, {{"a", A}, {"b", A}});
  };
  save(0);
  std::thread first([&] {
    for (int i = 0; i < 30; ++i) save(1);
  });
  std::thread second([&] {
    for (int i = 0; i < 30; ++i) save(2);
  });
  int torn = 0;
  for (int i = 0; i < 200; ++i) {
    const auto file = Safetensors::open(path);
    const auto a = file.tensor<float>("a");
    torn += a != Eigen::MatrixXf::Constant(100, 100, a(0, 0)) || file.tensor<float>("b") != a;
  }
  first.join();
  second.join();
  CHECK(torn == 0);
  CHECK(folder.names() == std::set<std::string>{"file"});
}
