#include "lora/io/safetensors_header.hpp"

#include "io/files.hpp"
#include "support/catch.hpp"

#include <chrono>
#include <string>
#include <vector>

using lora_test::contains;
using lora_test::length;
using lora_test::message_of;
using lora_test::safetensors;

namespace {

lora::SafetensorsHeader header_of(std::string_view file, const lora::SafetensorsLimits& limits = {}) {
  return lora::read_safetensors_header("f", lora_test::as_bytes(file), limits);
}

std::string error_of(std::string_view file, const lora::SafetensorsLimits& limits = {}) {
  return message_of<lora::FormatError>([&] { header_of(file, limits); });
}

/// A file whose one tensor "a" has this entry.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets, std::size_t bytes,
                const std::string& more = "") {
  return safetensors(
      R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + more + "}}",
      std::string(bytes, 'x'));
}
std::string f32(const std::string& shape, const std::string& offsets, std::size_t bytes, const std::string& more = "") {
  return one(R"("F32")", shape, offsets, bytes, more);
}

const std::string entry = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";

std::string repeated(const std::string& text, std::size_t times) {
  std::string result;
  for (std::size_t i = 0; i < times; ++i) result += text;
  return result;
}

}  // namespace

TEST_CASE("What is not a valid file is refused, and why") {
  struct Case {
    const char* name;
    std::string file, message;
  };
  const std::string two_to_64 = "18446744073709551616";
  const std::vector<Case> cases = {
      // Rules 1 to 3: the length.
      {"no bytes", "", "f: has 0 bytes, expected at least 8: it is not a safetensors file, or cut off"},
      {"seven bytes", std::string(7, '\0'), "f: has 7 bytes, expected at least 8"},
      {"length of 32 MB and one byte", length(32'000'001) + "{}",
       "its header claims 32000001 bytes, expected at most 32000000"},
      {"a pointer instead of the file", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
       "expected at most 32000000: it is the pointer of Git LFS to a file, which git lfs pull fetches"},
      {"length with high bytes ff", length(UINT64_MAX) + "{}", "claims 18446744073709551615 bytes, expected at most"},
      {"length that wraps around", length(UINT64_MAX - 7) + "{}", "claims 18446744073709551608 bytes"},
      {"length of 1000 in a tiny file", length(1000) + "{}",
       "claims 1000 bytes, but only 2 follow: the file is cut off"},
      {"length one too large", length(3) + "{}", "claims 3 bytes, but only 2 follow"},
      {"length only", length(2), "claims 2 bytes, but only 0 follow"},
      // Rules 4 and 5: JSON.
      {"length zero", length(0), "is not valid JSON at byte 1"},
      {"header ff", safetensors("\xff"), "is not valid JSON at byte 1"},
      {"header of one brace", safetensors("{"), "is not valid JSON at byte 2"},
      {"only white space", safetensors("    "), "is not valid JSON"},
      {"text behind the object", safetensors("{}x"), "is not valid JSON at byte 3"},
      {"NUL behind the object", safetensors(std::string("{}\0", 3)), "at byte 3: a NUL"},
      {"NUL in a name", safetensors(std::string("{\"\0\":", 5) + entry + "}", "abcd"), "at byte 3: a NUL"},
      {"byte order mark", safetensors("\xef\xbb\xbf{}"), "byte order mark"},
      {"comment", safetensors("{}//"), "is not valid JSON"},
      {"overlong UTF-8", safetensors("{\"\xc0\x80\":" + entry + "}", "abcd"), "ill-formed UTF-8"},
      {"surrogate in UTF-8", safetensors("{\"\xed\xa0\x80\":" + entry + "}", "abcd"), "ill-formed UTF-8"},
      {"lone escaped surrogate", safetensors(R"({"\ud800":)" + entry + "}", "abcd"), "surrogate"},
      {"control character in a name", safetensors("{\"\x01\":" + entry + "}", "abcd"), "control character"},
      {"trailing comma", safetensors(R"({"a":)" + entry + ",}", "abcd"), "is not valid JSON"},
      {"array", safetensors("[]"), "f: the header is an array, expected an object"},
      {"number", safetensors("7"), "the header is a number, expected an object"},
      {"null", safetensors("null"), "the header is null, expected an object"},
      {"entry is a number", safetensors(R"({"a":1})"),
       R"(tensor "a": is a number, expected an object with dtype, shape and data_offsets)"},
      {"entry is an array", safetensors(R"({"a":["F32",[1],[0,4]]})", "abcd"), R"(tensor "a": is an array)"},
      {"entry is null", safetensors(R"({"a":null})"), R"(tensor "a": is null)"},
      {"entry is a string", safetensors(R"({"a":"F32"})"), R"(tensor "a": is a string)"},
      {"no dtype", safetensors(R"({"a":{"shape":[],"data_offsets":[0,4]}})", "abcd"), R"(tensor "a": has no dtype)"},
      {"no shape", safetensors(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", "abcd"), R"(tensor "a": has no shape)"},
      {"no data_offsets", safetensors(R"({"a":{"dtype":"F32","shape":[]}})"), R"(tensor "a": has no data_offsets)"},
      {"fields of another tensor", safetensors(R"({"b":)" + entry + R"(,"a":{}})", "abcd"),
       R"(tensor "a": has no dtype)"},
      {"dtype is a number", one("1", "[1]", "[0,4]", 4), "dtype is a number, expected a string"},
      {"dtype is an array", one(R"(["F32"])", "[1]", "[0,4]", 4), "dtype is an array, expected a string"},
      {"unknown dtype", one(R"("f32")", "[1]", "[0,4]", 4), R"(tensor "a": has the unknown dtype "f32")"},
      {"shape is a number", f32("1", "[0,4]", 4), "shape is a number, expected an array of integers"},
      {"shape is an object", f32("{}", "[0,4]", 4), "shape is an object, expected an array of integers"},
      {"shape is null", f32("null", "[0,4]", 4), "shape is null, expected"},
      {"offsets are a string", f32("[1]", R"("04")", 4), "data_offsets is a string, expected an array of integers"},
      {"one offset", f32("[1]", "[0]", 4), "data_offsets has 1 numbers, expected 2"},
      {"no offsets", f32("[1]", "[]", 4), "data_offsets has 0 numbers, expected 2"},
      {"three offsets", f32("[1]", "[0,4,4]", 4), "data_offsets has more than 2 numbers"},
      {"dimension 1.0", f32("[1.0]", "[0,4]", 4),
       R"(shape contains the number "1.0", expected an integer from 0 to 2^64 - 1)"},
      {"dimension 1e0", f32("[1e0]", "[0,4]", 4), R"(shape contains the number "1.0")"},
      {"dimension -1", f32("[-1]", "[0,4]", 4), "shape contains a negative number"},
      {"dimension -0", f32("[-0]", "[0,0]", 0), "shape contains a negative number"},
      {"dimension 01", f32("[01]", "[0,4]", 4), "is not valid JSON"},
      {"dimension 0x1", f32("[0x1]", "[0,4]", 4), "is not valid JSON"},
      {"dimension +1", f32("[+1]", "[0,4]", 4), "is not valid JSON"},
      {"dimension 2^64", f32("[0," + two_to_64 + "]", "[0,0]", 0),
       R"(shape contains the number "1.8446744073709552e+19")"},
      {"dimension true", f32("[true]", "[0,4]", 4), "shape contains true"},
      {"dimension null", f32("[null]", "[0,4]", 4), "shape contains null"},
      {"dimension is a string", f32(R"(["1"])", "[0,4]", 4), "shape contains a string"},
      {"dimension is an array", f32("[[1]]", "[0,4]", 4), "shape contains an array"},
      {"dimension is an object", f32("[{}]", "[0,4]", 4), "shape contains an object"},
      {"offset 4.0", f32("[1]", "[0,4.0]", 4), R"(data_offsets contains the number "4.0")"},
      {"negative offset", f32("[1]", "[-4,0]", 0), "data_offsets contains a negative number"},
      {"offset 2^64", f32("[1]", "[0," + two_to_64 + "]", 4), "data_offsets contains the number"},
      {"offset is an array", f32("[1]", "[[0],4]", 4), "data_offsets contains an array"},
      {"a million dimensions", f32("[" + repeated("1,", 999'999) + "1]", "[0,4]", 4), "has more than 64 dimensions"},
      {"65 dimensions", f32("[" + repeated("1,", 64) + "1]", "[0,4]", 4), "has more than 64 dimensions"},
      {"two million values", safetensors("[" + repeated("0,", 1'999'999) + "0]"),
       "its JSON has more than 2000000 values"},
      {"too deep", safetensors(R"({"a":{"x":)" + repeated("{\"y\":", 100)), "nests deeper than 8 levels"},
      {"too deep in an unknown field", f32("[1]", "[0,4]", 4, R"(,"x":[[[[[[[]]]]]]])"), "nests deeper than 8 levels"},
      // Metadata: one, and only strings.
      {"metadata is an array", safetensors(R"({"__metadata__":[]})"),
       "f: __metadata__ is an array, expected an object"},
      {"metadata is a string", safetensors(R"({"__metadata__":""})"), "__metadata__ is a string, expected an object"},
      {"metadata value is a number", safetensors(R"({"__metadata__":{"k":1}})"),
       R"(__metadata__: "k" is a number, expected a string)"},
      {"metadata value is null", safetensors(R"({"__metadata__":{"k":null}})"), R"("k" is null, expected a string)"},
      {"metadata value is an object", safetensors(R"({"__metadata__":{"k":{}}})"), R"("k" is an object, expected)"},
      {"metadata value is an array", safetensors(R"({"__metadata__":{"k":[]}})"), R"("k" is an array, expected)"},
      {"a tensor as metadata", safetensors(R"({"__metadata__":)" + entry + "}", "abcd"),
       R"(__metadata__: "shape" is an array, expected a string)"},
      // Names twice.
      {"tensor twice", safetensors(R"({"a":)" + entry + R"(,"a":)" + entry + "}", "abcd"),
       R"(the name "a" occurs twice)"},
      {"tensor twice, once escaped",
       safetensors(R"({"a":)" + entry + R"(,"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "abcdefgh"),
       R"(the name "a" occurs twice)"},
      {"metadata twice", safetensors(R"({"__metadata__":{},"__metadata__":{}})"), R"("__metadata__" occurs twice)"},
      {"metadata key twice", safetensors(R"({"__metadata__":{"k":"1","k":"2"}})"), R"(the name "k" occurs twice)"},
      {"dtype twice", f32("[1]", "[0,4]", 4, R"(,"dtype":"F32")"), R"(the name "dtype" occurs twice)"},
      {"shape twice", f32("[]", "[0,4]", 4, R"(,"shape":[])"), R"(the name "shape" occurs twice)"},
      {"unknown field twice", f32("[1]", "[0,4]", 4, R"(,"x":1,"x":1)"), R"(the name "x" occurs twice)"},
      // Rule 6: no gap, no overlap.
      {"gap at the start", f32("[1]", "[4,8]", 8),
       R"(tensor "a": its data begins at 4, expected 0, where the tensor before it ends)"},
      {"gap", safetensors(R"({"a":)" + entry + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}})", "abcdef"),
       R"(tensor "b": its data begins at 5, expected 4)"},
      {"overlap", safetensors(R"({"a":)" + entry + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})", "abcde"),
       R"(tensor "b": its data begins at 3, expected 4)"},
      {"shared range", safetensors(R"({"a":)" + entry + R"(,"b":)" + entry + "}", "abcd"),
       R"(tensor "b": its data begins at 0, expected 4)"},
      {"end before begin",
       f32("[0]", "[0,0]", 0,
           R"(},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"c":)"
           R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]},"d":)"
           R"({"dtype":"U8","shape":[1],"data_offsets":[1,0])"),
       R"(tensor "d": its data ends at 0, before it begins at 1)"},
      // Rule 7: overflow.
      {"elements overflow", one(R"("I32")", "[2,18446744073709551614]", "[0,4]", 4),
       "its shape has more than 2^64 - 1 bits"},
      {"bits overflow", one(R"("I32")", "[2,9223372036854775807]", "[0,4]", 4),
       "its shape has more than 2^64 - 1 bits"},
      {"overflow before a zero", f32("[18446744073709551615,2,0]", "[0,0]", 0), "more than 2^64 - 1 bits"},
      {"product that wraps to the right size", one(R"("U8")", "[4294967297,4294967297]", "[0,1]", 1), "2^64 - 1 bits"},
      // Rule 8: whole bytes.
      {"three F4", one(R"("F4")", "[3]", "[0,1]", 1), "it has 12 bits, expected whole bytes"},
      {"one F6", one(R"("F6_E2M3")", "[]", "[0,1]", 1), "it has 6 bits, expected whole bytes"},
      // Rule 9: as many bytes as dtype and shape say.
      {"shape too large", f32("[2]", "[0,4]", 4), "its data_offsets span 4 bytes, expected 8 for its dtype and shape"},
      {"shape too small", f32("[1]", "[0,8]", 8), "span 8 bytes, expected 4"},
      {"zero elements with bytes", f32("[0]", "[0,4]", 4), "span 4 bytes, expected 0"},
      {"scalar without bytes", f32("[]", "[0,0]", 0), "span 0 bytes, expected 4"},
      // Rule 10: to the end of the file.
      {"bytes behind the tensors", f32("[1]", "[0,4]", 5),
       "f: its tensors end at byte 4 of the data, expected 5, where the file ends"},
      {"two bytes missing", f32("[1]", "[0,4]", 2),
       "its tensors end at byte 4 of the data, but the file has 64 bytes, expected 66: it is cut off"},
      {"bytes, but no tensors", safetensors("{}", "x"), "end at byte 0 of the data, expected 1"},
  };
  for (const auto& [name, file, message] : cases) {
    INFO(name);
    const auto error = error_of(file);
    CHECK_THAT(error, contains(message));
    CHECK(error.substr(0, 3) == "f: ");
  }
}

