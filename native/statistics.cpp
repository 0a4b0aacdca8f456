#include "statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#define CHUNKSTORE_AVX2 1
#endif

namespace chunkstore {
namespace {

constexpr std::size_t kLanes = 4;
constexpr std::size_t kBlock = 2048;  // numbers whose sum has lanes of its own, so that rounding errors stay those of short sums

template <typename Number>
ValueRange<Number> range_with_odd_numbers(const Number* numbers, std::size_t count) noexcept {
  ValueRange<Number> range;
  double sum = 0.0;
  double rest = 0.0;  // what rounding took from the sum (Neumaier)
  for (std::size_t i = 0; i < count; ++i) {
    const Number number = numbers[i];
    if (number != number) {
      ++range.nan;
    } else if (number == std::numeric_limits<Number>::infinity()) {
      ++range.positive_infinities;
    } else if (number == -std::numeric_limits<Number>::infinity()) {
      ++range.negative_infinities;
    } else {
      range.smallest = range.finite == 0 ? number : std::min(range.smallest, number);
      range.largest = range.finite == 0 ? number : std::max(range.largest, number);
      ++range.finite;
      const double term = static_cast<double>(number);
      const double next = sum + term;
      rest += std::abs(sum) >= std::abs(term) ? (sum - next) + term : (term - next) + sum;
      sum = next;
    }
  }
  // Where the sum left float64, `rest` is NaN: the caller takes the mean of scaled numbers then.
  if (range.finite != 0) range.mean = (sum + rest) / static_cast<double>(range.finite);
  return range;
}

namespace portable {
#define KERNEL
#include "statistics_kernels.h"
#undef KERNEL
}  // namespace portable

#if defined(CHUNKSTORE_AVX2)
namespace wide {
#define KERNEL __attribute__((target("avx2")))
#include "statistics_kernels.h"
#undef KERNEL
}  // namespace wide

bool is_wide() noexcept {
  static const bool wide = __builtin_cpu_supports("avx2") != 0;
  return wide;
}
#endif

}  // namespace

template <typename Number>
ValueRange<Number> value_range(const Number* numbers, std::size_t count) noexcept {
#if defined(CHUNKSTORE_AVX2)
  if (is_wide()) return wide::range_of(numbers, count);
#endif
  return portable::range_of(numbers, count);
}

template <typename Number>
Histogram histogram(const Number* numbers, std::size_t count, double mean, int exponent, double first_bin) noexcept {
#if defined(CHUNKSTORE_AVX2)
  if (is_wide()) return wide::histogram_of(numbers, count, mean, exponent, first_bin);
#endif
  return portable::histogram_of(numbers, count, mean, exponent, first_bin);
}

#define CHUNKSTORE_FOR(Number)                                                        \
  template ValueRange<Number> value_range<Number>(const Number*, std::size_t) noexcept; \
  template Histogram histogram<Number>(const Number*, std::size_t, double, int, double) noexcept;
CHUNKSTORE_FOR(std::int8_t)
CHUNKSTORE_FOR(std::int16_t)
CHUNKSTORE_FOR(std::int32_t)
CHUNKSTORE_FOR(std::int64_t)
CHUNKSTORE_FOR(std::uint8_t)
CHUNKSTORE_FOR(std::uint16_t)
CHUNKSTORE_FOR(std::uint32_t)
CHUNKSTORE_FOR(std::uint64_t)
CHUNKSTORE_FOR(float)
CHUNKSTORE_FOR(double)
#undef CHUNKSTORE_FOR

}  // namespace chunkstore
