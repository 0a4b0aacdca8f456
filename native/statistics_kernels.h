// The loops of statistics.cpp, which includes this file once for each kind of processor: `KERNEL` is the attribute that says which.
// Vectors are lowered where they are written, so each kind needs code of its own. No include guard, for that reason.
//
// Four numbers at a time, by the vector extension of GCC and Clang: arithmetic is lane by lane and in the order written, on every
// processor.

template <typename Number>
struct FourOf {
  using type [[gnu::vector_size(kLanes * sizeof(Number))]] = Number;
};
template <typename Number>
using Four = typename FourOf<Number>::type;
using Doubles = Four<double>;
using Ints = Four<std::int32_t>;

KERNEL inline double sum_of_lanes(const Doubles& sum) noexcept { return (sum[0] + sum[1]) + (sum[2] + sum[3]); }

template <typename Number>
KERNEL ValueRange<Number> range_of_floats(const Number* numbers, std::size_t count) noexcept {
  Four<Number> smallest = Four<Number>{} + std::numeric_limits<Number>::max();
  Four<Number> largest = -smallest;
  decltype(smallest != smallest) unordered{};
  double total = 0.0;
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t length = std::min(kBlock, count - start);
    const Number* block = numbers + start;
    const std::size_t whole = length / kLanes * kLanes;
    Doubles sums[2] = {};  // two, so that one addition need not wait for the one before
    Four<Number> four{};
    std::size_t i = 0;
    for (; i + 2 * kLanes <= whole; i += 2 * kLanes) {
      Four<Number> next{};
      std::memcpy(&four, block + i, sizeof four);
      std::memcpy(&next, block + i + kLanes, sizeof next);
      sums[0] += __builtin_convertvector(four, Doubles);
      sums[1] += __builtin_convertvector(next, Doubles);
      smallest = four < smallest ? four : smallest;
      largest = four > largest ? four : largest;
      smallest = next < smallest ? next : smallest;
      largest = next > largest ? next : largest;
      unordered |= (four != four) | (next != next);
    }
    for (; i < length; ++i) {
      const Number number = block[i];
      sums[0][i % kLanes] += static_cast<double>(number);
      smallest[0] = number < smallest[0] ? number : smallest[0];
      largest[0] = number > largest[0] ? number : largest[0];
      unordered[0] |= number != number ? -1 : 0;
    }
    total += sum_of_lanes(sums[0] + sums[1]);
  }
  bool odd = false;
  ValueRange<Number> range{0, 0, 0, count, smallest[0], largest[0], total / static_cast<double>(count)};
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    range.smallest = std::min<Number>(range.smallest, smallest[lane]);
    range.largest = std::max<Number>(range.largest, largest[lane]);
    odd = odd || unordered[lane] != 0;
  }
  odd = odd || !std::isfinite(range.smallest) || !std::isfinite(range.largest);
  return odd ? range_with_odd_numbers(numbers, count) : range;
}

// Integers of up to four bytes are added exactly; of eight bytes, as float64 in four lanes.
template <typename Number>
KERNEL ValueRange<Number> range_of_integers(const Number* numbers, std::size_t count) noexcept {
  Number smallest = std::numeric_limits<Number>::max();
  Number largest = std::numeric_limits<Number>::lowest();
  double total = 0.0;
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t length = std::min(kBlock, count - start);
    const Number* block = numbers + start;
    if constexpr (sizeof(Number) < 8) {
      std::int64_t sum = 0;
      for (std::size_t i = 0; i < length; ++i) {
        smallest = std::min(smallest, block[i]);
        largest = std::max(largest, block[i]);
        sum += static_cast<std::int64_t>(block[i]);
      }
      total += static_cast<double>(sum);
    } else {
      double sums[kLanes] = {};
      for (std::size_t i = 0; i < length; ++i) {
        smallest = std::min(smallest, block[i]);
        largest = std::max(largest, block[i]);
        sums[i % kLanes] += static_cast<double>(block[i]);
      }
      total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
  }
  return {0, 0, 0, count, smallest, largest, total / static_cast<double>(count)};
}

// The bins of four numbers, less the first one, kBins for a number that is in none of them; and their squared distances from the mean.
// `is_large` is for bin numbers beyond those that adding 1.5·2^52 makes whole.
template <typename Number, bool is_large>
struct Binning {
  static constexpr bool is_float = std::is_floating_point_v<Number>;
  static constexpr bool is_narrow = !is_float && (sizeof(Number) < 4 || (sizeof(Number) == 4 && std::is_signed_v<Number>));
  int exponent;
  double factor;
  double other_factor;  // two, since 2^1074 is beyond float64
  double first;
  double mean;

