#pragma once
/// SIMD: the operations on vector registers that the library's products need.
///
///   a packet: a register of `lanes` elements; of floats, 16 with AVX-512, 8 with AVX, 4 with SSE2 or NEON
///
/// Eigen has these functions for every processor that it supports, but only under internal names. Only this header uses
/// those, and only the ones that are the same from 3.4 to 5. Intrinsics would need every kernel once per instruction
/// set.

#include "lora/core/scalar.hpp"

#include <array>
#include <bit>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

// g++ warns that a template argument loses the alignment that is part of a packet's type; nothing here relies on it.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace lora::inline LORA_ABI::detail {

/// 0, ..., N - 1 as constants. An array of packets stays in registers if only constants index it, in always-inlined
/// functions; some compilers fail to keep it there if a lambda captures the array.
template <int N>
inline constexpr std::make_integer_sequence<int, N> counted{};

/// The packet of S, halved `Halvings` times, as far as the processor has halves.
template <class S, int Halvings>
struct PacketOf {
  using type = typename Eigen::internal::unpacket_traits<typename PacketOf<S, Halvings - 1>::type>::half;
};
template <class S>
struct PacketOf<S, 0> {
  using type = typename Eigen::internal::packet_traits<S>::type;
};

/// The operations on a packet of S, full or halved.
template <class S, int Halvings = 0>
struct Simd {
  using Packet = typename PacketOf<S, Halvings>::type;
  static constexpr int lanes = Eigen::internal::unpacket_traits<Packet>::size;
  static constexpr int registers = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS;
  static constexpr Index line = 64 / static_cast<Index>(sizeof(S));  ///< elements in a cache line
  /// Whether multiply_add rounds once.
#if defined(EIGEN_VECTORIZE_FMA) || (defined(EIGEN_VECTORIZE_NEON) && defined(__ARM_FEATURE_FMA))
  static constexpr bool fused = true;
#else
  static constexpr bool fused = false;
#endif
  using Scalar = S;
  using Narrower = Simd<S, Halvings + 1>;  ///< the same if there is no smaller packet

