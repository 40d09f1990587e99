#include "lora/io/dtype.hpp"

#include "support/catch.hpp"

#include <string_view>
#include <vector>

using lora::Dtype;

TEST_CASE("The 22 number formats, in the reference's order, with their bits") {
  constexpr std::string_view names =
      "BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 C64 "
      "F64 I64 U64 ";
  constexpr unsigned bits[] = {8, 4, 6, 6, 8, 8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 32, 32, 32, 64, 64, 64, 64};
  std::string joined;
  for (std::size_t i = 0; i < lora::dtype_count; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    joined += std::string(lora::name(dtype)) + " ";
    CHECK(lora::bits(dtype) == bits[i]);
    CHECK(lora::find_dtype(lora::name(dtype)) == dtype);
  }
  CHECK(joined == names);
  CHECK(static_cast<std::size_t>(Dtype::u64) == lora::dtype_count - 1);
  for (const auto* unknown : {"f32", "F32 ", "", "F128", "FLOAT"}) CHECK_FALSE(lora::find_dtype(unknown));
}

TEST_CASE("Bits of a shape, and where they exceed 64-bit numbers") {
  using Shape = std::vector<std::uint64_t>;
  CHECK(lora::bit_count(Dtype::f32, Shape{}) == 32);
  CHECK(lora::bit_count(Dtype::f4, Shape{3, 5}) == 60);
  CHECK(lora::bit_count(Dtype::f64, Shape{0, UINT64_MAX}) == 0);
  CHECK(lora::bit_count(Dtype::i8, Shape{UINT64_MAX / 8}) == UINT64_MAX / 8 * 8);
  CHECK_FALSE(lora::bit_count(Dtype::i8, Shape{UINT64_MAX / 8 + 1}));
  CHECK_FALSE(lora::bit_count(Dtype::i8, Shape{UINT64_MAX, 2, 0}));  // before the zero, as in the reference
}

TEST_CASE("C++ numbers and their formats") {
  CHECK(lora::dtype_of<float>() == Dtype::f32);
  CHECK(lora::dtype_of<double>() == Dtype::f64);
  CHECK(lora::dtype_of<signed char>() == Dtype::i8);
  CHECK(lora::dtype_of<unsigned char>() == Dtype::u8);
  CHECK(lora::dtype_of<short>() == Dtype::i16);
  CHECK(lora::dtype_of<std::uint16_t>() == Dtype::u16);
  CHECK(lora::dtype_of<int>() == Dtype::i32);
  CHECK(lora::dtype_of<std::uint32_t>() == Dtype::u32);
  CHECK(lora::dtype_of<long long>() == Dtype::i64);
  CHECK(lora::dtype_of<std::uint64_t>() == Dtype::u64);
  STATIC_REQUIRE_FALSE(lora::StoredScalar<bool>);
  STATIC_REQUIRE_FALSE(lora::StoredScalar<long double>);
}
