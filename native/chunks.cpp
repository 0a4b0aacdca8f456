#include "chunks.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "blosc.h"
#include "crc32c.h"
#include "zstd.h"

namespace chunkstore {
namespace {

constexpr std::size_t kCrcNbytes = 4;
constexpr std::size_t kMaxKeptNbytes = std::size_t{8} << 20;

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

std::string text(std::int64_t number) { return std::to_string(number); }

// Memory that a thread keeps from chunk to chunk, unless a large chunk made it large.
class Scratch {
 public:
  std::uint8_t* of(std::size_t nbytes) {
    if (nbytes > size_) {
      memory_ = std::make_unique_for_overwrite<std::uint8_t[]>(nbytes);
      size_ = nbytes;
    }
    return memory_.get();
  }
  void shrink() {
    if (size_ <= kMaxKeptNbytes) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  std::unique_ptr<std::uint8_t[]> memory_;
  std::size_t size_ = 0;
};

thread_local Scratch stored_scratch;
thread_local Scratch decoded_scratch;

void read_file(int file, std::uint8_t* into, std::size_t nbytes, std::int64_t start) {
  while (nbytes != 0) {
    const ssize_t count = ::pread(file, into, nbytes, static_cast<off_t>(start));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) refuse("the file cannot be read: " + std::generic_category().message(errno));
    if (count == 0) refuse("the file ends at byte " + text(start));
    into += count;
    nbytes -= static_cast<std::size_t>(count);
    start += count;
  }
}

// The last byte that `counts` numbers along `strides` reach, or -1 where that leaves 62 bits. Every count is at least 1.
std::int64_t end_of(std::int64_t offset, const std::vector<std::int64_t>& counts, const std::vector<std::int64_t>& strides,
                    std::int64_t item_nbytes) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  if (offset < 0 || offset > kMost || item_nbytes > kMost) return -1;
  std::int64_t end = offset + item_nbytes;
  for (std::size_t axis = 0; axis < counts.size(); ++axis) {
    if (counts[axis] < 1 || counts[axis] > kMost || strides[axis] < 0 || strides[axis] > kMost) return -1;
    if (strides[axis] != 0 && counts[axis] - 1 > kMost / strides[axis]) return -1;
    end += (counts[axis] - 1) * strides[axis];
    if (end > 2 * kMost) return -1;
  }
  return end;
}

void copy_axis(const std::uint8_t* source, std::uint8_t* target, const std::int64_t* counts, const std::int64_t* source_strides,
               const std::int64_t* target_strides, std::size_t axes, std::size_t run_nbytes) {
  if (axes == 0) {
    std::memcpy(target, source, run_nbytes);
    return;
  }
  const std::int64_t count = counts[0], source_stride = source_strides[0], target_stride = target_strides[0];
  if (axes > 1) {
    for (std::int64_t i = 0; i < count; ++i) {
      copy_axis(source + i * source_stride, target + i * target_stride, counts + 1, source_strides + 1, target_strides + 1, axes - 1,
                run_nbytes);
    }
    return;
  }
  const auto copy_items = [&]<std::size_t nbytes>() {
    for (std::int64_t i = 0; i < count; ++i) std::memcpy(target + i * target_stride, source + i * source_stride, nbytes);
  };
  switch (run_nbytes) {  // sizes known to the compiler become single loads and stores
    case 1: return copy_items.template operator()<1>();
    case 2: return copy_items.template operator()<2>();
    case 4: return copy_items.template operator()<4>();
    case 8: return copy_items.template operator()<8>();
    default:
      for (std::int64_t i = 0; i < count; ++i) std::memcpy(target + i * target_stride, source + i * source_stride, run_nbytes);
  }
}

}  // namespace

ChunkReader::ChunkReader(ChunkLayout layout) : layout_(std::move(layout)) {
  const ChunkLayout& given = layout_;
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (given.chunk_rows < 1 || given.chunk_row_nbytes < 1 || given.out_row_nbytes < 1 || given.item_nbytes < 1) {
    refuse("a chunk, a row and a number have at least one byte");
  }
  if (given.chunk_row_nbytes > kMost || given.chunk_rows > kMost / given.chunk_row_nbytes) refuse("a chunk of more than 2 GiB");
  chunk_nbytes_ = static_cast<std::size_t>(given.chunk_rows * given.chunk_row_nbytes);
  const std::size_t axes = given.source_strides.size();
  if (given.target_strides.size() != axes) refuse("strides of another number of axes");
  for (const Tile& tile : given.tiles) {
    if (tile.counts.size() != axes) refuse("counts of another number of axes");
    const std::int64_t source_end = end_of(tile.source_offset, tile.counts, given.source_strides, given.item_nbytes);
    const std::int64_t target_end = end_of(tile.target_offset, tile.counts, given.target_strides, given.item_nbytes);
    if (source_end < 0 || source_end > given.chunk_row_nbytes) refuse("a tile leaves the chunk's row");
    if (target_end < 0 || target_end > given.out_row_nbytes) refuse("a tile leaves the output's row");
    Copy copy{tile.counts, given.source_strides, given.target_strides, tile.source_offset, tile.target_offset, given.item_nbytes, false};
    while (!copy.counts.empty() && (copy.counts.back() == 1 || (copy.source_strides.back() == copy.run_nbytes &&
                                                                copy.target_strides.back() == copy.run_nbytes))) {
      copy.run_nbytes *= copy.counts.back();
      copy.counts.pop_back();
      copy.source_strides.pop_back();
      copy.target_strides.pop_back();
    }
    copy.whole_rows = copy.counts.empty() && copy.run_nbytes == given.chunk_row_nbytes && copy.run_nbytes == given.out_row_nbytes;
    copies_.push_back(std::move(copy));
  }
}