  EIGEN_ALWAYS_INLINE static Packet zero() { return Eigen::internal::pset1<Packet>(S(0)); }
  EIGEN_ALWAYS_INLINE static Packet constant(S value) { return Eigen::internal::pset1<Packet>(value); }
  EIGEN_ALWAYS_INLINE static Packet load(const S* from) { return Eigen::internal::ploadu<Packet>(from); }
  EIGEN_ALWAYS_INLINE static void store(S* to, const Packet& from) { Eigen::internal::pstoreu(to, from); }
  EIGEN_ALWAYS_INLINE static Packet add(const Packet& a, const Packet& b) { return Eigen::internal::padd(a, b); }
  /// a b + c, rounded once if the processor has fused multiply-add
  EIGEN_ALWAYS_INLINE static Packet multiply_add(const Packet& a, const Packet& b, const Packet& c) {
    return Eigen::internal::pmadd(a, b, c);
  }
  EIGEN_ALWAYS_INLINE static Packet subtract(const Packet& a, const Packet& b) { return Eigen::internal::psub(a, b); }
  EIGEN_ALWAYS_INLINE static Packet multiply(const Packet& a, const Packet& b) { return Eigen::internal::pmul(a, b); }
  EIGEN_ALWAYS_INLINE static Packet divide(const Packet& a, const Packet& b) { return Eigen::internal::pdiv(a, b); }
  EIGEN_ALWAYS_INLINE static Packet square_root(const Packet& a) { return Eigen::internal::psqrt(a); }
  EIGEN_ALWAYS_INLINE static Packet negated(const Packet& a) { return Eigen::internal::pnegate(a); }
  EIGEN_ALWAYS_INLINE static Packet absolute(const Packet& a) { return Eigen::internal::pabs(a); }
  /// -|a|
  EIGEN_ALWAYS_INLINE static Packet negative(const Packet& a) { return Eigen::internal::por(a, constant(S(-0.0))); }
  /// |a| with the sign of b
  EIGEN_ALWAYS_INLINE static Packet with_sign(const Packet& a, const Packet& b) {
    return Eigen::internal::por(absolute(a), masked(b, constant(S(-0.0))));
  }
  /// If a is NaN, so is the result.
  EIGEN_ALWAYS_INLINE static Packet minimum(const Packet& a, const Packet& b) { return Eigen::internal::pmin(a, b); }
  EIGEN_ALWAYS_INLINE static Packet maximum(const Packet& a, const Packet& b) { return Eigen::internal::pmax(a, b); }
  /// Lane by lane, all bits set where a < b, where a <= b; for masked and select.
  EIGEN_ALWAYS_INLINE static Packet less(const Packet& a, const Packet& b) { return Eigen::internal::pcmp_lt(a, b); }
  EIGEN_ALWAYS_INLINE static Packet at_most(const Packet& a, const Packet& b) { return Eigen::internal::pcmp_le(a, b); }
  EIGEN_ALWAYS_INLINE static Packet select(const Packet& mask, const Packet& a, const Packet& b) {
    return Eigen::internal::pselect(mask, a, b);
  }
  /// The bits of the significand shifted up into sign and exponent.
  EIGEN_ALWAYS_INLINE static Packet as_exponent(const Packet& a) {
    using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;
    constexpr int places = std::numeric_limits<S>::digits - 1;
#if defined(__GNUC__)
    typedef Bits Lanes __attribute__((vector_size(sizeof(Packet))));
    return std::bit_cast<Packet>(std::bit_cast<Lanes>(a) << places);
#else
    auto bits = std::bit_cast<std::array<Bits, std::size_t(lanes)>>(a);
    for (Bits& lane : bits) lane <<= places;
    return std::bit_cast<Packet>(bits);
#endif
  }
  /// a AND mask, bit by bit.
  EIGEN_ALWAYS_INLINE static Packet masked(const Packet& a, const Packet& mask) {
    return Eigen::internal::pand(a, mask);
  }
  /// a AND NOT mask.
  EIGEN_ALWAYS_INLINE static Packet cleared(const Packet& a, const Packet& mask) {
    return Eigen::internal::pandnot(a, mask);
  }
  /// The sum of the lanes.
  EIGEN_ALWAYS_INLINE static S sum(const Packet& a) { return Eigen::internal::predux(a); }
  /// Prefetches the cache line at `address`, which need not be valid, into L1 or, for what is needed later, into L2.
  template <int Cache = 1>
  EIGEN_ALWAYS_INLINE static void prefetch(const S* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 0, 4 - Cache);  // g++ takes Eigen's function for one without effect, and drops it
#else
    if constexpr (Cache == 1) Eigen::internal::prefetch(address);
#endif
  }

  /// Fills a packet with copies of `Group` adjacent elements, in one load. Group = 1 broadcasts one element to all
  /// lanes; Group = lanes is a plain load.
  template <int Group>
  EIGEN_ALWAYS_INLINE static Packet broadcast(const S* from) {
    if constexpr (Group == 1) {
      return Eigen::internal::pset1<Packet>(*from);
    } else if constexpr (Group == lanes) {
      return load(from);
    } else {
      using Unit = std::conditional_t<Group * sizeof(S) == 8, double, std::complex<double>>;
      static_assert(Group * sizeof(S) == sizeof(Unit));
      Unit unit;
      std::memcpy(static_cast<void*>(&unit), from, sizeof unit);
      return std::bit_cast<Packet>(Eigen::internal::pset1<typename Eigen::internal::packet_traits<Unit>::type>(unit));
    }
  }
  /// SSE2: sixteen 16-byte registers, and each product takes one before it is added.
  static constexpr bool tight = registers < 32 && lanes * sizeof(S) == 16;
  /// The group size with which a packet holds four samples; 1 if a packet has at most four lanes.
  static constexpr int quad = lanes / 4 > 1 ? lanes / 4 : 1;

  /// A block of `lanes` packets.
  using Block = Eigen::internal::PacketBlock<Packet, lanes>;

  /// Loads and stores packets that are `stride` apart.
  EIGEN_ALWAYS_INLINE static Block load(const S* from, Index stride) { return load(from, stride, counted<lanes>); }
  EIGEN_ALWAYS_INLINE static void store(S* to, Index stride, const Block& block) {
    store(to, stride, block, counted<lanes>);
  }
  EIGEN_ALWAYS_INLINE static void add_to(Block& block, const Block& more) { add_to(block, more, counted<lanes>); }
  /// The transpose: packet i of the result holds lane i of each packet.
  EIGEN_ALWAYS_INLINE static Block transposed(Block block) {
    Eigen::internal::ptranspose(block);
    return block;
  }

 private:
  template <int... I>
  EIGEN_ALWAYS_INLINE static Block load(const S* from, Index stride, std::integer_sequence<int, I...>) {
    Block block;
    ((block.packet[I] = load(from + I * stride)), ...);
    return block;
  }
  template <int... I>
  EIGEN_ALWAYS_INLINE static void store(S* to, Index stride, const Block& block, std::integer_sequence<int, I...>) {
    (store(to + I * stride, block.packet[I]), ...);
  }
  template <int... I>
  EIGEN_ALWAYS_INLINE static void add_to(Block& block, const Block& more, std::integer_sequence<int, I...>) {
    ((block.packet[I] = add(block.packet[I], more.packet[I])), ...);
  }
};

/// The widest packets of at most Lanes elements, or else the narrowest available.
template <class S, int Lanes>
using NarrowSimd = Simd<S, (Simd<S, 0>::lanes <= Lanes   ? 0
                            : Simd<S, 1>::lanes <= Lanes ? 1
                                                         : 2)>;

}  // namespace lora::inline LORA_ABI::detail

#pragma GCC diagnostic pop