  KERNEL inline Ints bins_of_floats(const Doubles& numbers) const noexcept {
    // Scaling up is exact; scaling down can only lose a number to zero, which for a negative one is bin -1.
    Doubles scaled = numbers * factor * other_factor;
    scaled = (scaled == 0.0) & (numbers < 0.0) ? Doubles{} - 0.5 : scaled;
    Doubles floor{};
    if constexpr (is_large) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) floor[lane] = std::floor(scaled[lane]);
    } else {
      constexpr double kMagic = 6755399441055744.0;  // 1.5·2^52
      floor = (scaled + kMagic) - kMagic;
      floor = floor > scaled ? floor - 1.0 : floor;
    }
    floor -= first;
    const auto inside = (floor >= 0.0) & (floor < static_cast<double>(kBins));
    return __builtin_convertvector(inside ? floor : Doubles{} + static_cast<double>(kBins), Ints);
  }

  KERNEL inline Ints bins_of_integers(const Four<Number>& four) const noexcept {
    if constexpr (is_narrow) {
      const Ints bin = (__builtin_convertvector(four, Ints) >> std::min(exponent, 31)) - static_cast<std::int32_t>(first);
      return (bin >= 0) & (bin < static_cast<std::int32_t>(kBins)) ? bin : Ints{} + static_cast<std::int32_t>(kBins);
    } else {
      Ints bins{};
      for (std::size_t lane = 0; lane < kLanes; ++lane) {  // modulo 2^64, which the distance of two bins never leaves
        const auto own = static_cast<std::uint64_t>(four[lane] >> exponent);
        const std::uint64_t bin = own - static_cast<std::uint64_t>(static_cast<std::int64_t>(first));
        bins[lane] = static_cast<std::int32_t>(std::min<std::uint64_t>(bin, kBins));
      }
      return bins;
    }
  }

  KERNEL inline Doubles operator()(const Four<Number>& four, Ints& bins) const noexcept {
    const Doubles values = __builtin_convertvector(four, Doubles);
    const Doubles distance = values - mean;
    const Doubles square = distance * distance;
    if constexpr (is_float) {
      bins = bins_of_floats(values);
      return values - values == 0.0 ? square : Doubles{};  // NaN and infinities are left out
    } else {
      bins = bins_of_integers(four);
      return square;
    }
  }
};

// Numbers of one or two bytes as int32: a loop of its own, since converting four at a time takes as long as all the rest.
template <typename Number>
KERNEL inline const std::int32_t* widened(const Number* numbers, std::size_t count, std::int32_t* into) noexcept {
  for (std::size_t i = 0; i < count; ++i) into[i] = numbers[i];
  return into;
}

template <typename Given, bool is_large>
KERNEL Histogram histogram_of_bins(const Given* numbers, std::size_t count, double mean, int exponent, double first_bin) noexcept {
  constexpr bool is_short = std::is_integral_v<Given> && sizeof(Given) < sizeof(std::int32_t);
  using Number = std::conditional_t<is_short, std::int32_t, Given>;
  // A table a lane, so that equal neighbours do not wait for one another; the last place is for what has no bin.
  std::uint64_t tables[kLanes][kBins + 1] = {};
  const bool is_float = std::is_floating_point_v<Number>;
  const int half = is_float ? -exponent / 2 : 0;
  const Binning<Number, is_large> binning{exponent, std::ldexp(1.0, half), std::ldexp(1.0, is_float ? -exponent - half : 0), first_bin,
                                          mean};
  std::array<std::int32_t, is_short ? kBlock : 1> wide;
  Histogram result;
  for (std::size_t start = 0; start < count; start += kBlock) {
    const std::size_t length = std::min(kBlock, count - start);
    const std::size_t whole = length / kLanes * kLanes;
    const Number* block = nullptr;
    if constexpr (is_short) {
      block = widened(numbers + start, length, wide.data());
    } else {
      block = numbers + start;
    }
    Doubles squares{};
    Four<Number> four{};
    Ints bins{};
    for (std::size_t i = 0; i < whole; i += kLanes) {
      std::memcpy(&four, block + i, sizeof four);
      squares += binning(four, bins);
      for (std::size_t lane = 0; lane < kLanes; ++lane) ++tables[lane][bins[lane]];
    }
    for (std::size_t lane = 0; lane < length - whole; ++lane) four[lane] = block[whole + lane];
    const Doubles rest = binning(four, bins);
    for (std::size_t lane = 0; lane < length - whole; ++lane) {
      squares[lane] += rest[lane];
      ++tables[lane][bins[lane]];
    }
    result.m2 += sum_of_lanes(squares);
  }
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    result.counts[bin] = tables[0][bin] + tables[1][bin] + tables[2][bin] + tables[3][bin];
  }
  return result;
}

template <typename Number>
KERNEL Histogram histogram_of(const Number* numbers, std::size_t count, double mean, int exponent, double first_bin) noexcept {
  const bool is_large = std::is_floating_point_v<Number> && std::abs(first_bin) > 0x1p49;
  return is_large ? histogram_of_bins<Number, true>(numbers, count, mean, exponent, first_bin)
                  : histogram_of_bins<Number, false>(numbers, count, mean, exponent, first_bin);
}

template <typename Number>
KERNEL ValueRange<Number> range_of(const Number* numbers, std::size_t count) noexcept {
  if (count == 0) return {};
  if constexpr (std::is_floating_point_v<Number>) {
    return range_of_floats(numbers, count);
  } else {
    return range_of_integers(numbers, count);
  }
}