void ChunkReader::check(std::span<std::uint8_t> out, const std::vector<ChunkSource>& sources, const ChunkRequests& requests) const {
  const std::size_t chunks = requests.source_index.size();
  const std::size_t pieces = requests.piece_start.size();
  if (requests.starts.size() != chunks || requests.stops.size() != chunks || requests.tile.size() != chunks ||
      requests.check.size() != chunks || requests.piece_from.size() != chunks || requests.piece_to.size() != chunks) {
    refuse("arrays of chunks of different lengths");
  }
  if (requests.piece_stop.size() != pieces || requests.destination.size() != pieces) {
    refuse("arrays of pieces of different lengths");
  }
  const std::int64_t out_rows = static_cast<std::int64_t>(out.size()) / layout_.out_row_nbytes;
  for (std::size_t i = 0; i < pieces; ++i) {
    const std::int64_t start = requests.piece_start[i], stop = requests.piece_stop[i], at = requests.destination[i];
    if (start < 0 || stop < start || stop > layout_.chunk_rows) refuse("piece " + text(static_cast<std::int64_t>(i)) + " leaves its chunk");
    if (at < 0 || at > out_rows || stop - start > out_rows - at) refuse("piece " + text(static_cast<std::int64_t>(i)) + " leaves the output");
  }
  for (std::size_t i = 0; i < chunks; ++i) {
    const std::string chunk = "chunk " + text(static_cast<std::int64_t>(i));
    if (requests.source_index[i] < 0 || static_cast<std::size_t>(requests.source_index[i]) >= sources.size()) {
      refuse(chunk + ": no such source");
    }
    if (requests.tile[i] < 0 || static_cast<std::size_t>(requests.tile[i]) >= copies_.size()) refuse(chunk + ": no such tile");
    if (requests.piece_from[i] < 0 || requests.piece_to[i] < requests.piece_from[i] ||
        static_cast<std::uint64_t>(requests.piece_to[i]) > pieces) {
      refuse(chunk + ": no such pieces");
    }
    if (requests.starts[i] < 0 || requests.stops[i] < requests.starts[i]) refuse(chunk + ": no range of bytes");
    const auto* memory = std::get_if<std::span<const std::uint8_t>>(&sources[static_cast<std::size_t>(requests.source_index[i])]);
    if (memory != nullptr && static_cast<std::uint64_t>(requests.stops[i]) > memory->size()) refuse(chunk + " leaves its source");
  }
}

std::vector<std::pair<std::size_t, std::string>> ChunkReader::read(std::span<std::uint8_t> out,
                                                                   const std::vector<ChunkSource>& sources,
                                                                   const ChunkRequests& requests) const {
  check(out, sources, requests);
  std::vector<std::pair<std::size_t, std::string>> failed;
  for (std::size_t chunk = 0; chunk < requests.source_index.size(); ++chunk) {
    try {
      read_chunk(out, sources[static_cast<std::size_t>(requests.source_index[chunk])], requests, chunk);
    } catch (const std::invalid_argument& error) {
      failed.emplace_back(chunk, error.what());
    }
  }
  stored_scratch.shrink();
  decoded_scratch.shrink();
  return failed;
}