TEST_CASE("What is valid, though odd, is read") {
  struct Case {
    const char* name;
    std::string file;
    std::size_t tensors;
  };
  const std::vector<Case> cases = {
      {"the smallest file", safetensors("{}"), 0},
      {"white space on both sides", safetensors(" \t\r\n{ } \t\r\n"), 0},
      {"scalar", f32("[]", "[0,4]", 4), 1},
      {"zero elements", f32("[2,0]", "[0,0]", 0), 1},
      {"zero elements beside 2^64 - 1", f32("[0,18446744073709551615]", "[0,0]", 0), 1},
      {"64 dimensions", f32("[" + repeated("1,", 63) + "1]", "[0,4]", 4), 1},
      {"unknown fields", f32("[1]", "[0,4]", 4, R"(,"x":{"y":[1.5,null,{"z":-1}]},"w":"F64","v":[],"u":true)"), 1},
      {"unknown field first", safetensors(R"({"a":{"x":[{}],"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "abcd"),
       1},
      {"two F4", one(R"("F4")", "[1,2]", "[0,1]", 1), 1},
      {"four F6", one(R"("F6_E3M2")", "[4]", "[0,3]", 3), 1},
      {"no name", safetensors(R"({"":)" + entry + "}", "abcd"), 1},
      {"escaped NUL in a name", safetensors(R"({"a\u0000b":)" + entry + "}", "abcd"), 1},
      {"surrogate pair", safetensors(R"({"\ud83d\ude00":)" + entry + "}", "abcd"), 1},
      {"metadata null", safetensors(R"({"__metadata__":null})"), 0},
      {"metadata empty", safetensors(R"({"__metadata__":{}})"), 0},
      {"metadata last", safetensors(R"({"a":)" + entry + R"(,"__metadata__":{"k":"v"}})", "abcd"), 1},
      {"not aligned",
       safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                   R"("b":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}})",
                   "abcdefghi"),
       2},
  };
  for (const auto& [name, file, tensors] : cases) {
    INFO(name);
    CHECK(error_of(file) == "");
    CHECK(header_of(file).tensors.size() == tensors);
  }
}

