#include "crc32c.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define CRC_TARGET __attribute__((target("sse4.2")))
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#define CRC_TARGET __attribute__((target("crc")))
#else
#define CRC_TARGET __attribute__((target("+crc")))
#endif
#endif

namespace chunkstore {
namespace {

// x^32 + x^28 + x^27 + … + 1 with bits reflected: bit 31 is the coefficient of x^0.
constexpr std::uint32_t kPolynomial = 0x82f63b78u;

using Table = std::array<std::uint32_t, 256>;

constexpr std::array<Table, 8> make_slices() {
  std::array<Table, 8> slices{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? kPolynomial : 0u);
    slices[0][byte] = crc;
  }
  for (std::size_t slice = 1; slice < slices.size(); ++slice) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = slices[slice - 1][byte];
      slices[slice][byte] = (before >> 8) ^ slices[0][before & 0xffu];
    }
  }
  return slices;
}

constexpr std::array<Table, 8> kSlices = make_slices();

std::uint64_t load_little_endian(const std::uint8_t* bytes) noexcept {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  if constexpr (std::endian::native == std::endian::big) word = __builtin_bswap64(word);
  return word;
}

std::uint32_t update_by_table(std::uint32_t state, const std::uint8_t* bytes, std::size_t length) noexcept {
  for (; length >= 8; length -= 8, bytes += 8) {
    const std::uint64_t word = load_little_endian(bytes) ^ state;
    state = 0;
    for (unsigned byte = 0; byte < 8; ++byte) state ^= kSlices[7 - byte][(word >> (8 * byte)) & 0xffu];
  }
  for (; length != 0; --length, ++bytes) state = (state >> 8) ^ kSlices[0][(state ^ *bytes) & 0xffu];
  return state;
}

#if defined(CRC_TARGET)

// The instruction takes 3 cycles and one can start every cycle, so three streams run side by side. Their states are joined
// by advancing the earlier one over the bytes of the later: multiplication by x^(8·bytes) modulo the polynomial, which is
// linear, hence four table lookups. Long stretches keep the joins rare, short ones serve what remains.
constexpr std::size_t kLongStretch = 4096;
constexpr std::size_t kShortStretch = 256;

constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t coefficient = 0x80000000u; coefficient != 0; coefficient >>= 1) {
    if ((a & coefficient) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1u) != 0 ? kPolynomial : 0u);
  }
  return product;
}

constexpr std::uint32_t power_of_x(std::size_t exponent) {
  std::uint32_t power = 0x80000000u;   // x^0
  std::uint32_t square = 0x40000000u;  // x^1
  for (; exponent != 0; exponent >>= 1) {
    if ((exponent & 1u) != 0) power = multiply(power, square);
    square = multiply(square, square);
  }
  return power;
}

using Advance = std::array<Table, 4>;

constexpr Advance make_advance(std::size_t bytes) {
  const std::uint32_t factor = power_of_x(8 * bytes);
  Advance advance{};
  for (std::uint32_t position = 0; position < 4; ++position) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) advance[position][byte] = multiply(byte << (8 * position), factor);
  }
  return advance;
}

constexpr Advance kAdvanceLong = make_advance(kLongStretch);
constexpr Advance kAdvanceShort = make_advance(kShortStretch);

std::uint32_t advance_over(const Advance& advance, std::uint32_t state) noexcept {
  return advance[0][state & 0xffu] ^ advance[1][(state >> 8) & 0xffu] ^ advance[2][(state >> 16) & 0xffu] ^
         advance[3][state >> 24];
}

#if defined(__x86_64__)
CRC_TARGET inline std::uint32_t step_byte(std::uint32_t state, std::uint8_t byte) noexcept { return _mm_crc32_u8(state, byte); }
CRC_TARGET inline std::uint32_t step_word(std::uint32_t state, std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(_mm_crc32_u64(state, word));
}
#else
CRC_TARGET inline std::uint32_t step_byte(std::uint32_t state, std::uint8_t byte) noexcept { return __crc32cb(state, byte); }
CRC_TARGET inline std::uint32_t step_word(std::uint32_t state, std::uint64_t word) noexcept { return __crc32cd(state, word); }
#endif

CRC_TARGET std::uint32_t update_interleaved(std::uint32_t state, const std::uint8_t*& bytes, std::size_t& length,
                                            std::size_t stretch, const Advance& advance) noexcept {
  for (; length >= 3 * stretch; length -= 3 * stretch, bytes += 3 * stretch) {
    std::uint32_t second = 0;
    std::uint32_t third = 0;
    for (std::size_t offset = 0; offset < stretch; offset += 8) {
      state = step_word(state, load_little_endian(bytes + offset));
      second = step_word(second, load_little_endian(bytes + stretch + offset));
      third = step_word(third, load_little_endian(bytes + 2 * stretch + offset));
    }
    state = advance_over(advance, state) ^ second;
    state = advance_over(advance, state) ^ third;
  }
  return state;
}

CRC_TARGET std::uint32_t update_by_instruction(std::uint32_t state, const std::uint8_t* bytes, std::size_t length) noexcept {
  state = update_interleaved(state, bytes, length, kLongStretch, kAdvanceLong);
  state = update_interleaved(state, bytes, length, kShortStretch, kAdvanceShort);
  for (; length >= 8; length -= 8, bytes += 8) state = step_word(state, load_little_endian(bytes));
  for (; length != 0; --length, ++bytes) state = step_byte(state, *bytes);
  return state;
}

bool has_instruction() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2") != 0;
#elif defined(__linux__)
  constexpr unsigned long kHardwareCrc32 = 1ul << 7;  // HWCAP_CRC32 of asm/hwcap.h
  return (getauxval(AT_HWCAP) & kHardwareCrc32) != 0;
#else
  return true;  // every 64-bit Apple processor has it
#endif
}

#endif  // CRC_TARGET

using Update = std::uint32_t (*)(std::uint32_t, const std::uint8_t*, std::size_t) noexcept;

Update chosen_update() noexcept {
#if defined(CRC_TARGET)
  static const Update update = has_instruction() ? update_by_instruction : update_by_table;
  return update;
#else
  return update_by_table;
#endif
}

}  // namespace

std::uint32_t crc32c(std::span<const std::uint8_t> data, std::uint32_t value) noexcept {
  return ~chosen_update()(~value, data.data(), data.size());
}

void crc32c_spans(std::span<std::uint32_t> out, std::span<const std::uint8_t> data, std::span<const std::int64_t> starts,
                  std::span<const std::int64_t> stops) {
  if (starts.size() != out.size() || stops.size() != out.size()) {
    throw std::invalid_argument("out has " + std::to_string(out.size()) + " entries, starts " + std::to_string(starts.size()) +
                                ", stops " + std::to_string(stops.size()));
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (starts[i] < 0 || stops[i] < starts[i] || static_cast<std::uint64_t>(stops[i]) > data.size()) {
      throw std::invalid_argument("span " + std::to_string(i) + " is [" + std::to_string(starts[i]) + ", " +
                                  std::to_string(stops[i]) + "), but there are " + std::to_string(data.size()) + " bytes");
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = crc32c(data.subspan(static_cast<std::size_t>(starts[i]), static_cast<std::size_t>(stops[i] - starts[i])));
  }
}

std::uint32_t crc32c_table(std::span<const std::uint8_t> data, std::uint32_t value) noexcept {
  return ~update_by_table(~value, data.data(), data.size());
}

const char* crc32c_implementation() noexcept {
  if (chosen_update() == update_by_table) return "table";
#if defined(__x86_64__)
  return "sse4.2";
#else
  return "arm";
#endif
}

}  // namespace chunkstore