void ChunkReader::read_chunk(std::span<std::uint8_t> out, const ChunkSource& source, const ChunkRequests& requests,
                             std::size_t chunk) const {
  const bool checks = layout_.has_crc32c && requests.check[chunk] != 0;
  const bool compressed = layout_.compression != Compression::kNone;
  const std::size_t crc_nbytes = layout_.has_crc32c ? kCrcNbytes : 0;
  const auto stored_nbytes = static_cast<std::size_t>(requests.stops[chunk] - requests.starts[chunk]);
  // Compressors add a little where nothing can be saved; what has far more than that was not made by one.
  const std::size_t most = compressed ? chunk_nbytes_ + chunk_nbytes_ / 4 + (std::size_t{64} << 10) : chunk_nbytes_ + crc_nbytes;
  if (stored_nbytes > most || (!compressed && stored_nbytes != most)) {
    refuse("the chunk has " + text(static_cast<std::int64_t>(stored_nbytes)) + " bytes, " +
           (compressed ? "at most " : "") + text(static_cast<std::int64_t>(most)) + " were expected");
  }
  if (stored_nbytes < crc_nbytes) refuse(text(static_cast<std::int64_t>(stored_nbytes)) + " bytes are too few for a crc32c");
  const Copy& copy = copies_[static_cast<std::size_t>(requests.tile[chunk])];
  const auto first = static_cast<std::size_t>(requests.piece_from[chunk]);
  const auto last = static_cast<std::size_t>(requests.piece_to[chunk]);
  std::span<const std::uint8_t> stored;
  if (const int* file = std::get_if<int>(&source)) {
    if (!compressed && !checks && copy.whole_rows) {
      for (std::size_t piece = first; piece < last; ++piece) {
        const std::int64_t rows = requests.piece_stop[piece] - requests.piece_start[piece];
        read_file(*file, out.data() + requests.destination[piece] * layout_.out_row_nbytes,
                  static_cast<std::size_t>(rows * layout_.chunk_row_nbytes),
                  requests.starts[chunk] + requests.piece_start[piece] * layout_.chunk_row_nbytes);
      }
      return;
    }
    std::uint8_t* memory = stored_scratch.of(stored_nbytes);
    read_file(*file, memory, stored_nbytes, requests.starts[chunk]);
    stored = {memory, stored_nbytes};
  } else {
    stored = std::get<std::span<const std::uint8_t>>(source).subspan(static_cast<std::size_t>(requests.starts[chunk]), stored_nbytes);
  }
  const std::span<const std::uint8_t> body = stored.first(stored_nbytes - crc_nbytes);
  if (checks) check_crc32c(body, stored.subspan(body.size()));
  if (!compressed) return copy_pieces(body.data(), out, requests, chunk);

  const bool one_piece = last - first == 1;
  if (one_piece && copy.whole_rows && requests.piece_stop[first] - requests.piece_start[first] == layout_.chunk_rows) {
    const auto at = static_cast<std::size_t>(requests.destination[first] * layout_.out_row_nbytes);
    return decode(body, out.subspan(at, chunk_nbytes_));
  }
  const std::span<std::uint8_t> decoded{decoded_scratch.of(chunk_nbytes_), chunk_nbytes_};
  if (layout_.compression == Compression::kBlosc) {
    std::vector<ByteRange> wanted;
    wanted.reserve(last - first);
    for (std::size_t piece = first; piece < last; ++piece) {
      wanted.push_back({static_cast<std::size_t>(requests.piece_start[piece] * layout_.chunk_row_nbytes),
                        static_cast<std::size_t>(requests.piece_stop[piece] * layout_.chunk_row_nbytes)});
    }
    blosc_decompress_ranges(body, decoded, wanted);
  } else {
    decode(body, decoded);
  }
  copy_pieces(decoded.data(), out, requests, chunk);
}

void ChunkReader::decode(std::span<const std::uint8_t> body, std::span<std::uint8_t> out) const {
  if (layout_.compression == Compression::kBlosc) return blosc_decompress(body, out);
  zstd_decompress(body, out);
}

void ChunkReader::check_crc32c(std::span<const std::uint8_t> body, std::span<const std::uint8_t> trailer) {
  const std::uint32_t stored = static_cast<std::uint32_t>(trailer[0]) | static_cast<std::uint32_t>(trailer[1]) << 8 |
                               static_cast<std::uint32_t>(trailer[2]) << 16 | static_cast<std::uint32_t>(trailer[3]) << 24;
  const std::uint32_t computed = crc32c(body);
  if (computed == stored) return;
  char message[64];
  std::snprintf(message, sizeof message, "crc32c mismatch: stored %08x, computed %08x", stored, computed);
  refuse(message);
}

void ChunkReader::copy_pieces(const std::uint8_t* decoded, std::span<std::uint8_t> out, const ChunkRequests& requests,
                              std::size_t chunk) const {
  const Copy& copy = copies_[static_cast<std::size_t>(requests.tile[chunk])];
  const auto last = static_cast<std::size_t>(requests.piece_to[chunk]);
  for (auto piece = static_cast<std::size_t>(requests.piece_from[chunk]); piece < last; ++piece) {
    copy_rows(decoded + requests.piece_start[piece] * layout_.chunk_row_nbytes,
              out.data() + requests.destination[piece] * layout_.out_row_nbytes,
              requests.piece_stop[piece] - requests.piece_start[piece], copy);
  }
}

void ChunkReader::copy_rows(const std::uint8_t* first_row, std::uint8_t* first_target, std::int64_t rows, const Copy& copy) const {
  if (copy.whole_rows) {
    std::memcpy(first_target, first_row, static_cast<std::size_t>(rows * layout_.chunk_row_nbytes));
    return;
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    copy_axis(first_row + row * layout_.chunk_row_nbytes + copy.source_offset,
              first_target + row * layout_.out_row_nbytes + copy.target_offset, copy.counts.data(), copy.source_strides.data(),
              copy.target_strides.data(), copy.counts.size(), static_cast<std::size_t>(copy.run_nbytes));
  }
}

}  // namespace chunkstore