TEST_CASE("A header is read as it stands") {
  const std::string text =
      R"({"b":{"data_offsets":[4,4],"shape":[3,0],"dtype":"I64"},"__metadata__":{"format":"pt","A":"\u00e9"},)"
      R"("c":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}} )";
  const auto header = header_of(safetensors(text, "abcdefgh"));
  CHECK(header.metadata == lora::Metadata{{"A", "\xc3\xa9"}, {"format", "pt"}});
  CHECK(header.data_start == 8 + text.size());
  REQUIRE(header.tensors.size() == 3);
  CHECK(header.tensors[0].name == "a");
  CHECK(header.tensors[0].dtype == lora::Dtype::f32);
  CHECK(header.tensors[0].shape.empty());
  CHECK(header.tensors[1].name == "b");
  CHECK(header.tensors[1].shape == std::vector<std::uint64_t>{3, 0});
  CHECK(header.tensors[1].begin == 4);
  CHECK(header.tensors[2].name == "c");
  CHECK(header.tensors[2].dtype == lora::Dtype::bf16);
  CHECK(header.tensors[2].end == 8);
}

TEST_CASE("Every dtype is known by its name") {
  for (std::size_t i = 0; i < lora::dtype_count; ++i) {
    const auto dtype = static_cast<lora::Dtype>(i);
    const auto file = one("\"" + std::string(lora::name(dtype)) + "\"", "[8]",
                          "[0," + std::to_string(lora::bits(dtype)) + "]", lora::bits(dtype));
    INFO(lora::name(dtype));
    CHECK(header_of(file).tensors.front().dtype == dtype);
  }
}

