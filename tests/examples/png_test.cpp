#include "examples/support/png.hpp"

#include "support/catch.hpp"

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

using namespace examples;

namespace {

std::uint32_t number(std::string_view bytes) {
  std::uint32_t value = 0;
  for (const char c : bytes.substr(0, 4)) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

/// The data of a chunk that begins at `at`, which is moved behind it; its checksum must be right.
std::string chunk(const std::string& file, std::size_t& at, const std::string& type) {
  const std::size_t size = number(std::string_view(file).substr(at));
  const std::string body = file.substr(at + 4, 4 + size);
  CHECK(body.substr(0, 4) == type);
  CHECK(number(std::string_view(file).substr(at + 8 + size)) == detail::crc32(body));
  at += 12 + size;
  return body.substr(4);
}

/// The bytes in a zlib stream of stored blocks, whose sizes and checksum must be right.
std::string inflated(const std::string& stream) {
  const auto byte = [&](std::size_t i) { return std::size_t{static_cast<unsigned char>(stream.at(i))}; };
  CHECK((byte(0) * 256 + byte(1)) % 31 == 0);
  std::string bytes;
  std::size_t at = 2;
  bool last = false;
  while (!last) {
    CHECK(byte(at) <= 1);  // stored; 1 is the last block
    last = byte(at) == 1;
    const std::size_t size = byte(at + 1) + 256 * byte(at + 2);
    CHECK(byte(at + 3) + 256 * byte(at + 4) == 65535 - size);
    bytes += stream.substr(at + 5, size);
    at += 5 + size;
  }
  CHECK(at + 4 == stream.size());
  CHECK(number(std::string_view(stream).substr(at)) == detail::adler32(bytes));
  return bytes;
}

}  // namespace

TEST_CASE("png: checksums and base64 of the standards") {
  CHECK(detail::crc32("123456789") == 0xCBF43926u);
  CHECK(detail::crc32("") == 0);
  CHECK(detail::adler32("Wikipedia") == 0x11E60398u);
  CHECK(detail::adler32("") == 1);
  CHECK(detail::adler32(std::string(100000, '\xff')) == 0x149A302Cu);
  // RFC 4648, section 10
  CHECK(base64("").empty());
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64("foob") == "Zm9vYg==");
  CHECK(base64("fooba") == "Zm9vYmE=");
  CHECK(base64("foobar") == "Zm9vYmFy");
  CHECK(base64("\xfb\xff\xbf") == "+/+/");
}

TEST_CASE("png: stored blocks hold what they were given") {
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{65535}, std::size_t{65536}, std::size_t{200000}}) {
    std::string bytes(size, ' ');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * i >> 3 & 0xFF);
    CHECK(inflated(detail::zlib_stored(bytes)) == bytes);
  }
}

TEST_CASE("png: size and pixels") {
  Eigen::MatrixXd grey(2, 3);
  grey << 0, 0.5, 1, -3, 7, 0.2;
  const std::string file = png(grey);
  std::size_t at = 8;
  CHECK(file.substr(0, at) == "\x89PNG\r\n\x1a\n");
  CHECK(chunk(file, at, "IHDR") == std::string("\0\0\0\3\0\0\0\2\x08\0\0\0\0", 13));
  CHECK(inflated(chunk(file, at, "IDAT")) == std::string("\0\x00\x80\xff\0\x00\xff\x33", 8));
  CHECK(chunk(file, at, "IEND").empty());
  CHECK(at == file.size());
  CHECK_THROWS_AS(png(Eigen::MatrixXd(0, 3)), std::invalid_argument);
}
