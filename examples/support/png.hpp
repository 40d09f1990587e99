#pragma once
/// Grey pictures as PNG, and as text that an SVG can hold.
///
/// Source: PNG specification, third edition, W3C 2025; deflate's stored blocks: RFC 1951, section 3.2.4; base64: RFC
/// 4648, section 4.

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace examples {

namespace detail {

/// The CRC of PNG's chunks: polynomial 0xEDB88320, crc32("123456789") = 0xCBF43926.
inline std::uint32_t crc32(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1u) != 0 ? (crc >> 1) ^ 0xEDB88320u : crc >> 1;
  }
  return ~crc;
}

/// The checksum of zlib's streams: adler32("Wikipedia") = 0x11E60398.
inline std::uint32_t adler32(std::string_view bytes) {
  std::uint32_t a = 1, b = 0;
  for (const char c : bytes) {
    a = (a + static_cast<unsigned char>(c)) % 65521;
    b = (b + a) % 65521;
  }
  return b << 16 | a;
}

/// The `count` lowest bytes of `value`, the highest of them first.
inline std::string big_endian(std::uint32_t value, int count = 4) {
  std::string bytes;
  for (int i = count - 1; i >= 0; --i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

inline std::string png_chunk(const std::string& type, const std::string& data) {
  return big_endian(static_cast<std::uint32_t>(data.size())) + type + data + big_endian(crc32(type + data));
}

/// A zlib stream that holds `bytes` as they are, in blocks of at most 65,535.
inline std::string zlib_stored(std::string_view bytes) {
  constexpr std::size_t largest = 65535;
  std::string stream = "\x78\x01";
  for (std::size_t first = 0; first == 0 || first < bytes.size(); first += largest) {
    const std::string_view block = bytes.substr(first, largest);
    const auto size = static_cast<std::uint32_t>(block.size());
    stream += first + largest >= bytes.size() ? '\1' : '\0';
    for (const std::uint32_t field : {size, ~size}) {
      stream += static_cast<char>(field & 0xFF);
      stream += static_cast<char>(field >> 8 & 0xFF);
    }
    stream += block;
  }
  return stream + big_endian(adler32(bytes));
}

}  // namespace detail

inline std::string base64(std::string_view bytes) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = i; k < i + 3; ++k) {
      group = group << 8 | (k < bytes.size() ? static_cast<unsigned char>(bytes[k]) : 0u);
    }
    for (std::size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? alphabet[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

/// A picture, 0 (black) to 1 (white), as a PNG of 8 bits a pixel, not compressed. What is outside is drawn as black or
/// white.   Throws std::invalid_argument if the picture is empty.
inline std::string png(const Eigen::MatrixXd& grey) {
  if (grey.size() == 0) throw std::invalid_argument("png: the picture is empty");
  std::string lines;
  for (Eigen::Index row = 0; row < grey.rows(); ++row) {
    lines += '\0';  // no filter
    for (Eigen::Index column = 0; column < grey.cols(); ++column) {
      lines += static_cast<char>(std::lround(255 * std::clamp(grey(row, column), 0.0, 1.0)));
    }
  }
  const std::string header = detail::big_endian(static_cast<std::uint32_t>(grey.cols())) +
                             detail::big_endian(static_cast<std::uint32_t>(grey.rows())) +
                             std::string("\x08\0\0\0\0", 5);  // 8 bits, grey, deflate, filters, not interlaced
  return "\x89PNG\r\n\x1a\n" + detail::png_chunk("IHDR", header) +
         detail::png_chunk("IDAT", detail::zlib_stored(lines)) + detail::png_chunk("IEND", "");
}

}  // namespace examples