TEST_CASE("Limits can be set") {
  const auto file =
      safetensors(R"({"a":)" + entry + R"(,"b":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}})", "abcdefgh");
  CHECK(error_of(file, {.tensors = 2, .dimensions = 2}) == "");
  CHECK(error_of(file, {.tensors = 1}) == "f: has more than 1 tensors");
  CHECK(error_of(file, {.dimensions = 1}) == R"(f: tensor "b": has more than 1 dimensions)");
  CHECK_THAT(error_of(file, {.header_bytes = 20}), contains("expected at most 20"));
  CHECK(error_of(file, {.values = 16}) == "");
  CHECK(error_of(file, {.values = 15}) == "f: its JSON has more than 15 values");
  const auto metadata = safetensors(R"({"__metadata__":{"a":"","b":""}})");
  CHECK(error_of(metadata, {.metadata_entries = 2}) == "");
  CHECK(error_of(metadata, {.metadata_entries = 1}) == "f: __metadata__ has more than 1 entries");
}

TEST_CASE("Names in messages cannot forge lines or fill the screen") {
  const auto error = error_of(safetensors(R"({"a\nb\u001b[31m)" + std::string(500, 'x') + R"(":1})"));
  CHECK_THAT(error, contains(R"(tensor "a\x0ab\x1b[31mxxx)"));
  CHECK_THAT(error, contains("bytes)"));
  CHECK(error.size() < 300);
}

TEST_CASE("Many tensors that share one range are refused, in time in proportion to the header") {
  const auto start = std::chrono::steady_clock::now();
  std::string header = "{";
  for (int i = 0; i < 200'000; ++i) {
    header += "\"" + std::to_string(i) + R"(":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},)";
  }
  header.back() = '}';
  CHECK_THAT(error_of(safetensors(header, std::string(16, 'x'))), contains("its data begins at 0, expected 16"));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
}
