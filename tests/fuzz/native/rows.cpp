// Any numbers, as places of rows and spans: what is gathered, or whose crc is taken, is what a slow loop says, or it is refused.
#include "rows.h"

#include <algorithm>
#include <stdexcept>

#include "crc32.h"
#include "crc32c.h"
#include "fence.h"
#include "numbers.h"

namespace {

std::uint32_t slow_crc(std::span<const std::uint8_t> data, std::uint32_t polynomial) {
  std::uint32_t crc = ~0u;
  for (const std::uint8_t byte : data) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? polynomial : 0);
  }
  return ~crc;
}

void check_crcs(std::span<const std::uint8_t> data, Numbers& numbers) {
  require(chunkstore::crc32c(data) == slow_crc(data, 0x82F63B78u));
  require(chunkstore::crc32c_table(data) == chunkstore::crc32c(data));
  require(chunkstore::crc32(data) == slow_crc(data, 0xEDB88320u));
  const std::size_t cut = data.empty() ? 0 : numbers.small() % data.size();
  require(chunkstore::crc32c(data.subspan(cut), chunkstore::crc32c(data.first(cut))) == chunkstore::crc32c(data));
  require(chunkstore::crc32(data.subspan(cut), chunkstore::crc32(data.first(cut))) == chunkstore::crc32(data));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes) {
  Numbers numbers(bytes, nbytes);
  const std::size_t row_nbytes = numbers.small() % 20;
  const std::size_t num_rows = numbers.small() % 20;
  std::vector<std::int32_t> source_index;
  std::vector<std::int64_t> first, second;
  for (std::size_t i = 0; i < num_rows; ++i) {
    source_index.push_back(static_cast<std::int32_t>(numbers.any() % 5));
    first.push_back(numbers.any());
    second.push_back(numbers.any());
  }
  const std::size_t data_nbytes = numbers.small();
  Buffer data(data_nbytes), other(2 * row_nbytes);
  for (std::uint8_t& byte : data.span()) byte = numbers.small();
  const std::vector<chunkstore::Source> sources{data.span(), other.span()};
  check_crcs(data.span(), numbers);

  Buffer rows(num_rows * row_nbytes);
  try {
    chunkstore::gather_rows(rows.span(), sources, source_index, first);
    for (std::size_t i = 0; i < num_rows; ++i) {
      const auto source = sources[static_cast<std::size_t>(source_index[i])];
      const auto at = static_cast<std::size_t>(first[i]) * row_nbytes;
      require(row_nbytes == 0 || std::equal(source.begin() + at, source.begin() + at + row_nbytes, &rows.span()[i * row_nbytes]));
    }
  } catch (const std::invalid_argument&) {
  }

  std::size_t total = 0;
  for (std::size_t i = 0; i < num_rows; ++i) {
    if (second[i] > first[i]) total += std::min<std::uint64_t>(static_cast<std::uint64_t>(second[i]) - first[i], 4096);
  }
  Buffer spans(total);
  try {
    chunkstore::gather_spans(spans.span(), sources, source_index, first, second);
    const std::uint8_t* place = spans.span().data();
    for (std::size_t i = 0; i < num_rows; ++i) {
      const auto source = sources[static_cast<std::size_t>(source_index[i])];
      require(std::equal(source.begin() + first[i], source.begin() + second[i], place));
      place += second[i] - first[i];
    }
  } catch (const std::invalid_argument&) {
  }

  std::vector<std::uint32_t> crcs(num_rows);
  try {
    chunkstore::crc32c_spans(crcs, data.span(), first, second);
    for (std::size_t i = 0; i < num_rows; ++i) {
      require(crcs[i] == slow_crc(data.span().subspan(first[i], second[i] - first[i]), 0x82F63B78u));
    }
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
