// value_range, histogram: the two passes over numbers that their statistics take.
//
// Contract: read exactly `count` numbers, write nothing but the result, never throw. Sums are taken in float64 over four lanes and
// blocks of `kBlock` numbers, in the same order on every processor. `histogram` wants a bin exponent and a first bin that give every
// finite number a bin in [0, kBins): docs/spec/v1.md, section 10, says which; a number outside is counted nowhere.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace chunkstore {

inline constexpr std::size_t kBins = 64;

template <typename Number>
struct ValueRange {
  std::uint64_t nan = 0;
  std::uint64_t positive_infinities = 0;
  std::uint64_t negative_infinities = 0;
  std::uint64_t finite = 0;
  Number smallest = 0;  // of the finite numbers; 0 where there are none
  Number largest = 0;
  double mean = 0.0;  // of the finite numbers, infinite or NaN where their sum leaves float64
};

struct Histogram {
  std::array<std::uint64_t, kBins> counts{};
  double m2 = 0.0;  // sum of squared distances from the mean that was given
};

template <typename Number>
ValueRange<Number> value_range(const Number* numbers, std::size_t count) noexcept;

// Bin i of [i·2^exponent, (i+1)·2^exponent), counted from `first_bin`; numbers that are not finite are left out.
template <typename Number>
Histogram histogram(const Number* numbers, std::size_t count, double mean, int exponent, double first_bin) noexcept;

}  // namespace chunkstore
