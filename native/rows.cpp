#include "rows.h"

#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

namespace chunkstore {
namespace {

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

template <typename Number>
std::string text(Number number) {
  return std::to_string(number);
}

void check_apart(std::span<const std::uint8_t> out, const std::vector<Source>& sources) {
  const std::less<const std::uint8_t*> before;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const Source& source = sources[i];
    if (source.empty() || out.empty()) continue;
    if (before(source.data(), out.data() + out.size()) && before(out.data(), source.data() + source.size())) {
      refuse("sources[" + text(i) + "] overlaps the output");
    }
  }
}

void check_source(std::size_t place, std::int32_t source, std::size_t num_sources) {
  if (source < 0 || static_cast<std::size_t>(source) >= num_sources) {
    refuse("source_index[" + text(place) + "] is " + text(source) + ", but there are " + text(num_sources) + " sources");
  }
}

// How far ahead rows are fetched into cache: they lie at random, so the processor cannot guess them.
constexpr std::size_t kPrefetchRows = 8;
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kPrefetchNbytes = 2 * kCacheLine;

// A constant length (not 0) lets the compiler turn the copy into a few moves.
template <std::size_t ConstantNbytes>
void copy_rows(std::uint8_t* out, const std::vector<Source>& sources, std::span<const std::int32_t> source_index,
               std::span<const std::int64_t> row_index, std::size_t row_nbytes) {
  const std::size_t nbytes = ConstantNbytes != 0 ? ConstantNbytes : row_nbytes;
  const std::size_t num_rows = row_index.size();
  const auto row = [&](std::size_t i) {
    return sources[static_cast<std::size_t>(source_index[i])].data() + static_cast<std::size_t>(row_index[i]) * nbytes;
  };
  for (std::size_t i = 0; i < num_rows; ++i) {
    if (i + kPrefetchRows < num_rows) {
      const std::uint8_t* ahead = row(i + kPrefetchRows);
      for (std::size_t offset = 0; offset < nbytes && offset < kPrefetchNbytes; offset += kCacheLine) {
        __builtin_prefetch(ahead + offset);
      }
    }
    std::memcpy(out + i * nbytes, row(i), nbytes);
  }
}

}  // namespace

void gather_rows(std::span<std::uint8_t> out, const std::vector<Source>& sources, std::span<const std::int32_t> source_index,
                 std::span<const std::int64_t> row_index) {
  const std::size_t num_rows = row_index.size();
  if (source_index.size() != num_rows) {
    refuse("source_index has " + text(source_index.size()) + " entries, row_index " + text(num_rows));
  }
  if (num_rows == 0) {
    if (!out.empty()) refuse("no rows for an output of " + text(out.size()) + " bytes");
    return;
  }
  if (out.size() % num_rows != 0) {
    refuse("an output of " + text(out.size()) + " bytes is not a whole number of bytes for each of " + text(num_rows) + " rows");
  }
  const std::size_t row_nbytes = out.size() / num_rows;
  std::vector<std::int64_t> source_rows(sources.size(), 0);
  if (row_nbytes != 0) {
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (sources[i].size() % row_nbytes != 0) {
        refuse("sources[" + text(i) + "] has " + text(sources[i].size()) + " bytes, not a whole number of rows of " +
               text(row_nbytes));
      }
      source_rows[i] = static_cast<std::int64_t>(sources[i].size() / row_nbytes);
    }
  }
  for (std::size_t i = 0; i < num_rows; ++i) {
    check_source(i, source_index[i], sources.size());
    // Rows of zero bytes have no number in a source, and nothing of them is read.
    const std::int64_t available = source_rows[static_cast<std::size_t>(source_index[i])];
    if (row_nbytes != 0 && (row_index[i] < 0 || row_index[i] >= available)) {
      refuse("row_index[" + text(i) + "] is " + text(row_index[i]) + ", but sources[" + text(source_index[i]) + "] has " +
             text(available) + " rows of " + text(row_nbytes) + " bytes");
    }
  }
  check_apart(out, sources);
  if (row_nbytes == 0) return;
  const auto copy = row_nbytes == 1   ? copy_rows<1>
                    : row_nbytes == 2 ? copy_rows<2>
                    : row_nbytes == 4 ? copy_rows<4>
                    : row_nbytes == 8 ? copy_rows<8>
                    : row_nbytes == 16 ? copy_rows<16>
                                       : copy_rows<0>;
  copy(out.data(), sources, source_index, row_index, row_nbytes);
}

void gather_spans(std::span<std::uint8_t> out, const std::vector<Source>& sources, std::span<const std::int32_t> source_index,
                  std::span<const std::int64_t> starts, std::span<const std::int64_t> stops) {
  const std::size_t num_spans = source_index.size();
  if (starts.size() != num_spans || stops.size() != num_spans) {
    refuse("source_index has " + text(num_spans) + " entries, starts " + text(starts.size()) + ", stops " + text(stops.size()));
  }
  std::size_t total_nbytes = 0;
  for (std::size_t i = 0; i < num_spans; ++i) {
    check_source(i, source_index[i], sources.size());
    const std::size_t available = sources[static_cast<std::size_t>(source_index[i])].size();
    if (starts[i] < 0 || stops[i] < starts[i] || static_cast<std::uint64_t>(stops[i]) > available) {
      refuse("span " + text(i) + " is [" + text(starts[i]) + ", " + text(stops[i]) + "), but sources[" + text(source_index[i]) +
             "] has " + text(available) + " bytes");
    }
    const std::size_t nbytes = static_cast<std::size_t>(stops[i] - starts[i]);
    // Compared with what is left of the output, so that the sum can never wrap around.
    if (nbytes > out.size() - total_nbytes) {
      refuse("the spans up to " + text(i) + " have more than the " + text(out.size()) + " bytes of the output");
    }
    total_nbytes += nbytes;
  }
  if (total_nbytes != out.size()) {
    refuse("the spans have " + text(total_nbytes) + " bytes, the output " + text(out.size()));
  }
  check_apart(out, sources);
  std::uint8_t* place = out.data();
  for (std::size_t i = 0; i < num_spans; ++i) {
    const std::size_t nbytes = static_cast<std::size_t>(stops[i] - starts[i]);
    if (nbytes == 0) continue;
    std::memcpy(place, sources[static_cast<std::size_t>(source_index[i])].data() + starts[i], nbytes);
    place += nbytes;
  }
}

}  // namespace chunkstore
